"""Client credentials: an assertion by the SM(C)-B itself, for configured products only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from zeta_guard.client.keys import SoftwareKey
from zeta_guard.jose.encoding import b64url_encode
from zeta_guard.simulators.ocsp_responder import CardState

if TYPE_CHECKING:
    from tests.authorization_server.conftest import MakeServer, Scripted, Server

PRODUCTS = {"products": {"popp-client": {"audiences": ["urn:popp"], "scopes": ["popp"]}}, "audiences": ["urn:popp"]}


@pytest.fixture
async def server(make_server: MakeServer) -> Server:
    """A server that knows one product."""
    return await make_server(authorization_server=PRODUCTS)


async def test_a_product_gets_an_access_token_and_no_refresh_token(server: Server) -> None:
    practice = server.practice()
    reply = await practice.client_credentials()
    assert reply.status == 200, reply.body
    assert "refresh_token" not in reply.json
    assert "refresh_expires_in" not in reply.json
    access = server.claims(reply.json["access_token"]).claims
    assert (access["client_id"], access["aud"], access["scope"]) == ("popp-client", "urn:popp", "popp")
    assert access["sub"] == practice.card.telematik_id
    assert access["cnf"] == {"jkt": practice.dpop_key.thumbprint}
    (session,) = await server.admin.list_sessions(now=server.clock.now)
    assert session.session_id == access["sid"]
    assert session.expires_at == access["exp"]


async def test_the_grant_is_advertised_only_with_a_product(server: Server, make_server: MakeServer) -> None:
    path = "/.well-known/oauth-authorization-server"
    assert "client_credentials" in (await server.get(path)).json["grant_types_supported"]
    other = await make_server()
    assert "client_credentials" not in (await other.get(path)).json["grant_types_supported"]
    assert (await other.practice().client_credentials()).refusal == (400, "unsupported_grant_type")


async def test_the_binding_in_the_statement_may_be_absent(server: Server) -> None:
    change = {"posture": {"public_key": ..., "attestation_challenge": ...}}
    assert (await server.practice().client_credentials(assertion=change)).status == 200


async def test_an_unknown_product_is_told_with_401(server: Server) -> None:
    reply = await server.practice().client_credentials("somebody")
    assert reply.refusal == (401, "invalid_client")


@pytest.mark.parametrize(
    "change",
    [
        {"claims": {"iss": "other"}},
        {"claims": {"aud": "https://elsewhere.example/token"}},
        {"claims": {"iat": ...}},
        {"claims": {"exp": ...}},
        {"claims": {"exp": 0}},
        {"claims": {"jti": ...}},
        {"claims": {"nonce": ...}},
        {"claims": {"cnf": ...}},
        {"claims": {"cnf": {"jkt": SoftwareKey.generate().thumbprint}}},
        {"claims": {"client_key": {"jkt": "x"}}},
        {"claims": {"dpop_key": {"jkt": "x"}}},
        {"claims": {"client_statement": ...}},
        {"statement": {"sub": "other"}},
        {"statement": {"posture_type": "tpm"}},
        {"posture": {"attestation_challenge": b64url_encode(bytes(32))}},
        {"posture": {"public_key": "AAAA"}},
        {"header": {"x5c": ...}},
        {"header": {"x5c": []}},
        {"header": {"typ": "at+jwt"}},
    ],
)
async def test_every_fault_of_the_assertion_is_an_invalid_client(server: Server, change: Any) -> None:
    assert (await server.practice().client_credentials(assertion=change)).refusal == (400, "invalid_client")


@pytest.mark.parametrize(("iat", "exp", "status"), [(0, 300, 200), (-1, 300, 400), (-299, 1, 200), (10, 10, 400)])
async def test_the_assertion_lives_five_minutes_at_most(server: Server, iat: int, exp: int, status: int) -> None:
    server.clock.now = float(int(server.clock.now) + 2)
    now = int(server.clock.now)
    reply = await server.practice().client_credentials(assertion={"claims": {"iat": now + iat, "exp": now + exp}})
    assert reply.status == status


async def test_a_bad_nonce_is_an_invalid_grant(server: Server) -> None:
    practice = server.practice()
    assert (await practice.client_credentials(nonce=bytes(16))).refusal == (400, "invalid_grant")
    other = b64url_encode(await practice.nonce())
    reply = await practice.client_credentials(assertion={"claims": {"nonce": other}})
    assert reply.refusal == (400, "invalid_grant")
    nonce = await practice.nonce()
    assert (await practice.client_credentials(nonce=nonce)).status == 200
    assert (await practice.client_credentials(nonce=nonce)).refusal == (400, "invalid_grant")


async def test_assertion_and_proof_are_good_once(server: Server) -> None:
    practice = server.practice()
    same: Any = {"claims": {"jti": "same"}}
    assert (await practice.client_credentials(assertion=same)).status == 200
    assert (await practice.client_credentials(assertion=same)).refusal == (400, "invalid_client")
    assert (await practice.client_credentials(proof=same)).status == 200
    assert (await practice.client_credentials(proof=same)).refusal == (400, "invalid_dpop_proof")


async def test_faults_of_the_certificate_are_faults_of_the_client(server: Server) -> None:
    revoked = server.card("1-revoked")
    server.ocsp.set_state(revoked, CardState.REVOKED)
    for card in (revoked, server.card(issuer=server.pki.foreign_ca)):
        assert (await server.practice(card).client_credentials()).refusal == (400, "invalid_client")
    silent = server.card("1-silent")
    server.ocsp.set_state(silent, CardState.SILENT)
    assert (await server.practice(silent).client_credentials()).refusal == (503, "temporarily_unavailable")


@pytest.mark.parametrize(
    ("form", "refusal"),
    [
        ({"scope": "vsdservice"}, (400, "invalid_scope")),
        ({"audience": "https://elsewhere.example/"}, (400, "invalid_target")),
        ({"client_id": "other"}, (400, "invalid_client")),
    ],
)
async def test_a_product_gets_no_more_than_it_is_configured_for(
    server: Server, form: dict[str, str | None], refusal: tuple[int, str]
) -> None:
    assert (await server.practice().client_credentials(form=form)).refusal == refusal


async def test_an_audience_of_the_guard_that_is_not_the_product_s_is_refused(server: Server) -> None:
    reply = await server.practice().client_credentials(form={"audience": server.config.resource})
    assert reply.refusal == (400, "invalid_target")
    reply = await server.practice().client_credentials(form={"resource": server.url + "/popp"})
    assert reply.refusal == (400, "invalid_target")


async def test_nobody_is_asked_about_an_audience_that_is_not_the_product_s(
    make_server: MakeServer, engine: Scripted
) -> None:
    server = await make_server(policy=engine, authorization_server=PRODUCTS)
    reply = await server.practice().client_credentials(form={"audience": server.config.resource})
    assert reply.refusal == (400, "invalid_target")
    assert engine.asked == []


async def test_the_policy_sees_a_product(make_server: MakeServer, engine: Scripted) -> None:
    server = await make_server(policy=engine, authorization_server=PRODUCTS)
    assert (await server.practice().client_credentials()).status == 200
    (document,) = engine.asked
    client = document["client_registration_data"]
    assert isinstance(client, dict)
    assert (client["client_class"], client["client_id"]) == ("product", "popp-client")
    assert "registration_timestamp" not in client


async def test_a_product_for_an_audience_that_the_guard_does_not_have_gets_nothing(make_server: MakeServer) -> None:
    server = await make_server(authorization_server={"products": PRODUCTS["products"]})
    assert (await server.practice().client_credentials()).refusal == (400, "invalid_target")


async def test_a_subject_token_or_a_client_s_assertion_is_no_institution_assertion(server: Server) -> None:
    practice = server.practice()
    await practice.register()
    nonce = await practice.nonce()
    subject = practice.subject(nonce).signed(practice.card.sign)
    assertion = practice.assertion(nonce).signed(practice.instance_key.sign)
    for wrong in (subject, assertion):
        reply = await practice.client_credentials(nonce=nonce, form={"client_assertion": wrong})
        assert reply.json["error"] == "invalid_client"


async def test_an_institution_assertion_opens_no_token_exchange(server: Server) -> None:
    practice = server.practice()
    await practice.register()
    nonce = await practice.nonce()
    card = practice.institution_assertion("popp-client", nonce).signed(practice.card.sign)
    assert (await practice.exchange(nonce=nonce, form={"client_assertion": card, "client_id": None})).refusal == (
        401,
        "invalid_client",
    )
    assert (await practice.exchange(nonce=nonce, form={"subject_token": card})).refusal == (400, "invalid_grant")


async def test_an_over_aged_dpop_key_is_refused_with_401(make_server: MakeServer) -> None:
    server = await make_server(authorization_server={**PRODUCTS, "dpop_key_max_age": 600})
    practice = server.practice()
    assert (await practice.client_credentials()).status == 200
    server.clock.advance(600)
    assert (await practice.client_credentials()).status == 200
    server.clock.advance(1)
    reply = await practice.client_credentials()
    assert reply.refusal == (401, "invalid_dpop_proof")
    assert "new key" in reply.words
    practice.dpop_key = SoftwareKey.generate()
    assert (await practice.client_credentials()).status == 200


async def test_an_over_aged_key_that_is_used_again_and_again_stays_over_aged(make_server: MakeServer) -> None:
    server = await make_server(authorization_server={**PRODUCTS, "dpop_key_max_age": 600})
    practice = server.practice()
    assert (await practice.client_credentials()).status == 200
    for _ in range(4):
        # Each step is shorter than the memory, all together are longer.
        server.clock.advance(40_000)
        assert (await practice.client_credentials()).refusal == (401, "invalid_dpop_proof")


async def test_the_policy_sees_the_age_of_the_dpop_key(make_server: MakeServer, engine: Scripted) -> None:
    server = await make_server(policy=engine, authorization_server=PRODUCTS)
    practice = server.practice()
    began = int(server.clock.now)
    for _ in range(3):
        assert (await practice.client_credentials()).status == 200
        server.clock.advance(100)
    seen: list[Any] = []
    for document in engine.asked:
        section = document["client_registration_data"]
        assert isinstance(section, dict)
        seen.append(section["dpop_key"])
    assert seen == [
        {"first_seen": began, "last_seen": began, "age": 0},
        {"first_seen": began, "last_seen": began, "age": 100},
        {"first_seen": began, "last_seen": began + 100, "age": 200},
    ]


async def test_blocks_of_the_product_hold(server: Server) -> None:
    await server.admin.add_block("product", "popp-client", seconds=60, note="", actor="root", now=server.clock.now)
    assert (await server.practice().client_credentials()).refusal == (403, "access_denied")


async def test_the_policy_may_refuse(server: Server) -> None:
    practice = server.practice(server.card(profession_oid="1.2.276.0.76.4.58"))
    assert (await practice.client_credentials()).refusal == (403, "access_denied")
