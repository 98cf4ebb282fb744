"""Form and client assertion of a token request: every lie about the client."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import pytest

from zeta_guard.client.assertions import Product
from zeta_guard.client.keys import SoftwareKey
from zeta_guard.jose.encoding import b64url_encode

if TYPE_CHECKING:
    from tests.authorization_server.conftest import Server

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@pytest.mark.parametrize(
    ("form", "code"),
    [
        ({"grant_type": None}, "invalid_request"),
        ({"grant_type": ""}, "invalid_request"),
        ({"grant_type": "authorization_code"}, "unsupported_grant_type"),
        ({"grant_type": "client_credentials"}, "unsupported_grant_type"),
        ({"requested_token_type": "urn:ietf:params:oauth:token-type:saml2"}, "invalid_request"),
        ({"actor_token": "x"}, "invalid_request"),
        ({"client_assertion": None}, "invalid_request"),
        ({"client_assertion_type": None}, "invalid_request"),
        ({"client_assertion_type": "password"}, "invalid_request"),
        ({"subject_token": None}, "invalid_request"),
        ({"subject_token_type": None}, "invalid_request"),
        ({"subject_token_type": "urn:ietf:params:oauth:token-type:access_token"}, "invalid_request"),
        ({"scope": "popp admin"}, "invalid_scope"),
        ({"audience": "https://elsewhere.example/"}, "invalid_target"),
        ({"audience": None, "resource": "https://elsewhere.example/vsdservice"}, "invalid_target"),
        ({"resource": "http://127.0.0.1/vsdservice"}, "invalid_request"),
        ({"client_id": "zc_other"}, "invalid_client"),
    ],
)
async def test_a_form_with_a_mistake_is_refused(server: Server, form: dict[str, str | None], code: str) -> None:
    assert (await server.practice().exchange(form=form)).refusal == (400, code)


async def test_the_same_field_twice_is_refused(server: Server) -> None:
    reply = await server.practice().exchange(extra=[("scope", "popp")])
    assert reply.refusal == (400, "invalid_request")


async def test_a_form_that_is_too_large_is_refused(server: Server) -> None:
    assert (await server.practice().exchange(form={"filler": "x" * 70_000})).refusal == (413, "invalid_request")


async def test_an_assertion_that_is_too_large_is_refused(server: Server) -> None:
    reply = await server.practice().exchange(assertion={"claims": {"filler": "x" * 13_000}})
    assert reply.refusal == (400, "invalid_client")
    assert "16384" in reply.words


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "multipart/form-data; boundary=x"])
async def test_another_media_type_is_a_malformed_request(server: Server, content_type: str) -> None:
    reply = await server.post("/token", b"grant_type=refresh_token", {"Content-Type": content_type})
    assert reply.refusal == (400, "invalid_request")


# step 2: the client assertion


async def test_an_unknown_client_is_told_with_401(server: Server) -> None:
    practice = server.practice()
    practice.client_id = "zc_nobody"
    reply = await practice.exchange()
    assert reply.refusal == (401, "invalid_client")
    assert reply.headers["WWW-Authenticate"].startswith("DPoP")


async def test_a_pending_registration_vanishes(server: Server) -> None:
    practice = server.practice()
    await practice.register()
    server.clock.advance(301)
    assert (await practice.exchange()).refusal == (401, "invalid_client")


async def test_a_bound_client_stays(server: Server) -> None:
    practice = server.practice()
    await practice.exchange()
    server.clock.advance(7 * 86_400)
    assert (await practice.exchange()).status == 200


@pytest.mark.parametrize(
    "change",
    [
        {"claims": {"iss": "zc_other"}},
        {"claims": {"sub": "zc_other"}},
        {"claims": {"iss": ...}},
        {"claims": {"sub": 5}},
        {"claims": {"aud": "https://elsewhere.example/token"}},
        {"claims": {"aud": ...}},
        {"claims": {"aud": []}},
        {"claims": {"exp": ...}},
        {"claims": {"exp": "soon"}},
        {"claims": {"exp": 1.5}},
        {"claims": {"exp": True}},
        {"claims": {"exp": 2**60}},
        {"claims": {"jti": ...}},
        {"claims": {"jti": ""}},
        {"claims": {"jti": 5}},
        {"claims": {"jti": "j" * 257}},
        {"claims": {"client_statement": ...}},
        {"claims": {"client_statement": "x"}},
        {"claims": {"client_statement": None}},
        {"claims": {"iat": "now"}},
        {"header": {"typ": "dpop+jwt"}},
        {"header": {"typ": "at+jwt"}},
        {"header": {"typ": ...}},
        {"header": {"alg": "RS256"}},
        {"header": {"alg": "none"}},
        {"header": {"alg": "HS256"}},
        {"header": {"crit": ["exp"]}},
        {"header": {"jwk": SoftwareKey.generate().jwk}},
        {"header": {"jwk": "key"}},
        {"statement": {"sub": "zc_other"}},
        {"statement": {"platform": "windows", "posture_type": "software"}},
        {"statement": {"posture_type": "tpm"}},
        {"posture": {"attestation_challenge": b64url_encode(bytes(32))}},
        {"posture": {"public_key": base64.b64encode(SoftwareKey.generate().subject_public_key()).decode()}},
        {"posture": {"product_version": ""}},
    ],
)
async def test_a_wrong_assertion_is_an_invalid_client_with_400(server: Server, change: Any) -> None:
    assert (await server.practice().exchange(assertion=change)).refusal == (400, "invalid_client")


async def test_ids_as_long_as_they_may_be_are_looked_at(server: Server) -> None:
    practice = server.practice()
    assert (await practice.exchange(assertion={"claims": {"jti": "j" * 256}})).status == 200
    practice.client_id = "z" * 128
    assert (await practice.exchange()).refusal == (401, "invalid_client")


async def test_a_client_id_beyond_all_measure_is_not_looked_up(server: Server) -> None:
    practice = server.practice()
    practice.client_id = "z" * 129
    assert (await practice.exchange()).refusal == (400, "invalid_client")


async def test_an_assertion_for_two_receivers_is_refused(server: Server) -> None:
    reply = await server.practice().exchange(
        assertion={"claims": {"aud": [server.url + "/token", "https://other.example/"]}}
    )
    assert reply.refusal == (400, "invalid_client")


async def test_an_assertion_for_the_revocation_endpoint_gets_no_token(server: Server) -> None:
    reply = await server.practice().exchange(assertion={"claims": {"aud": server.url + "/revoke"}})
    assert reply.refusal == (400, "invalid_client")


@pytest.mark.parametrize(("offset", "status"), [(0, 400), (1, 200), (300, 200), (301, 400)])
async def test_the_edges_of_an_assertion_s_life(server: Server, offset: int, status: int) -> None:
    server.clock.now = float(int(server.clock.now) + 2)
    reply = await server.practice().exchange(assertion={"claims": {"exp": int(server.clock.now) + offset}})
    assert reply.status == status


@pytest.mark.parametrize("name", ["iat", "nbf"])
@pytest.mark.parametrize(("offset", "status"), [(-300, 200), (15, 200), (16, 400)])
async def test_an_assertion_from_the_future_is_refused(server: Server, name: str, offset: int, status: int) -> None:
    server.clock.now = float(int(server.clock.now) + 2)
    reply = await server.practice().exchange(assertion={"claims": {**{name: int(server.clock.now) + offset}}})
    assert reply.status == status


async def test_an_assertion_signed_by_another_key_is_refused(server: Server) -> None:
    practice = server.practice()
    await practice.register()
    registered, practice.instance_key = practice.instance_key, SoftwareKey.generate()
    assert (await practice.exchange()).refusal == (400, "invalid_client")
    practice.instance_key = registered
    assert (await practice.exchange()).status == 200


async def test_an_assertion_is_good_once(server: Server) -> None:
    practice = server.practice()
    first: list[str] = []

    def keep(token: str) -> str:
        first.append(token)
        return token

    await practice.register()
    nonce = await practice.nonce()
    assert (await practice.exchange(nonce=nonce, assertion={"claims": {"jti": "same"}})).status == 200
    reply = await practice.exchange(assertion={"claims": {"jti": "same"}})
    assert reply.refusal == (400, "invalid_client")
    assert server.count("zeta_guard_security_events_total", event="assertion_replayed") == 1


async def test_the_same_jti_of_another_client_is_another_assertion(server: Server) -> None:
    card = server.card()
    for practice in (server.practice(card), server.practice(card)):
        assert (await practice.exchange(assertion={"claims": {"jti": "same"}})).status == 200


async def test_a_client_keeps_its_platform(server: Server) -> None:
    practice = server.practice()
    assert (await practice.exchange()).status == 200
    practice.product = Product(platform="windows", platform_product_id={"platform": "windows"})
    reply = await practice.exchange()
    assert reply.refusal == (400, "invalid_client")
    assert "platform" in reply.words
