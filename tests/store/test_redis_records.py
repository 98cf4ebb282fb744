"""What stands in Redis after a step: nothing of what is over, all of what is still needed, and each for long enough."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import hiredis
import pytest

from zeta_guard.config.store import RedisStore as RedisStoreConfig
from zeta_guard.simulators.redis_process import RedisProcess
from zeta_guard.store.block_record import write_block
from zeta_guard.store.contract import (
    Block,
    Charge,
    Claim,
    ClaimStatus,
    Client,
    RotateOutcome,
    RotateStatus,
    Session,
    Store,
)

pytestmark = pytest.mark.redis

NOW = 1_750_000_010.0
SHORT, LONG = 300, 86_400
Opener = Callable[..., Awaitable[Store]]


class Inside:
    """The server as it is from inside; names are without the prefix."""

    def __init__(self, server: RedisProcess, prefix: str) -> None:
        self._server = server
        self._prefix = prefix

    def ask(self, command: str, name: str, *words: str) -> Any:
        reader = hiredis.Reader(encoding="utf-8", errors="replace")
        reader.feed(self._server.ask(command, self._prefix + name, *words).encode())
        return reader.gets()

    def members(self, name: str) -> list[str]:
        found: list[str] = self.ask("ZRANGE", name, "0", "-1")
        return found

    def seconds_left(self, name: str) -> float:
        return float(self.ask("PTTL", name)) / 1000


@pytest.fixture
async def opened(shared_redis: RedisProcess, open_redis: Opener) -> tuple[Store, Inside]:
    prefix = f"{secrets.token_hex(4)}:"
    return await open_redis(RedisStoreConfig(url=shared_redis.url, key_prefix=prefix)), Inside(shared_redis, prefix)


def client(name: str) -> Client:
    return Client(name, f"jkt-{name}", {"kty": "EC"}, "Praxis", int(NOW))


def session(name: str, *, life: int = 3600, now: float = NOW) -> Session:
    return Session(name, "c", "inst", "jkt", "j0", int(now), int(now) + life, b"sealed")


async def bind(store: Store, name: str, *, ttl: int = LONG, most: int = 9, now: float = NOW) -> None:
    await store.register_client(client(name), ttl=SHORT, most_pending=9, now=now)
    await store.bind_client(name, institution="inst", platform="linux", ttl=ttl, most=most, new_per_hour=9, now=now)


async def test_registrations_that_are_over_leave_with_the_next_one(opened: tuple[Store, Inside]) -> None:
    store, inside = opened
    for number, name in enumerate("abc"):
        await store.register_client(client(name), ttl=SHORT, most_pending=9, now=NOW + number)
    assert inside.members("pending") == ["a", "b", "c"]
    await store.register_client(client("d"), ttl=SHORT, most_pending=9, now=NOW + SHORT + 1)
    assert inside.members("pending") == ["c", "d"]


async def test_bindings_older_than_an_hour_leave_with_the_next_one(opened: tuple[Store, Inside]) -> None:
    store, inside = opened
    await bind(store, "a")
    await bind(store, "b", now=NOW + 1)
    await bind(store, "c", now=NOW + 3600)
    assert inside.members("bound:inst") == ["b", "c"]


async def test_sessions_that_are_over_leave_with_the_next_one(opened: tuple[Store, Inside]) -> None:
    store, inside = opened
    await store.start_session(session("a", life=10), now=NOW)
    await store.start_session(session("b", life=20), now=NOW)
    await store.start_session(session("c", now=NOW + 10), now=NOW + 10)
    for index in ("sessions", "sessions:inst"):
        assert inside.members(index) == ["b", "c"]


async def test_blocks_that_are_over_leave_with_the_next_one(opened: tuple[Store, Inside]) -> None:
    store, inside = opened
    await store.block(Block("client:a", "emergency", NOW + 5, NOW), now=NOW)
    await store.block(Block("client:b", "emergency", NOW + 60, NOW), now=NOW)
    await store.start_session(session("s"), now=NOW)
    await store.end_session("s", reason="revoked", ttl=5, now=NOW + 5)
    assert inside.members("blocks:until") == ["client:b", "session:s"]
    assert set(inside.ask("HKEYS", "blocks")) == {"", "client:b", "session:s"}
    await store.block(Block("client:c", "emergency", NOW + 99, NOW), now=NOW + 60)
    assert inside.members("blocks:until") == ["client:c", "session:s"]
    assert set(inside.ask("HKEYS", "blocks")) == {"", "client:c", "session:s"}


async def test_what_lasts_longest_decides_how_long_a_list_lasts(opened: tuple[Store, Inside]) -> None:
    store, inside = opened
    await store.block(Block("client:a", "emergency", NOW + LONG, NOW), now=NOW)
    await store.block(Block("client:b", "emergency", NOW + 1, NOW), now=NOW)
    await store.start_session(session("s", life=LONG), now=NOW)
    await store.start_session(session("t", life=1), now=NOW)
    for name in ("blocks", "blocks:until", "sessions", "sessions:inst"):
        assert LONG - 60 < inside.seconds_left(name) <= LONG + 1, name


async def test_what_several_processes_give_back_lasts_as_long_as_the_longest(
    start_redis: Callable[..., RedisProcess], open_redis: Opener
) -> None:
    server = start_redis()
    admin, first, second = [await open_redis(RedisStoreConfig(url=server.url)) for _ in range(3)]
    await admin.block(Block("client:short", "emergency", NOW + 60, NOW), now=NOW)
    await second.blocks(now=NOW)
    await admin.block(Block("client:long", "emergency", NOW + LONG, NOW), now=NOW)
    await first.blocks(now=NOW)
    server.ask("FLUSHALL")
    for store in (first, second):
        assert len(await store.blocks(now=NOW)) == 2
    assert LONG - 60 < Inside(server, "zg:").seconds_left("returned") < LONG + 60


async def test_each_claim_of_several_lasts_as_long_as_it_says(opened: tuple[Store, Inside]) -> None:
    store, inside = opened
    claims = [Claim(b"a" * 32, NOW, 60), Claim(b"b" * 32, NOW, 600), Claim(b"d" * 32, NOW, 300)]
    assert (await store.claim(claims, (), owner="r", fingerprint=bytes(32), now=NOW)).status is ClaimStatus.WON
    for claim in claims:
        assert claim.ttl - 30 < inside.seconds_left(f"c:{claim.key.decode()}") <= claim.ttl


async def test_a_bucket_is_remembered_until_it_is_full_again(opened: tuple[Store, Inside]) -> None:
    store, inside = opened
    for taken in range(1, 4):
        assert (await store.take("b", per_minute=1, burst=3, now=NOW)).allowed
        assert 60 * taken - 30 < inside.seconds_left("bucket:b") <= 60 * taken + 1
    await store.spend([Claim(b"e" * 32, NOW, 60)], (), [Charge("c", 1, 3)], owner="r", fingerprint=bytes(32), now=NOW)
    assert 30 < inside.seconds_left("bucket:c") <= 61


async def test_a_lifted_block_leaves_nothing(opened: tuple[Store, Inside]) -> None:
    store, inside = opened
    await store.block(Block("client:a", "emergency", NOW + 60, NOW), now=NOW)
    await store.block(Block("client:b", "emergency", NOW + 60, NOW), now=NOW)
    assert await store.unblock("client:a")
    assert inside.members("blocks:until") == ["client:b"]
    assert set(inside.ask("HKEYS", "blocks")) == {"", "client:b"}


async def test_a_client_that_left_leaves_nothing(opened: tuple[Store, Inside]) -> None:
    store, inside = opened
    await bind(store, "a")
    await bind(store, "b", now=NOW + 1)
    await bind(store, "c", most=2, now=NOW + 2)
    assert inside.members("of:inst") == ["b", "c"]
    await store.delete_client("b", now=NOW + 3)
    assert inside.members("of:inst") == ["c"]
    for name in "ab":
        assert (
            inside.ask(
                "EXISTS",
                f"client:{name}",
            )
            == 0
        )
        assert inside.ask("EXISTS", f"key:jkt-{name}") == 0
    assert inside.members("pending") == []


async def test_an_ended_session_leaves_nothing_but_its_block(opened: tuple[Store, Inside]) -> None:
    store, inside = opened
    for name in "st":
        await store.start_session(session(name), now=NOW)
    await store.end_session("s", reason="revoked", ttl=900, now=NOW)
    assert inside.ask("EXISTS", "session:s") == 0
    for index in ("sessions", "sessions:inst"):
        assert inside.members(index) == ["t"]


async def test_a_new_session_lets_its_client_live_longer(opened: tuple[Store, Inside]) -> None:
    store, inside = opened
    await bind(store, "c", ttl=SHORT)
    places = ("client:c", "key:jkt-c", "of:inst")
    assert all(0 < inside.seconds_left(place) <= SHORT for place in places)
    found = await store.look_up("c", now=NOW + 1)
    assert await store.start_session(session("s"), seen=found.seen, client_ttl=LONG, now=NOW + 1)
    assert all(LONG - 60 < inside.seconds_left(place) <= LONG for place in places)
    assert await store.get_client("c", now=NOW + LONG) is not None
    assert await store.get_client("c", now=NOW + 1 + LONG) is None


async def test_no_session_begins_for_a_client_that_was_not_there_when_it_was_looked_up(
    opened: tuple[Store, Inside],
) -> None:
    store, inside = opened
    found = await store.look_up("c", now=NOW)
    await bind(store, "c")
    assert not await store.start_session(session("s"), seen=found.seen, client_ttl=LONG, now=NOW)
    assert inside.ask("EXISTS", "session:s") == 0


async def test_a_use_alone_lets_a_client_live_longer(opened: tuple[Store, Inside]) -> None:
    store, inside = opened
    await bind(store, "c", ttl=SHORT)
    await store.touch_client("c", ttl=LONG, now=NOW + 1)
    assert all(LONG - 60 < inside.seconds_left(place) <= LONG for place in ("client:c", "key:jkt-c", "of:inst"))


@pytest.mark.parametrize("use", ["touch", "session"])
async def test_a_client_that_its_institution_lost_is_listed_again_from_its_next_use(
    opened: tuple[Store, Inside], use: str
) -> None:
    store, inside = opened
    await bind(store, "c")
    await bind(store, "d")
    # So does a process that cannot read the record, as with secrets of its own.
    inside.ask("ZREM", "of:inst", "c")
    assert [one.client_id for one in await store.list_clients("inst", now=NOW)] == ["d"]
    if use == "touch":
        await store.touch_client("c", ttl=LONG, now=NOW + 1)
    else:
        found = await store.look_up("c", now=NOW + 1)
        assert await store.start_session(session("s"), seen=found.seen, client_ttl=LONG, now=NOW + 1)
    assert [one.client_id for one in await store.list_clients("inst", now=NOW + 1)] == ["d", "c"]


async def test_a_client_without_a_record_is_taken_from_its_institutions_list(opened: tuple[Store, Inside]) -> None:
    store, inside = opened
    await bind(store, "c")
    await bind(store, "d")
    inside.ask("DEL", "client:c")
    assert [one.client_id for one in await store.list_clients("inst", now=NOW)] == ["d"]
    assert inside.members("of:inst") == ["d"]


@pytest.mark.parametrize("place", ["blocks", "returned"])
async def test_a_session_that_is_blocked_in_either_place_is_not_found(opened: tuple[Store, Inside], place: str) -> None:
    store, inside = opened
    await bind(store, "c")
    await store.start_session(session("s"), now=NOW)
    inside.ask("HSET", place, "session:s", write_block(Block("session:s", "emergency", NOW + 60, NOW)).decode())
    for now, found in ((NOW, False), (NOW + 59, False), (NOW + 60, True)):
        assert ((await store.look_up("c", session_id="s", now=now)).session is not None) is found
        assert (await store.get_session("s", now=now) is not None) is found


@pytest.mark.parametrize("place", ["blocks", "returned"])
async def test_a_session_that_was_blocked_in_either_place_since_it_was_seen_is_not_rotated(
    opened: tuple[Store, Inside], place: str
) -> None:
    store, inside = opened
    await bind(store, "c")
    await store.start_session(session("s"), now=NOW)
    found = await store.look_up("c", session_id="s", now=NOW)
    # As another process writes it back after the server was emptied.
    block = Block("session:s", "emergency", NOW + 60, NOW)
    inside.ask("HSET", place, "session:s", write_block(block).decode())
    rotated = await store.rotate_session(
        "s",
        presented_jti="j0",
        successor_jti="j1",
        jkt="jkt",
        sealed_answer=b"answer",
        grace=10,
        seen=found.seen,
        client_ttl=LONG,
        now=NOW,
    )
    assert rotated == RotateOutcome(RotateStatus.ENDED, reason="emergency")
    outcome = await store.claim((), ("session:s",), owner="r", fingerprint=b"", now=NOW)
    assert outcome.status is ClaimStatus.BLOCKED
