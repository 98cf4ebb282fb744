"""Losing the store must not reopen the past, and only a real Redis can lose something."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from zeta_guard.config.store import RedisStore as RedisStoreConfig
from zeta_guard.errors import ZetaError
from zeta_guard.jose.sealing import Secrets
from zeta_guard.simulators.redis_process import RedisProcess
from zeta_guard.store import Role, open_store
from zeta_guard.store.contract import Block, Charge, Claim, Store

pytestmark = pytest.mark.redis

T0 = 1_750_000_000.0
PRINT = hashlib.sha256(b"this request").digest()


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = T0

    def __call__(self) -> float:
        return self.now


class Replica:
    """One guard process's store with its clock."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self.store = store
        self.clock = clock

    async def claim(self, name: str, *, dated: float | None = None, owner: str | None = None, ttl: int = 90) -> str:
        claim = Claim(hashlib.sha256(name.encode()).digest(), self.clock.now if dated is None else dated, ttl)
        outcome = await self.store.claim(
            [claim],
            ["session:s1", "client:c1"],
            owner=owner or secrets.token_hex(8),
            fingerprint=PRINT,
            now=self.clock.now,
        )
        return outcome.status.value

    async def recovers(self, name: str, *, dated: float | None = None, owner: str | None = None) -> str:
        """The first outcome that is no 503."""
        async with asyncio.timeout(20):
            while True:
                try:
                    return await self.claim(name, dated=dated, owner=owner)
                except ZetaError:
                    await asyncio.sleep(0.01)


OpenReplica = Callable[..., Awaitable[Replica]]
StartRedis = Callable[..., RedisProcess]


@pytest.fixture
async def open_replica(guard_secrets: Secrets) -> AsyncIterator[OpenReplica]:
    opened: list[Store] = []

    async def open_one(server: RedisProcess, clock: Clock, role: Role = "all") -> Replica:
        store = open_store(RedisStoreConfig(url=server.url), secrets=guard_secrets, clock=clock, role=role)
        opened.append(store)
        await store.start()
        return Replica(store, clock)

    yield open_one
    for store in opened:
        await store.close()


async def test_emptied_server_is_noticed_without_a_lost_connection(
    start_redis: StartRedis, open_replica: OpenReplica
) -> None:
    server, clock = start_redis(), Clock()
    replica = await open_replica(server, clock)
    clock.now += 10
    used = clock.now - 1
    assert await replica.claim("proof", dated=used) == "won"
    before = replica.store.epoch
    server.ask("FLUSHALL")
    assert await replica.claim("proof", dated=used) == "stale"
    assert await replica.claim("never seen, but made before", dated=clock.now) == "stale"
    assert replica.store.epoch.identity != before.identity
    assert replica.store.epoch.started_at == clock.now
    clock.now += 1
    assert await replica.claim("fresh") == "won"


async def test_emptied_server_is_noticed_by_a_spending_before_anything_is_charged(
    start_redis: StartRedis, open_replica: OpenReplica
) -> None:
    server, clock = start_redis(), Clock()
    replica = await open_replica(server, clock)
    clock.now += 10

    async def spend(name: str, dated: float) -> str:
        claim, charge = Claim(hashlib.sha256(name.encode()).digest(), dated, 90), Charge("client:c", 60, 3)
        outcome = await replica.store.spend([claim], (), [charge], owner=name, fingerprint=PRINT, now=clock.now)
        return outcome.status.value

    assert await spend("proof", clock.now - 1) == "won"
    server.ask("FLUSHALL")
    assert await spend("proof", clock.now - 1) == "stale"
    assert (await replica.store.take("client:c", per_minute=60, burst=3, now=clock.now)).remaining == 2
    clock.now += 1
    server.ask("FLUSHALL")
    assert await spend("dated ahead of the new epoch", clock.now + 0.5) == "stale", "for some seconds after a loss"
    assert (await replica.store.take("client:c", per_minute=60, burst=3, now=clock.now)).remaining == 2


async def test_emptied_server_is_noticed_by_reading_blocks(start_redis: StartRedis, open_replica: OpenReplica) -> None:
    server, clock = start_redis(), Clock()
    replica = await open_replica(server, clock)
    before = replica.store.epoch
    server.ask("FLUSHALL")
    await replica.store.blocks(now=clock.now)
    assert replica.store.epoch.identity != before.identity


async def test_restarted_server_begins_an_epoch(start_redis: StartRedis, open_replica: OpenReplica) -> None:
    server, clock = start_redis(), Clock()
    replica = await open_replica(server, clock)
    clock.now += 10
    used = clock.now
    assert await replica.claim("proof", dated=used) == "won"
    server.stop()
    clock.now += 5
    server.start()
    assert await replica.recovers("proof", dated=used) == "stale"
    assert replica.store.epoch.started_at == clock.now
    clock.now += 1
    assert await replica.claim("fresh") == "won"


async def test_all_replicas_agree_on_the_new_epoch(start_redis: StartRedis, open_replica: OpenReplica) -> None:
    server, clock = start_redis(), Clock()
    replicas = [await open_replica(server, clock) for _ in range(3)]
    clock.now += 10
    server.ask("FLUSHALL")
    outcomes = await asyncio.gather(*(one.claim("proof", dated=clock.now - 1) for one in replicas for _ in range(5)))
    assert set(outcomes) == {"stale"}
    assert len({one.store.epoch for one in replicas}) == 1


async def test_new_process_takes_over_the_epoch_that_stands(start_redis: StartRedis, open_replica: OpenReplica) -> None:
    server, clock = start_redis(), Clock()
    first = await open_replica(server, clock)
    clock.now += 100
    assert await first.claim("proof", dated=clock.now - 1) == "won"
    second = await open_replica(server, clock)
    assert second.store.epoch == first.store.epoch
    assert await second.claim("proof", dated=clock.now - 1) == "lost"


async def test_lost_connection_alone_begins_no_epoch(start_redis: StartRedis, open_replica: OpenReplica) -> None:
    server, clock = start_redis(), Clock()
    replica = await open_replica(server, clock)
    clock.now += 10
    before = replica.store.epoch
    assert await replica.claim("proof", owner="r1") == "won"
    server.ask("CLIENT", "KILL", "TYPE", "normal")
    assert await replica.recovers("proof", owner="r2") == "lost"
    assert replica.store.epoch == before


async def test_proof_from_the_future_stays_used_after_the_server_was_emptied(
    start_redis: StartRedis, open_replica: OpenReplica
) -> None:
    server, clock = start_redis(), Clock()
    first, second = await open_replica(server, clock), await open_replica(server, clock)
    clock.now += 10
    ahead = clock.now + 14
    assert await first.claim("fast clock", dated=ahead) == "won"
    server.ask("FLUSHALL")
    # Until every process has had the time to write back, nothing dated ahead passes.
    assert await second.claim("fast clock", dated=ahead) == "stale"
    await first.store.blocks(now=clock.now)
    clock.now += 5
    assert await second.claim("fast clock", dated=ahead) == "lost"
    assert await second.claim("another fast clock", dated=ahead) == "won"


async def test_blocks_known_to_a_process_come_back_after_the_server_was_emptied(
    start_redis: StartRedis, open_replica: OpenReplica
) -> None:
    server, clock = start_redis(), Clock()
    admin = await open_replica(server, clock)
    gateway = await open_replica(server, clock, "gateway")
    other = await open_replica(server, clock, "gateway")
    clock.now += 10
    block = Block("session:s1", "terminated", clock.now + 900, clock.now, note="by hand")
    await admin.store.block(block, now=clock.now)
    assert [one.subject for one in await gateway.store.blocks(now=clock.now)] == ["session:s1"]
    server.ask("FLUSHALL")
    await gateway.store.blocks(now=clock.now)
    clock.now += 1
    assert await other.claim("fresh") == "blocked"
    assert list(await other.store.blocks(now=clock.now)) == [block]
    assert list(await gateway.store.blocks(now=clock.now)) == [block]
    assert await admin.store.unblock("session:s1")
    assert await other.claim("fresh") == "won"
    assert list(await gateway.store.blocks(now=clock.now)) == []


async def test_blocks_that_are_over_do_not_come_back(start_redis: StartRedis, open_replica: OpenReplica) -> None:
    server, clock = start_redis(), Clock()
    replica = await open_replica(server, clock)
    await replica.store.block(Block("session:s1", "revoked", clock.now + 5, clock.now), now=clock.now)
    await replica.store.blocks(now=clock.now)
    server.ask("FLUSHALL")
    clock.now += 6
    assert list(await replica.store.blocks(now=clock.now)) == []


async def test_epoch_never_starts_before_the_one_it_replaces(
    start_redis: StartRedis, open_replica: OpenReplica
) -> None:
    server, clock = start_redis(), Clock()
    replica = await open_replica(server, clock)
    before = replica.store.epoch
    clock.now -= 10
    server.ask("FLUSHALL")
    await replica.store.blocks(now=clock.now)
    assert replica.store.epoch.started_at == before.started_at


async def test_a_block_that_stands_counts_more_than_the_same_that_was_given_back(
    start_redis: StartRedis, open_replica: OpenReplica
) -> None:
    server, clock = start_redis(), Clock()
    replica = await open_replica(server, clock)
    older = Block("session:s1", "revoked", clock.now + 60, clock.now)
    await replica.store.block(older, now=clock.now)
    await replica.store.blocks(now=clock.now)
    server.ask("FLUSHALL")
    assert list(await replica.store.blocks(now=clock.now)) == [older]
    newer = Block("session:s1", "emergency", clock.now + 900, clock.now)
    await replica.store.block(newer, now=clock.now)
    assert list(await replica.store.blocks(now=clock.now)) == [newer]


@pytest.mark.parametrize(
    "value",
    ["garbage", "\\xff|\\xfe|\\xff", "||", "e|when|RUN_ID", "e|nan|RUN_ID", "e|inf|RUN_ID", "RUN_ID", "|RUN_ID"],
)
async def test_an_epoch_that_the_guard_did_not_write_lets_no_old_proof_in(
    start_redis: StartRedis, open_replica: OpenReplica, value: str
) -> None:
    server, clock = start_redis(), Clock()
    replica = await open_replica(server, clock)
    clock.now += 10
    used = clock.now - 1
    assert await replica.claim("proof", dated=used) == "won"
    run_id = next(line[7:] for line in server.ask("INFO", "server").splitlines() if line.startswith("run_id:"))
    server.ask("FLUSHALL")
    server.ask("SET", "zg:epoch", value.replace("RUN_ID", run_id))
    for _ in range(2):
        if "RUN_ID" in value:
            # With the name of its server it is a damaged one, and nobody but an operator may replace it.
            with pytest.raises(ZetaError) as refused:
                await replica.claim("proof", dated=used)
            assert refused.value.status == 503
        else:
            assert await replica.claim("proof", dated=used) == "stale"


async def test_clock_far_behind_the_epoch_of_others_is_refused(
    start_redis: StartRedis, open_replica: OpenReplica
) -> None:
    server = start_redis()
    await open_replica(server, Clock())
    late = Clock()
    late.now -= 16
    replica = await open_replica(server, late)
    with pytest.raises(ZetaError) as refused:
        await replica.claim("proof")
    assert refused.value.status == 503


async def test_blocks_are_not_read_by_a_clock_that_was_set_back(
    start_redis: StartRedis, open_replica: OpenReplica
) -> None:
    clock = Clock()
    replica = await open_replica(start_redis(), clock)
    clock.now += 100
    await replica.store.blocks(now=clock.now)
    await replica.store.blocks(now=clock.now - 15)
    with pytest.raises(ZetaError) as refused:
        await replica.store.blocks(now=clock.now - 15.5)
    assert refused.value.status == 503


async def test_answer_lost_with_the_connection_is_won_by_its_owner(
    start_redis: StartRedis, open_replica: OpenReplica
) -> None:
    server, clock = start_redis(), Clock()
    replica = await open_replica(server, clock)
    clock.now += 10
    server.pause()
    waiting = [asyncio.create_task(replica.recovers(f"proof{i}", owner=f"r{i}")) for i in range(20)]
    await asyncio.sleep(0)
    server.resume()
    server.ask("CLIENT", "KILL", "TYPE", "normal")
    assert set(await asyncio.gather(*waiting)) == {"won"}
