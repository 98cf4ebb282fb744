"""The gateway as a whole: what is claimed, asked and refused between decision and backend."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from zeta_guard.config.outbound import Outbound as OutboundConfig
from zeta_guard.http.outbound import Outbound
from zeta_guard.jose.jwk import public_jwk
from zeta_guard.store.contract import Block
from zeta_guard.tokens.key_sets import RemoteKeySet

if TYPE_CHECKING:
    from tests.gateway.conftest import Issuer, MakeWorld, RawBackend, Reply, World

To = Callable[..., dict[str, Any]]
PATH = "/.well-known/oauth-protected-resource"


@pytest.fixture
async def world(make_world: MakeWorld, backend: RawBackend, to: To) -> World:
    return await make_world(
        [to(backend), to(backend, "/open", public=True), to(backend, "/ruled", request_policy=True)]
    )


def error_of(reply: Reply) -> tuple[int, str]:
    return reply.status, json.loads(reply.body)["error"]


def plain(path: str, method: str = "GET", extra: str = "") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: guard.example\r\n{extra}\r\n".encode()


# metadata


async def test_metadata_is_served_without_token_and_without_null(world: World) -> None:
    reply = await world.send(plain(PATH))
    document = json.loads(reply.body)
    assert document == {
        "resource": "https://guard.example/",
        "authorization_servers": ["https://guard.example"],
        "zeta_asl_use": "not_supported",
        "scopes_supported": ["vsdservice", "popp"],
        "bearer_methods_supported": ["header"],
        "dpop_signing_alg_values_supported": ["ES256"],
        "dpop_bound_access_tokens_required": True,
        "api_versions_supported": [{"major_version": 1, "version": "1.0.0", "status": "stable"}],
    }
    assert reply.header("Content-Type") == "application/json"
    assert reply.header("Cache-Control") == "public, max-age=3600"


async def test_metadata_answers_conditional_requests_and_head(world: World) -> None:
    reply = await world.send(plain(PATH))
    tag = reply.header("ETag")
    assert (await world.send(plain(PATH, extra=f"If-None-Match: {tag}\r\n"))).status == 304
    assert (await world.send(plain(PATH, extra='If-None-Match: "other"\r\n'))).status == 200
    head = await world.send(plain(PATH, "HEAD"), head_only=True)
    assert (head.status, head.header("Content-Length")) == (200, str(len(reply.body)))
    refused = await world.send(plain(PATH, "POST", "Content-Length: 0\r\n"))
    assert (refused.status, refused.header("Allow")) == (405, "GET, HEAD")


async def test_metadata_has_a_rate_of_its_own(make_world: MakeWorld) -> None:
    world = await make_world([], rate_limits={"metadata": {"per_minute": 60, "burst": 1}})
    assert (await world.send(plain(PATH))).header("X-Rate-Limit-Remaining") == "0"
    assert error_of(await world.send(plain(PATH))) == (429, "rate_limit_exceeded")


# refusals over the wire


async def test_refusal_has_the_one_body_and_the_challenge(world: World, backend: RawBackend) -> None:
    reply = await world.send(plain("/vsd/x"))
    body = json.loads(reply.body)
    assert error_of(reply) == (401, "invalid_token")
    assert body["error_uri"] == "https://guard.example/errors/invalid_token"
    assert body["request_id"]
    assert (reply.header("WWW-Authenticate") or "").endswith('algs="ES256"')
    assert backend.heads == []
    assert (
        world.metric("zeta_guard_gateway_refusals_total", route="/vsd", stage="authorization", error="invalid_token")
        == 1
    )


async def test_bearer_is_refused(world: World, backend: RawBackend) -> None:
    raw = world.head().replace(b"Authorization: DPoP", b"Authorization: Bearer")
    assert error_of(await world.send(raw)) == (401, "invalid_token")
    assert backend.heads == []


async def test_public_route_passes_without_token_and_says_nothing_about_the_caller(
    world: World, backend: RawBackend
) -> None:
    assert (await world.send(plain("/open/x", extra="Authorization: Basic abc\r\n"))).status == 200
    assert backend.seen("Authorization") == backend.seen("ZETA-User-Info") == []


# claims and blocks


async def test_proof_is_spent_before_the_backend_hears_of_it(world: World, backend: RawBackend) -> None:
    request = world.head()
    assert (await world.send(request)).status == 200
    assert error_of(await world.send(request)) == (401, "invalid_dpop_proof")
    assert len(backend.heads) == 1


async def test_refused_request_does_not_spend_its_proof(world: World) -> None:
    token = world.issuer.token(world.client)
    proof = world.client.proof(token, path="/vsd/x")
    wrong = world.head(token=token, proof=proof).replace(b"GET /vsd/x", b"GET /vsd/y")
    assert (await world.send(wrong)).status == 401
    assert (await world.send(world.head(token=token, proof=proof))).status == 200


@pytest.mark.parametrize("subject", ["session:s-1", "client:c-1", "product:p-1"])
async def test_blocked_subject_is_refused_at_once(world: World, backend: RawBackend, subject: str) -> None:
    claims = {"sid": "s-1", "client_id": "c-1", "product_id": "p-1"}
    assert (await world.get(**claims)).status == 200
    now = world.clock.now
    await world.store.block(Block(subject, "emergency", now + 60, now), now=now)
    assert error_of(await world.get(**claims)) == (401, "invalid_token")
    assert (await world.get(sid="s-2", client_id="c-2", product_id="p-2")).status == 200
    await world.store.unblock(subject)
    assert (await world.get(**claims)).status == 200


async def test_blocked_institution_is_found_by_its_pseudonym(world: World) -> None:
    from zeta_guard.jose.sealing import Pseudonymizer, Secrets

    name = Pseudonymizer(Secrets.load(world.config.secret_files)).pseudonym("1-2012345678")
    now = world.clock.now
    await world.store.block(Block(f"institution:{name}", "emergency", now + 60, now), now=now)
    assert (await world.get()).status == 401
    assert (await world.get(sub="1-9999999999")).status == 200


async def test_proof_older_than_the_stores_memory_is_refused(world: World) -> None:
    token = world.issuer.token(world.client, iat=int(world.store.epoch.started_at))
    started = world.store.epoch.started_at
    world.clock.now = started + 30
    for ahead, status in ((0, 401), (1, 200)):
        proof = world.client.proof(token, iat=int(started) + ahead)
        assert (await world.send(world.head(token=token, proof=proof))).status == status


# policy


async def test_request_policy_is_asked_with_what_was_verified(world: World, backend: RawBackend) -> None:
    assert (await world.get("/ruled/x?a=1&a=2")).status == 200
    document: Any = world.policy.asked[0]
    assert document["request"]["path"] == ["ruled", "x"]
    assert document["request"]["query"] == {"a": ["1", "2"]}
    assert document["request"]["route"] == "/ruled"
    assert document["request"]["ip_address"] == "127.0.0.1"
    assert document["token"]["sub"] == "1-2012345678"
    assert (await world.get()).status == 200
    assert len(world.policy.asked) == 1


async def test_denial_names_reasons_and_decision(world: World, backend: RawBackend) -> None:
    world.policy.allow = False
    reply = await world.get("/ruled/x")
    body = json.loads(reply.body)
    assert error_of(reply) == (403, "access_denied")
    assert body["reasons"] == {"profession is not allowed": True}
    assert body["decision_id"] == "d1"
    assert "profession is not allowed" in body["error_description"]
    assert backend.heads == []


async def test_reasons_can_be_kept_back(make_world: MakeWorld, backend: RawBackend, to: To) -> None:
    world = await make_world(
        [to(backend, request_policy=True)],
        authorization_server={"signing_keys": "/tmp", "scopes": ["vsdservice"], "show_reasons": False},
    )
    world.policy.allow = False
    body = json.loads((await world.get()).body)
    assert "reasons" not in body
    assert "profession" not in body["error_description"]


async def test_policy_that_gives_no_answer_is_503(world: World, backend: RawBackend) -> None:
    world.policy.away = True
    reply = await world.get("/ruled/x")
    assert error_of(reply) == (503, "temporarily_unavailable")
    assert reply.header("Retry-After") is not None
    assert backend.heads == []


async def test_decision_is_remembered_only_as_long_as_it_says(world: World) -> None:
    token = world.issuer.token(world.client, exp=int(world.clock.now) + 100)

    async def ask() -> int:
        proof = world.client.proof(token, path="/ruled/x", iat=int(world.clock.now))
        return (await world.send(world.head("/ruled/x", token=token, proof=proof))).status

    for _ in range(2):
        assert await ask() == 200
    assert len(world.policy.asked) == 2  # it said nothing about remembering
    world.policy.cache_seconds = 1000
    await ask()
    world.policy.allow = False
    assert await ask() == 200
    assert len(world.policy.asked) == 3
    world.clock.now += 60
    assert await ask() == 403  # a minute at most
    assert await ask() == 403
    assert len(world.policy.asked) == 4
    world.policy.revision = "r2"
    world.policy.allow = True
    assert await ask() == 200  # another bundle decides anew
    world.clock.now += 39.5
    world.policy.allow = False
    assert await ask() == 200
    world.policy.revision = "r3"
    assert await ask() == 403


async def test_another_question_is_another_decision(world: World) -> None:
    world.policy.cache_seconds = 60
    await world.get("/ruled/x")
    await world.get("/ruled/y")
    await world.get("/ruled/x", sub="1-9999999999")
    assert len(world.policy.asked) == 3


# keys of other issuers


class KeyServer:
    """Publishes a JWKS; counts how often it is asked."""

    def __init__(self, issuer: Issuer) -> None:
        self.issuer = issuer
        self.away = False
        self.asked = 0

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked += 1
        if self.away:
            return web.Response(status=500)
        keys = [{**public_jwk(key), "kid": kid} for kid, key in self.issuer.keys.items()]
        return web.json_response({"keys": keys})


async def test_keys_of_another_issuer_are_loaded_when_needed(
    make_world: MakeWorld, backend: RawBackend, to: To, issuer: Issuer, other_issuer: Issuer
) -> None:
    service = KeyServer(issuer)
    runner = web.ServerRunner(web.Server(service.handle), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/jwks"
    outbound = Outbound(OutboundConfig())
    keys = RemoteKeySet(issuer.name, url, outbound, cooldown=1)
    service.away = True
    world = await make_world(
        [to(backend)],
        issuer=issuer,
        key_sets={issuer.name: keys},
        gateway_issuers=[{"issuer": issuer.name, "jwks_uri": url}],
    )
    try:
        reply = await world.get()
        assert error_of(reply) == (503, "temporarily_unavailable")
        service.away = False
        world.clock.now += 2
        assert (await world.get(iat=int(world.clock.now))).status == 200
        asked = service.asked
        # A flood of unknown keys costs no call for each, and is refused as what it is.
        tokens = [other_issuer.token(world.client, iss=issuer.name, header={"kid": f"k{index}"}) for index in range(30)]
        for token in tokens:
            other_issuer.signer = type(other_issuer.signer)(other_issuer.signer.key)
            reply = await world.send(world.head(token=token))
            assert error_of(reply) == (401, "invalid_token")
        assert service.asked <= asked + 1
        service.away = True
        assert (await world.get()).status == 200
    finally:
        await outbound.close()
        await runner.cleanup()


# drain and start


async def test_gateway_can_be_closed_twice_and_leaves_no_tasks(
    make_world: MakeWorld, backend: RawBackend, to: To
) -> None:
    world = await make_world([to(backend, health={"interval": 1})])
    await world.get()
    before = len(asyncio.all_tasks())
    await world.gateway.close()
    await world.gateway.close()
    assert len(asyncio.all_tasks()) < before


async def test_readiness_names_what_is_wrong(make_world: MakeWorld, backend: RawBackend, to: To) -> None:
    popp = [{"issuer": "https://popp.example", "unsafe_tls_anchor": True, "base_url": "http://127.0.0.1:9"}]
    world = await make_world([to(backend)], gateway_popp_issuers=popp)
    lines = world.gateway.readiness()
    assert lines["popp keys https://popp.example"] is not None
