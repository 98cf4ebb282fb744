"""Stores of both kinds, and a real Redis on a Unix socket that the tests start and empty."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from zeta_guard.config.store import MemoryStore as MemoryStoreConfig
from zeta_guard.config.store import RedisStore as RedisStoreConfig
from zeta_guard.jose.sealing import Secrets
from zeta_guard.store import Role, open_store
from zeta_guard.store.contract import Store

T0 = 1_750_000_000.0
"""When every store of these tests was opened."""


def require(binary: str, need: str) -> str:
    found = shutil.which(binary)
    if found is None:
        if need in os.environ.get("ZETA_GUARD_REQUIRE", ""):
            pytest.fail(f"{binary} is required and not installed")
        pytest.skip(f"{binary} is not installed")
    return found


@dataclass
class RedisServer:
    """A redis-server that can be stopped, started and asked from outside the store."""

    folder: Path
    options: list[str] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None

    @property
    def socket_path(self) -> Path:
        return self.folder / "r.sock"

    def start(self) -> None:
        binary = require("redis-server", "redis")
        base = ["--port", "0", "--unixsocket", str(self.socket_path), "--save", "", "--dir", str(self.folder)]
        self.process = subprocess.Popen([binary, *base, *self.options], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while not self._answers():
            if time.monotonic() > deadline or self.process.poll() is not None:
                pytest.fail("redis-server did not start")
            time.sleep(0.01)

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            self.process.wait(10)
            self.process = None
        self.socket_path.unlink(missing_ok=True)

    def pause(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def ask(self, *words: str) -> bytes:
        """One command in the inline form; the raw reply."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(5)
            sock.connect(str(self.socket_path))
            sock.sendall(" ".join(f'"{word}"' for word in words).encode() + b"\r\n")
            return sock.recv(1 << 20)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            return self.ask("PING") != b""
        return False

    def config(self, **members: object) -> RedisStoreConfig:
        return RedisStoreConfig.model_validate({"kind": "redis", "url": f"unix://{self.socket_path}", **members})


@pytest.fixture
def start_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., RedisServer]]:
    servers: list[RedisServer] = []

    def start(*options: str) -> RedisServer:
        server = RedisServer(tmp_path_factory.mktemp("redis"), list(options))
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def guard_secrets() -> Secrets:
    return Secrets([secrets.token_bytes(32)])


Opener = Callable[..., Awaitable[Store]]


@pytest.fixture
async def open_redis(guard_secrets: Secrets) -> AsyncIterator[Opener]:
    """Opens and starts Redis stores; closes them at the end."""
    opened: list[Store] = []

    async def open_one(config: RedisStoreConfig, *, now: float = T0, role: Role = "all") -> Store:
        store = open_store(config, secrets=guard_secrets, clock=lambda: now, role=role)
        opened.append(store)
        await store.start()
        return store

    yield open_one
    for store in opened:
        await store.close()


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
async def replicas(request: pytest.FixtureRequest, open_redis: Opener, guard_secrets: Secrets) -> tuple[Store, Store]:
    """The store as two replicas see it; with the memory store both are the same."""
    if request.param == "memory":
        memory = open_store(MemoryStoreConfig(max_entries=1000), secrets=guard_secrets, clock=lambda: T0)
        await memory.start()
        return memory, memory
    server: RedisServer = request.getfixturevalue("shared_redis")
    config = server.config(key_prefix=f"{secrets.token_hex(4)}:")
    return await open_redis(config), await open_redis(config)


@pytest.fixture
def store(replicas: tuple[Store, Store]) -> Store:
    return replicas[0]


async def eventually(true: Callable[[], Awaitable[bool]], seconds: float = 10) -> None:
    """Ask until it is true; fails after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not await true():
        assert time.monotonic() < deadline, "did not become true in time"
        await asyncio.sleep(0.01)
