"""What the authorization server tells the security log: the name says what happened."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from zeta_guard.authorization_server import app
from zeta_guard.client.keys import SoftwareKey
from zeta_guard.simulators.ocsp_responder import CardState

if TYPE_CHECKING:
    from tests.authorization_server.conftest import MakeServer, Server

PRODUCTS = {"products": {"popp-client": {"audiences": ["urn:popp"], "scopes": ["popp"]}}, "audiences": ["urn:popp"]}


@pytest.fixture
async def server(make_server: MakeServer) -> Server:
    return await make_server(authorization_server={**PRODUCTS, "clients_per_institution": 1})


def told(server: Server) -> dict[str, float]:
    """Events by name."""
    return {
        sample.labels["event"]: sample.value
        for family in server.registry.collect()
        for sample in family.samples
        if sample.name == "zeta_guard_security_events_total"
    }


async def test_a_good_exchange_and_a_mistake_in_the_form_are_no_events(server: Server) -> None:
    practice = server.practice()
    assert (await practice.exchange()).status == 200
    for missing in ("grant_type", "subject_token", "client_assertion", "subject_token_type"):
        assert (await practice.exchange(form={missing: None})).refusal == (400, "invalid_request")
    assert (await practice.refresh("", form={"refresh_token": None})).refusal == (400, "invalid_request")
    assert told(server) == {}


@pytest.mark.parametrize("change", [{"claims": {"iat": 1}}, {"claims": {"htm": "GET"}}, {"header": {"typ": "JWT"}}])
async def test_a_proof_that_does_not_hold(server: Server, change: dict[str, Any]) -> None:
    assert (await server.practice().exchange(proof=change)).status == 400
    assert told(server) == {"proof_refused": 1}


@pytest.mark.parametrize("change", [{"claims": {"exp": 1}}, {"claims": {"aud": "elsewhere"}}])
async def test_an_assertion_that_does_not_hold(server: Server, change: dict[str, Any]) -> None:
    practice = server.practice()
    token = (await practice.exchange()).json["access_token"]
    assert (await practice.exchange(assertion=change)).refusal == (400, "invalid_client")
    assert told(server) == {"assertion_refused": 1}
    # The other endpoint that clients authenticate at says 401, and it is the same event.
    assert (await practice.revoke(token, assertion=change)).refusal == (401, "invalid_client")
    assert told(server) == {"assertion_refused": 2}


async def test_a_statement_that_does_not_hold(server: Server) -> None:
    change = {"statement": {"attestation_timestamp": 1}}
    assert (await server.practice().exchange(assertion=change)).refusal == (400, "invalid_client")
    assert told(server) == {"assertion_refused": 1}


async def test_an_institution_s_assertion_that_does_not_hold(server: Server) -> None:
    reply = await server.practice().client_credentials(assertion={"claims": {"exp": 1}})
    assert reply.refusal == (400, "invalid_client")
    assert told(server) == {"assertion_refused": 1}


@pytest.mark.parametrize("change", [{"claims": {"exp": 1}}, {"claims": {"aud": "elsewhere"}}])
async def test_a_subject_token_that_does_not_hold(server: Server, change: dict[str, Any]) -> None:
    assert (await server.practice().exchange(subject=change)).refusal == (400, "invalid_grant")
    assert told(server) == {"subject_token_refused": 1}


async def test_a_nonce_that_nobody_issued(server: Server) -> None:
    assert (await server.practice().exchange(nonce=bytes(16))).refusal == (400, "invalid_grant")
    assert told(server) == {"nonce_refused": 1}


async def test_a_nonce_that_was_used(server: Server) -> None:
    practice = server.practice()
    nonce = await practice.nonce()
    assert (await practice.exchange(nonce=nonce)).status == 200
    assert (await practice.exchange(nonce=nonce)).status == 400
    assert told(server) == {"nonce_replayed": 1}


async def test_an_assertion_that_was_used(server: Server) -> None:
    practice = server.practice()
    same = {"claims": {"jti": "always-the-same"}}
    assert (await practice.exchange(assertion=same)).status == 200
    assert (await practice.exchange(assertion=same)).status == 400
    assert told(server) == {"assertion_replayed": 1}


async def test_a_proof_that_was_used(server: Server) -> None:
    practice = server.practice()
    same = {"claims": {"jti": "always-the-same"}}
    assert (await practice.exchange(proof=same)).status == 200
    assert (await practice.exchange(proof=same)).status == 400
    assert told(server) == {"proof_replayed": 1}


async def test_a_refresh_token_of_somebody_else_or_of_nobody(server: Server) -> None:
    practice, other = server.practice(), server.practice(server.card("1-other"))
    token = (await practice.exchange()).json["refresh_token"]
    await other.exchange()
    assert (await other.refresh(token)).refusal == (400, "invalid_grant")
    assert (await practice.refresh("garbage")).refusal == (400, "invalid_grant")
    assert told(server) == {"token_refused": 2}


async def test_a_refresh_token_with_another_key(server: Server) -> None:
    practice = server.practice()
    token = (await practice.exchange()).json["refresh_token"]
    practice.dpop_key = SoftwareKey.generate()
    assert (await practice.refresh(token)).refusal == (401, "invalid_dpop_proof")
    assert told(server) == {"proof_key_mismatch": 1}


async def test_a_refresh_token_that_was_used_long_ago(server: Server) -> None:
    practice = server.practice()
    token = (await practice.exchange()).json["refresh_token"]
    assert (await practice.refresh(token)).status == 200
    server.clock.advance(60)
    assert (await practice.refresh(token)).refusal == (400, "invalid_grant")
    assert told(server) == {"refresh_reused": 1}


async def test_a_client_that_nobody_registered(server: Server) -> None:
    practice = server.practice()
    practice.client_id = "zc_nobody"
    assert (await practice.exchange()).refusal == (401, "invalid_client")
    assert told(server) == {"unknown_client": 1}


async def test_a_client_with_another_institution_s_card(server: Server) -> None:
    practice = server.practice()
    await practice.exchange()
    practice.card = server.card("1-other")
    assert (await practice.exchange()).refusal == (400, "invalid_grant")
    assert told(server) == {"binding_refused": 1}


@pytest.mark.parametrize(
    ("state", "event"), [(CardState.REVOKED, "certificate_revoked"), (CardState.UNKNOWN, "certificate_refused")]
)
async def test_a_card_that_its_authority_does_not_stand_by(server: Server, state: CardState, event: str) -> None:
    card = server.card()
    server.ocsp.set_state(card, state)
    assert (await server.practice(card).exchange()).refusal == (400, "invalid_grant")
    assert told(server) == {event: 1}


async def test_a_responder_that_is_silent_accuses_nobody(server: Server) -> None:
    card = server.card()
    server.ocsp.set_state(card, CardState.SILENT)
    assert (await server.practice(card).exchange()).status == 503
    assert told(server) == {}


async def test_a_card_of_a_foreign_authority(server: Server) -> None:
    card = server.card("1-foreign", issuer=server.pki.foreign_ca)
    assert (await server.practice(card).exchange()).refusal == (400, "invalid_grant")
    assert told(server) == {"certificate_refused": 1}


async def test_a_card_of_the_demo_at_a_real_guard(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    # The anchors of this test are the demo's, too, and a real guard would not start with them.
    trust: Any = server.app.dependencies.trust
    monkeypatch.setattr(trust, "_config", trust._config.model_copy(update={"unsafe_demo_trust": False}))
    assert (await server.practice().exchange()).refusal == (400, "invalid_grant")
    assert told(server) == {"demo_certificate_refused": 1}


async def test_an_institution_with_too_many_clients(server: Server) -> None:
    card = server.card()
    assert (await server.practice(card).exchange()).status == 200
    assert (await server.practice(card).exchange()).status == 200
    assert told(server) == {"client_evicted": 1}


async def test_a_profession_that_the_policy_does_not_want(server: Server) -> None:
    practice = server.practice(server.card("1-denied", profession_oid="1.2.276.0.76.4.58"))
    assert (await practice.exchange()).refusal == (403, "access_denied")
    assert told(server) == {"policy_denied": 1}


async def test_a_client_that_is_blocked(server: Server) -> None:
    practice = server.practice()
    await practice.register()
    now = server.clock.now
    await server.admin.add_block("client", practice.client_id, seconds=60, note="", actor="x", now=now)
    assert (await practice.exchange()).refusal == (403, "access_denied")
    await server.admin.remove_block("client", practice.client_id, actor="x")
    assert told(server) == {"administration": 2, "block_added": 1, "blocked": 1, "block_removed": 1}


async def test_a_session_that_its_client_ends(server: Server) -> None:
    practice = server.practice()
    await practice.revoke((await practice.exchange()).json["access_token"])
    assert told(server) == {"session_ended": 1}


async def test_too_many_requests(make_server: MakeServer) -> None:
    server = await make_server(rate_limits={"nonce": {"per_minute": 60, "burst": 1}})
    assert [(await server.get("/nonce")).status for _ in range(2)] == [200, 429]
    assert told(server) == {"rate_limited": 1}
    server = await make_server(rate_limits={"token_per_client": {"per_minute": 60, "burst": 1}})
    practice = server.practice()
    assert [(await practice.exchange()).status for _ in range(2)] == [200, 429]
    assert told(server) == {"rate_limited": 1}


async def test_an_address_that_nobody_knows(make_server: MakeServer) -> None:
    server = await make_server(gateway={"client_address": "forwarded", "trusted_proxies": ["127.0.0.1"]})
    server.headers = [("Forwarded", "for=unknown")]
    assert (await server.practice().exchange()).refusal == (400, "invalid_request")
    assert told(server) == {"address_unknown": 1}


async def test_a_signing_key_that_takes_over(make_server: MakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "_KEY_FOLDER_SECONDS", 0.02)
    server = await make_server()
    written = server.admin.rotate_keys(actor="root", now=server.clock.now)
    server.clock.now = written.not_before + 1
    async with asyncio.timeout(5):
        while "key_rotated" not in told(server):
            assert (await server.get("/jwks")).status == 200
    assert told(server) == {"administration": 2, "key_rotated": 1}
