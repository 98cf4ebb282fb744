"""Claims answered in a callback: what happens when the answer cannot be had in this way, and that nobody wins twice by it.

What both ways share is in ``test_claims``, which runs through both.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable

import pytest

from zeta_guard.config.store import RedisStore as RedisStoreConfig
from zeta_guard.errors import ZetaError
from zeta_guard.simulators.redis_process import RedisProcess
from zeta_guard.store.contract import Claim, ClaimOutcome, ClaimStatus, Store
from zeta_guard.store.redis_connection import RedisConnection
from zeta_guard.store.redis_replay import RedisReplayStore

T0 = 1_750_000_000.0
NOW = T0 + 10
PRINT = hashlib.sha256(b"this request").digest()

Opener = Callable[..., Awaitable[Store]]
StartRedis = Callable[..., RedisProcess]


class Asked:
    """A claim that was begun, and what came back."""

    def __init__(self, store: Store, name: str, *, owner: str = "r1", dated: float = NOW, now: float = NOW) -> None:
        self.outcomes: list[ClaimOutcome | None] = []
        self._store = store
        self._claim = Claim(hashlib.sha256(name.encode()).digest(), dated, 90)
        self._owner = owner
        self._now = now

    def begin(self) -> Asked:
        self._store.claim_soon(
            [self._claim],
            ["session:s"],
            owner=self._owner,
            fingerprint=PRINT,
            now=self._now,
            then=self.outcomes.append,
        )
        return self

    async def outcome(self) -> ClaimOutcome | None:
        async with asyncio.timeout(5):
            while not self.outcomes:  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.005)
        await asyncio.sleep(0.02)
        [outcome] = self.outcomes
        return outcome

    async def again(self, *, owner: str | None = None) -> ClaimStatus:
        """The same claim, awaited, once the store is back."""
        async with asyncio.timeout(20):
            while True:
                try:
                    outcome = await self._store.claim(
                        [self._claim],
                        ["session:s"],
                        owner=owner or self._owner,
                        fingerprint=PRINT,
                        now=self._now,
                    )
                except ZetaError:
                    await asyncio.sleep(0.01)
                else:
                    return outcome.status


def connection_of(store: Store) -> RedisConnection:
    assert isinstance(store, RedisReplayStore)
    connection = store._link.current
    assert connection is not None
    return connection


async def test_the_caller_hears_once(store: Store) -> None:
    first = Asked(store, "a").begin()
    second = Asked(store, "a", owner="r2").begin()
    assert await first.outcome() == ClaimOutcome(ClaimStatus.WON)
    assert await second.outcome() == ClaimOutcome(ClaimStatus.LOST, 0)


async def test_both_ways_know_of_each_other(replicas: tuple[Store, Store]) -> None:
    here, there = replicas
    asked = Asked(here, "a").begin()
    assert await asked.outcome() == ClaimOutcome(ClaimStatus.WON)
    assert await Asked(there, "a").again(owner="r2") is ClaimStatus.LOST
    assert await Asked(there, "b").again() is ClaimStatus.WON
    assert await Asked(here, "b", owner="r2").begin().outcome() == ClaimOutcome(ClaimStatus.LOST, 0)


async def test_of_fifty_at_once_in_both_ways_exactly_one_wins(replicas: tuple[Store, Store]) -> None:
    soon = [Asked(replicas[number % 2], "a", owner=f"s{number}").begin() for number in range(25)]
    later = await asyncio.gather(*(Asked(replicas[number % 2], "a").again(owner=f"l{number}") for number in range(25)))
    outcomes = [await asked.outcome() for asked in soon]
    statuses = [*later, *(outcome.status for outcome in outcomes if outcome is not None)]
    assert len(statuses) == 50
    assert statuses.count(ClaimStatus.WON) == 1


async def test_a_clock_that_is_behind_is_told_by_raising(store: Store) -> None:
    assert await Asked(store, "a").begin().outcome() is not None
    asked = Asked(store, "b", now=NOW - 16)
    with pytest.raises(ZetaError) as refused:
        asked.begin()
    assert refused.value.status == 503
    await asyncio.sleep(0.02)
    assert asked.outcomes == []


async def test_what_is_stale_is_told_before_anybody_is_asked(store: Store) -> None:
    asked = Asked(store, "a", dated=T0).begin()
    assert asked.outcomes == [ClaimOutcome(ClaimStatus.STALE, 0)]


# a server of the test's own


@pytest.fixture
async def pair(start_redis: StartRedis, open_redis: Opener) -> tuple[RedisProcess, Store]:
    server = start_redis()
    return server, await open_redis(RedisStoreConfig(url=server.url, timeout_ms=300))


@pytest.mark.redis
async def test_an_answer_that_is_lost_is_found_by_its_owner(pair: tuple[RedisProcess, Store]) -> None:
    """The server carries the claim out; the connection ends before the answer comes."""
    server, store = pair
    connection = connection_of(store)
    assert connection._transport is not None
    connection._transport.pause_reading()
    asked = Asked(store, "a").begin()
    while "1" not in server.ask("EVAL", "return #redis.call('keys', '*c:*')", "0"):  # noqa: ASYNC110 - asked of the server
        await asyncio.sleep(0.005)
    assert asked.outcomes == []
    connection.abort()
    assert await asked.outcome() is None
    assert await asked.again() is ClaimStatus.WON
    assert await asked.again(owner="r2") is ClaimStatus.LOST


@pytest.mark.redis
async def test_a_server_that_hangs_leaves_nobody_without_an_answer(pair: tuple[RedisProcess, Store]) -> None:
    server, store = pair
    server.pause()
    try:
        asked = [Asked(store, name, owner=name).begin() for name in "abc"]
        assert [await one.outcome() for one in asked] == [None, None, None]
        # Without a connection the answer is none, at once.
        assert Asked(store, "d").begin().outcomes == [None]
    finally:
        server.resume()
    assert await asked[0].again() is ClaimStatus.WON
    assert await asked[0].again(owner="r2") is ClaimStatus.LOST


@pytest.mark.redis
async def test_without_a_server_nobody_wins(pair: tuple[RedisProcess, Store]) -> None:
    server, store = pair
    server.stop()
    asked = Asked(store, "a").begin()
    assert await asked.outcome() is None
    with pytest.raises(ZetaError) as refused:
        await store.claim([asked._claim], [], owner="r1", fingerprint=PRINT, now=NOW)
    assert refused.value.status == 503


@pytest.mark.redis
async def test_a_server_that_forgot_the_script_gets_it_again(pair: tuple[RedisProcess, Store]) -> None:
    server, store = pair
    assert await Asked(store, "a").begin().outcome() == ClaimOutcome(ClaimStatus.WON)
    server.ask("SCRIPT", "FLUSH")
    asked = Asked(store, "b").begin()
    assert await asked.outcome() is None
    assert await asked.again() is ClaimStatus.WON
    assert await Asked(store, "b", owner="r2").begin().outcome() == ClaimOutcome(ClaimStatus.LOST, 0)
    assert await Asked(store, "c").begin().outcome() == ClaimOutcome(ClaimStatus.WON)


@pytest.mark.redis
async def test_a_server_that_lost_its_memory_lets_nobody_win_with_what_was_before(
    start_redis: StartRedis, open_redis: Opener
) -> None:
    server = start_redis()
    store = await open_redis(RedisStoreConfig(url=server.url), now=T0)
    assert await Asked(store, "a", dated=T0 + 1).begin().outcome() == ClaimOutcome(ClaimStatus.WON)
    store._clock = lambda: NOW  # type: ignore[attr-defined]
    server.ask("FLUSHALL")
    again = Asked(store, "a", dated=T0 + 1, owner="r2").begin()
    assert await again.outcome() is None
    assert await again.again() is ClaimStatus.STALE
    assert store.epoch.started_at == NOW
    # The new epoch is known now: this way tells it, too.
    assert Asked(store, "b", dated=NOW).begin().outcomes == [ClaimOutcome(ClaimStatus.STALE, 0)]
    fresh = Asked(store, "b", dated=NOW + 6, now=NOW + 6).begin()
    assert await fresh.outcome() == ClaimOutcome(ClaimStatus.WON)


@pytest.mark.redis
async def test_a_store_that_is_closed_leaves_nobody_without_an_answer(pair: tuple[RedisProcess, Store]) -> None:
    server, store = pair
    server.pause()
    try:
        asked = Asked(store, "a").begin()
        await store.close()
        assert await asked.outcome() is None
    finally:
        server.resume()
