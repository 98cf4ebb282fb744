"""The token exchange from end to end: what a practice gets, and every lie that gets it nothing."""

from __future__ import annotations

import asyncio
import base64
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import hmac as keyed
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from zeta_guard.client.assertions import Product, UnsignedJwt
from zeta_guard.client.keys import SoftwareKey
from zeta_guard.jose.encoding import b64url_decode, b64url_encode
from zeta_guard.simulators.ocsp_responder import CardState
from zeta_guard.simulators.pki import LeafProfile

if TYPE_CHECKING:
    from tests.authorization_server.conftest import MakeServer, Server

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def claims(**changes: Any) -> Any:
    """A change of claims; ``...`` takes one away."""

    def change(unsigned: UnsignedJwt) -> UnsignedJwt:
        gone = [name for name, value in changes.items() if value is ...]
        kept = {name: value for name, value in changes.items() if value is not ...}
        return unsigned.with_claims(**kept).without_claims(*gone)

    return change


def header(**changes: Any) -> Any:
    def change(unsigned: UnsignedJwt) -> UnsignedJwt:
        kept = {name: value for name, value in {**unsigned.header, **changes}.items() if value is not ...}
        return UnsignedJwt(kept, unsigned.claims)

    return change


def statement(within: dict[str, Any] | None = None, **changes: Any) -> Any:
    def change(unsigned: UnsignedJwt) -> UnsignedJwt:
        made = json.loads(json.dumps(unsigned.claims["client_statement"]))
        made["posture"].update(within or {})
        made.update(changes)
        return unsigned.with_claims(client_statement=made)

    return change


# what a practice gets


@pytest.mark.parametrize("curve", ["brainpoolP256r1", "secp256r1"])
async def test_a_practice_gets_its_tokens_with_a_card_of_either_curve(server: Server, curve: str) -> None:
    card = server.card("1-2013-beispiel", common_name="Praxis Beispiel", organization="Beispiel GmbH", curve=curve)
    practice = server.practice(card)
    reply = await practice.exchange()
    assert reply.status == 200, reply.body
    assert reply.headers["Cache-Control"] == "no-store"
    assert reply.headers["Content-Type"].startswith("application/json")
    body = reply.json
    assert {name: body[name] for name in body if not name.endswith("_token")} == {
        "token_type": "DPoP",
        "expires_in": 300,
        "refresh_expires_in": 86_400,
        "scope": "popp vsdservice",
        "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
    }
    now = int(server.clock.now)
    access = server.claims(body["access_token"])
    assert access.header["typ"] == "at+jwt"
    sid, jti = access.claims["sid"], access.claims["jti"]
    assert access.claims == {
        "iss": server.url,
        "sub": "1-2013-beispiel",
        "aud": server.url + "/",
        "scope": "popp vsdservice",
        "client_id": practice.client_id,
        "iat": now,
        "exp": now + 300,
        "jti": jti,
        "sid": sid,
        "ver": 1,
        "cnf": {"jkt": practice.dpop_key.thumbprint},
        "acr": "gematik-ehealth-loa-substantial",
        "ip_address": "127.0.0.1",
        "profession_oid": "1.2.276.0.76.4.50",
        "common_name": "Praxis Beispiel",
        "organization_name": "Beispiel GmbH",
        "product_id": practice.product.product_id,
        "product_version": practice.product.product_version,
        "platform": "linux",
    }
    refresh = server.claims(body["refresh_token"], "refresh+jwt")
    assert refresh.claims == {
        "iss": server.url,
        "aud": server.url,
        "sub": "1-2013-beispiel",
        "client_id": practice.client_id,
        "sid": sid,
        "jti": refresh.claims["jti"],
        "iat": now,
        "exp": now + 86_400,
        "cnf": {"jkt": practice.dpop_key.thumbprint},
    }
    assert refresh.claims["jti"] != jti


async def test_an_organization_that_the_certificate_does_not_name_is_absent(server: Server) -> None:
    reply = await server.practice().exchange()
    assert "organization_name" not in server.claims(reply.json["access_token"]).claims


async def test_tokens_come_right_after_the_start_of_the_guard(server: Server) -> None:
    server.clock.now = server.store.epoch.started_at + 0.01
    assert (await server.practice().exchange()).status == 200


async def test_parallel_first_exchanges_of_one_client_all_succeed(server: Server) -> None:
    practice = server.practice()
    await practice.register()
    replies = await asyncio.gather(*(practice.exchange() for _ in range(10)))
    assert Counter(reply.status for reply in replies) == {200: 10}
    sessions = {server.claims(reply.json["access_token"]).claims["sid"] for reply in replies}
    assert len(sessions) == 10


async def test_parallel_first_exchanges_of_one_institution_all_succeed(server: Server) -> None:
    card = server.card()
    replies = await asyncio.gather(*(server.practice(card).exchange() for _ in range(10)))
    assert Counter(reply.status for reply in replies) == {200: 10}


async def test_forms_that_the_sdk_does_not_send_but_the_rfc_knows_are_fine(server: Server) -> None:
    practice = server.practice()
    reply = await practice.exchange(
        form={"client_id": None, "requested_token_type": None, "audience": None, "scope": None}
    )
    assert reply.status == 200
    assert reply.json["scope"] == "popp vsdservice"


async def test_an_assertion_may_name_the_issuer_as_its_audience(server: Server) -> None:
    assert (await server.practice().exchange(assertion=claims(aud=server.url))).status == 200


async def test_audience_without_its_slash_gets_the_form_of_the_metadata(server: Server) -> None:
    reply = await server.practice().exchange(form={"audience": server.url})
    assert server.claims(reply.json["access_token"]).claims["aud"] == server.url + "/"


async def test_contract_two_lets_the_policy_choose_the_audience(server: Server) -> None:
    reply = await server.practice().exchange(form={"audience": None, "resource": server.url + "/vsdservice/v1/x"})
    access = server.claims(reply.json["access_token"]).claims
    assert (access["aud"], access["ver"]) == (server.url + "/", 2)


async def test_fewer_scopes_are_granted_as_asked(server: Server) -> None:
    reply = await server.practice().exchange(form={"scope": "popp"})
    assert reply.json["scope"] == "popp"
    assert server.claims(reply.json["access_token"]).claims["scope"] == "popp"


# step 1: the form


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
    reply = await server.practice().exchange(assertion=claims(filler="x" * 13_000))
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
        claims(iss="zc_other"),
        claims(sub="zc_other"),
        claims(iss=...),
        claims(sub=5),
        claims(aud="https://elsewhere.example/token"),
        claims(aud=...),
        claims(aud=[]),
        claims(exp=...),
        claims(exp="soon"),
        claims(exp=1.5),
        claims(exp=True),
        claims(exp=2**60),
        claims(jti=...),
        claims(jti=""),
        claims(jti=5),
        claims(jti="j" * 257),
        claims(client_statement=...),
        claims(client_statement="x"),
        claims(client_statement=None),
        claims(iat="now"),
        header(typ="dpop+jwt"),
        header(typ="at+jwt"),
        header(typ=...),
        header(alg="RS256"),
        header(alg="none"),
        header(alg="HS256"),
        header(crit=["exp"]),
        header(jwk=SoftwareKey.generate().jwk),
        header(jwk="key"),
        statement(sub="zc_other"),
        statement(platform="windows", posture_type="software"),
        statement(posture_type="tpm"),
        statement({"attestation_challenge": b64url_encode(bytes(32))}),
        statement({"public_key": base64.b64encode(SoftwareKey.generate().subject_public_key()).decode()}),
        statement({"product_version": ""}),
    ],
)
async def test_a_wrong_assertion_is_an_invalid_client_with_400(server: Server, change: Any) -> None:
    assert (await server.practice().exchange(assertion=change)).refusal == (400, "invalid_client")


async def test_an_assertion_for_two_receivers_is_refused(server: Server) -> None:
    reply = await server.practice().exchange(assertion=claims(aud=[server.url + "/token", "https://other.example/"]))
    assert reply.refusal == (400, "invalid_client")


async def test_an_assertion_for_the_revocation_endpoint_gets_no_token(server: Server) -> None:
    reply = await server.practice().exchange(assertion=claims(aud=server.url + "/revoke"))
    assert reply.refusal == (400, "invalid_client")


@pytest.mark.parametrize(("offset", "status"), [(0, 400), (1, 200), (300, 200), (301, 400)])
async def test_the_edges_of_an_assertion_s_life(server: Server, offset: int, status: int) -> None:
    server.clock.now = float(int(server.clock.now) + 2)
    reply = await server.practice().exchange(assertion=claims(exp=int(server.clock.now) + offset))
    assert reply.status == status


@pytest.mark.parametrize("name", ["iat", "nbf"])
@pytest.mark.parametrize(("offset", "status"), [(-300, 200), (15, 200), (16, 400)])
async def test_an_assertion_from_the_future_is_refused(server: Server, name: str, offset: int, status: int) -> None:
    server.clock.now = float(int(server.clock.now) + 2)
    reply = await server.practice().exchange(assertion=claims(**{name: int(server.clock.now) + offset}))
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
    assert (await practice.exchange(nonce=nonce, assertion=claims(jti="same"))).status == 200
    reply = await practice.exchange(assertion=claims(jti="same"))
    assert reply.refusal == (400, "invalid_client")
    assert server.count("zeta_guard_security_events_total", event="assertion_replayed") == 1


async def test_the_same_jti_of_another_client_is_another_assertion(server: Server) -> None:
    card = server.card()
    for practice in (server.practice(card), server.practice(card)):
        assert (await practice.exchange(assertion=claims(jti="same"))).status == 200


async def test_a_client_keeps_its_platform(server: Server) -> None:
    practice = server.practice()
    assert (await practice.exchange()).status == 200
    practice.product = Product(platform="windows", platform_product_id={"platform": "windows"})
    reply = await practice.exchange()
    assert reply.refusal == (400, "invalid_client")
    assert "platform" in reply.words


# forged signatures, of every part


def keyed_with_public_key(key: SoftwareKey) -> Any:
    def fold(token: str) -> str:
        signing_input = token.rpartition(".")[0]
        code = keyed.HMAC(key.subject_public_key(), hashes.SHA256())
        code.update(signing_input.encode())
        return f"{signing_input}.{b64url_encode(code.finalize() * 2)}"

    return fold


def signature(raw: bytes) -> Any:
    return lambda token: f"{token.rpartition('.')[0]}.{b64url_encode(raw)}"


def der_signature(token: str) -> str:
    return f"{token.rpartition('.')[0]}.{b64url_encode(b'0' + bytes(70))}"


def truncated(token: str) -> str:
    return token[:-2]


PARTS = [
    ("signed_assertion", (400, "invalid_client")),
    ("signed_subject", (400, "invalid_grant")),
    ("signed_proof", (400, "invalid_dpop_proof")),
]
FORGERIES = {
    "zeros": signature(bytes(64)),
    "order": signature(P256_ORDER.to_bytes(32, "big") * 2),
    "beyond": signature(b"\xff" * 64),
    "der": der_signature,
    "truncated": truncated,
    "absent": lambda token: token.rpartition(".")[0] + ".",
    "two parts": lambda token: token.rpartition(".")[0],
    "four parts": lambda token: token + ".AAAA",
    "padded": lambda token: token + "=",
    "garbage": lambda token: "garbage",
    "not ascii": lambda token: token + "ü",
    "json": lambda token: '{"payload":"x"}',
}


@pytest.mark.parametrize(("part", "refusal"), PARTS)
@pytest.mark.parametrize("forgery", FORGERIES)
async def test_a_forged_signature_is_refused(server: Server, part: str, refusal: tuple[int, str], forgery: str) -> None:
    reply = await server.practice().exchange(**{part: FORGERIES[forgery]})
    assert reply.refusal == refusal


@pytest.mark.parametrize(("part", "refusal"), PARTS)
@pytest.mark.parametrize("position", [0, 1, 2])
async def test_a_changed_character_is_noticed(
    server: Server, part: str, refusal: tuple[int, str], position: int
) -> None:
    reply = await server.practice().exchange(**{part: lambda token: server.tampered(token, position, 20)})
    assert reply.refusal == refusal


async def test_hmac_with_the_public_key_is_no_signature(server: Server) -> None:
    practice = server.practice()
    fold = keyed_with_public_key(practice.instance_key)
    assert (await practice.exchange(signed_assertion=fold)).refusal == (400, "invalid_client")


@pytest.mark.parametrize(("part", "refusal"), PARTS)
@pytest.mark.parametrize(
    "raw",
    [
        b'{"exp":1,"exp":2}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":123456789012345678901234567890}',
        b'{"a":' + b"[" * 500 + b"]" * 500 + b"}",
        b'{"a":"\xff"}',
        b'{"a":"\\ud800"}',
        b"[]",
        b"",
    ],
)
async def test_claims_without_a_single_reading_are_refused(
    server: Server, part: str, refusal: tuple[int, str], raw: bytes
) -> None:
    practice = server.practice()
    signers = {
        "signed_assertion": practice.instance_key.sign,
        "signed_subject": practice.card.sign,
        "signed_proof": practice.dpop_key.sign,
    }

    def fold(token: str) -> str:
        return server.raw_jws(b64url_decode(token.split(".")[0]), raw, signers[part])

    assert (await practice.exchange(**{part: fold})).refusal == refusal


# step 3: the proof


@pytest.mark.parametrize(
    "change",
    [
        claims(htm="GET"),
        claims(htm="post"),
        claims(htu="https://elsewhere.example/token"),
        claims(htu=...),
        claims(iat=...),
        claims(iat=0),
        claims(iat="now"),
        claims(jti=...),
        claims(jti="j" * 257),
        claims(nonce=...),
        claims(nonce=5),
        header(typ="JWT"),
        header(alg="none"),
        header(jwk=...),
        header(jwk=SoftwareKey.generate().jwk),
    ],
)
async def test_a_wrong_proof_is_refused_with_400(server: Server, change: Any) -> None:
    assert (await server.practice().exchange(proof=change)).refusal == (400, "invalid_dpop_proof")


async def test_a_proof_with_a_private_key_is_refused(server: Server) -> None:
    practice = server.practice()
    reply = await practice.exchange(proof=header(jwk={**practice.dpop_key.jwk, "d": "AAAA"}))
    assert reply.refusal == (400, "invalid_dpop_proof")


async def test_no_proof_and_two_proofs_are_refused(server: Server) -> None:
    practice = server.practice()
    assert (await practice.exchange(proofs=[])).refusal == (400, "invalid_dpop_proof")
    nonce = await practice.nonce()
    proofs = [practice.proof(nonce).signed(practice.dpop_key.sign) for _ in range(2)]
    assert (await practice.exchange(nonce=nonce, proofs=proofs)).refusal == (400, "invalid_dpop_proof")


@pytest.mark.parametrize(("offset", "status"), [(-61, 400), (-60, 200), (15, 200), (16, 400)])
async def test_the_edges_of_a_proof_s_age(server: Server, offset: int, status: int) -> None:
    server.clock.now = float(int(server.clock.now) + 2)
    reply = await server.practice().exchange(proof=claims(iat=int(server.clock.now) + offset))
    assert reply.status == status


async def test_a_proof_is_good_once_whatever_its_signature(server: Server) -> None:
    practice = server.practice()
    assert (await practice.exchange(proof=claims(jti="same"))).status == 200
    reply = await practice.exchange(proof=claims(jti="same"))
    assert reply.refusal == (400, "invalid_dpop_proof")
    assert server.count("zeta_guard_security_events_total", event="proof_replayed") == 1


async def test_a_high_s_signature_is_valid(server: Server) -> None:
    def high(token: str) -> str:
        raw = b64url_decode(token.rpartition(".")[2])
        s = int.from_bytes(raw[32:], "big")
        return f"{token.rpartition('.')[0]}.{b64url_encode(raw[:32] + (P256_ORDER - s).to_bytes(32, 'big'))}"

    assert (await server.practice().exchange(signed_proof=high, signed_assertion=high)).status == 200


# step 4: the subject token


@pytest.mark.parametrize(
    "change",
    [
        claims(iss="zc_other"),
        claims(iss=...),
        claims(aud="https://elsewhere.example/token"),
        claims(aud=...),
        claims(sub="1-other"),
        claims(sub=...),
        claims(iat=...),
        claims(exp=...),
        claims(exp=0),
        claims(iat=2**40),
        claims(nbf=2**40),
        claims(client_key=...),
        claims(client_key={"jkt": SoftwareKey.generate().thumbprint}),
        claims(client_key="x"),
        claims(dpop_key=...),
        claims(dpop_key={"jkt": SoftwareKey.generate().thumbprint}),
        claims(nonce=...),
        claims(nonce=b64url_encode(bytes(16))),
        header(typ="at+jwt"),
        header(alg="BP256R1"),
        header(x5c=...),
        header(x5c=[]),
        header(x5c="AAAA"),
        header(x5c=["not base64"]),
        header(x5c=["AAAA"]),
        header(x5c=[5]),
        header(x5c=["AAAA"] * 9),
    ],
)
async def test_a_wrong_subject_token_is_an_invalid_grant(server: Server, change: Any) -> None:
    assert (await server.practice().exchange(subject=change)).refusal == (400, "invalid_grant")


async def test_a_subject_token_for_the_issuer_or_two_receivers_is_refused(server: Server) -> None:
    for audience in (server.url, [server.url + "/token", server.url]):
        assert (await server.practice().exchange(subject=claims(aud=audience))).refusal == (400, "invalid_grant")


@pytest.mark.parametrize(
    ("iat", "exp", "status"), [(0, 1, 200), (0, 0, 400), (15, 30, 200), (16, 30, 400), (5, 5, 400)]
)
async def test_the_edges_of_a_subject_token_s_life(server: Server, iat: int, exp: int, status: int) -> None:
    server.clock.now = float(int(server.clock.now) + 2)
    now = int(server.clock.now)
    reply = await server.practice().exchange(subject=claims(iat=now + iat, exp=now + exp))
    assert reply.status == status


async def test_a_subject_token_signed_by_another_card_is_refused(server: Server) -> None:
    practice, other = server.practice(), server.card("1-other")
    reply = await practice.exchange(signed_subject=lambda token: _resigned(token, other.sign))
    assert reply.refusal == (400, "invalid_grant")


def _resigned(token: str, sign: Any) -> str:
    signing_input = token.rpartition(".")[0]
    return f"{signing_input}.{b64url_encode(sign(signing_input.encode()))}"


async def test_an_assertion_is_no_subject_token_and_the_other_way_round(server: Server) -> None:
    practice = server.practice()
    await practice.register()
    nonce = await practice.nonce()
    assertion = practice.assertion(nonce).signed(practice.instance_key.sign)
    subject = practice.subject(nonce).signed(practice.card.sign)
    proof = practice.proof(nonce).signed(practice.dpop_key.sign)
    for wrong in (assertion, proof):
        assert (await practice.exchange(form={"subject_token": wrong})).refusal == (400, "invalid_grant")
    for wrong in (subject, proof):
        assert (await practice.exchange(form={"client_assertion": wrong})).refusal == (400, "invalid_client")
    for wrong in (assertion, subject):
        assert (await practice.exchange(proofs=[wrong])).refusal == (400, "invalid_dpop_proof")


# the nonce


async def test_a_nonce_is_spent_once(server: Server) -> None:
    practice = server.practice()
    nonce = await practice.nonce()
    assert (await practice.exchange(nonce=nonce)).status == 200
    reply = await practice.exchange(nonce=nonce)
    assert reply.refusal == (400, "invalid_grant")
    assert "nonce" in reply.words
    assert server.count("zeta_guard_security_events_total", event="nonce_replayed") == 1


async def test_a_nonce_spent_by_one_client_is_spent_for_all(server: Server) -> None:
    one, other = server.practice(), server.practice(server.card("1-other"))
    nonce = await one.nonce()
    assert (await one.exchange(nonce=nonce)).status == 200
    assert (await other.exchange(nonce=nonce)).refusal == (400, "invalid_grant")


async def test_a_nonce_that_was_not_issued_here_is_refused(server: Server) -> None:
    assert (await server.practice().exchange(nonce=bytes(16))).refusal == (400, "invalid_grant")
    assert (await server.practice().exchange(nonce=b"short")).refusal == (400, "invalid_grant")


async def test_an_old_nonce_is_refused_before_anybody_asks_ocsp(server: Server) -> None:
    practice = server.practice()
    nonce = await practice.nonce()
    server.clock.advance(302)
    assert (await practice.exchange(nonce=nonce)).refusal == (400, "invalid_grant")
    assert server.ocsp.asked == 0


async def test_garbage_does_not_burn_a_nonce(server: Server) -> None:
    practice = server.practice()
    nonce = await practice.nonce()
    for part in ("signed_assertion", "signed_proof", "signed_subject"):
        await practice.exchange(nonce=nonce, **{part: truncated})  # type: ignore[arg-type]
    assert (await practice.exchange(nonce=nonce)).status == 200


async def test_what_was_made_before_the_store_lost_its_memory_is_refused(make_server: MakeServer) -> None:
    before = await make_server()
    practice = before.practice()
    await practice.register()
    nonce = await practice.nonce()
    after = await make_server()
    practice.server = after
    await practice.register()
    assert (await practice.exchange(nonce=nonce)).refusal == (400, "invalid_grant")


# step 6: the certificate


@pytest.mark.parametrize(
    "profile",
    [
        LeafProfile(admissions=0),
        LeafProfile(admissions=2),
        LeafProfile(registration_number=False),
        LeafProfile(policies=("1.2.276.0.76.4.163",)),
        LeafProfile(digital_signature=False),
        LeafProfile(ca=True),
        LeafProfile(extra=((x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True),)),
        LeafProfile(key=rsa.generate_private_key(65537, 2048)),
        LeafProfile(key=ec.generate_private_key(ec.SECP384R1())),
    ],
)
async def test_a_certificate_of_the_wrong_form_is_an_invalid_grant(server: Server, profile: LeafProfile) -> None:
    reply = await server.practice(server.card(profile=profile)).exchange(subject=claims(sub="1-2013-praxis-beispiel"))
    assert reply.refusal == (400, "invalid_grant")


async def test_a_card_of_a_foreign_or_expired_ca_is_refused(server: Server) -> None:
    for issuer in (server.pki.foreign_ca, server.pki.expired_ca):
        assert (await server.practice(server.card(issuer=issuer)).exchange()).refusal == (400, "invalid_grant")
    assert server.count("zeta_guard_security_events_total", event="certificate_refused") == 2
    assert server.ocsp.asked == 0


async def test_an_expired_card_is_refused(server: Server) -> None:
    card = server.card(not_after=server.clock.now - 1)
    assert (await server.practice(card).exchange()).refusal == (400, "invalid_grant")


@pytest.mark.parametrize(
    ("state", "refusal"),
    [
        (CardState.REVOKED, (400, "invalid_grant")),
        (CardState.UNKNOWN, (400, "invalid_grant")),
        (CardState.SILENT, (503, "temporarily_unavailable")),
        (CardState.GARBAGE, (503, "temporarily_unavailable")),
    ],
)
async def test_what_ocsp_says_decides(server: Server, state: CardState, refusal: tuple[int, str]) -> None:
    practice = server.practice()
    server.ocsp.set_state(practice.card, state)
    nonce = await practice.nonce()
    reply = await practice.exchange(nonce=nonce)
    assert reply.refusal == refusal
    if reply.status == 503:
        assert int(reply.headers["Retry-After"]) >= 1
    server.ocsp.set_state(practice.card, CardState.GOOD)
    assert await server.store.list_sessions(now=server.clock.now) == []


async def test_a_bound_client_belongs_to_its_institution(server: Server) -> None:
    practice = server.practice()
    assert (await practice.exchange()).status == 200
    practice.card = server.card("1-other")
    reply = await practice.exchange()
    assert reply.refusal == (400, "invalid_grant")
    assert "another institution" in reply.words
    assert server.count("zeta_guard_security_events_total", event="binding_refused") == 1


async def test_two_institutions_cannot_bind_one_client_at_the_same_time(server: Server) -> None:
    practice = server.practice()
    await practice.register()
    other = server.practice(server.card("1-other"))
    other.client_id, other.instance_key = practice.client_id, practice.instance_key
    statuses = sorted(reply.status for reply in await asyncio.gather(practice.exchange(), other.exchange()))
    assert statuses == [200, 400]


# step 8: the policy


async def test_a_no_of_the_policy_is_told_with_reasons(make_server: MakeServer) -> None:
    server = await make_server(audit=True)
    practice = server.practice(server.card(profession_oid="1.2.276.0.76.4.58"))
    reply = await practice.exchange()
    assert reply.refusal == (403, "access_denied")
    (reason,) = reply.json["reasons"]
    assert "profession" in reason
    assert reason in reply.words
    assert reply.json["decision_id"]
    denied = [line["fields"] for line in server.audit_lines() if line["event"] == "token_denied"]
    assert [line["decision_id"] for line in denied] == [reply.json["decision_id"]]
    client = await server.store.get_client(practice.client_id, now=server.clock.now)
    assert client.institution is None


async def test_reasons_can_be_kept_back(make_server: MakeServer) -> None:
    server = await make_server(authorization_server={"show_reasons": False})
    reply = await server.practice(server.card(profession_oid="1.2.276.0.76.4.58")).exchange()
    assert reply.refusal == (403, "access_denied")
    assert "reasons" not in reply.json
    assert "profession" not in reply.words


async def test_an_unknown_product_is_refused_by_the_policy(server: Server) -> None:
    practice = server.practice()
    practice.product = Product(product_id="unknown")
    assert (await practice.exchange()).refusal == (403, "access_denied")


# limits and addresses


async def test_without_a_known_address_there_is_no_token(make_server: MakeServer) -> None:
    server = await make_server(
        gateway={"client_address": "x-forwarded-for", "trusted_proxies": ["127.0.0.1/32"]},
    )
    practice = server.practice()
    await practice.register()
    reply = await practice.exchange()
    assert reply.refusal == (400, "invalid_request")
    assert "address" in reply.words


async def test_a_client_that_asks_too_often_waits(make_server: MakeServer) -> None:
    server = await make_server(rate_limits={"token_per_client": {"per_minute": 60, "burst": 2}})
    practice = server.practice()
    statuses = [(await practice.exchange()).status for _ in range(2)]
    reply = await practice.exchange()
    assert statuses == [200, 200]
    assert reply.refusal == (429, "rate_limit_exceeded")
    assert int(reply.headers["Retry-After"]) >= 1
    server.clock.advance(1)
    assert (await practice.exchange()).status == 200


async def test_an_institution_that_asks_too_often_waits(make_server: MakeServer) -> None:
    server = await make_server(rate_limits={"token_per_institution": {"per_minute": 60, "burst": 1}})
    card = server.card()
    assert (await server.practice(card).exchange()).status == 200
    assert (await server.practice(card).exchange()).refusal == (429, "rate_limit_exceeded")
    assert (await server.practice(server.card("1-other")).exchange()).status == 200


async def test_requests_without_a_valid_proof_charge_nobody(make_server: MakeServer) -> None:
    server = await make_server(rate_limits={"token_per_client": {"per_minute": 60, "burst": 1}})
    practice = server.practice()
    await practice.register()
    for _ in range(5):
        await practice.exchange(signed_assertion=truncated)
    assert (await practice.exchange()).status == 200


async def test_the_least_recently_used_client_leaves_and_its_tokens_with_it(make_server: MakeServer) -> None:
    server = await make_server(audit=True, authorization_server={"clients_per_institution": 2})
    card = server.card()
    practices = [server.practice(card) for _ in range(3)]
    for practice in practices:
        assert (await practice.exchange()).status == 200
        server.clock.advance(1)
    assert (await practices[0].exchange()).refusal == (401, "invalid_client")
    assert (await practices[1].exchange()).status == 200
    evicted = [line["fields"]["client_id"] for line in server.audit_lines() if line["event"] == "client_evicted"]
    assert evicted == [practices[0].client_id]
    blocks = await server.store.blocks(now=server.clock.now)
    assert [block.subject for block in blocks] == [f"client:{practices[0].client_id}"]


async def test_an_institution_may_have_a_limit_of_its_own(make_server: MakeServer) -> None:
    server = await make_server(
        authorization_server={"clients_per_institution": 1, "clients_of": {"1-2013-praxis-beispiel": 2}}
    )
    card = server.card()
    practices = [server.practice(card) for _ in range(2)]
    for practice in practices:
        assert (await practice.exchange()).status == 200
    assert (await practices[0].exchange()).status == 200


async def test_new_clients_per_hour_are_limited(make_server: MakeServer) -> None:
    server = await make_server(authorization_server={"new_bindings_per_hour": 1})
    card = server.card()
    first = server.practice(card)
    assert (await first.exchange()).status == 200
    reply = await server.practice(card).exchange()
    assert reply.refusal == (429, "rate_limit_exceeded")
    assert int(reply.headers["Retry-After"]) > 1
    assert (await first.exchange()).status == 200


# blocks and outages


async def test_blocks_of_institution_client_and_product_hold(server: Server) -> None:
    practice = server.practice()
    await practice.exchange()
    now = server.clock.now
    pseudonym = server.admin.pseudonyms(practice.card.telematik_id)[0]
    for kind, identifier in (
        ("institution", pseudonym),
        ("client", practice.client_id),
        ("product", practice.product.product_id),
    ):
        await server.admin.add_block(kind, identifier, seconds=60, note="", actor="test", now=now)  # type: ignore[arg-type]
        reply = await practice.exchange()
        assert reply.refusal == (403, "access_denied")
        assert kind in reply.words
        assert await server.admin.remove_block(kind, identifier, actor="test")  # type: ignore[arg-type]
        assert (await practice.exchange()).status == 200


async def test_an_audit_that_cannot_be_written_stops_the_token(make_server: MakeServer) -> None:
    server = await make_server(audit=True)
    practice = server.practice()
    await practice.register()
    audit = server.app.dependencies.audit
    descriptor, audit._descriptor = audit._descriptor, -1
    reply = await practice.exchange()
    audit._descriptor = descriptor
    assert reply.refusal == (503, "temporarily_unavailable")
    assert await server.store.list_sessions(now=server.clock.now) == []


async def test_what_was_granted_is_in_the_audit_record_without_names_and_tokens(make_server: MakeServer) -> None:
    server = await make_server(audit=True)
    practice = server.practice()
    reply = await practice.exchange()
    (granted,) = [line["fields"] for line in server.audit_lines() if line["event"] == "token_granted"]
    access = server.claims(reply.json["access_token"]).claims
    assert (granted["session_id"], granted["access_jti"]) == (access["sid"], access["jti"])
    text = json.dumps(server.audit_lines())
    assert practice.card.telematik_id not in text
    assert reply.json["access_token"] not in text


async def test_no_refusal_tells_secrets(server: Server) -> None:
    practice = server.practice()
    replies = [
        await practice.exchange(subject=claims(sub="1-somebody-else")),
        await practice.exchange(signed_subject=truncated),
        await practice.exchange(form={"subject_token": "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiIxLXNlY3JldCJ9." + "A" * 86}),
    ]
    for reply in replies:
        assert reply.status == 400
        text = reply.body.decode()
        assert "somebody" not in text
        assert practice.card.telematik_id not in text
        assert "eyJ" not in text


def test_signature_helpers_mean_what_they_say() -> None:
    key = SoftwareKey.generate()
    r, s = decode_dss_signature(key.private_key.sign(b"x", ec.ECDSA(hashes.SHA256())))
    assert 0 < r < P256_ORDER
    assert 0 < s < P256_ORDER
    assert key.private_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
