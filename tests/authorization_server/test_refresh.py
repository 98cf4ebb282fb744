"""Refresh: one successor, reuse ends the session, institution and policy are asked again."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from zeta_guard.authorization_server.spending import blocked
from zeta_guard.client.assertions import Product
from zeta_guard.client.keys import SoftwareKey
from zeta_guard.simulators.ocsp_responder import CardState
from zeta_guard.store.contract import Session
from zeta_guard.store.session_record import SessionRecord

if TYPE_CHECKING:
    from tests.authorization_server.conftest import MakeServer, Practice, Reply, Scripted, Server


async def logged_in(server: Server) -> tuple[Practice, str]:
    practice = server.practice()
    reply = await practice.exchange()
    assert reply.status == 200, reply.body
    return practice, str(reply.json["refresh_token"])


def sid(server: Server, reply: Reply) -> Any:
    return server.claims(reply.json["access_token"]).claims["sid"]


async def test_a_refresh_brings_a_new_pair_in_the_same_session(server: Server) -> None:
    practice, token = await logged_in(server)
    old = server.claims(token, "refresh+jwt").claims
    server.clock.advance(100)
    reply = await practice.refresh(token)
    assert reply.status == 200, reply.body
    new = server.claims(reply.json["refresh_token"], "refresh+jwt").claims
    assert new["sid"] == old["sid"] == sid(server, reply)
    assert new["jti"] != old["jti"]
    assert reply.json["expires_in"] == 300
    assert reply.json["token_type"] == "DPoP"


async def test_a_session_ends_at_the_first_lifetime_however_often_it_is_refreshed(make_server: MakeServer) -> None:
    server = await make_server(authorization_server={"lifetimes": {"refresh_token_cap": 1000}})
    practice, token = await logged_in(server)
    end: Any = server.claims(token, "refresh+jwt").claims["exp"]
    for _ in range(3):
        server.clock.advance(300)
        reply = await practice.refresh(token)
        token = reply.json["refresh_token"]
        assert server.claims(token, "refresh+jwt").claims["exp"] == end
        assert reply.json["refresh_expires_in"] == end - int(server.clock.now)
    server.clock.advance(100)
    assert (await practice.refresh(token)).refusal == (400, "invalid_grant")
    assert (await practice.exchange()).status == 200


async def test_a_refresh_without_statement_keeps_what_was_said_at_the_exchange(server: Server) -> None:
    practice, token = await logged_in(server)
    server.clock.advance(400)
    reply = await practice.refresh(token, statement=False, assertion={"claims": {"iat": int(server.clock.now)}})
    assert reply.status == 200, reply.body
    assert server.claims(reply.json["access_token"]).claims["product_id"] == practice.product.product_id


async def test_a_refresh_with_a_wrong_statement_is_refused(server: Server) -> None:
    practice, token = await logged_in(server)
    reply = await practice.refresh(token, assertion={"posture": {"attestation_challenge": "A" * 43}})
    assert reply.refusal == (400, "invalid_client")
    assert (await practice.refresh(token)).status == 200


async def test_a_newer_version_of_the_product_stands_in_the_new_token(server: Server) -> None:
    practice, token = await logged_in(server)
    practice.product = Product(product_id=practice.product.product_id, product_version="0.1.0")
    reply = await practice.refresh(token)
    assert server.claims(reply.json["access_token"]).claims["product_version"] == "0.1.0"


# rotation, grace, reuse


async def test_the_same_successor_is_answered_within_the_grace_window(server: Server) -> None:
    practice, token = await logged_in(server)
    first = await practice.refresh(token)
    server.clock.advance(9)
    asked = server.ocsp.asked
    again = await practice.refresh(token)
    assert again.status == 200
    assert again.json == first.json
    assert server.ocsp.asked == asked


async def test_policy_is_not_asked_anew_for_the_successor(make_server: MakeServer, engine: Scripted) -> None:
    server = await make_server(policy=engine)
    practice, token = await logged_in(server)
    await practice.refresh(token)
    engine.allow = False
    assert (await practice.refresh(token)).status == 200
    assert len(engine.asked) == 2


async def test_reuse_after_the_grace_window_ends_the_session(make_server: MakeServer) -> None:
    server = await make_server(audit=True)
    practice, token = await logged_in(server)
    successor = (await practice.refresh(token)).json["refresh_token"]
    server.clock.advance(11)
    reply = await practice.refresh(token)
    assert reply.refusal == (400, "invalid_grant")
    assert "twice" in reply.words
    reply = await practice.refresh(successor)
    assert reply.refusal == (400, "invalid_grant")
    assert "twice" in reply.words
    session_id = server.claims(token, "refresh+jwt").claims["sid"]
    blocks = await server.store.blocks(now=server.clock.now)
    assert [(block.subject, block.reason) for block in blocks] == [(f"session:{session_id}", "reuse")]
    assert server.count("zeta_guard_security_events_total", event="refresh_reused") == 1
    ended = [line["fields"] for line in server.audit_lines() if line["event"] == "session_ended"]
    assert [(line["session_id"], line["reason"]) for line in ended] == [(session_id, "reuse")]
    assert (await practice.exchange()).status == 200


async def test_reuse_within_the_grace_window_after_the_successor_was_used_ends_the_session(server: Server) -> None:
    practice, token = await logged_in(server)
    successor = (await practice.refresh(token)).json["refresh_token"]
    last = (await practice.refresh(successor)).json["refresh_token"]
    assert (await practice.refresh(token)).refusal == (400, "invalid_grant")
    assert (await practice.refresh(last)).refusal == (400, "invalid_grant")


async def test_without_grace_a_second_use_ends_the_session(make_server: MakeServer) -> None:
    server = await make_server(authorization_server={"lifetimes": {"refresh_grace": 0}})
    practice, token = await logged_in(server)
    await practice.refresh(token)
    assert (await practice.refresh(token)).refusal == (400, "invalid_grant")


async def test_of_fifty_concurrent_refreshes_there_is_exactly_one_successor(server: Server) -> None:
    practice, token = await logged_in(server)
    replies = await asyncio.gather(*(practice.refresh(token) for _ in range(50)))
    assert Counter(reply.status for reply in replies) == {200: 50}
    successors = {reply.json["refresh_token"] for reply in replies}
    assert len(successors) == 1
    assert (await practice.refresh(successors.pop())).status == 200


async def test_another_spelling_of_the_signature_does_not_open_the_answer(server: Server) -> None:
    practice, token = await logged_in(server)
    await practice.refresh(token)
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    head, _, signature = token.rpartition(".")
    raw = server.decoded(signature)
    turned = raw[:32] + (order - int.from_bytes(raw[32:], "big")).to_bytes(32, "big")
    assert (await practice.refresh(f"{head}.{server.encoded(turned)}")).refusal == (400, "invalid_grant")
    assert (await practice.refresh(token)).status == 200


async def test_refreshes_charge_the_client(make_server: MakeServer) -> None:
    server = await make_server(rate_limits={"token_per_client": {"per_minute": 60, "burst": 2}})
    practice, token = await logged_in(server)
    token = (await practice.refresh(token)).json["refresh_token"]
    assert (await practice.refresh(token)).refusal == (429, "rate_limit_exceeded")
    server.clock.advance(1)
    assert (await practice.refresh(token)).status == 200


async def test_what_is_refused_behind_the_proof_charges_the_client_all_the_same(make_server: MakeServer) -> None:
    server = await make_server(rate_limits={"token_per_client": {"per_minute": 60, "burst": 2}})
    practice, token = await logged_in(server)
    assert (await practice.refresh(token, form={"scope": "other"})).refusal == (400, "invalid_scope")
    assert (await practice.refresh(token, form={"scope": "other"})).refusal == (429, "rate_limit_exceeded")
    server.clock.advance(1)
    assert (await practice.refresh(token)).status == 200


async def test_what_is_refused_before_the_proof_held_charges_nobody(make_server: MakeServer) -> None:
    server = await make_server(rate_limits={"token_per_client": {"per_minute": 60, "burst": 2}})
    practice, token = await logged_in(server)
    for _ in range(5):
        assert (await practice.refresh(token, proof={"claims": {"htm": "GET"}})).refusal == (400, "invalid_dpop_proof")
        assert (await practice.refresh(token + "A")).refusal == (400, "invalid_grant")
    assert (await practice.refresh(token)).status == 200


async def test_a_client_that_only_refreshes_is_in_use(make_server: MakeServer) -> None:
    server = await make_server(authorization_server={"lifetimes": {"idle_client": 1000}})
    practice, token = await logged_in(server)
    for _ in range(3):
        server.clock.advance(600)
        reply = await practice.refresh(token)
        assert reply.status == 200, reply.body
        token = reply.json["refresh_token"]
    server.clock.advance(1001)
    assert (await practice.refresh(token)).refusal == (401, "invalid_client")


# whose refresh token it is


async def test_another_dpop_key_is_refused_with_401_and_does_not_count_as_reuse(server: Server) -> None:
    practice, token = await logged_in(server)
    successor = (await practice.refresh(token)).json["refresh_token"]
    server.clock.advance(20)
    own, practice.dpop_key = practice.dpop_key, SoftwareKey.generate()
    reply = await practice.refresh(token)
    assert reply.refusal == (401, "invalid_dpop_proof")
    assert b"invalid_client" not in reply.body
    practice.dpop_key = own
    assert (await practice.refresh(successor)).status == 200


async def test_a_foreign_refresh_token_is_refused_and_leaves_the_session_alone(server: Server) -> None:
    practice, token = await logged_in(server)
    successor = (await practice.refresh(token)).json["refresh_token"]
    server.clock.advance(20)
    thief = server.practice(practice.card)
    assert (await thief.exchange()).status == 200
    thief.dpop_key = practice.dpop_key
    reply = await thief.refresh(token)
    assert reply.refusal == (400, "invalid_grant")
    assert "another client" in reply.words
    assert (await practice.refresh(successor)).status == 200


async def test_garbage_in_the_place_of_the_refresh_token_is_refused(server: Server) -> None:
    practice, token = await logged_in(server)
    access = (await practice.exchange()).json["access_token"]
    for wrong in ("garbage", access, server.tampered(token, 1, 30), server.tampered(token, 2), token[:-3]):
        assert (await practice.refresh(wrong)).refusal == (400, "invalid_grant")
    assert (await practice.refresh(token, form={"refresh_token": None})).refusal == (400, "invalid_request")
    assert (await practice.refresh(token)).status == 200


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({"claims": {"nonce": ...}}, (400, "invalid_dpop_proof")),
        ({"claims": {"nonce": "A" * 22}}, (400, "invalid_grant")),
        ({"claims": {"htm": "GET"}}, (400, "invalid_dpop_proof")),
    ],
)
async def test_the_proof_of_a_refresh_is_checked_like_any_other(
    server: Server, change: Any, refusal: tuple[int, str]
) -> None:
    practice, token = await logged_in(server)
    assert (await practice.refresh(token, proof=change)).refusal == refusal
    assert (await practice.refresh(token)).status == 200


async def test_a_refresh_replayed_byte_by_byte_is_refused(server: Server) -> None:
    practice, token = await logged_in(server)
    nonce = await practice.nonce()
    proofs = [practice.proof(nonce).signed(practice.dpop_key.sign)]
    assert (await practice.refresh(token, nonce=nonce, proofs=proofs)).status == 200
    assert (await practice.refresh(token, nonce=nonce, proofs=proofs)).status == 400


async def test_two_refreshes_may_not_share_an_assertion(server: Server) -> None:
    practice, token = await logged_in(server)
    successor = (await practice.refresh(token, assertion={"claims": {"jti": "same"}})).json["refresh_token"]
    reply = await practice.refresh(successor, assertion={"claims": {"jti": "same"}})
    assert reply.refusal == (400, "invalid_client")


# what it is for


@pytest.mark.parametrize(
    ("form", "refusal"),
    [
        ({"scope": "popp vsdservice"}, (400, "invalid_scope")),
        ({"scope": "vsdservice"}, (400, "invalid_scope")),
        ({"audience": "https://elsewhere.example/"}, (400, "invalid_target")),
        ({"audience": "urn:second"}, (400, "invalid_target")),
        ({"audience": None, "resource": "http://127.0.0.1/popp"}, (400, "invalid_target")),
    ],
)
async def test_a_refresh_stays_within_the_session(
    make_server: MakeServer, form: dict[str, str | None], refusal: tuple[int, str]
) -> None:
    server = await make_server(authorization_server={"audiences": ["urn:second"]})
    practice = server.practice()
    token = (await practice.exchange(form={"scope": "popp"})).json["refresh_token"]
    assert (await practice.refresh(token, form={"scope": None, **form})).refusal == refusal
    assert (await practice.refresh(token, form={"scope": None, "audience": None})).json["scope"] == "popp"


async def test_a_session_of_contract_two_keeps_its_resource(server: Server) -> None:
    practice = server.practice()
    resource = server.url + "/vsdservice/v1/x"
    token = (await practice.exchange(form={"audience": None, "resource": resource})).json["refresh_token"]
    reply = await practice.refresh(token, form={"audience": None, "resource": resource})
    assert server.claims(reply.json["access_token"]).claims["ver"] == 2
    other = {"audience": None, "resource": server.url + "/popp/x"}
    token = reply.json["refresh_token"]
    assert (await practice.refresh(token, form=other)).refusal == (400, "invalid_target")
    reply = await practice.refresh(token, form={"audience": None})
    assert server.claims(reply.json["access_token"]).claims["ver"] == 2


# asked again


async def test_the_policy_sees_grant_and_addresses_of_a_refresh(make_server: MakeServer, engine: Scripted) -> None:
    server = await make_server(
        policy=engine, gateway={"client_address": "x-forwarded-for", "trusted_proxies": ["127.0.0.1/32"]}
    )
    practice = server.practice()
    server.headers = [("X-Forwarded-For", "203.0.113.7")]
    token = (await practice.exchange()).json["refresh_token"]
    server.headers = [("X-Forwarded-For", "203.0.113.8")]
    reply = await practice.refresh(token)
    first, second = (document["authorization_request"] for document in engine.asked)
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert first["ip_address"] == "203.0.113.7"
    assert "previous_ip_address" not in first
    assert (second["grant_type"], second["ip_address"], second["previous_ip_address"]) == (
        "refresh_token",
        "203.0.113.8",
        "203.0.113.7",
    )
    assert server.claims(reply.json["access_token"]).claims["ip_address"] == "203.0.113.8"


async def test_a_no_at_refresh_ends_the_session(make_server: MakeServer, engine: Scripted) -> None:
    server = await make_server(policy=engine)
    practice, token = await logged_in(server)
    engine.allow = False
    assert (await practice.refresh(token)).refusal == (403, "access_denied")
    engine.allow = True
    assert (await practice.refresh(token)).refusal == (403, "session_terminated")
    assert (await practice.exchange()).status == 200


async def test_an_audience_that_the_policy_changes_does_not_slip_into_the_session(
    make_server: MakeServer, engine: Scripted
) -> None:
    engine.members["audience"] = ("urn:second",)
    server = await make_server(policy=engine, authorization_server={"audiences": ["urn:second", "urn:third"]})
    practice = server.practice()
    form = {"audience": None, "resource": server.url + "/popp"}
    token = (await practice.exchange(form=form)).json["refresh_token"]
    engine.members["audience"] = ("urn:third",)
    assert (await practice.refresh(token, form=form)).refusal == (400, "invalid_target")


async def test_a_card_that_was_revoked_ends_the_session(make_server: MakeServer) -> None:
    server = await make_server(trust={"ocsp": {"max_age": 60}})
    practice, token = await logged_in(server)
    server.ocsp.set_state(practice.card, CardState.REVOKED)
    server.clock.advance(120)
    assert (await practice.refresh(token)).refusal == (400, "invalid_grant")
    server.ocsp.set_state(practice.card, CardState.GOOD)
    server.clock.advance(120)
    assert (await practice.refresh(token)).refusal == (403, "session_terminated")


async def test_a_refusal_that_stands_in_the_cache_ends_every_session_of_the_card_without_a_question(
    make_server: MakeServer,
) -> None:
    server = await make_server(trust={"ocsp": {"max_age": 60}})
    practice, token = await logged_in(server)
    other = server.practice(practice.card)
    second = (await other.exchange()).json["refresh_token"]
    server.ocsp.set_state(practice.card, CardState.REVOKED)
    server.clock.advance(120)
    assert (await practice.refresh(token)).refusal == (400, "invalid_grant")
    server.ocsp.set_state(practice.card, CardState.SILENT)
    assert (await other.refresh(second)).refusal == (400, "invalid_grant")
    assert (await other.refresh(second)).refusal == (403, "session_terminated")


async def test_silence_of_ocsp_costs_an_answer_but_not_the_session(make_server: MakeServer) -> None:
    server = await make_server(trust={"ocsp": {"mode": "require", "max_age": 60, "timeout_ms": 100}})
    practice, token = await logged_in(server)
    server.ocsp.set_state(practice.card, CardState.SILENT)
    server.clock.advance(120)
    assert (await practice.refresh(token)).refusal == (503, "temporarily_unavailable")
    server.ocsp.set_state(practice.card, CardState.GOOD)
    server.clock.advance(120)
    assert (await practice.refresh(token)).status == 200


# sessions that others ended


async def test_a_session_ended_by_an_administrator_is_told_so(make_server: MakeServer) -> None:
    server = await make_server(audit=True)
    practice, token = await logged_in(server)
    session_id = str(server.claims(token, "refresh+jwt").claims["sid"])
    now = server.clock.now
    (entry,) = await server.admin.list_sessions(now=now)
    assert (entry.session_id, entry.client_id) == (session_id, practice.client_id)
    assert practice.card.telematik_id not in repr(entry)
    assert await server.admin.end_session(session_id, actor="root", now=now)
    assert (await practice.refresh(token)).refusal == (403, "session_terminated")
    assert not await server.admin.end_session(session_id, actor="root", now=now)
    acts = [line["fields"]["act"] for line in server.audit_lines() if line["event"] == "administration"]
    assert acts == ["end_session", "end_session"]
    server.clock.advance(3600)
    assert (await practice.refresh(token)).refusal == (403, "session_terminated")


async def test_all_sessions_of_an_institution_can_be_ended(server: Server) -> None:
    card = server.card()
    practices = [server.practice(card) for _ in range(2)]
    tokens = [(await practice.exchange()).json["refresh_token"] for practice in practices]
    other, kept = await logged_in_as(server, "1-other")
    pseudonym = server.admin.pseudonyms(card.telematik_id)[0]
    assert len(await server.admin.list_sessions(institution=pseudonym, now=server.clock.now)) == 2
    assert await server.admin.end_sessions_of(pseudonym, actor="root", now=server.clock.now) == 2
    for practice, token in zip(practices, tokens, strict=True):
        assert (await practice.refresh(token)).refusal == (403, "session_terminated")
    assert (await other.refresh(kept)).status == 200


async def logged_in_as(server: Server, telematik_id: str) -> tuple[Practice, str]:
    practice = server.practice(server.card(telematik_id))
    return practice, (await practice.exchange()).json["refresh_token"]


async def test_a_blocked_institution_cannot_refresh(server: Server) -> None:
    practice, token = await logged_in(server)
    pseudonym = server.admin.pseudonyms(practice.card.telematik_id)[0]
    await server.admin.add_block("institution", pseudonym, seconds=60, note="", actor="root", now=server.clock.now)
    assert (await practice.refresh(token)).refusal == (403, "access_denied")
    await server.admin.remove_block("institution", pseudonym, actor="root")
    assert (await practice.refresh(token)).status == 200


async def test_a_lost_session_record_is_never_rebuilt_from_the_token(server: Server) -> None:
    practice, token = await logged_in(server)
    session_id = str(server.claims(token, "refresh+jwt").claims["sid"])
    server.store._sessions.pop(session_id)
    assert (await practice.refresh(token)).refusal == (400, "invalid_grant")


async def test_a_session_record_that_is_lost_while_the_policy_thinks_brings_no_token(
    make_server: MakeServer, engine: Scripted
) -> None:
    server = await make_server(policy=engine)
    practice, token = await logged_in(server)
    session_id = str(server.claims(token, "refresh+jwt").claims["sid"])

    async def lose() -> None:
        server.store._sessions.pop(session_id)

    engine.meanwhile = lose
    assert (await practice.refresh(token)).refusal == (400, "invalid_grant")
    engine.meanwhile = None
    assert (await practice.exchange()).status == 200


async def test_a_session_that_ends_while_the_policy_thinks_is_over(make_server: MakeServer, engine: Scripted) -> None:
    server = await make_server(policy=engine)
    practice, token = await logged_in(server)
    (session,) = await server.admin.list_sessions(now=server.clock.now)
    engine.meanwhile = lambda: server.admin.end_session(session.session_id, actor="root", now=server.clock.now)
    assert (await practice.refresh(token)).refusal == (403, "session_terminated")


def written_over(server: Server, session: Session, **changes: Any) -> None:
    record = session._replace(**changes)
    server.store._sessions.put(session.session_id, SessionRecord(record), session.expires_at)


@pytest.mark.parametrize("member", ["client_id", "jkt"])
async def test_a_session_record_of_another_client_or_key_is_not_this_session(server: Server, member: str) -> None:
    practice, token = await logged_in(server)
    (session,) = await server.store.list_sessions(now=server.clock.now)
    written_over(server, session, **{member: "another"})
    reply = await practice.refresh(token)
    assert reply.refusal == (400, "invalid_grant")
    assert "session is over" in reply.words


async def test_a_session_record_that_was_moved_to_another_session_does_not_open(server: Server) -> None:
    practice, token = await logged_in(server)
    other, _ = await logged_in_as(server, "1-other")
    sessions = {session.client_id: session for session in await server.store.list_sessions(now=server.clock.now)}
    mine, theirs = sessions[practice.client_id], sessions[other.client_id]
    written_over(server, mine, sealed=theirs.sealed)
    assert (await practice.refresh(token)).refusal == (400, "invalid_grant")


def test_every_block_reason_has_its_refusal() -> None:
    seen = {
        (kind, reason): (blocked(kind, reason).status, blocked(kind, reason).code)
        for kind in ("session", "client", "institution")
        for reason in ("reuse", "revoked", "terminated", "client_vanished", "emergency")
    }
    assert seen["session", "reuse"] == (400, "invalid_grant")
    assert seen["session", "revoked"] == (403, "refresh_token_revoked")
    assert seen["session", "terminated"] == seen["session", "emergency"] == (403, "session_terminated")
    assert seen["session", "client_vanished"] == seen["client", "client_vanished"] == (401, "invalid_client")
    assert seen["client", "emergency"] == seen["institution", "emergency"] == (403, "access_denied")
