"""DPoP proof and nonce of a token request: fresh, bound, good once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from zeta_guard.client.keys import SoftwareKey
from zeta_guard.jose.encoding import b64url_decode, b64url_encode

if TYPE_CHECKING:
    from tests.authorization_server.conftest import MakeServer, Server

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@pytest.mark.parametrize(
    "change",
    [
        {"claims": {"htm": "GET"}},
        {"claims": {"htm": "post"}},
        {"claims": {"htu": "https://elsewhere.example/token"}},
        {"claims": {"htu": ...}},
        {"claims": {"iat": ...}},
        {"claims": {"iat": 0}},
        {"claims": {"iat": "now"}},
        {"claims": {"jti": ...}},
        {"claims": {"jti": "j" * 257}},
        {"claims": {"nonce": ...}},
        {"claims": {"nonce": 5}},
        {"header": {"typ": "JWT"}},
        {"header": {"alg": "none"}},
        {"header": {"jwk": ...}},
        {"header": {"jwk": SoftwareKey.generate().jwk}},
    ],
)
async def test_a_wrong_proof_is_refused_with_400(server: Server, change: Any) -> None:
    assert (await server.practice().exchange(proof=change)).refusal == (400, "invalid_dpop_proof")


async def test_a_proof_with_a_private_key_is_refused(server: Server) -> None:
    practice = server.practice()
    reply = await practice.exchange(proof={"header": {"jwk": {**practice.dpop_key.jwk, "d": "AAAA"}}})
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
    reply = await server.practice().exchange(proof={"claims": {"iat": int(server.clock.now) + offset}})
    assert reply.status == status


async def test_a_proof_is_good_once_whatever_its_signature(server: Server) -> None:
    practice = server.practice()
    assert (await practice.exchange(proof={"claims": {"jti": "same"}})).status == 200
    reply = await practice.exchange(proof={"claims": {"jti": "same"}})
    assert reply.refusal == (400, "invalid_dpop_proof")
    assert server.count("zeta_guard_security_events_total", event="proof_replayed") == 1


async def test_a_high_s_signature_is_valid(server: Server) -> None:
    def high(token: str) -> str:
        raw = b64url_decode(token.rpartition(".")[2])
        s = int.from_bytes(raw[32:], "big")
        return f"{token.rpartition('.')[0]}.{b64url_encode(raw[:32] + (P256_ORDER - s).to_bytes(32, 'big'))}"

    assert (await server.practice().exchange(signed_proof=high, signed_assertion=high)).status == 200


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
        changed: dict[str, Any] = {part: lambda token: token[:-2]}
        assert (await practice.exchange(nonce=nonce, **changed)).status == 400
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
