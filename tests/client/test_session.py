"""What a session does around the requests of an application, as the ZETA SDK does it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from zeta_guard.client.assertions import UnsignedJwt
from zeta_guard.client.errors import ClientError, MetadataError, Refused
from zeta_guard.client.session import Hooks, Part, ZetaClient
from zeta_guard.client.wire import Exchange
from zeta_guard.jose.encoding import b64url_decode


def _claims(token: str) -> dict[str, Any]:
    claims = json.loads(b64url_decode(token.split(".")[1]))
    assert isinstance(claims, dict)
    return claims


async def test_a_cold_start_makes_the_requests_of_the_sdk_in_its_order(guard: Any, client: ZetaClient) -> None:
    answer = await client.request("GET", "/vsd?profileVersion=1.0", [("PoPP", "popp-token")])
    assert answer.status == 200
    assert [(request.method, request.path) for request in guard.seen] == [
        ("GET", "/.well-known/oauth-protected-resource"),
        ("GET", "/.well-known/oauth-authorization-server"),
        ("POST", "/register"),
        ("GET", "/nonce"),
        ("POST", "/token"),
        ("GET", "/vsd?profileVersion=1.0"),
    ]


async def test_the_registration_body_is_the_sdks_byte_for_byte(guard: Any, client: ZetaClient) -> None:
    await client.register()
    request = guard.paths("/register")[0]
    jwk = json.dumps(client.state.instance_key.jwk, separators=(",", ":"))
    assert request.body.decode() == (
        '{"token_endpoint_auth_method":"private_key_jwt","grant_types":["urn:ietf:params:oauth:grant-type:token-exchange",'
        '"refresh_token"],"response_types":["token"],"client_name":"zeta-guard client","jwks":{"keys":[' + jwk + "]}}"
    )
    assert request.header("Content-Type") == "application/json"


async def test_the_token_form_has_the_sdks_fields_in_its_order_and_one_nonce_in_three_places(
    guard: Any, client: ZetaClient
) -> None:
    await client.token()
    request = guard.paths("/token")[0]
    assert [name for name, _ in request.form] == [
        "grant_type",
        "client_id",
        "subject_token",
        "subject_token_type",
        "requested_token_type",
        "client_assertion_type",
        "client_assertion",
        "scope",
        "audience",
    ]
    form = dict(request.form)
    assert form["scope"] == "vsdservice popp"
    assert form["audience"] == f"{guard.url}/"
    assert request.header("Content-Type") == "application/x-www-form-urlencoded; charset=UTF-8"
    proof, subject = _claims(request.header("dpop")), _claims(form["subject_token"])
    assert proof["nonce"] == subject["nonce"] == guard.nonces[0]
    assert proof["htu"] == f"{guard.url}/token"
    assert subject["client_key"]["jkt"] == client.state.instance_key.thumbprint
    assert subject["dpop_key"]["jkt"] == client.state.dpop_key.thumbprint
    assert "iat" not in _claims(form["client_assertion"])
    assert not any(name.lower() == "authorization" for name, _ in request.headers)


async def test_a_resource_request_has_a_lower_case_scheme_and_the_accept_header_joined(
    guard: Any, client: ZetaClient
) -> None:
    await client.request("GET", "/vsd", [("Accept", "application/fhir+json"), ("PoPP", "p")])
    request = guard.paths("/vsd")[0]
    assert request.header("Authorization") == "dpop access-1"
    assert request.header("Accept") == "application/fhir+json,application/json"
    assert request.header("PoPP") == "p"
    assert _claims(request.header("dpop"))["htm"] == "GET"
    assert "nonce" not in _claims(request.header("dpop"))
    assert request.header("Accept-Encoding") == "gzip"


async def test_a_token_is_used_again_until_ten_seconds_are_left(guard: Any, client: ZetaClient, clock: Any) -> None:
    await client.token()
    clock.now += 289
    await client.token()
    assert len(guard.paths("/token")) == 1
    clock.now += 1
    await client.token()
    form = guard.paths("/token")[1].form
    assert form[0] == ("grant_type", "refresh_token")
    assert form[-1] == ("refresh_token", "refresh-1")
    assert "subject_token" not in dict(form)


async def test_a_refused_refresh_leads_to_a_full_login(guard: Any, client: ZetaClient, clock: Any) -> None:
    await client.token()
    clock.now += 300
    guard.script("/token", 400, {"error": "invalid_grant"})
    tokens = await client.token()
    assert tokens.access_token == "access-2"
    assert [dict(request.form)["grant_type"].rsplit(":", 1)[-1] for request in guard.paths("/token")] == [
        "token-exchange",
        "refresh_token",
        "token-exchange",
    ]


async def test_an_unknown_client_registers_again_with_the_same_key(guard: Any, client: ZetaClient) -> None:
    guard.script("/token", 401, {"error": "invalid_client"})
    await client.token()
    first, second = guard.paths("/register")
    assert first.body == second.body
    assert len(guard.paths("/token")) == 2


async def test_another_401_of_the_token_endpoint_is_tried_once_more_without_registering(
    guard: Any, client: ZetaClient
) -> None:
    for _ in range(2):
        guard.script("/token", 401, {"error": "invalid_dpop_proof"})
    with pytest.raises(Refused, match="401 invalid_dpop_proof"):
        await client.token()
    assert len(guard.paths("/register")) == 1
    assert len(guard.paths("/nonce")) == 2


@pytest.mark.parametrize("status", [400, 403, 429, 503])
async def test_other_refusals_of_the_token_endpoint_are_final(guard: Any, client: ZetaClient, status: int) -> None:
    guard.script("/token", status, {"error": "invalid_grant", "error_description": "why"})
    with pytest.raises(Refused, match="why") as refused:
        await client.token()
    assert refused.value.answer.status == status
    assert len(guard.paths("/token")) == 1


async def test_registration_is_tried_three_times_with_the_sdks_pauses(
    guard: Any, client: ZetaClient, clock: Any
) -> None:
    for _ in range(2):
        guard.script("/register", 200, {"client_id": "not this way"})
    assert await client.register() == "client-1"
    assert clock.slept == [1.0, 2.0]
    assert len({request.body for request in guard.paths("/register")}) == 1


@pytest.mark.parametrize("status", [403, 409])
async def test_a_final_refusal_of_the_registration_is_not_repeated(guard: Any, client: ZetaClient, status: int) -> None:
    guard.script("/register", status, {"error": "access_denied"})
    with pytest.raises(Refused):
        await client.register()
    assert len(guard.paths("/register")) == 1


async def test_a_registration_without_json_is_final_as_the_sdk_throws_on_it(guard: Any, client: ZetaClient) -> None:
    guard.script("/register", 201, "client-1")
    with pytest.raises(MetadataError):
        await client.register()
    assert len(guard.paths("/register")) == 1


@pytest.mark.parametrize("body", ['{"nonce":"AAAA"}', "AAAA\n", "AAA=", "AB"])
async def test_a_nonce_that_is_not_bare_base64url_is_refused(guard: Any, client: ZetaClient, body: str) -> None:
    guard.script("/nonce", 200, body)
    with pytest.raises(MetadataError):
        await client.nonce()


@pytest.mark.parametrize("value", [300.0, None, True, [300]])
async def test_a_lifetime_that_is_no_integer_is_refused(guard: Any, client: ZetaClient, value: object) -> None:
    guard.expires_in = value
    with pytest.raises(MetadataError):
        await client.token()


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refusal_at_the_resource_leads_to_one_new_login(guard: Any, client: ZetaClient, status: int) -> None:
    guard.script("/vsd", status, {"error": "invalid_token"})
    answer = await client.request("GET", "/vsd")
    assert answer.status == 200
    first, second = guard.paths("/vsd")
    assert (first.header("Authorization"), second.header("Authorization")) == ("dpop access-1", "dpop access-2")
    assert first.header("dpop") != second.header("dpop")
    guard.script("/vsd", status, {"error": "x"})
    guard.script("/vsd", status, {"error": "y"})
    assert (await client.request("GET", "/vsd")).error == "y"


async def test_when_the_new_login_fails_the_request_goes_out_again_as_it_was(guard: Any, client: ZetaClient) -> None:
    await client.token()
    guard.script("/vsd", 401, {"error": "invalid_token"})
    guard.script("/token", 403, {"error": "access_denied"})
    await client.request("GET", "/vsd")
    first, second = guard.paths("/vsd")
    assert first.header("dpop") == second.header("dpop")


async def test_429_waits_for_the_seconds_named_and_resends_the_same_proof(
    guard: Any, client: ZetaClient, clock: Any
) -> None:
    guard.script("/vsd", 429, {}, {"Retry-After": "7"})
    guard.script("/vsd", 429, {}, {"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"})
    assert (await client.request("GET", "/vsd")).status == 200
    assert clock.slept == [7.0, 5.0]
    assert len({request.header("dpop") for request in guard.paths("/vsd")}) == 1


@pytest.mark.parametrize("status", [500, 502, 504])
async def test_gateway_errors_are_resent_with_the_same_proof_four_times_at_most(
    guard: Any, client: ZetaClient, clock: Any, status: int
) -> None:
    for _ in range(4):
        guard.script("/vsd", status, {})
    assert (await client.request("POST", "/vsd", body=b"x")).status == status
    assert clock.slept == [5.0, 5.0, 5.0]
    requests = guard.paths("/vsd")
    assert len(requests) == 4
    assert len({request.header("dpop") for request in requests}) == 1
    assert all(request.body == b"x" for request in requests)


@pytest.mark.parametrize("status", [302, 400, 404, 405, 409, 503])
async def test_every_other_answer_comes_back_as_it_is(guard: Any, client: ZetaClient, status: int) -> None:
    guard.script("/vsd", status, {}, {"Location": "/elsewhere"})
    assert (await client.request("GET", "/vsd")).status == status
    assert len(guard.paths("/vsd")) == 1


async def test_a_health_url_is_sent_bare(guard: Any, client: ZetaClient) -> None:
    await client.request("GET", "/api/Health/x")
    assert [request.path for request in guard.seen] == ["/api/Health/x"]
    assert not any(name.lower() in ("authorization", "dpop") for name, _ in guard.seen[0].headers)


async def test_revocation_names_the_refresh_token_and_forgets_the_tokens(guard: Any, client: ZetaClient) -> None:
    await client.token()
    await client.revoke()
    form = dict(guard.paths("/revoke")[0].form)
    assert form["token"] == "refresh-1"
    assert _claims(form["client_assertion"])["sub"] == "client-1"
    assert client.state.tokens is None
    with pytest.raises(ClientError):
        await client.revoke()


async def test_client_credentials_are_signed_by_the_card_and_bound_to_the_dpop_key(
    guard: Any, client: ZetaClient
) -> None:
    await client.client_credentials("product-1")
    assert not guard.paths("/register")
    form = dict(guard.paths("/token")[0].form)
    assert form["grant_type"] == "client_credentials"
    claims = _claims(form["client_assertion"])
    assert claims["iss"] == claims["sub"] == claims["client_statement"]["sub"] == "product-1"
    assert claims["cnf"] == {"jkt": client.state.dpop_key.thumbprint}
    assert claims["nonce"] == guard.nonces[0]


async def test_parts_can_be_changed_before_and_after_signing(guard: Any, client: ZetaClient) -> None:
    def unsigned(part: Part, jwt: UnsignedJwt) -> UnsignedJwt:
        return jwt.with_claims(aud=["elsewhere"]) if part == "client_assertion" else jwt

    def signed(part: Part, token: str) -> str:
        return token + "AA" if part == "subject_token" else token

    client.hooks = Hooks(before_signing=unsigned, after_signing=signed)
    await client.token()
    form = dict(guard.paths("/token")[0].form)
    assert _claims(form["client_assertion"])["aud"] == ["elsewhere"]
    assert form["subject_token"].endswith("AA")


async def test_exchanges_are_told_without_credentials(guard: Any, client: ZetaClient) -> None:
    told: list[Exchange] = []
    client.hooks = Hooks(on_exchange=told.append)
    await client.request("GET", "/vsd", [("PoPP", "secret-popp-token")])
    last = told[-1]
    assert (last.method, last.status) == ("GET", 200)
    shown = dict(last.request_headers)
    assert shown["Authorization"] == "dpop <8 characters>"
    assert shown["PoPP"] == "<17 characters>"
    assert "secret" not in repr(told)
    assert "access-1" not in repr(told)


async def test_a_websocket_is_upgraded_with_token_and_proof(guard: Any, client: ZetaClient) -> None:
    socket = await client.websocket("/ws")
    await socket.send_str("hello")
    assert await socket.receive_str() == "echo hello"
    await socket.close()
    request = guard.paths("/ws")[0]
    assert request.header("Authorization") == "dpop access-1"
    assert _claims(request.header("dpop"))["htu"] == f"{guard.url}/ws"
    assert request.header("Sec-WebSocket-Extensions").startswith("permessage-deflate")


async def test_a_refused_upgrade_says_why(guard: Any, client: ZetaClient) -> None:
    guard.script("/ws", 403, {"error": "access_denied", "error_description": "not you"})
    with pytest.raises(Refused, match="403 access_denied: not you"):
        await client.websocket("/ws")
