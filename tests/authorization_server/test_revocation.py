"""Revocation: a client ends its own session, and nobody else's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from zeta_guard.client.keys import SoftwareKey
from zeta_guard.simulators.ocsp_responder import CardState

if TYPE_CHECKING:
    from tests.authorization_server.conftest import MakeServer, Practice, Server


async def logged_in(server: Server) -> tuple[Practice, dict[str, Any]]:
    practice = server.practice()
    reply = await practice.exchange()
    assert reply.status == 200, reply.body
    return practice, reply.json


@pytest.mark.parametrize("kind", ["refresh_token", "access_token"])
async def test_any_token_ends_its_whole_session(make_server: MakeServer, kind: str) -> None:
    server = await make_server(audit=True)
    practice, tokens = await logged_in(server)
    reply = await practice.revoke(tokens[kind])
    assert (reply.status, reply.body) == (200, b"")
    assert (await practice.refresh(tokens["refresh_token"])).refusal == (403, "refresh_token_revoked")
    session_id = server.claims(tokens["access_token"]).claims["sid"]
    (block,) = await server.store.blocks(now=server.clock.now)
    assert (block.subject, block.reason) == (f"session:{session_id}", "revoked")
    assert block.until >= server.claims(tokens["refresh_token"], "refresh+jwt").claims["exp"]
    assert "session_ended" in [line["event"] for line in server.audit_lines()]
    assert (await practice.exchange()).status == 200


async def test_an_earlier_refresh_token_of_the_session_ends_it_too(server: Server) -> None:
    practice, tokens = await logged_in(server)
    successor = (await practice.refresh(tokens["refresh_token"])).json["refresh_token"]
    assert (await practice.revoke(tokens["refresh_token"])).status == 200
    assert (await practice.refresh(successor)).refusal == (403, "refresh_token_revoked")


async def test_foreign_expired_and_unknown_tokens_change_nothing_and_get_200(server: Server) -> None:
    practice, tokens = await logged_in(server)
    stranger = server.practice(practice.card)
    await stranger.exchange()
    for token in (
        tokens["refresh_token"],
        tokens["access_token"],
        "garbage",
        "a.b.c",
        server.tampered(tokens["refresh_token"], 1),
    ):
        assert (await stranger.revoke(token)).status == 200
    assert (await practice.refresh(tokens["refresh_token"])).status == 200
    server.clock.advance(301)
    assert (await practice.revoke(tokens["access_token"])).status == 200
    assert await server.store.blocks(now=server.clock.now) == []


@pytest.mark.parametrize("audience", ["/token", "/revoke", ""])
async def test_the_assertion_may_name_three_audiences(server: Server, audience: str) -> None:
    practice, tokens = await logged_in(server)
    reply = await practice.revoke(tokens["refresh_token"], assertion={"claims": {"aud": server.url + audience}})
    assert reply.status == 200


@pytest.mark.parametrize(
    "change",
    [
        {"claims": {"aud": "https://elsewhere.example/"}},
        {"claims": {"exp": 0}},
        {"claims": {"jti": ...}},
        {"claims": {"iss": "zc_other"}},
        {"claims": {"iss": "zc_other", "sub": "zc_other"}},
        {"header": {"typ": "at+jwt"}},
        {"header": {"jwk": SoftwareKey.generate().jwk}},
    ],
)
async def test_failed_authentication_is_401_whatever_failed(server: Server, change: Any) -> None:
    practice, tokens = await logged_in(server)
    assert (await practice.revoke(tokens["refresh_token"], assertion=change)).refusal == (401, "invalid_client")
    assert (await practice.refresh(tokens["refresh_token"])).status == 200


async def test_an_assertion_is_good_for_one_revocation(server: Server) -> None:
    practice, tokens = await logged_in(server)
    same: Any = {"claims": {"jti": "same"}}
    assert (await practice.revoke("garbage", assertion=same)).status == 200
    assert (await practice.revoke(tokens["refresh_token"], assertion=same)).refusal == (401, "invalid_client")
    assert (await practice.exchange(assertion=same)).refusal == (400, "invalid_client")


async def test_an_assertion_from_before_the_start_of_the_guard_is_refused(server: Server) -> None:
    practice, tokens = await logged_in(server)
    early = int(server.store.epoch.started_at) - 5
    old: Any = {"claims": {"iat": early}}
    assert (await practice.revoke(tokens["refresh_token"], assertion=old)).refusal == (401, "invalid_client")
    without: Any = {"claims": {"client_statement": ...}}
    assert (await practice.revoke(tokens["refresh_token"], assertion=without)).refusal == (401, "invalid_client")
    server.clock.advance(300)
    assert (await practice.revoke(tokens["refresh_token"], assertion=without)).status == 200


@pytest.mark.parametrize(
    ("form", "refusal"),
    [
        ({"token": None}, (400, "invalid_request")),
        ({"client_assertion": None}, (400, "invalid_request")),
        ({"client_assertion_type": "x"}, (400, "invalid_request")),
    ],
)
async def test_a_form_with_a_mistake_is_refused(
    server: Server, form: dict[str, str | None], refusal: tuple[int, str]
) -> None:
    practice, tokens = await logged_in(server)
    assert (await practice.revoke(tokens["refresh_token"], form=form)).refusal == refusal


async def test_a_proof_is_not_needed_but_checked(server: Server) -> None:
    practice, tokens = await logged_in(server)
    good = practice.proof(None, path="/revoke").signed(practice.dpop_key.sign)
    wrong = practice.proof(None, path="/token").signed(practice.dpop_key.sign)
    token = tokens["refresh_token"]
    assert (await practice.revoke(token, proofs=[wrong])).refusal == (400, "invalid_dpop_proof")
    assert (await practice.revoke(token, proofs=["garbage"])).refusal == (400, "invalid_dpop_proof")
    assert (await practice.revoke(token, proofs=[good, good])).refusal == (400, "invalid_dpop_proof")
    server.clock.advance(1)
    good = practice.proof(None, path="/revoke").signed(practice.dpop_key.sign)
    assert (await practice.revoke("garbage", proofs=[good])).status == 200
    assert (await practice.revoke(token, proofs=[good])).refusal == (400, "invalid_dpop_proof")
    assert (await practice.refresh(token)).status == 200


async def test_a_blocked_client_may_still_end_its_session(server: Server) -> None:
    practice, tokens = await logged_in(server)
    await server.admin.add_block("client", practice.client_id, seconds=60, note="", actor="x", now=server.clock.now)
    assert (await practice.revoke(tokens["refresh_token"])).status == 200
    session_id = server.claims(tokens["access_token"]).claims["sid"]
    assert f"session:{session_id}" in [block.subject for block in await server.store.blocks(now=server.clock.now)]


async def test_a_card_ends_the_sessions_of_its_own_product_only(make_server: MakeServer) -> None:
    products = {"popp-client": {"audiences": ["urn:popp"], "scopes": ["popp"]}}
    server = await make_server(authorization_server={"products": products, "audiences": ["urn:popp"]})
    own, other = server.practice(), server.practice(server.card("1-other"))
    token = (await own.client_credentials()).json["access_token"]

    async def revoke(who: Practice) -> int:
        server.clock.advance(1)
        signed = who.institution_assertion("popp-client", await who.nonce()).signed(who.card.sign)
        return (await who.revoke(token, form={"client_assertion": signed})).status

    assert await revoke(other) == 200
    assert await server.store.blocks(now=server.clock.now) == []
    server.ocsp.set_state(own.card, CardState.REVOKED)
    assert await revoke(own) == 200  # the answer of a minute ago still counts
    session_id = server.claims(token).claims["sid"]
    assert [block.subject for block in await server.store.blocks(now=server.clock.now)] == [f"session:{session_id}"]


async def test_a_revoked_card_cannot_revoke(make_server: MakeServer) -> None:
    products = {"popp-client": {"audiences": ["urn:popp"], "scopes": ["popp"]}}
    server = await make_server(authorization_server={"products": products, "audiences": ["urn:popp"]})
    practice = server.practice()
    server.ocsp.set_state(practice.card, CardState.REVOKED)
    server.clock.advance(1)
    signed = practice.institution_assertion("popp-client", await practice.nonce()).signed(practice.card.sign)
    assert (await practice.revoke("x", form={"client_assertion": signed})).refusal == (401, "invalid_client")
