"""What the gateway tells the security log: the name says what happened, and nothing is told of what is no attack."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest

from zeta_guard.errors import ZetaError
from zeta_guard.gateway.refusal_event import event_of
from zeta_guard.store.contract import Block, block_subject

if TYPE_CHECKING:
    from tests.gateway.conftest import Client, RawBackend, World

MakeWorld = Callable[..., Awaitable[Any]]
To = Callable[..., dict[str, Any]]

NOW = 1_800_000_000


@pytest.fixture
async def world(make_world: MakeWorld, backend: RawBackend, to: To) -> Any:
    routes = [
        to(backend),
        to(backend, "/scoped", scopes=["popp"]),
        to(backend, "/other", audience="https://other.example/"),
        to(backend, "/high", acr="gematik-ehealth-loa-high"),
        to(backend, "/asked", request_policy=True),
        to(backend, "/open", public=True),
        to(backend, "/open/closed"),
    ]
    return await make_world(routes)


def told(world: World) -> dict[str, float]:
    """Events by name."""
    return {
        sample.labels["event"]: sample.value
        for family in world.registry.collect()
        for sample in family.samples
        if sample.name == "zeta_guard_security_events_total"
    }


def bare(path: str, extra: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: guard.example\r\n{extra}\r\n".encode()


async def test_a_good_request_is_no_event(world: World) -> None:
    assert (await world.get()).status == 200
    assert told(world) == {}


@pytest.mark.parametrize(
    "raw",
    [
        bare("/vsd/x"),
        bare("/vsd/x", "Authorization: Bearer abc\r\n"),
        bare("/nowhere"),
        b"POST /vsd/x HTTP/1.1\r\nHost: guard.example\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_whoever_does_not_know_how_to_ask_attacks_nobody(world: World, raw: bytes) -> None:
    assert (await world.send(raw)).status in (401, 404, 405)
    assert told(world) == {}


async def test_a_step_up_is_no_event(world: World) -> None:
    assert (await world.get("/high/x", acr="gematik-ehealth-loa-low")).status == 401
    assert told(world) == {}


@pytest.mark.parametrize("claims", [{"exp": NOW - 1}, {"iss": "https://stranger.example"}, {"iat": NOW + 100}])
async def test_a_token_that_does_not_hold(world: World, claims: dict[str, Any]) -> None:
    assert (await world.get(**claims)).status == 401
    assert told(world) == {"token_refused": 1}


async def test_a_token_whose_signature_is_not_its_issuer_s(world: World, other_issuer: Any) -> None:
    assert (await world.get(token=other_issuer.token(world.client))).status == 401
    assert told(world) == {"token_refused": 1}


@pytest.mark.parametrize("path", ["/scoped/x", "/other/x"])
async def test_a_token_for_something_else(world: World, path: str) -> None:
    assert (await world.get(path, scope="vsdservice")).status == 401
    assert told(world) == {"token_refused": 1}


@pytest.mark.parametrize(
    "claims",
    [{"iat": NOW - 61}, {"iat": NOW + 16}, {"htm": "POST"}, {"htu": "https://guard.example/other"}, {"ath": "A" * 43}],
)
async def test_a_proof_that_does_not_hold_is_no_key_mismatch(world: World, claims: dict[str, Any]) -> None:
    token = world.issuer.token(world.client)
    assert (await world.get(token=token, proof=world.client.proof(token, **claims))).status == 401
    assert told(world) == {"proof_refused": 1}


async def test_a_request_with_a_token_and_no_proof(world: World) -> None:
    token = world.issuer.token(world.client)
    assert (await world.send(bare("/vsd/x", f"Authorization: DPoP {token}\r\n"))).status == 401
    assert told(world) == {"proof_refused": 1}


async def test_a_proof_of_another_key_than_the_token_s(world: World, other_client: Client) -> None:
    token = world.issuer.token(world.client)
    assert (await world.get(token=token, proof=other_client.proof(token))).status == 401
    assert told(world) == {"proof_key_mismatch": 1}


async def test_a_proof_that_comes_twice(world: World) -> None:
    raw = world.head()
    assert (await world.send(raw)).status == 200
    assert (await world.send(raw)).status == 401
    assert told(world) == {"proof_replayed": 1}


async def test_a_proof_from_before_the_store_s_memory_is_no_replay(
    make_world: MakeWorld, backend: RawBackend, to: To
) -> None:
    world = await make_world([to(backend)])
    started = int(world.store.epoch.started_at)
    world.clock.now = started + 5
    token = world.issuer.token(world.client, iat=started)
    assert (await world.get(token=token, proof=world.client.proof(token, iat=started - 1))).status == 401
    assert told(world) == {}


async def test_a_token_from_another_address(world: World) -> None:
    assert (await world.get(ip_address="192.0.2.1")).status == 401
    assert told(world) == {"address_mismatch": 1}


async def test_an_address_that_nobody_knows(make_world: MakeWorld, backend: RawBackend, to: To) -> None:
    world = await make_world([to(backend)], gateway_client_address="forwarded", gateway_trusted_proxies=["127.0.0.1"])
    assert (await world.get(extra="Forwarded: for=unknown\r\n")).status == 401
    assert told(world) == {"address_unknown": 1}


async def test_a_session_that_was_ended(world: World) -> None:
    now = world.clock()
    await world.store.block(Block(block_subject("session", "session-1"), "terminated", now + 60, now, ""), now=now)
    assert (await world.get()).status == 401
    assert told(world) == {"blocked": 1}


async def test_a_policy_that_says_no(world: World) -> None:
    world.policy.allow = False
    assert (await world.get("/asked/x")).status == 403
    assert told(world) == {"policy_denied": 1}


async def test_a_policy_that_is_away_is_no_event(world: World) -> None:
    world.policy.away = True
    assert (await world.get("/asked/x")).status == 503
    assert told(world) == {}


async def test_a_header_that_only_the_guard_may_send(world: World) -> None:
    assert (await world.get(extra="ZETA-User-Info: e30=\r\n")).status == 200
    assert told(world) == {"spoofed_header": 1}


async def test_a_path_with_two_readings(world: World) -> None:
    assert (await world.get("/open/%63losed")).status == 400
    assert told(world) == {"path_refused": 1}


async def test_too_many_requests_of_one_address(make_world: MakeWorld, backend: RawBackend, to: To) -> None:
    world = await make_world([to(backend)], rate_limits={"routes": {"per_minute": 60, "burst": 1}})
    assert (await world.get()).status == 200
    assert (await world.get()).status == 429
    assert told(world) == {"rate_limited": 1}


def test_what_the_guard_owes_is_never_an_event_against_its_caller() -> None:
    for stage in ("popp", "request_policy", "access_token", "dpop_proof"):
        assert event_of(ZetaError("temporarily_unavailable", "away", stage=stage)) is None
