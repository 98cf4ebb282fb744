"""Subject token and certificate: the institution's word, and every way in which it is not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from zeta_guard.client.keys import SoftwareKey
from zeta_guard.jose.encoding import b64url_encode
from zeta_guard.simulators.ocsp_responder import CardState
from zeta_guard.simulators.pki import LeafProfile

if TYPE_CHECKING:
    from tests.authorization_server.conftest import Server

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@pytest.mark.parametrize(
    "change",
    [
        {"claims": {"iss": "zc_other"}},
        {"claims": {"iss": ...}},
        {"claims": {"aud": "https://elsewhere.example/token"}},
        {"claims": {"aud": ...}},
        {"claims": {"sub": "1-other"}},
        {"claims": {"sub": ...}},
        {"claims": {"iat": ...}},
        {"claims": {"exp": ...}},
        {"claims": {"exp": 0}},
        {"claims": {"iat": 2**40}},
        {"claims": {"nbf": 2**40}},
        {"claims": {"client_key": ...}},
        {"claims": {"client_key": {"jkt": SoftwareKey.generate().thumbprint}}},
        {"claims": {"client_key": "x"}},
        {"claims": {"dpop_key": ...}},
        {"claims": {"dpop_key": {"jkt": SoftwareKey.generate().thumbprint}}},
        {"claims": {"nonce": ...}},
        {"claims": {"nonce": b64url_encode(bytes(16))}},
        {"header": {"typ": "at+jwt"}},
        {"header": {"alg": "BP256R1"}},
        {"header": {"x5c": ...}},
        {"header": {"x5c": []}},
        {"header": {"x5c": "AAAA"}},
        {"header": {"x5c": {"0": "AAAA"}}},
        {"header": {"x5c": 5}},
        {"header": {"x5c": None}},
        {"header": {"x5c": ["not base64"]}},
        {"header": {"x5c": ["AAAA"]}},
        {"header": {"x5c": [5]}},
        {"header": {"x5c": ["AAAA"] * 9}},
    ],
)
async def test_a_wrong_subject_token_is_an_invalid_grant(server: Server, change: Any) -> None:
    assert (await server.practice().exchange(subject=change)).refusal == (400, "invalid_grant")


async def test_a_subject_token_for_the_issuer_or_two_receivers_is_refused(server: Server) -> None:
    for audience in (server.url, [server.url + "/token", server.url]):
        assert (await server.practice().exchange(subject={"claims": {"aud": audience}})).refusal == (
            400,
            "invalid_grant",
        )


@pytest.mark.parametrize(
    ("iat", "exp", "status"),
    [(0, 1, 200), (0, 0, 400), (-30, 0, 400), (-30, 1, 200), (15, 30, 200), (16, 30, 400), (5, 5, 400)],
)
async def test_the_edges_of_a_subject_token_s_life(server: Server, iat: int, exp: int, status: int) -> None:
    server.clock.now = float(int(server.clock.now) + 2)
    now = int(server.clock.now)
    reply = await server.practice().exchange(subject={"claims": {"iat": now + iat, "exp": now + exp}})
    assert reply.status == status


async def test_only_the_leaf_counts_and_a_long_chain_is_refused(server: Server) -> None:
    practice = server.practice()
    leaf, other = practice.card.x5c[0], server.card("1-other").x5c[0]
    assert (await practice.exchange(subject={"header": {"x5c": [leaf, other]}})).status == 200
    assert (await practice.exchange(subject={"header": {"x5c": [leaf] * 8}})).status == 200
    assert (await practice.exchange(subject={"header": {"x5c": [leaf] * 9}})).refusal == (400, "invalid_grant")
    assert (await practice.exchange(subject={"header": {"x5c": [leaf, 5]}})).refusal == (400, "invalid_grant")


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
        LeafProfile(key=ec.generate_private_key(ec.SECP256K1())),
    ],
)
async def test_a_certificate_of_the_wrong_form_is_an_invalid_grant(server: Server, profile: LeafProfile) -> None:
    reply = await server.practice(server.card(profile=profile)).exchange(
        subject={"claims": {"sub": "1-2013-praxis-beispiel"}}
    )
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
