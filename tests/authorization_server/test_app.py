"""Paths, methods, documents, limits: the authorization server as HTTP sees it."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from zeta_guard.authorization_server.registration import CLIENT_ID_PREFIX
from zeta_guard.authorization_server.signing_keys import rotate
from zeta_guard.errors import ERROR_KINDS, ConfigurationError
from zeta_guard.jose.encoding import b64url_decode

if TYPE_CHECKING:
    from tests.authorization_server.conftest import MakeServer, Server

METADATA = "/.well-known/oauth-authorization-server"


def without_null(value: Any) -> bool:
    if isinstance(value, dict):
        return all(without_null(member) for member in value.values())
    if isinstance(value, list):
        return all(without_null(member) for member in value)
    return value is not None


async def test_the_metadata_is_what_the_sdk_wants(server: Server) -> None:
    reply = await server.get(METADATA)
    assert reply.status == 200
    assert reply.headers["Content-Type"].startswith("application/json")
    url = server.url
    assert reply.json == {
        "issuer": url,
        "authorization_endpoint": url + "/authorize",
        "redirection_endpoint": url + "/redirect",
        "token_endpoint": url + "/token",
        "nonce_endpoint": url + "/nonce",
        "registration_endpoint": url + "/register",
        "revocation_endpoint": url + "/revoke",
        "jwks_uri": url + "/jwks",
        "scopes_supported": ["popp", "vsdservice"],
        "response_types_supported": ["token"],
        "grant_types_supported": ["urn:ietf:params:oauth:grant-type:token-exchange", "refresh_token"],
        "token_endpoint_auth_methods_supported": ["private_key_jwt"],
        "token_endpoint_auth_signing_alg_values_supported": ["ES256"],
        "revocation_endpoint_auth_methods_supported": ["private_key_jwt"],
        "revocation_endpoint_auth_signing_alg_values_supported": ["ES256"],
        "code_challenge_methods_supported": ["S256"],
        "dpop_signing_alg_values_supported": ["ES256"],
        "api_versions_supported": [
            {"major_version": 1, "version": "1.0.0", "status": "stable"},
            {"major_version": 2, "version": "2.0.0", "status": "stable"},
        ],
    }
    assert without_null(reply.json)


async def test_documentation_is_named_when_configured(make_server: MakeServer) -> None:
    server = await make_server(authorization_server={"service_documentation": "https://docs.example/"})
    assert (await server.get(METADATA)).json["service_documentation"] == "https://docs.example/"


@pytest.mark.parametrize(("path", "age"), [(METADATA, 3600), ("/jwks", 300)])
async def test_documents_are_cacheable(server: Server, path: str, age: int) -> None:
    first = await server.get(path)
    assert first.headers["Cache-Control"] == f"public, max-age={age}"
    same = await server.get(path, {"If-None-Match": first.headers["ETag"]})
    assert (same.status, same.body) == (304, b"")
    assert same.headers["ETag"] == first.headers["ETag"]
    assert "X-Rate-Limit-Limit" in same.headers
    head = await server.get(path, method="HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Length"] == str(len(first.body))


async def test_the_nonce_is_bare_text_whatever_accept_says(server: Server) -> None:
    reply = await server.get("/nonce", {"Accept": "application/json"})
    assert reply.status == 200
    assert reply.headers["Content-Type"].startswith("text/plain")
    assert reply.headers["Cache-Control"] == "no-store"
    assert len(b64url_decode(reply.body)) == 16


async def test_issuing_nonces_leaves_no_trace_in_the_store(server: Server) -> None:
    before = repr(server.store)
    await asyncio.gather(*(server.get("/nonce") for _ in range(50)))
    assert repr(server.store) == before
    assert server.count("zeta_guard_nonces_total") == 50


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", METADATA, "GET, HEAD"),
        ("POST", "/jwks", "GET, HEAD"),
        ("POST", "/nonce", "GET"),
        ("HEAD", "/nonce", "GET"),
        ("GET", "/register", "POST"),
        ("GET", "/token", "POST"),
        ("PUT", "/token", "POST"),
        ("OPTIONS", "/token", "POST"),
        ("DELETE", "/revoke", "POST"),
        ("POST", "/authorize", "GET"),
        ("POST", "/errors/invalid_grant", "GET, HEAD"),
    ],
)
async def test_a_wrong_method_is_told_the_right_ones(server: Server, method: str, path: str, allowed: str) -> None:
    reply = await server.get(path, method=method)
    assert reply.status == 405
    assert reply.headers["Allow"] == allowed
    if method != "HEAD":
        assert reply.refusal == (405, "method_not_allowed")


@pytest.mark.parametrize("path", ["/authorize", "/redirect", "/authorize?response_type=code&client_id=x"])
async def test_the_code_flow_is_refused_politely(server: Server, path: str) -> None:
    reply = await server.get(path)
    assert reply.refusal == (400, "unsupported_response_type")
    assert reply.json["error_uri"] == server.url + "/errors/unsupported_response_type"


@pytest.mark.parametrize(
    "path", ["/token/", "/token/x", "/nonce2", "/.well-known/openid-configuration", "/errors/none"]
)
async def test_unknown_paths_are_not_found(server: Server, path: str) -> None:
    assert (await server.get(path)).refusal == (404, "resource_not_found")
    if not path.startswith("/errors/"):
        assert (await server.post(path, b"")).refusal == (404, "resource_not_found")


async def test_every_error_code_has_its_page(server: Server) -> None:
    for code in ERROR_KINDS:
        assert (await server.get(f"/errors/{code}")).status == 200


def test_the_server_says_what_is_its_own(server: Server) -> None:
    assert server.app.paths == {
        METADATA, "/nonce", "/register", "/token", "/revoke", "/jwks", "/authorize", "/redirect"
    }  # fmt: skip
    assert all(server.app.owns(path) for path in server.app.paths)
    assert server.app.owns("/errors/anything")
    assert not server.app.owns("/tokens")
    assert not server.app.owns("/.well-known/oauth-protected-resource")


# registration over HTTP


async def test_registration_answers_201_with_a_complete_echo(server: Server) -> None:
    practice = server.practice()
    reply = await practice.register()
    assert reply.status == 201
    assert reply.headers["Content-Type"].startswith("application/json")
    assert reply.headers["Cache-Control"] == "no-store"
    assert practice.client_id.startswith(CLIENT_ID_PREFIX)
    assert reply.json == {
        "client_id": practice.client_id,
        "client_id_issued_at": int(server.clock.now),
        "client_name": "sdk-client",
        "token_endpoint_auth_method": "private_key_jwt",
        "grant_types": ["urn:ietf:params:oauth:grant-type:token-exchange", "refresh_token"],
        "response_types": ["token"],
        "redirect_uris": [],
        "jwks": {"keys": [practice.instance_key.jwk]},
    }


async def test_the_same_key_is_the_same_client_unchanged(server: Server) -> None:
    practice = server.practice()
    first = await practice.register()
    server.clock.advance(10)
    again = await practice.register(client_name="another name")
    assert again.status == 201
    assert again.json == first.json
    assert (await practice.exchange()).status == 200
    assert (await practice.register()).json["client_id"] == first.json["client_id"]
    assert (await practice.exchange()).status == 200
    assert server.count("zeta_guard_registrations_total", outcome="registered") == 1
    assert server.count("zeta_guard_registrations_total", outcome="known") == 2


async def test_parallel_registrations_of_one_key_give_one_client(server: Server) -> None:
    practice = server.practice()
    replies = await asyncio.gather(*(practice.register() for _ in range(10)))
    assert len({reply.json["client_id"] for reply in replies}) == 1


async def test_a_client_without_a_name_is_named_by_its_id(server: Server) -> None:
    practice = server.practice()
    body = {"token_endpoint_auth_method": "private_key_jwt", "jwks": {"keys": [practice.instance_key.jwk]}}
    reply = await server.post("/register", json.dumps(body).encode(), {"Content-Type": "application/json"})
    assert reply.json["client_name"] == reply.json["client_id"]


@pytest.mark.parametrize(
    ("body", "content_type", "refusal"),
    [
        (b"", "application/json", (400, "invalid_client_metadata")),
        (b"{", "application/json", (400, "invalid_client_metadata")),
        (b"[]", "application/json", (400, "invalid_client_metadata")),
        (b'{"a":1,"a":2}', "application/json", (400, "invalid_client_metadata")),
        (b'{"a":NaN}', "application/json", (400, "invalid_client_metadata")),
        (b"[" * 10_000, "application/json", (400, "invalid_client_metadata")),
        (b"\xff\xfe", "application/json", (400, "invalid_client_metadata")),
        (b"{}", "text/plain", (415, "invalid_request")),
        (b"{}", "application/x-www-form-urlencoded", (415, "invalid_request")),
        (b" " * 70_000, "application/json", (413, "invalid_request")),
    ],
)
async def test_a_broken_registration_is_refused(
    server: Server, body: bytes, content_type: str, refusal: tuple[int, str]
) -> None:
    assert (await server.post("/register", body, {"Content-Type": content_type})).refusal == refusal


async def test_pending_registrations_are_limited_in_total(make_server: MakeServer) -> None:
    server = await make_server(authorization_server={"pending_clients": 2})
    assert [(await server.practice().register()).status for _ in range(2)] == [201, 201]
    assert (await server.practice().register()).refusal == (503, "temporarily_unavailable")
    server.clock.advance(301)
    assert (await server.practice().register()).status == 201


# limits


async def test_limits_per_address_come_before_anything(make_server: MakeServer) -> None:
    server = await make_server(rate_limits={"nonce": {"per_minute": 60, "burst": 2}})
    first = await server.get("/nonce")
    assert {name: first.headers[f"X-Rate-Limit-{name}"] for name in ("Limit", "Remaining", "Reset")} == {
        "Limit": "2",
        "Remaining": "1",
        "Reset": "1",
    }
    await server.get("/nonce")
    reply = await server.get("/nonce")
    assert reply.refusal == (429, "rate_limit_exceeded")
    assert reply.headers["Retry-After"] == "1"
    assert reply.headers["X-Rate-Limit-Remaining"] == "0"
    assert (await server.get(METADATA)).status == 200
    server.clock.advance(1)
    assert (await server.get("/nonce")).status == 200


@pytest.mark.parametrize(("kind", "path"), [("register", "/register"), ("token", "/token"), ("metadata", "/jwks")])
async def test_each_kind_of_request_has_its_limit(make_server: MakeServer, kind: str, path: str) -> None:
    server = await make_server(rate_limits={kind: {"per_minute": 60, "burst": 1}})
    ask = server.get if path == "/jwks" else server.post
    arguments: tuple[Any, ...] = (path,) if path == "/jwks" else (path, b"")
    assert (await ask(*arguments)).status != 429
    reply = await ask(*arguments)
    assert reply.refusal == (429, "rate_limit_exceeded")
    assert reply.headers["Retry-After"] == "1"


async def test_what_succeeds_carries_the_limits(server: Server) -> None:
    practice = server.practice()
    registered = await practice.register()
    granted = await practice.exchange()
    replies = [registered, granted, await practice.revoke(granted.json["access_token"]), await server.get(METADATA)]
    for reply in replies:
        assert reply.status in (200, 201)
        assert int(reply.headers["X-Rate-Limit-Limit"]) > int(reply.headers["X-Rate-Limit-Remaining"])
        assert int(reply.headers["X-Rate-Limit-Reset"]) >= 0


@pytest.mark.parametrize("path", ["/token", "/register", "/revoke", "/errors/x", "/authorize"])
async def test_refusals_carry_the_limits_too(server: Server, path: str) -> None:
    reply = await server.post(path, b"garbage", {"Content-Type": "text/plain"})
    assert reply.status >= 400
    assert int(reply.headers["X-Rate-Limit-Limit"]) > 0


async def test_a_cold_start_with_four_retries_passes_the_defaults(server: Server) -> None:
    for _ in range(4):
        await asyncio.gather(*(server.get(path) for path in (METADATA, "/jwks", "/nonce")))
        practice = server.practice()
        assert (await practice.register()).status == 201
        assert (await practice.exchange()).status == 200


# keys


async def test_keys_rotate_without_downtime(make_server: MakeServer) -> None:
    server = await make_server(audit=True)
    practice = server.practice()
    before = await practice.exchange()
    old = server.claims(before.json["access_token"]).header["kid"]
    written = server.admin.rotate_keys(actor="root", now=server.clock.now)
    assert {key["kid"] for key in (await server.get("/jwks")).json["keys"]} == {old, written.kid}
    assert [entry.state for entry in server.admin.list_keys(now=server.clock.now)] == ["current", "next"]
    server.clock.advance(659)
    assert server.claims((await practice.exchange()).json["access_token"]).header["kid"] == old
    server.clock.advance(1)
    after = await practice.refresh(before.json["refresh_token"])
    assert server.claims(after.json["access_token"]).header["kid"] == written.kid
    assert {key["kid"] for key in (await server.get("/jwks")).json["keys"]} == {old, written.kid}


async def test_a_key_file_that_appears_is_shown(make_server: MakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zeta_guard.authorization_server.app._KEY_FOLDER_SECONDS", 0.01)
    server = await make_server()
    written = rotate(server.config.authorization_server.signing_keys, server.clock.now)
    async with asyncio.timeout(5):
        while len((await server.get("/jwks")).json["keys"]) < 2:  # noqa: ASYNC110 - asked over HTTP, as others would
            await asyncio.sleep(0.01)
    assert written.kid in {key["kid"] for key in (await server.get("/jwks")).json["keys"]}


# configuration


@pytest.mark.parametrize(
    "issuer", ["https://other.example", "urn:issuer", "ftp://127.0.0.1", "http://127.0.0.1/?x", "http://127.0.0.1/#x"]
)
async def test_an_issuer_on_another_host_is_a_mistake_of_the_configuration(
    make_server: MakeServer, issuer: str
) -> None:
    with pytest.raises(ConfigurationError, match="issuer"):
        await make_server(authorization_server={"issuer": issuer})


async def test_a_product_that_could_be_mistaken_for_a_registered_client_stops_the_start(
    make_server: MakeServer,
) -> None:
    product = {"audiences": ["urn:popp"], "scopes": ["popp"]}
    with pytest.raises(ConfigurationError, match="products"):
        await make_server(authorization_server={"products": {CLIENT_ID_PREFIX + "x": product}})


async def test_an_issuer_with_a_path_on_the_same_host_is_fine(make_server: MakeServer) -> None:
    server = await make_server(authorization_server={"issuer": "http://127.0.0.1/as"})
    reply = await server.practice().exchange()
    assert server.claims(reply.json["access_token"]).claims["iss"] == "http://127.0.0.1/as"
    assert server.claims(reply.json["refresh_token"], "refresh+jwt").claims["aud"] == "http://127.0.0.1/as"
