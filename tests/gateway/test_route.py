"""Which route a path belongs to, and which routes may not exist."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeta_guard.config import gateway as config
from zeta_guard.errors import ConfigurationErrors, ZetaError
from zeta_guard.gateway.route import Route, RouteTable, build_routes, check_method
from zeta_guard.http.path import canonical_target

if TYPE_CHECKING:
    from tests.gateway.conftest import MakeConfig

UPSTREAMS = [{"url": "http://backend:8080"}]


@pytest.fixture
def table(make_config: MakeConfig) -> RouteTable:
    prefixes = ("/", "/api", "/api/admin", "/public", "/popp/practitioner/api/v1/")
    return build_routes(make_config([{"prefix": prefix, "upstreams": UPSTREAMS} for prefix in prefixes]))


def selected(table: RouteTable, target: str) -> str:
    return table.select(canonical_target(target)[0]).name


@pytest.mark.parametrize(
    ("target", "prefix"),
    [
        ("/", "/"),
        ("/api", "/api"),
        ("/api/", "/api"),
        ("/api/x?y=/api/admin", "/api"),
        ("/api/admin", "/api/admin"),
        ("/api/admin/x", "/api/admin"),
        ("/api/administrator", "/api"),
        ("/apis", "/"),
        ("/publicity", "/"),
        ("/public", "/public"),
        ("/popp/practitioner/api/v1", "/popp/practitioner/api/v1/"),
        ("/popp/practitioner/api/v1/token", "/popp/practitioner/api/v1/"),
        ("/popp/practitioner/api/v12", "/"),
        ("/api/x%7Cy;p=1//z", "/api"),
    ],
)
def test_longest_prefix_that_ends_at_a_segment_wins(table: RouteTable, target: str, prefix: str) -> None:
    assert selected(table, target) == prefix


@pytest.mark.parametrize(
    "target", ["/api/%61dmin", "/api/admin;x=1", "/api//admin", "//api/admin", "/%61pi", "/api;v=1/x", "/public;x"]
)
def test_path_that_reads_as_another_route_when_decoded_is_refused(table: RouteTable, target: str) -> None:
    with pytest.raises(ZetaError) as caught:
        selected(table, target)
    assert (caught.value.code, caught.value.status) == ("invalid_request", 400)


def test_path_without_route_is_not_found(make_config: MakeConfig) -> None:
    table = build_routes(make_config([{"prefix": "/api", "upstreams": UPSTREAMS}]))
    with pytest.raises(ZetaError) as caught:
        selected(table, "/apis")
    assert caught.value.status == 404
    with pytest.raises(ZetaError) as caught:
        selected(table, "/%61pi")
    assert caught.value.status == 400


ROUTE_OF_EVERYTHING = RouteTable(
    [
        Route(
            config.Route.model_validate({"prefix": prefix, "upstreams": UPSTREAMS}),
            prefix,
            segments,
            frozenset(),
            "",
            "",
            frozenset(),
            -1,
        )
        for prefix, segments in (("/", ()), ("/a", ("a",)), ("/ab", ("ab",)))
    ]
)


@given(st.text(alphabet="/abcdmin;.%2Fpi61", min_size=1, max_size=30))
def test_whatever_is_selected_both_readings_agree(target: str) -> None:
    # With a route for every first segment, both forms of a path begin with the same one or the path is refused.
    with suppress(ZetaError):
        path, _ = canonical_target("/" + target)
        route = ROUTE_OF_EVERYTHING.select(path)
        first = path.raw[1:].split("/")[0]
        assert route.segments in ((), (first,))


def test_method_outside_of_the_route_is_405_with_allow(make_config: MakeConfig) -> None:
    table = build_routes(make_config([{"prefix": "/api", "upstreams": UPSTREAMS, "methods": ["GET", "POST"]}]))
    route = table.routes[0]
    check_method(route, "POST")
    with pytest.raises(ZetaError) as caught:
        check_method(route, "DELETE")
    assert caught.value.status == 405
    assert caught.value.headers["Allow"] == "GET, POST"


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"prefix": "/token"}, "prefix"),
        ({"prefix": "/errors/x"}, "prefix"),
        ({"prefix": "/.well-known/oauth-protected-resource"}, "prefix"),
        ({"prefix": "/a//b"}, "prefix"),
        ({"prefix": "/a/../b"}, "prefix"),
        ({"prefix": "/a%20b"}, "prefix"),
        ({"prefix": "/a;b"}, "prefix"),
        ({"prefix": "/a?b"}, "prefix"),
        ({"methods": ["get"]}, "methods"),
        ({"methods": ["CONNECT"]}, "methods"),
        ({"methods": ["GET", "TRACE"]}, "methods"),
        ({"methods": ["POST"], "websocket": {"enabled": True}}, "methods"),
        ({"acr": "high"}, "acr"),
        ({"public": True, "scopes": ["vsdservice"]}, "scopes"),
        ({"public": True, "request_policy": True}, "request_policy"),
        ({"public": True, "acr": "gematik-ehealth-loa-high"}, "acr"),
        ({"public": True, "client_data": True}, "client_data"),
        ({"popp": {}}, "popp"),
        ({"scopes": ["unknown"]}, "scopes"),
        ({"upstreams": [{"url": "http://b:1", "ca_file": "x.pem"}]}, "upstreams[0].url"),
        ({"upstreams": [{"url": "http://b:1", "server_name": "b"}]}, "upstreams[0].url"),
        (
            {"upstreams": [{"url": "http://b:1", "certificate_file": "x.pem", "private_key_file": "x.pem"}]},
            "upstreams[0].url",
        ),
        ({"upstreams": [{"url": "https://b:1", "certificate_file": "x.pem"}]}, "upstreams[0]"),
        ({"upstreams": [*UPSTREAMS, {"url": "https://b:1", "private_key_file": "x.pem"}]}, "upstreams[1]"),
    ],
)
def test_mistake_in_a_route_is_an_error_at_load(make_config: MakeConfig, changes: dict[str, Any], where: str) -> None:
    config = make_config([{"prefix": "/api", "upstreams": UPSTREAMS, **changes}])
    with pytest.raises(ConfigurationErrors) as caught:
        build_routes(config)
    assert [error.path for error in caught.value.errors] == [f"gateway.routes[0].{where}"]


@pytest.mark.parametrize(
    "path",
    [
        "/.well-known/oauth-protected-resource",
        "/.well-known/oauth-authorization-server",
        "/nonce",
        "/register",
        "/token",
        "/revoke",
        "/jwks",
        "/authorize",
        "/redirect",
        "/errors",
    ],
)
def test_no_route_hides_what_the_guard_answers_itself(make_config: MakeConfig, path: str) -> None:
    for prefix in (path, f"{path}/", f"{path}/x"):
        with pytest.raises(ConfigurationErrors) as caught:
            build_routes(make_config([{"prefix": prefix, "upstreams": UPSTREAMS}]))
        assert [error.path for error in caught.value.errors] == ["gateway.routes[0].prefix"]
    if not path.startswith("/."):
        assert "belongs to the guard's own endpoints" in caught.value.errors[0].seen
        build_routes(make_config([{"prefix": f"{path}s", "upstreams": UPSTREAMS}]))


@pytest.mark.parametrize("changes", [{"public": True, "popp": {}}, {"popp": {"issuers": ["https://other.example"]}}])
def test_mistake_about_popp_is_an_error_at_load(make_config: MakeConfig, changes: dict[str, Any]) -> None:
    issuers = [{"issuer": "https://popp.example", "unsafe_tls_anchor": True}]
    routes = [{"prefix": "/api", "upstreams": UPSTREAMS, **changes}]
    with pytest.raises(ConfigurationErrors) as caught:
        build_routes(make_config(routes, gateway_popp_issuers=issuers))
    assert [error.path.removesuffix(".issuers") for error in caught.value.errors] == ["gateway.routes[0].popp"]
    routes = [{"prefix": "/api", "upstreams": UPSTREAMS, "popp": {"issuers": ["https://popp.example"]}}]
    build_routes(make_config(routes, gateway_popp_issuers=issuers))


@pytest.mark.parametrize("second", ["/api", "/api/"])
def test_equal_prefixes_are_an_error_at_load(make_config: MakeConfig, second: str) -> None:
    config = make_config([{"prefix": prefix, "upstreams": UPSTREAMS} for prefix in ("/api", second)])
    with pytest.raises(ConfigurationErrors) as caught:
        build_routes(config)
    assert caught.value.errors[0].path == "gateway.routes[1].prefix"


def test_all_mistakes_are_told_at_once(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(
        [
            {"prefix": "/token", "upstreams": UPSTREAMS},
            {"prefix": "/b", "upstreams": UPSTREAMS, "acr": "x", "methods": ["a"]},
        ]
    )
    with pytest.raises(ConfigurationErrors) as caught:
        build_routes(config)
    assert len(caught.value.errors) == 3


def test_audience_that_no_issuer_may_issue_for_is_an_error_at_load(make_config: MakeConfig) -> None:
    def routes(audience: str) -> list[dict[str, Any]]:
        return [{"prefix": "/api", "upstreams": UPSTREAMS, "audience": audience}]

    issuers = [{"issuer": "https://as.example", "jwks_uri": "https://as.example/jwks", "audiences": ["https://api"]}]
    build_routes(make_config(routes("https://api"), gateway_issuers=issuers))
    with pytest.raises(ConfigurationErrors):
        build_routes(make_config(routes("https://other"), gateway_issuers=issuers))
