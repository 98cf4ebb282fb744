"""What leaves a trace: audit record, security events, metrics."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from zeta_guard.client.keys import SoftwareKey
from zeta_guard.simulators.ocsp_responder import CardState

if TYPE_CHECKING:
    from tests.authorization_server.conftest import MakeServer, Server

PRODUCTS = {"products": {"popp-client": {"audiences": ["urn:popp"], "scopes": ["popp"]}}, "audiences": ["urn:popp"]}


@pytest.fixture
async def server(make_server: MakeServer) -> Server:
    """A server that keeps an audit record."""
    return await make_server(audit=True, authorization_server={**PRODUCTS, "clients_per_institution": 1})


def recorded(server: Server, event: str) -> list[dict[str, Any]]:
    return [line["fields"] for line in server.audit_lines() if line["event"] == event]


def emitted(server: Server, event: str) -> float:
    return server.count("zeta_guard_security_events_total", event=event)


async def test_every_granted_token_is_recorded_with_its_decision(server: Server) -> None:
    practice = server.practice()
    first = (await practice.exchange()).json
    second = (await practice.refresh(first["refresh_token"])).json
    third = (await practice.client_credentials()).json
    granted = recorded(server, "token_granted")
    assert [line["grant"].rpartition(":")[2] for line in granted] == [
        "token-exchange",
        "refresh_token",
        "client_credentials",
    ]
    for line, tokens in zip(granted, (first, second, third), strict=True):
        access = server.claims(tokens["access_token"]).claims
        assert (line["session_id"], line["access_jti"]) == (access["sid"], access["jti"])
        assert line["decision_id"]
        assert line["request_id"]
    issued = {grant: server.count("zeta_guard_token_requests_total", grant=grant, outcome="issued") for grant in (
        "token_exchange", "refresh_token", "client_credentials"
    )}  # fmt: skip
    assert issued == {"token_exchange": 1, "refresh_token": 1, "client_credentials": 1}


async def test_an_answer_given_again_is_recorded(server: Server) -> None:
    practice = server.practice()
    token = (await practice.exchange()).json["refresh_token"]
    await practice.refresh(token)
    await practice.refresh(token)
    assert len(recorded(server, "token_answered_again")) == 1


async def test_a_refresh_that_cannot_be_recorded_is_not_answered(server: Server) -> None:
    practice = server.practice()
    token = (await practice.exchange()).json["refresh_token"]
    audit = server.app.dependencies.audit
    descriptor, audit._descriptor = audit._descriptor, -1
    reply = await practice.refresh(token)
    credentials = await practice.client_credentials()
    audit._descriptor = descriptor
    assert reply.refusal == credentials.refusal == (503, "temporarily_unavailable")
    assert (await practice.refresh(token)).status == 200


async def test_bindings_and_evictions_are_recorded(server: Server) -> None:
    card = server.card()
    one, other = server.practice(card), server.practice(card)
    await one.exchange()
    await one.exchange()
    await other.exchange()
    assert [line["client_id"] for line in recorded(server, "client_bound")] == [one.client_id, other.client_id]
    assert [line["client_id"] for line in recorded(server, "client_evicted")] == [one.client_id]
    assert emitted(server, "client_evicted") == 1
    assert server.count("zeta_guard_client_evictions_total") == 1


async def test_endings_are_recorded_and_counted(server: Server) -> None:
    practice = server.practice()
    first = (await practice.exchange()).json["refresh_token"]
    second = (await practice.exchange()).json["refresh_token"]
    third = (await practice.exchange()).json["refresh_token"]
    await practice.revoke(first)
    session_id = str(server.claims(second, "refresh+jwt").claims["sid"])
    await server.admin.end_session(session_id, actor="root", now=server.clock.now)
    await practice.refresh((await practice.refresh(third)).json["refresh_token"])
    await practice.refresh(third)
    ended = Counter(line["reason"] for line in recorded(server, "session_ended"))
    assert ended == {"revoked": 1, "terminated": 1, "reuse": 1}
    for reason in ended:
        assert server.count("zeta_guard_sessions_ended_total", reason=reason) == 1
    assert emitted(server, "session_ended") == 2
    assert emitted(server, "refresh_reused") == 1
    assert server.count("zeta_guard_revocations_total", outcome="ended") == 1
    await practice.revoke("garbage")
    assert server.count("zeta_guard_revocations_total", outcome="nothing") == 1


async def test_attacks_are_events(server: Server) -> None:
    practice = server.practice()
    token = (await practice.exchange()).json["refresh_token"]
    own, practice.dpop_key = practice.dpop_key, SoftwareKey.generate()
    await practice.refresh(token)
    practice.dpop_key = own
    assert emitted(server, "proof_key_mismatch") == 1
    stranger = server.practice()
    stranger.client_id = "zc_nobody"
    await stranger.exchange()
    assert emitted(server, "unknown_client") == 1
    revoked = server.card("1-revoked")
    server.ocsp.set_state(revoked, CardState.REVOKED)
    await server.practice(revoked).exchange()
    assert emitted(server, "certificate_revoked") == 1
    await server.practice(server.card("1-denied", profession_oid="1.2.276.0.76.4.58")).exchange()
    assert emitted(server, "policy_denied") == 1
    await server.admin.add_block("client", practice.client_id, seconds=60, note="", actor="x", now=server.clock.now)
    await practice.exchange()
    assert emitted(server, "blocked") == 1


async def test_every_act_of_an_administrator_is_recorded_before_it_happens(server: Server) -> None:
    now = server.clock.now
    await server.practice().exchange()
    pseudonym = server.admin.pseudonyms("1-2013-praxis-beispiel")[0]
    await server.admin.end_sessions_of(pseudonym, actor="root", now=now)
    await server.admin.add_block("product", "p", seconds=60, note="why", actor="root", now=now)
    await server.admin.remove_block("product", "p", actor="root")
    acts = recorded(server, "administration")
    assert {line["actor"] for line in acts} == {"root"}
    assert [line["act"] for line in acts] == ["end_sessions", "block_added", "block_removed"]
    assert emitted(server, "administration") == 3
    assert emitted(server, "block_added") == emitted(server, "block_removed") == 1
    audit = server.app.dependencies.audit
    descriptor, audit._descriptor = audit._descriptor, -1
    with pytest.raises(Exception, match="audit"):
        await server.admin.add_block("product", "p", seconds=60, note="", actor="root", now=now)
    with pytest.raises(Exception, match="audit"):
        server.admin.rotate_keys(actor="root", now=now)
    audit._descriptor = descriptor
    assert await server.admin.list_blocks(now=now) == [
        block for block in await server.admin.list_blocks(now=now) if block.subject != "product:p"
    ]
    assert len(server.admin.list_keys(now=now)) == 1
    server.admin.rotate_keys(actor="root", now=now)
    assert len(server.admin.list_keys(now=now)) == 2
