"""Rules between sections, each with what passes and what does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from zeta_guard.config.base import Section
from zeta_guard.config.guard import GuardConfig
from zeta_guard.config.rules import is_local, notices
from zeta_guard.errors import ConfigurationError

Document = dict[str, Any]
Refusals = Callable[[Document], list[ConfigurationError]]
Load = Callable[[Document], GuardConfig]


def one(errors: list[ConfigurationError]) -> str:
    (error,) = errors
    assert error.seen
    assert error.expected
    assert error.remedy
    return error.path


def named(config: GuardConfig) -> set[str]:
    return {notice.path for notice in notices(config)}


def test_document_of_these_tests_is_without_mistakes_and_notices(document: Document, load: Load) -> None:
    assert notices(load(document)) == []


@pytest.mark.parametrize(
    ("listen", "ops", "refused"),
    [
        ({"host": "0.0.0.0", "port": 9090}, {}, True),
        ({"host": "127.0.0.1", "port": 9090}, {}, True),
        ({"host": "10.0.0.1", "port": 9090}, {"host": "::"}, True),
        ({"host": "10.0.0.1", "port": 9090}, {"host": "127.0.0.1"}, False),
        ({"port": 0}, {"port": 0}, False),
    ],
)
def test_ops_port_is_never_the_public_port(
    document: Document, refusals: Refusals, load: Load, listen: Document, ops: Document, refused: bool
) -> None:
    document |= {"listen": listen, "ops": ops}
    if refused:
        assert one(refusals(document)) == "ops.port"
    else:
        load(document)


@pytest.mark.parametrize("use", ["required", "optional", ""])
def test_an_additional_security_layer_that_is_not_there_is_not_promised(
    document: Document, refusals: Refusals, load: Load, use: str
) -> None:
    document["gateway"]["zeta_asl_use"] = use
    assert one(refusals(document)) == "gateway.zeta_asl_use"
    document["gateway"]["zeta_asl_use"] = "not_supported"
    load(document)


@pytest.mark.parametrize(("seconds", "refused"), [(1, False), (900, False), (901, True), (0, True)])
def test_a_nonce_lives_a_quarter_of_an_hour_at_most(
    document: Document, refusals: Refusals, load: Load, seconds: int, refused: bool
) -> None:
    document["authorization_server"]["lifetimes"] = {"nonce": seconds}
    if refused:
        assert [error.path for error in refusals(document)] == ["authorization_server.lifetimes.nonce"]
    else:
        load(document)


def _sections(kind: type[Section]) -> Iterator[type[Section]]:
    for section in kind.__subclasses__():
        yield section
        yield from _sections(section)


def test_no_setting_has_two_limits_of_one_kind_because_only_one_would_hold() -> None:
    for section in _sections(Section):
        for name, field in section.model_fields.items():
            limits = [type(limit) for limit in field.metadata]
            assert len(limits) == len(set(limits)), f"{section.__name__}.{name}"


@pytest.mark.parametrize(("seconds", "refused"), [(86_400, False), (86_401, True)])
def test_keys_of_a_popp_service_serve_a_day_past_their_end_at_most(
    document: Document, refusals: Refusals, load: Load, seconds: int, refused: bool
) -> None:
    issuer = {"issuer": "https://popp.example", "entity_key_thumbprint": "A" * 43, "stale": seconds}
    document["gateway"]["popp_issuers"] = [issuer]
    if refused:
        assert [error.path for error in refusals(document)] == ["gateway.popp_issuers[0].stale"]
    else:
        load(document)


@pytest.mark.parametrize(
    ("issuer", "refused"),
    [
        ("https://guard.example.de", False),
        ("https://guard.example.de:8443/realm", False),
        ("https://other.example.de", True),
        ("guard.example.de", True),
    ],
)
def test_issuer_has_the_host_of_the_public_url(
    document: Document, refusals: Refusals, load: Load, issuer: str, refused: bool
) -> None:
    document["authorization_server"]["issuer"] = issuer
    if refused:
        assert one(refusals(document)) == "authorization_server.issuer"
    else:
        load(document)


@pytest.mark.parametrize(
    ("lifetimes", "path"),
    [
        ({"access_token": 900}, None),
        ({"access_token": 901}, "access_token"),
        ({"refresh_token": 86_401}, "refresh_token"),
        ({"access_token_cap": 86_400}, None),
        ({"access_token_cap": 86_401}, "access_token_cap"),
    ],
)
def test_lifetimes_stay_within_their_caps_and_a_block_outlives_every_access_token(
    document: Document, refusals: Refusals, load: Load, lifetimes: Document, path: str | None
) -> None:
    document["authorization_server"]["lifetimes"] = lifetimes
    if path is None:
        load(document)
    else:
        assert one(refusals(document)) == f"authorization_server.lifetimes.{path}"


@pytest.mark.parametrize(
    ("section", "value", "path"),
    [
        ("telemetry", {"traces": {"otlp_url": "http://u:p@collector:4318"}}, "telemetry.traces.otlp_url"),
        ("policy", {"token": {"engine": "opa", "url": "http://u@opa"}}, "policy.token.url"),
        ("store", {"kind": "redis", "url": "redis://:p@redis"}, "store.url"),
    ],
)
def test_users_in_urls_are_refused(
    document: Document, refusals: Refusals, section: str, value: Document, path: str
) -> None:
    assert one(refusals({**document, section: value})) == path


def test_proxy_may_have_a_user_because_there_is_no_file_for_it(document: Document, load: Load) -> None:
    load({**document, "outbound": {"proxy": "http://user:password@proxy:3128"}})


def test_forwarded_addresses_need_trusted_proxies(document: Document, refusals: Refusals, load: Load) -> None:
    document["gateway"]["client_address"] = "forwarded"
    assert one(refusals(document)) == "gateway.trusted_proxies"
    document["gateway"]["trusted_proxies"] = ["10.0.0.0/8"]
    load(document)


def test_a_proxy_header_comes_from_trusted_proxies_and_is_the_only_source(
    document: Document, refusals: Refusals, load: Load
) -> None:
    document["listen"] = {"proxy_protocol": True}
    assert one(refusals(document)) == "gateway.trusted_proxies"
    document["gateway"]["trusted_proxies"] = ["10.0.0.0/8"]
    load(document)
    document["gateway"]["client_address"] = "forwarded"
    assert one(refusals(document)) == "gateway.client_address"


def test_products_name_known_audiences_and_scopes(document: Document, refusals: Refusals, load: Load) -> None:
    product = {"audiences": ["https://guard.example.de/"], "scopes": ["vsdservice"]}
    document["authorization_server"]["products"] = {"product": product}
    load(document)
    product["audiences"] = ["https://elsewhere"]
    assert one(refusals(document)) == "authorization_server.products.product.audiences"
    document["authorization_server"]["audiences"] = ["https://elsewhere"]
    load(document)
    product["scopes"] = ["popp"]
    assert one(refusals(document)) == "authorization_server.products.product.scopes"


def test_each_issuer_stands_once(document: Document, refusals: Refusals, load: Load) -> None:
    issuer = {"issuer": "https://a", "jwks_uri": "https://a/jwks"}
    popp = {"issuer": "https://p", "unsafe_tls_anchor": True}
    document["gateway"] |= {"issuers": [issuer], "popp_issuers": [popp]}
    load(document)
    document["gateway"] |= {"issuers": [issuer, issuer], "popp_issuers": [popp, popp]}
    assert [error.path for error in refusals(document)] == [
        "gateway.issuers[1].issuer",
        "gateway.popp_issuers[1].issuer",
    ]


def test_unsafe_settings_are_noticed(document: Document, load: Load) -> None:
    document["trust"] |= {"unsafe_demo_trust": True, "ocsp": {"mode": "ignore"}}
    assert named(load(document)) == {"trust.unsafe_demo_trust", "trust.ocsp.mode"}


def test_https_without_anybody_who_ends_tls_is_noticed(document: Document, load: Load) -> None:
    del document["tls"]
    assert named(load(document)) == {"tls"}
    document["gateway"] |= {"client_address": "forwarded", "trusted_proxies": ["10.0.0.1"]}
    assert named(load(document)) == set()
    document["gateway"]["client_address"] = "peer"
    document["listen"] = {"proxy_protocol": True}
    assert named(load(document)) == set()


@pytest.mark.parametrize("network", ["0.0.0.0/0", "::/0"])
def test_trusting_everybody_is_noticed(document: Document, load: Load, network: str) -> None:
    document["gateway"] |= {"client_address": "forwarded", "trusted_proxies": ["10.0.0.0/8", network]}
    assert named(load(document)) == {"gateway.trusted_proxies[1]"}


def test_plain_http_is_noticed_unless_it_stays_on_this_machine(document: Document, load: Load) -> None:
    assert "public_url" in named(load({**document, "public_url": "http://guard.example.de"}))
    assert "public_url" not in named(load({**document, "public_url": "http://127.0.0.1:8080"}))


def test_guard_that_protects_nothing_is_noticed(document: Document, load: Load) -> None:
    document["gateway"]["routes"] = []
    assert named(load(document)) == {"gateway.routes"}


def test_audience_of_no_route_is_noticed(document: Document, load: Load) -> None:
    issuer = {"issuer": "https://a", "jwks_uri": "https://a/jwks", "audiences": ["https://guard.example.de/"]}
    document["gateway"]["issuers"] = [issuer]
    assert named(load(document)) == set()
    issuer["audiences"] = ["https://nobody"]
    assert named(load(document)) == {"gateway.issuers[0].audiences"}


@pytest.mark.parametrize(
    ("host", "local"),
    [("localhost", True), ("127.0.0.1", True), ("[::1]", True), ("10.0.0.1", False), ("localhost.example", False)],
)
def test_local_hosts_are_known(host: str, local: bool) -> None:
    assert is_local(host) is local
