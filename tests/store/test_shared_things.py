"""Cached values, token buckets and ages of DPoP keys, in both stores."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from zeta_guard.config.store import MemoryStore as MemoryStoreConfig
from zeta_guard.config.store import RedisStore as RedisStoreConfig
from zeta_guard.errors import ZetaError
from zeta_guard.jose.sealing import Secrets
from zeta_guard.simulators.redis_process import RedisProcess
from zeta_guard.store import open_store
from zeta_guard.store.contract import Bucket, KeyAge, Store

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


async def test_clock_that_steps_back_empties_no_bucket(store: Store) -> None:
    assert (await store.take("b", per_minute=60, burst=3, now=NOW)).remaining == 2
    assert (await store.take("b", per_minute=60, burst=3, now=NOW - 10)).remaining == 1
    assert (await store.take("b", per_minute=60, burst=3, now=NOW)).remaining == 0
    assert (await store.take("b", per_minute=60, burst=3, now=NOW + 1)).allowed


async def test_slow_bucket_names_the_seconds_to_wait(store: Store) -> None:
    await store.take("b", per_minute=1, burst=1, now=NOW)
    refused = await store.take("b", per_minute=1, burst=1, now=NOW + 1)
    assert (refused.allowed, refused.retry_after, refused.reset) == (False, 59, 59)


async def test_of_many_takers_exactly_the_burst_is_served(replicas: tuple[Store, Store]) -> None:
    taken = await asyncio.gather(*(replicas[i % 2].take("b", per_minute=60, burst=7, now=NOW) for i in range(30)))
    assert sum(bucket.allowed for bucket in taken) == 7


async def test_first_and_last_sight_of_a_key_are_remembered(replicas: tuple[Store, Store]) -> None:
    assert await replicas[0].see_key("jkt", ttl=3600, now=NOW) == KeyAge(NOW, NOW)
    assert await replicas[1].see_key("jkt", ttl=3600, now=NOW + 100.5) == KeyAge(NOW, NOW)
    assert await replicas[0].see_key("jkt", ttl=3600, now=NOW + 200) == KeyAge(NOW, NOW + 100.5)
    assert await replicas[1].see_key("other", ttl=3600, now=NOW + 100) == KeyAge(NOW + 100, NOW + 100)


async def test_a_key_in_use_is_not_forgotten_and_never_young_again(replicas: tuple[Store, Store]) -> None:
    for day in range(4):
        age = await replicas[day % 2].see_key("jkt", ttl=86_401, now=NOW + day * 86_400)
        assert age.first_seen == NOW


async def test_last_sight_does_not_run_backwards(replicas: tuple[Store, Store]) -> None:
    await replicas[0].see_key("jkt", ttl=3600, now=NOW + 10)
    await replicas[1].see_key("jkt", ttl=3600, now=NOW)
    assert await replicas[0].see_key("jkt", ttl=3600, now=NOW + 20) == KeyAge(NOW + 10, NOW + 10)


async def test_memory_forgets_a_key_that_is_long_out_of_use(guard_secrets: Secrets) -> None:
    store = open_store(MemoryStoreConfig(max_entries=1000), secrets=guard_secrets, clock=lambda: NOW)
    await store.see_key("jkt", ttl=60, now=NOW)
    assert await store.see_key("jkt", ttl=60, now=NOW + 59) == KeyAge(NOW, NOW)
    assert await store.see_key("jkt", ttl=60, now=NOW + 119) == KeyAge(NOW + 119, NOW + 119)


async def test_memory_full_of_keys_refuses_instead_of_making_one_young(guard_secrets: Secrets) -> None:
    store = open_store(MemoryStoreConfig(max_entries=1000), secrets=guard_secrets, clock=lambda: NOW)
    for number in range(100):
        await store.see_key(f"k{number}", ttl=60, now=NOW)
    with pytest.raises(ZetaError) as caught:
        await store.see_key("one more", ttl=60, now=NOW)
    assert caught.value.status == 503
    assert (await store.see_key("k0", ttl=60, now=NOW + 1)).first_seen == NOW


@pytest.mark.redis
async def test_redis_forgets_a_key_after_its_last_use_and_reads_what_the_version_before_wrote(
    shared_redis: RedisProcess, open_redis: Callable[..., Awaitable[Store]]
) -> None:
    store = await open_redis(RedisStoreConfig(url=shared_redis.url, key_prefix="ages:"))
    await store.see_key("jkt", ttl=60, now=NOW)
    await store.see_key("jkt", ttl=3600, now=NOW + 1)
    assert 3_500_000 < int(shared_redis.ask("PTTL", "ages:seen:jkt").strip()[1:]) <= 3_600_000
    shared_redis.ask("SET", "ages:seen:old", f"{NOW}")
    assert await store.see_key("old", ttl=60, now=NOW + 5) == KeyAge(NOW, NOW)
    assert await store.see_key("old", ttl=60, now=NOW + 9) == KeyAge(NOW, NOW + 5)


async def test_store_answers_a_ping(store: Store) -> None:
    await store.ping()
