"""What the store counts and shows."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable

import pytest
from prometheus_client import CollectorRegistry

from zeta_guard.config.store import MemoryStore as MemoryStoreConfig
from zeta_guard.config.store import RedisStore as RedisStoreConfig
from zeta_guard.errors import ZetaError
from zeta_guard.jose.sealing import Secrets
from zeta_guard.simulators.redis_process import RedisProcess
from zeta_guard.store import open_store
from zeta_guard.store.contract import Block, Claim, Client, Session, Store
from zeta_guard.store.metrics import CommandCounts

T0 = 1_750_000_000.0
NOW = T0 + 10
StartRedis = Callable[..., RedisProcess]


class Shown:
    """The metrics of a store as a scrape shows them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

    def __call__(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"zeta_guard_store_{name}", labels)

    def error(self, kind: str) -> float:
        return self("errors_total", kind=kind) or 0.0


async def claim(store: Store, name: str) -> None:
    key = hashlib.sha256(name.encode()).digest()
    await store.claim([Claim(key, NOW, 60)], [], owner=name, fingerprint=bytes(32), now=NOW)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - another process is waited for
            await asyncio.sleep(0.01)


async def test_the_memory_store_shows_how_full_it_is(guard_secrets: Secrets) -> None:
    shown = Shown()
    store = open_store(
        MemoryStoreConfig(max_entries=2000), secrets=guard_secrets, clock=lambda: T0, registry=shown.registry
    )
    await store.start()
    await claim(store, "one")
    await claim(store, "two")
    await store.register_client(Client("c1", "t1", {}, "client", int(NOW)), ttl=300, most_pending=10, now=NOW)
    await store.start_session(Session("s1", "c1", "i", "jkt", "j", int(NOW), int(NOW) + 60, b""), now=NOW)
    await store.block(Block("client:c1", "emergency", NOW + 60, NOW), now=NOW)
    found = {
        kind: (shown("entries", kind=kind), shown("entries_limit", kind=kind))
        for kind in ("claims", "clients", "sessions", "blocks", "dpop_keys")
    }
    assert found == {
        "claims": (2, 2000),
        "clients": (1, 200),
        "sessions": (1, 200),
        "blocks": (1, 200),
        "dpop_keys": (0, 200),
    }
    assert shown("connected") == 1
    assert shown("reconnects_total") == 0
    assert shown("command_seconds_count") is None


def test_latencies_are_counted_by_bound() -> None:
    counts = CommandCounts()
    for seconds in (0.0001, 0.0002, 3.0):
        counts.observe(seconds)
    buckets, total = counts.latencies()
    assert dict(buckets)["0.0001"] == 1
    assert dict(buckets)["0.00025"] == 2
    assert dict(buckets)["2.5"] == 2
    assert dict(buckets)["+Inf"] == 3
    assert total == pytest.approx(3.0003)


@pytest.fixture
async def opened(start_redis: StartRedis, guard_secrets: Secrets) -> Callable[..., Awaitable[tuple[Store, Shown]]]:
    async def open_one(server: RedisProcess, **settings: object) -> tuple[Store, Shown]:
        shown = Shown()
        config = RedisStoreConfig.model_validate({"kind": "redis", "url": server.url, **settings})
        store = open_store(config, secrets=guard_secrets, clock=lambda: T0, registry=shown.registry)
        await store.start()
        return store, shown

    return open_one


Opened = Callable[..., Awaitable[tuple[Store, Shown]]]


@pytest.mark.redis
async def test_commands_are_counted_with_their_latency(start_redis: StartRedis, opened: Opened) -> None:
    store, shown = await opened(start_redis())
    before = shown("command_seconds_count") or 0.0
    await asyncio.gather(*(claim(store, f"p{i}") for i in range(20)))
    assert (shown("command_seconds_count") or 0.0) - before == 20
    assert 0 < (shown("command_seconds_sum") or 0.0) < 20
    assert shown("connected") == 1
    assert [shown.error(kind) for kind in ("refused", "lost", "unreachable")] == [0, 0, 0]
    assert shown("entries", kind="claims") is None
    await store.close()
    assert shown("connected") == 0


@pytest.mark.redis
async def test_a_hanging_server_costs_its_commands_and_a_reconnect(start_redis: StartRedis, opened: Opened) -> None:
    server = start_redis()
    store, shown = await opened(server, timeout_ms=100, connect_timeout_ms=100)
    server.pause()
    outcomes = await asyncio.gather(*(claim(store, f"p{i}") for i in range(5)), return_exceptions=True)
    assert all(isinstance(outcome, ZetaError) for outcome in outcomes)
    assert shown.error("lost") >= 5
    assert shown("connected") == 0
    await until(lambda: shown.error("unreachable"))
    server.resume()
    await until(lambda: shown("connected"))
    assert shown("reconnects_total") == 1
    await store.close()


@pytest.mark.redis
async def test_a_server_that_refuses_is_counted(start_redis: StartRedis, opened: Opened) -> None:
    server = start_redis()
    store, shown = await opened(server)
    server.ask("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(ZetaError):
        await store.put_cached("k", b"value", ttl=60, now=NOW)
    assert shown.error("refused") == 1
    await store.close()


@pytest.mark.redis
async def test_a_server_that_is_not_there_is_counted(start_redis: StartRedis) -> None:
    server = start_redis()
    server.stop()
    shown = Shown()
    store = open_store(
        RedisStoreConfig(url=server.url), secrets=Secrets([bytes(range(32))]), clock=lambda: T0, registry=shown.registry
    )
    with pytest.raises(ZetaError):
        await store.start()
    assert shown.error("unreachable") == 1
    assert shown("connected") == 0
