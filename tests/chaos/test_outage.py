"""What clients and operators see while something that the guard needs is gone, and when it is back."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from typing import Any

import aiohttp
import pytest

from zeta_guard.simulators.ocsp_responder import CardState

PATH = "/service/bundle"


def line(document: dict[str, Any], name: str) -> str:
    """State of one dependency in the answer of /readyz."""
    return next(str(entry["state"]) for entry in document["dependencies"] if entry["name"] == name)


@pytest.mark.redis
async def test_without_redis_everybody_gets_503_and_nobody_is_taken_out_of_service(make_world: Any, redis: Any) -> None:
    world = await make_world(store={"kind": "redis", "url": redis.url})
    client = await world.client()
    await client.login()
    assert (await client.send("GET", PATH)).status == 200
    redis.stop()
    for answer in (await client.send("GET", PATH), await client.exchange()):
        assert (answer.status, answer.error) == (503, "temporarily_unavailable")
        assert int(answer.headers["Retry-After"]) >= 1
    assert world.backend.hits == 1
    status, document = await world.readyz()
    assert status == 200
    assert line(document, "store") == "degraded"


@pytest.mark.redis
async def test_two_seconds_after_redis_is_back_tokens_and_proofs_count_again(make_world: Any, redis: Any) -> None:
    world = await make_world(store={"kind": "redis", "url": redis.url})
    client = await world.client()
    await client.login()
    redis.stop()
    assert (await client.send("GET", PATH)).status == 503
    redis.start()
    back = time.monotonic()
    while (await client.send("GET", PATH)).status != 200:
        assert time.monotonic() - back < 2, "still refused two seconds after Redis was back"
        await asyncio.sleep(0.05)


@pytest.mark.redis
async def test_a_hanging_redis_costs_a_bounded_time(make_world: Any, redis: Any) -> None:
    world = await make_world(store={"kind": "redis", "url": redis.url, "timeout_ms": 300})
    client = await world.client()
    await client.login()
    redis.pause()
    try:
        began = time.monotonic()
        assert (await client.send("GET", PATH)).status == 503
        assert time.monotonic() - began < 3
    finally:
        redis.resume()


@pytest.mark.redis
async def test_proofs_from_before_a_flush_are_refused_and_fresh_ones_pass(make_world: Any, redis: Any) -> None:
    world = await make_world(store={"kind": "redis", "url": redis.url})
    client = await world.client()
    await client.login()
    url = client.url(PATH)
    spent = client.resource_headers("GET", url, ())
    unspent = client.resource_headers("GET", url, ())
    assert (await client.wire.send("GET", url, spent)).status == 200
    redis.ask("FLUSHALL")
    for headers in (spent, unspent):
        answer = await client.wire.send("GET", url, headers)
        assert (answer.status, answer.error) == (401, "invalid_dpop_proof")
    assert world.backend.hits == 1
    end = time.monotonic() + 3
    while (await client.send("GET", PATH)).status != 200:
        assert time.monotonic() < end, "fresh proofs are still refused"
        await asyncio.sleep(0.05)


@pytest.mark.opa
async def test_without_opa_nobody_gets_a_token_and_with_it_everybody_again(make_world: Any, opa: Any) -> None:
    world = await make_world(policy={"token": {"engine": "opa", "url": opa.url, "deadline_ms": 2000}})
    client = await world.client()
    await client.login()
    opa.stop()
    answer = await client.exchange()
    assert (answer.status, answer.error) == (503, "temporarily_unavailable")
    assert int(answer.headers["Retry-After"]) >= 1
    # What was granted before stays good: the gateway does not ask.
    assert (await client.send("GET", PATH)).status == 200
    status, document = await world.readyz()
    assert status == 200
    assert document["status"] == "degraded"
    await opa.start()
    end = time.monotonic() + 20
    while (await client.exchange()).status != 200:
        assert time.monotonic() < end, "still refused long after OPA was back"
        await asyncio.sleep(0.2)


async def test_a_silent_responder_keeps_out_who_is_new_and_nobody_who_was_good(make_world: Any) -> None:
    world = await make_world(ocsp={"skew_ms": 1000})
    world.ocsp.valid_seconds = 1
    known, new = world.card("1-2012345678"), world.card("1-2087654321")
    client, other = await world.client(known), await world.client(new)
    await client.login()
    for card in (known, new):
        world.ocsp.set_state(card, CardState.SILENT)
    # The answer is over, so that the responder is asked again; the last good one counts while nobody says otherwise.
    await asyncio.sleep(2.1)
    asked = world.ocsp.asked
    assert (await client.exchange()).status == 200
    assert world.ocsp.asked == asked + 1
    answer = await other.exchange()
    assert (answer.status, answer.error) == (503, "temporarily_unavailable")
    assert int(answer.headers["Retry-After"]) >= 1


async def test_while_one_card_waits_for_its_responder_others_are_served(make_world: Any) -> None:
    world = await make_world()
    slow, fast = world.card("1-2012345678"), world.card("1-2087654321")
    world.ocsp.set_state(slow, CardState.SILENT)
    waiting, served = await world.client(slow), await world.client(fast)
    await served.login()
    await waiting.register()
    exchange = asyncio.create_task(waiting.exchange())
    await world.ocsp.wait_for(2)
    assert (await served.exchange()).status == 200
    assert not exchange.done()
    assert (await exchange).status == 503


async def test_a_proof_that_never_reached_the_backend_may_come_again(make_world: Any) -> None:
    world = await make_world()
    client = await world.client()
    await client.login()
    url = client.url(PATH)
    await world.backend.stop()
    headers = client.resource_headers("GET", url, ())
    assert (await client.wire.send("GET", url, headers)).status == 502
    await world.backend.start()
    assert (await client.wire.send("GET", url, headers)).status == 200
    answer = await client.wire.send("GET", url, headers)
    assert (answer.status, answer.error) == (401, "invalid_dpop_proof")
    assert world.backend.hits == 1


async def test_a_configuration_that_cannot_be_used_changes_nothing(make_world: Any) -> None:
    world = await make_world()
    client = await world.client()
    await client.login()
    good = world.config_file.read_text()
    for broken in ("gateway: [", good + "\nnonsense: 1\n", good.replace("package:demo", "package:nonesuch")):
        refused = world.log.count("reload_refused")
        world.config_file.write_text(broken)
        world.signal(signal.SIGHUP)
        end = time.monotonic() + 10
        while world.log.count("reload_refused") == refused:
            assert time.monotonic() < end, "the refused reload is not in the log"
            await asyncio.sleep(0.05)
        assert (await client.send("GET", PATH)).status == 200
        assert (await client.exchange()).status == 200
    assert (await world.readyz())[0] == 200


async def test_sigterm_lets_what_runs_end_and_then_exits_with_0(make_world: Any) -> None:
    world = await make_world()
    client = await world.client()
    await client.login()
    world.backend.hold = 1.0
    running = asyncio.create_task(client.send("GET", PATH))
    while not world.backend.hits:  # noqa: ASYNC110 - what is waited for has no event
        await asyncio.sleep(0.01)
    world.signal(signal.SIGTERM)
    assert (await running).status == 200
    assert world.process is not None
    assert await asyncio.to_thread(world.process.wait, 10) == 0
    with pytest.raises(aiohttp.ClientConnectionError):
        await world.readyz()


async def test_a_killed_guard_forgets_and_therefore_refuses_what_was_made_before(make_world: Any) -> None:
    world = await make_world()
    client = await world.client()
    await client.login()
    url = client.url(PATH)
    unspent = client.resource_headers("GET", url, ())
    world.kill()
    await world.start()
    answer = await client.wire.send("GET", url, unspent)
    assert (answer.status, json.loads(answer.body)["error"]) == (401, "invalid_dpop_proof")
