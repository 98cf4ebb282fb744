"""The token exchange from end to end: what a practice gets, and who decides that it gets nothing."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from zeta_guard.client.assertions import Product
from zeta_guard.errors import unavailable
from zeta_guard.simulators.ocsp_responder import CardState

if TYPE_CHECKING:
    from tests.authorization_server.conftest import MakeServer, Scripted, Server

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


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
    assert (await server.practice().exchange(assertion={"claims": {"aud": server.url}})).status == 200


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


async def test_the_state_of_one_card_says_nothing_about_another_card_of_the_same_client(server: Server) -> None:
    practice = server.practice()
    assert (await practice.exchange()).status == 200
    practice.card, first = server.card(practice.card.telematik_id), practice.card
    server.ocsp.set_state(practice.card, CardState.REVOKED)
    assert (await practice.exchange()).refusal == (400, "invalid_grant")
    practice.card = first
    assert (await practice.exchange()).status == 200


async def test_a_client_that_vanishes_while_it_is_answered_gets_no_session(
    make_server: MakeServer, engine: Scripted
) -> None:
    server = await make_server(policy=engine)
    practice = server.practice()
    assert (await practice.exchange()).status == 200

    async def delete() -> None:
        await server.store.delete_client(practice.client_id, now=server.clock.now)

    engine.meanwhile = delete
    assert (await practice.exchange()).refusal == (401, "invalid_client")
    sessions = await server.store.list_sessions(now=server.clock.now)
    assert len([one for one in sessions if one.client_id == practice.client_id]) == 1, "the one of before"


async def test_requests_without_a_valid_proof_charge_nobody(make_server: MakeServer) -> None:
    server = await make_server(rate_limits={"token_per_client": {"per_minute": 60, "burst": 1}})
    practice = server.practice()
    await practice.register()
    for _ in range(5):
        await practice.exchange(signed_assertion=lambda token: token[:-2])
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


async def test_a_registration_that_vanishes_meanwhile_is_told_with_401(
    make_server: MakeServer, engine: Scripted
) -> None:
    server = await make_server(policy=engine)
    practice = server.practice()
    engine.meanwhile = lambda: server.store.delete_client(practice.client_id, now=server.clock.now)
    assert (await practice.exchange()).refusal == (401, "invalid_client")
    assert await server.store.list_sessions(now=server.clock.now) == []


async def test_no_answer_of_the_policy_is_no_token(make_server: MakeServer, engine: Scripted) -> None:
    async def away() -> None:
        raise unavailable("the policy engine is away", stage="policy")

    server = await make_server(policy=engine)
    engine.meanwhile = away
    reply = await server.practice().exchange()
    assert reply.refusal == (503, "temporarily_unavailable")
    assert int(reply.headers["Retry-After"]) >= 1


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
        await practice.exchange(subject={"claims": {"sub": "1-somebody-else"}}),
        await practice.exchange(signed_subject=lambda token: token[:-2]),
        await practice.exchange(form={"subject_token": "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiIxLXNlY3JldCJ9." + "A" * 86}),
    ]
    for reply in replies:
        assert reply.status == 400
        text = reply.body.decode()
        assert "somebody" not in text
        assert practice.card.telematik_id not in text
        assert "eyJ" not in text
