"""How much memory each thing takes that the guard or its store remembers, so that an operator can multiply it with the limits.

Records of the stores without HTTP around them: the memory store in a process of its own for each kind (resident memory before
and after), Redis by its own ``used_memory``. Connections, sockets, tokens and refusals in a real guard process over loopback.
Figures hold allocator and table overhead; they do not hold the kernel's socket buffers.
"""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from typing import Final

from bench.capacity_guard import GUARD_KINDS, guard_growth
from bench.environment import redis_process, scratch
from bench.frame import Measure, Report
from bench.nonce_cost import spend_nonces
from zeta_guard.authorization_server.nonce import NonceMint
from zeta_guard.config.store import MemoryStore, RedisStore
from zeta_guard.jose.encoding import b64url_encode
from zeta_guard.jose.sealing import Secrets
from zeta_guard.store import open_store
from zeta_guard.store.contract import Block, Client, Session, Store, block_subject

_NONCES: Final = 1_000_000
_QUICK_NONCES: Final = 100_000
_RECORDS: Final = 10_000
_QUICK_RECORDS: Final = 2_000
_CONNECTIONS: Final = 1000
_QUICK_CONNECTIONS: Final = 320
_STALLED: Final = 50
_DAY: Final = 86_400
_SEALED_BYTES: Final = 700
"""What a refresh needs again, sealed: institution, scopes, product, address."""

# Bytes per item: stated in docs/operators.md, which multiplies them with the limits.
_STORE_FLOORS: Final = {"nonce": 256, "client": 4096, "session": 4096, "block": 1024}


def run(quick: bool) -> Report:
    """Both stores, then a guard process; ``--quick`` leaves out sessions, blocks and bodies that stand still."""
    report = Report("capacity")
    counts = {"nonce": _NONCES, "client": _RECORDS, "session": _RECORDS, "block": _RECORDS}
    if quick:
        counts = {"nonce": _QUICK_NONCES, "client": _QUICK_RECORDS}
    with scratch() as directory, ExitStack() as stack:
        redis, url = redis_process(directory)
        stack.callback(redis.stop)
        for kind, count in counts.items():
            # A process for each, since memory that was given back inside of it would hide what comes next.
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                _add(report, "memory", kind, count, pool.submit(_in_memory, kind, count).result())
            _add(report, "redis", kind, count, _in_redis(url, Path(url.removeprefix("unix://")), kind, count))
    for kind, (floor, growth) in GUARD_KINDS.items():
        # As many again come first; tokens and refusals are remembered up to 10 000.
        count = counts["client"] // 2
        if kind.startswith("idle"):
            count = _QUICK_CONNECTIONS if quick else _CONNECTIONS
        elif kind.startswith("stalled"):
            if quick:
                continue
            count = _STALLED
        with scratch() as directory:
            value = guard_growth(directory, growth, count) / 1024
        reference = f"resident memory of a guard process, {count:,} of them"
        report.measures[f"kib_per_{kind}"] = Measure(value, "KiB", reference, floor=floor, higher_is_better=False)
    report.remarks.append(
        "not in these figures: the kernel's buffers of a connection, and Redis' replication and append-only file"
    )
    return report


def _add(report: Report, store: str, kind: str, count: int, value: float) -> None:
    where = "resident memory of the process" if store == "memory" else "used_memory of the server"
    report.measures[f"{store}_bytes_per_{kind}"] = Measure(
        value, "bytes", f"{where}, {count:,} of them", floor=_STORE_FLOORS[kind], higher_is_better=False
    )


def _in_memory(kind: str, count: int) -> float:
    return asyncio.run(_memory_growth(kind, count))


async def _memory_growth(kind: str, count: int) -> float:
    store = open_store(MemoryStore(), secrets=Secrets((bytes(32),)), clock=time.time)
    before = 0.0

    async def begin() -> None:
        nonlocal before
        gc.collect()
        before = _resident()

    await _fill(store, kind, count, begin)
    gc.collect()
    return (_resident() - before) / count


def _resident() -> float:
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def _in_redis(url: str, path: Path, kind: str, count: int) -> float:
    store = open_store(RedisStore(url=url), secrets=Secrets((bytes(32),)), clock=time.time)
    before = 0

    async def begin() -> None:
        nonlocal before
        before = _used(path)

    asyncio.run(_fill(store, kind, count, begin))
    return (_used(path) - before) / count


def _used(path: Path) -> int:
    with socket.socket(socket.AF_UNIX) as asked:
        asked.connect(str(path))
        asked.sendall(b"INFO memory\r\n")
        text = asked.recv(65_536)
    return next(int(line[12:]) for line in text.split(b"\r\n") if line.startswith(b"used_memory:"))


async def _fill(store: Store, kind: str, count: int, begin: Callable[[], Awaitable[None]]) -> None:
    await store.start()
    # What is dated in the second in which the store's epoch began is refused.
    await asyncio.sleep(1.1)
    try:
        if kind == "nonce":
            mint = NonceMint(Secrets((secrets.token_bytes(32),)), lifetime=300, skew=15)
            await spend_nonces(store, mint, 1000)
            await begin()
            await spend_nonces(store, mint, count)
            return
        put = {"client": _put_client, "session": _put_session, "block": _put_block}[kind]
        for number in range(100):
            await put(store, number)
        await begin()
        for number in range(100, 100 + count):
            await put(store, number)
    finally:
        await store.close()


def _name(size: int = 32) -> str:
    return b64url_encode(secrets.token_bytes(size))


async def _put_client(store: Store, number: int) -> None:
    """Registered and bound, ten clients to an institution."""
    now = time.time()
    thumbprint, name = _name(), _name(16)
    jwk = {"kty": "EC", "crv": "P-256", "x": _name(), "y": _name(), "kid": thumbprint, "alg": "ES256", "use": "sig"}
    metadata = {
        "grant_types": ["urn:ietf:params:oauth:grant-type:token-exchange", "refresh_token"],
        "response_types": ["token"],
        "redirect_uris": [],
    }
    client = Client(name, thumbprint, jwk, f"Praxis {number}", int(now), metadata=metadata)
    await store.register_client(client, ttl=300, most_pending=1_000_000, now=now)
    await store.bind_client(
        name, institution=f"{number // 10:064x}", platform="linux", ttl=_DAY, most=256, new_per_hour=256, now=now
    )


async def _put_session(store: Store, number: int) -> None:
    now = time.time()
    session = Session(
        _name(16), _name(16), f"{number:064x}", _name(), _name(16), int(now), int(now) + _DAY,
        secrets.token_bytes(_SEALED_BYTES), "product",
    )  # fmt: skip
    await store.start_session(session, now=now)


async def _put_block(store: Store, number: int) -> None:
    now = time.time()
    await store.block(Block(block_subject("session", _name(16)), "revoked", now + _DAY, now), now=now)
