"""Cached values, token buckets and ages of DPoP keys, in both stores."""

from __future__ import annotations

import asyncio

import pytest

from zeta_guard.store.contract import Bucket, Store

NOW = 1_750_000_010.0


async def test_cached_value_is_shared_until_its_end(replicas: tuple[Store, Store]) -> None:
    await replicas[0].put_cached("ocsp:1", b"\x00\xff" * 100, ttl=60, now=NOW)
    assert await replicas[1].get_cached("ocsp:1", now=NOW + 59) == b"\x00\xff" * 100
    assert await replicas[1].get_cached("ocsp:1", now=NOW + 60) is None
    assert await replicas[1].get_cached("ocsp:2", now=NOW) is None


async def test_cached_value_is_replaced(store: Store) -> None:
    await store.put_cached("k", b"old", ttl=60, now=NOW)
    await store.put_cached("k", b"", ttl=600, now=NOW)
    assert await store.get_cached("k", now=NOW + 61) == b""


async def test_value_beyond_64_kib_is_not_cached(store: Store) -> None:
    await store.put_cached("k", bytes(65_536), ttl=60, now=NOW)
    with pytest.raises(ValueError, match="65536"):
        await store.put_cached("k", bytes(65_537), ttl=60, now=NOW)


async def test_bucket_allows_its_burst_then_refills(replicas: tuple[Store, Store]) -> None:
    first, second = replicas
    assert await first.take("b", per_minute=60, burst=2, now=NOW) == Bucket(True, 2, 1, 1, 0)
    assert await second.take("b", per_minute=60, burst=2, now=NOW) == Bucket(True, 2, 0, 2, 0)
    assert await first.take("b", per_minute=60, burst=2, now=NOW) == Bucket(False, 2, 0, 2, 1)
    assert await second.take("b", per_minute=60, burst=2, now=NOW + 0.5) == Bucket(False, 2, 0, 2, 1)
    assert await first.take("b", per_minute=60, burst=2, now=NOW + 1) == Bucket(True, 2, 0, 2, 0)
    assert (await first.take("other", per_minute=60, burst=2, now=NOW)).remaining == 1


async def test_bucket_never_holds_more_than_its_burst(store: Store) -> None:
    await store.take("b", per_minute=60, burst=2, now=NOW)
    assert (await store.take("b", per_minute=60, burst=2, now=NOW + 3600)).remaining == 1


async def test_clock_that_steps_back_fills_no_bucket(store: Store) -> None:
    await store.take("b", per_minute=60, burst=1, now=NOW)
    assert not (await store.take("b", per_minute=60, burst=1, now=NOW - 10)).allowed
    assert not (await store.take("b", per_minute=60, burst=1, now=NOW + 0.5)).allowed


async def test_slow_bucket_names_the_seconds_to_wait(store: Store) -> None:
    await store.take("b", per_minute=1, burst=1, now=NOW)
    refused = await store.take("b", per_minute=1, burst=1, now=NOW + 1)
    assert (refused.allowed, refused.retry_after, refused.reset) == (False, 59, 59)


async def test_of_many_takers_exactly_the_burst_is_served(replicas: tuple[Store, Store]) -> None:
    taken = await asyncio.gather(*(replicas[i % 2].take("b", per_minute=60, burst=7, now=NOW) for i in range(30)))
    assert sum(bucket.allowed for bucket in taken) == 7


async def test_first_sight_of_a_key_is_remembered(replicas: tuple[Store, Store]) -> None:
    assert await replicas[0].first_seen("jkt", ttl=3600, now=NOW) == NOW
    assert await replicas[1].first_seen("jkt", ttl=3600, now=NOW + 100.5) == NOW
    assert await replicas[1].first_seen("other", ttl=3600, now=NOW + 100) == NOW + 100


async def test_store_answers_a_ping(store: Store) -> None:
    await store.ping()
