"""What one nonce costs while none and while a million of them are outstanding or spent, in both stores.

The guard's own parts without HTTP around them, so that nothing dilutes the comparison: issue, check, and the claim that spends
it. CPU time of this process and, with Redis, of the server.
"""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from bench.environment import GUARD_CORE, LOAD_CORE, Child
from bench.frame import median_of_rounds
from zeta_guard.authorization_server.nonce import NonceMint
from zeta_guard.config.store import MemoryStore, RedisStore
from zeta_guard.jose.encoding import b64url_decode
from zeta_guard.jose.sealing import Secrets
from zeta_guard.store import open_store
from zeta_guard.store.claim_key import claim_key
from zeta_guard.store.contract import Claim, ClaimStatus, Store

_LIFETIME: Final = 300
_SKEW: Final = 15
_ROUNDS: Final = 5
_PER_ROUND: Final = 2000
_BATCH: Final = 200
_FINGERPRINT: Final = bytes(32)


@dataclass(slots=True)
class NonceCost:
    """The store with the larger growth."""

    store: str = ""
    ratio: float = 0.0
    empty_us: float = 0.0
    remarks: list[str] = field(default_factory=list)

    def add(self, store: str, empty_us: float, full_us: float, remark: str) -> None:
        """One store's figures."""
        if full_us / empty_us > self.ratio:
            self.store, self.ratio, self.empty_us = store, full_us / empty_us, empty_us
        self.remarks.append(remark)


def measure_nonces(redis: Child, url: str, *, many: int) -> NonceCost:
    """Both stores, each empty and with ``many`` nonces issued and spent."""
    os.sched_setaffinity(0, {GUARD_CORE})
    try:
        cost = NonceCost()
        for name, make in (("memory", _memory(many)), ("redis", _redis(url))):
            asyncio.run(_compare(cost, name, make(), redis if name == "redis" else None, many))
        return cost
    finally:
        os.sched_setaffinity(0, {LOAD_CORE})


def _memory(many: int) -> Callable[[], Store]:
    keys = Secrets((bytes(32),))
    config = MemoryStore(max_entries=max(2_000_000, 2 * many))
    return lambda: open_store(config, secrets=keys, clock=time.time)


def _redis(url: str) -> Callable[[], Store]:
    keys = Secrets((bytes(32),))
    return lambda: open_store(RedisStore(url=url), secrets=keys, clock=time.time)


async def _compare(cost: NonceCost, name: str, store: Store, redis: Child | None, many: int) -> None:
    await store.start()
    # Nonces of the second in which the store's epoch began are refused.
    await asyncio.sleep(1.1)
    mint = NonceMint(Secrets((secrets.token_bytes(32),)), lifetime=_LIFETIME, skew=_SKEW)
    try:
        empty = await _rounds(store, mint, redis)
        before = _resident(), _redis_memory(redis)
        await spend_nonces(store, mint, many)
        after = _resident(), _redis_memory(redis)
        full = await _rounds(store, mint, redis)
    finally:
        await store.close()
    grown = (after[1] - before[1]) if redis is not None else (after[0] - before[0])
    cost.add(
        name,
        sum(empty),
        sum(full),
        f"one nonce, {name} store: issue {empty[0]:.1f} → {full[0]:.1f} µs, check and spend {empty[1]:.1f} → {full[1]:.1f} µs"
        f" with {many:,} issued and spent, which took {grown:.0f} MiB ({grown * 1024 * 1024 / many:.0f} bytes each)",
    )


async def _rounds(store: Store, mint: NonceMint, redis: Child | None) -> tuple[float, float]:
    issuing: list[float] = []
    spending: list[float] = []
    for _ in range(_ROUNDS):
        gc.collect()
        texts: list[str] = []
        issuing.append(await _microseconds(_issue(store, mint, texts), None))
        spending.append(await _microseconds(_spend(store, mint, texts), redis))
    return median_of_rounds(issuing), median_of_rounds(spending)


async def _microseconds(work: Awaitable[None], redis: Child | None) -> float:
    there = redis.cpu_seconds() if redis is not None else 0.0
    here = time.process_time()
    await work
    spent = time.process_time() - here
    if redis is not None:
        spent += redis.cpu_seconds() - there
    return spent / _PER_ROUND * 1e6


async def _issue(store: Store, mint: NonceMint, texts: list[str]) -> None:
    for _ in range(_PER_ROUND):
        texts.append(mint.issue(epoch=store.epoch, now=time.time()))


async def _spend(store: Store, mint: NonceMint, texts: list[str]) -> None:
    async def one(place: int, text: str) -> None:
        now = time.time()
        claim = mint.check(text, epoch=store.epoch, now=now).claim(now=now, skew=_SKEW)
        outcome = await store.claim([claim], [], owner=f"r{place}", fingerprint=_FINGERPRINT, now=now)
        if outcome.status is not ClaimStatus.WON:
            raise RuntimeError(f"a fresh nonce was {outcome.status}")

    for begin in range(0, len(texts), 16):
        await asyncio.gather(*(one(begin + place, text) for place, text in enumerate(texts[begin : begin + 16])))


async def spend_nonces(store: Store, mint: NonceMint, many: int) -> None:
    """Issue and spend ``many`` nonces."""
    for begin in range(0, many, _BATCH):
        now = time.time()
        claims = []
        for _ in range(_BATCH):
            raw = b64url_decode(mint.issue(epoch=store.epoch, now=now))
            claims.append(Claim(claim_key("nonce", raw), float(int(now) + 1), _LIFETIME + 31, "nonce"))
        outcome = await store.claim(claims, [], owner=f"f{begin}", fingerprint=_FINGERPRINT, now=now)
        if outcome.status is not ClaimStatus.WON:
            raise RuntimeError(f"fresh nonces were {outcome.status}")


def _resident() -> float:
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 1024 / 1024


def _redis_memory(redis: Child | None) -> float:
    return redis.resident_mebibytes() if redis is not None else 0.0
