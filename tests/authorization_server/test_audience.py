"""Audience and resource: what a token is for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeta_guard.authorization_server.audience import Audiences, Target
from zeta_guard.authorization_server.scope import requested_scopes
from zeta_guard.config.guard import GuardConfig
from zeta_guard.errors import ZetaError

URL = "https://guard.example.de"
ROUTES = [
    {"prefix": "/vsdservice", "upstreams": [{"url": "http://backend:80"}]},
    {"prefix": "/popp", "upstreams": [{"url": "http://backend:80"}], "audience": "urn:popp"},
    {"prefix": "/public", "upstreams": [{"url": "http://backend:80"}], "public": True},
]
CONFIG = GuardConfig.model_validate(
    {
        "public_url": URL,
        "secret_files": ["/nowhere"],
        "authorization_server": {"signing_keys": "/nowhere", "scopes": ["a", "b"], "audiences": [URL + "/more"]},
        "trust": {"directory": "/nowhere"},
        "policy": {"token": {"engine": "embedded", "bundle": "package:demo"}},
        "gateway": {"routes": ROUTES},
    }
)
AUDIENCES = Audiences(CONFIG)


def refusal(form: dict[str, str]) -> str:
    with pytest.raises(ZetaError) as caught:
        AUDIENCES.choose(form)
    return caught.value.code


@pytest.mark.parametrize(
    ("asked", "granted"),
    [
        (URL + "/", URL + "/"),
        (URL, URL + "/"),
        ("urn:popp", "urn:popp"),
        ("urn:popp/", "urn:popp"),
        (URL + "/more/", URL + "/more"),
    ],
)
def test_audience_gets_the_configured_form(asked: str, granted: str) -> None:
    assert AUDIENCES.choose({"audience": asked}) == Target(1, (granted,))


def test_without_target_the_resource_of_the_metadata_is_meant() -> None:
    assert AUDIENCES.choose({}) == Target(1, (CONFIG.resource,))


@pytest.mark.parametrize("asked", ["https://other.example/", URL + "//", URL.upper(), "x", URL + "/ "])
def test_unknown_audience_is_an_invalid_target(asked: str) -> None:
    assert refusal({"audience": asked}) == "invalid_target"


@pytest.mark.parametrize(
    "resource",
    [
        URL + "/vsdservice/v1/vsdmbundle",
        URL + "/vsdservice",
        URL + ":443/popp/x?y=1",
        "wss://guard.example.de/popp/practitioner",
        "HTTPS://GUARD.example.de/popp",
        URL + "/",
    ],
)
def test_resource_under_a_route_leaves_the_audience_to_the_policy(resource: str) -> None:
    assert AUDIENCES.choose({"resource": resource}) == Target(2, (), resource)


@pytest.mark.parametrize(
    "resource",
    [
        "/vsdservice",
        "vsdservice",
        URL + "/elsewhere",
        URL + "/vsdservices",
        URL + "/public/x",
        URL + "/vsdservice#part",
        URL + "/vsdservice/../popp/%2e%2e",
        URL + "/x/..%2fvsdservice",
        "https://other.example/vsdservice",
        "http://guard.example.de/vsdservice",
        "https://guard.example.de@evil.example/vsdservice",
        "https://user@guard.example.de/vsdservice",
        "urn:popp",
        "ftp://guard.example.de/vsdservice",
        URL + "/vsdservice/" + "x" * 3000,
        "https://[::1/vsdservice",
        "",
    ],
)
def test_resource_elsewhere_is_an_invalid_target(resource: str) -> None:
    assert refusal({"resource": resource}) == "invalid_target"


def test_audience_and_resource_together_are_ambiguous() -> None:
    assert refusal({"audience": URL + "/", "resource": URL + "/popp"}) == "invalid_request"


@given(
    st.sampled_from(["audience", "resource"]), st.text(max_size=60) | st.text(max_size=30).map(lambda x: URL + "/" + x)
)
def test_no_target_makes_the_parser_fall_over(name: str, value: str) -> None:
    code = ""
    try:
        AUDIENCES.choose({name: value})
    except ZetaError as error:
        code = error.code
    assert code in ("", "invalid_target")


def test_scopes_are_all_or_nothing() -> None:
    choose: Callable[[str | None], tuple[str, ...]] = lambda text: requested_scopes(  # noqa: E731
        text, allowed=("a", "b"), default=("a",), what="the metadata"
    )
    assert choose(None) == ("a",)
    assert choose("b a b") == ("b", "a")
    for text in ("c", "a c", "a  b", " a", "a ", 'a"', "a\tb", "ü", " ".join(map(str, range(70)))):
        with pytest.raises(ZetaError) as caught:
            choose(text)
        assert (caught.value.code, caught.value.status) == ("invalid_scope", 400)


def test_products_of_the_configuration_do_not_widen_the_audiences() -> None:
    changed: dict[str, Any] = CONFIG.model_dump(by_alias=True)
    changed["authorization_server"]["products"] = {"p": {"audiences": ["https://else/"], "scopes": ["a"]}}
    assert Audiences(GuardConfig.model_validate(changed)).configured("https://else/") is None
