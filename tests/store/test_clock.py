"""The clock of a store never runs backwards: what writes refuses with 503 when it is asked about the past, in both stores."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from zeta_guard.errors import ZetaError
from zeta_guard.store.contract import Block, Charge, Claim, Client, Session, Store

NOW = 1_750_000_010.0
CLAIM = Claim(hashlib.sha256(b"c").digest(), NOW, 60)


def client(name: str) -> Client:
    return Client(name, f"t-{name}", {}, "client", int(NOW))


async def claim(store: Store, now: float) -> Any:
    return await store.claim([CLAIM], [], owner="o", fingerprint=bytes(32), now=now)


async def spend(store: Store, now: float) -> Any:
    charge = Charge("bucket", 60, 10)
    return await store.spend([CLAIM], [], [charge], owner="o", fingerprint=bytes(32), now=now)


async def block(store: Store, now: float) -> Any:
    return await store.block(Block("client:c", "emergency", now + 60, now), now=now)


async def register(store: Store, now: float) -> Any:
    return await store.register_client(client("new"), ttl=300, most_pending=10, now=now)


async def bind(store: Store, now: float) -> Any:
    return await store.bind_client(
        "known", institution="i", platform="linux", ttl=3600, most=10, new_per_hour=10, now=now
    )


async def start(store: Store, now: float) -> Any:
    return await store.start_session(Session("s2", "known", "i", "k", "j", int(now), int(now) + 60, b""), now=now)


async def rotate(store: Store, now: float) -> Any:
    return await store.rotate_session(
        "s1", presented_jti="j", successor_jti="k", jkt="k", sealed_answer=b"a", grace=10, now=now
    )


async def end(store: Store, now: float) -> Any:
    return await store.end_session("s1", reason="terminated", ttl=60, now=now)


WRITES: dict[str, Callable[[Store, float], Awaitable[Any]]] = {
    "claim": claim,
    "spend": spend,
    "block": block,
    "register": register,
    "bind": bind,
    "start": start,
    "rotate": rotate,
    "end": end,
}


@pytest.mark.parametrize("name", WRITES)
async def test_what_writes_is_refused_more_than_fifteen_seconds_behind(store: Store, name: str) -> None:
    await store.register_client(client("known"), ttl=300, most_pending=10, now=NOW)
    await store.start_session(Session("s1", "known", "i", "k", "j", int(NOW), int(NOW) + 60, b""), now=NOW)
    before = await store.list_sessions(now=NOW), await store.get_client("known", now=NOW)
    with pytest.raises(ZetaError) as caught:
        await WRITES[name](store, NOW - 15.5)
    assert (caught.value.code, caught.value.status) == ("temporarily_unavailable", 503)
    assert (await store.list_sessions(now=NOW), await store.get_client("known", now=NOW)) == before
    assert await store.get_client("new", now=NOW) is None
    assert await store.blocks(now=NOW) == []
    await WRITES[name](store, NOW - 14.5)
