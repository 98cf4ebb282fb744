"""The connection to Redis: deadlines, loss, restoring, and what stands in the server."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable

import pytest

from zeta_guard.config.store import RedisStore as RedisStoreConfig
from zeta_guard.errors import ZetaError
from zeta_guard.jose.sealing import Secrets
from zeta_guard.simulators.redis_process import RedisProcess
from zeta_guard.store import open_store
from zeta_guard.store.contract import Block, Claim, ClaimStatus, Client, Session, Store
from zeta_guard.store.redis import RedisStore
from zeta_guard.store.redis_connection import ConnectionLost, RedisConnection, pack
from zeta_guard.store.redis_link import RedisLink

pytestmark = pytest.mark.redis

T0 = 1_750_000_000.0
NOW = T0 + 10
Opener = Callable[..., Awaitable[Store]]
StartRedis = Callable[..., RedisProcess]


async def claim(store: Store, name: str, owner: str = "") -> ClaimStatus:
    key = hashlib.sha256(name.encode()).digest()
    outcome = await store.claim([Claim(key, NOW, 60)], [], owner=owner or name, fingerprint=bytes(32), now=NOW)
    return outcome.status


async def refused(store: Store, name: str) -> bool:
    try:
        await claim(store, name)
    except ZetaError as error:
        return error.status == 503
    return False


async def recover(store: Store) -> None:
    for attempt in range(1000):
        if not await refused(store, f"probe{attempt}"):
            return
        await asyncio.sleep(0.01)
    pytest.fail("does not come back")


async def test_server_that_hangs_is_a_503_within_the_deadline(start_redis: StartRedis, open_redis: Opener) -> None:
    server = start_redis()
    store = await open_redis(RedisStoreConfig(url=server.url, timeout_ms=100, connect_timeout_ms=100))
    server.pause()
    began = time.monotonic()
    outcomes = await asyncio.gather(*(refused(store, f"p{i}") for i in range(50)))
    assert all(outcomes)
    assert time.monotonic() - began < 2
    began = time.monotonic()
    assert await refused(store, "while it is known to be away")
    assert time.monotonic() - began < 0.5
    server.resume()
    await recover(store)
    assert await claim(store, "after") is ClaimStatus.WON


async def test_stopped_server_refuses_everything_and_a_new_one_is_found(
    start_redis: StartRedis, open_redis: Opener
) -> None:
    server = start_redis()
    store = await open_redis(RedisStoreConfig(url=server.url))
    server.stop()
    assert await refused(store, "p")
    for call in (
        store.ping(),
        store.get_session("s", now=NOW),
        store.blocks(now=NOW),
        store.take("b", per_minute=1, burst=1, now=NOW),
    ):
        with pytest.raises(ZetaError) as error:
            await call
        assert error.value.status == 503
    server.start()
    await recover(store)
    await store.ping()
    assert isinstance(store, RedisStore)
    assert store.reconnects == 1


async def test_forgotten_scripts_are_loaded_again(start_redis: StartRedis, open_redis: Opener) -> None:
    server = start_redis()
    store = await open_redis(RedisStoreConfig(url=server.url))
    server.ask("SCRIPT", "FLUSH")
    outcomes = await asyncio.gather(*(claim(store, f"p{i % 5}", f"r{i}") for i in range(20)))
    assert outcomes.count(ClaimStatus.WON) == 5


async def test_server_that_became_a_replica_is_left(start_redis: StartRedis, open_redis: Opener) -> None:
    server = start_redis()
    store = await open_redis(RedisStoreConfig(url=server.url))
    server.ask("REPLICAOF", "127.0.0.1", "1")
    assert await refused(store, "p")
    server.ask("REPLICAOF", "NO", "ONE")
    await recover(store)
    assert await claim(store, "p") is ClaimStatus.WON


async def test_full_server_is_a_503_and_nobody_wins(start_redis: StartRedis, open_redis: Opener) -> None:
    server = start_redis()
    store = await open_redis(RedisStoreConfig(url=server.url))
    server.ask("CONFIG", "SET", "maxmemory", "1")
    assert await refused(store, "p")
    server.ask("CONFIG", "SET", "maxmemory", "0")
    assert await claim(store, "p") is ClaimStatus.WON


async def test_refusing_server_does_not_flood_the_log(
    start_redis: StartRedis, open_redis: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    server = start_redis()
    store = await open_redis(RedisStoreConfig(url=server.url))
    server.ask("CONFIG", "SET", "maxmemory", "1")
    assert all(await asyncio.gather(*(refused(store, f"p{i}") for i in range(50))))
    assert [record.getMessage() for record in caplog.records].count("store_refused") == 1


async def test_cancelled_caller_does_not_shift_the_replies_of_others(
    start_redis: StartRedis, open_redis: Opener
) -> None:
    server = start_redis()
    store = await open_redis(RedisStoreConfig(url=server.url))
    await claim(store, "used", "somebody")
    tasks = [asyncio.create_task(claim(store, "used" if i % 2 else f"p{i}", f"r{i}")) for i in range(40)]
    await asyncio.sleep(0)
    for task in tasks[::4]:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    for i, outcome in enumerate(outcomes):
        if i % 4:
            assert outcome is (ClaimStatus.LOST if i % 2 else ClaimStatus.WON)
        else:
            assert isinstance(outcome, asyncio.CancelledError)


async def test_closed_store_refuses_at_once(start_redis: StartRedis, open_redis: Opener) -> None:
    server = start_redis()
    store = await open_redis(RedisStoreConfig(url=server.url, timeout_ms=30_000))
    await store.close()
    async with asyncio.timeout(5):
        assert await refused(store, "p")
    await store.close()


async def test_store_that_is_closed_while_it_reconnects_refuses_at_once(
    start_redis: StartRedis, open_redis: Opener
) -> None:
    server = start_redis()
    store = await open_redis(RedisStoreConfig(url=server.url, timeout_ms=30_000))
    assert isinstance(store, RedisStore)
    assert store._link.current is not None
    server.pause()
    store._link.current.abort()
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await store.close()
        assert await refused(store, "p")
    server.resume()


async def test_nothing_is_sent_over_a_connection_that_has_ended(start_redis: StartRedis, open_redis: Opener) -> None:
    store = await open_redis(RedisStoreConfig(url=start_redis().url))
    assert isinstance(store, RedisStore)
    connection = store._link.current
    assert connection is not None
    connection.abort()
    with pytest.raises(ConnectionLost):
        connection.send(pack(("PING",)))


async def test_store_that_was_not_started_refuses_at_once(start_redis: StartRedis, guard_secrets: Secrets) -> None:
    config = RedisStoreConfig(url=start_redis().url, timeout_ms=30_000)
    store = open_store(config, secrets=guard_secrets, clock=lambda: T0)
    async with asyncio.timeout(5):
        with pytest.raises(ZetaError) as error:
            await store.ping()
    assert error.value.status == 503


async def test_no_fault_ends_the_attempts_to_reconnect(start_redis: StartRedis) -> None:
    server, rounds = start_redis(), 0

    async def settle(connection: RedisConnection) -> None:
        nonlocal rounds
        rounds += 1
        if rounds in (2, 3):
            raise RuntimeError("a fault that nobody thought of")

    link = RedisLink(RedisStoreConfig(url=server.url), (), settle)
    await link.start()
    server.ask("CLIENT", "KILL", "TYPE", "normal")
    async with asyncio.timeout(5):
        while link.reconnects == 0:  # noqa: ASYNC110 - asked of the link
            await asyncio.sleep(0.01)
    assert await link.call("PING") == b"PONG"
    assert rounds == 4
    await link.close()


async def test_what_a_server_refuses_is_not_sent_again(start_redis: StartRedis, open_redis: Opener) -> None:
    server = start_redis()
    store = await open_redis(RedisStoreConfig(url=server.url))
    server.ask("CONFIG", "SET", "maxmemory", "1")
    server.ask("CONFIG", "RESETSTAT")
    assert await refused(store, "p")
    lines = server.ask("INFO", "commandstats").splitlines()
    found = next(line for line in lines if line.startswith("cmdstat_evalsha:"))
    counts = dict(part.split("=") for part in found.split(":")[1].split(","))
    assert int(counts["calls"]) + int(counts["rejected_calls"]) == 1


async def fill(store: Store) -> None:
    """One of everything."""
    await claim(store, "p")
    for name in "ab":
        await store.register_client(
            Client(name, f"jkt-{name}", {}, "name", int(NOW)), ttl=300, most_pending=10, now=NOW
        )
    for name in "ab":
        await store.bind_client(name, institution="i", platform="p", ttl=900, most=1, new_per_hour=9, now=NOW)
    await store.register_client(Client("c", "jkt-c", {}, "name", int(NOW)), ttl=300, most_pending=10, now=NOW)
    await store.touch_client("b", ttl=900, now=NOW)
    for name in "st":
        session = Session(name, "b", "i", "jkt", "j0", int(NOW), int(NOW) + 600, b"sealed")
        await store.start_session(session, now=NOW)
    await store.end_session("t", reason="revoked", ttl=60, now=NOW)
    await store.block(Block("client:x", "emergency", NOW + 60, NOW), now=NOW)
    await store.unblock("client:x")
    await store.put_cached("k", b"v", ttl=60, now=NOW)
    await store.take("b", per_minute=60, burst=5, now=NOW)
    await store.see_key("jkt", ttl=60, now=NOW)


async def test_every_key_has_the_prefix_and_a_time_to_live(start_redis: StartRedis, open_redis: Opener) -> None:
    server = start_redis()
    store = await open_redis(RedisStoreConfig(url=server.url, key_prefix="here:"))
    await fill(store)
    await store.blocks(now=NOW)
    without_end = server.ask(
        "EVAL",
        "local r = {} for _, k in ipairs(redis.call('KEYS', '*')) do "
        "if redis.call('PTTL', k) < 0 or string.sub(k, 1, 5) ~= 'here:' then r[#r + 1] = k end end "
        "return #redis.call('KEYS', '*') .. ' ' .. table.concat(r, ' ')",
        "0",
    )
    count, _, named = without_end.split("\r\n")[1].partition(" ")
    assert int(count) >= 14
    assert named == ""


@pytest.mark.parametrize("change", ["changed", "moved", "truncated", "version"])
async def test_records_that_the_guard_did_not_write_are_no_records(
    start_redis: StartRedis, open_redis: Opener, change: str
) -> None:
    server = start_redis()
    store = await open_redis(RedisStoreConfig(url=server.url))
    await fill(store)
    assert await store.get_client("b", now=NOW) is not None
    assert await store.get_session("s", now=NOW) is not None
    edit = {
        "changed": "v = string.gsub(v, 'jkt', 'jkx')",
        "moved": "v = v",
        "truncated": "v = string.sub(v, 1, 20)",
        "version": "v = '9' .. string.sub(v, 2)",
    }[change]
    target = "other" if change == "moved" else "b"
    server.ask(
        "EVAL",
        f"local v = redis.call('HGET', 'zg:client:b', 'r') {edit} "
        f"redis.call('HSET', 'zg:client:{target}', 'r', v, 'u', '1', 'x', '99999999999')",
        "0",
    )
    session = "other" if change == "moved" else "s"
    server.ask(
        "EVAL", f"local v = redis.call('GET', 'zg:session:s') {edit} redis.call('SET', 'zg:session:{session}', v)", "0"
    )
    assert await store.get_client(target, now=NOW) is None
    assert await store.get_session(session, now=NOW) is None
    rotated = await store.rotate_session(
        session, presented_jti="j0", successor_jti="j1", jkt="jkt", sealed_answer=b"", grace=10, now=NOW
    )
    assert rotated.status.value == "gone"


async def test_commands_of_requests_that_arrive_together_travel_together(
    start_redis: StartRedis, open_redis: Opener
) -> None:
    server = start_redis()
    store = await open_redis(RedisStoreConfig(url=server.url))

    def reads() -> int:
        lines = server.ask("INFO", "stats").splitlines()
        return next(int(line.split(":")[1]) for line in lines if line.startswith("total_reads_processed"))

    before = reads()
    await asyncio.gather(*(claim(store, f"p{i}") for i in range(100)))
    assert reads() - before < 20
