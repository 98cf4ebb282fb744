"""Stores of both kinds, and a real Redis on a Unix socket that the tests start and empty."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from zeta_guard.config.store import MemoryStore as MemoryStoreConfig
from zeta_guard.config.store import RedisStore as RedisStoreConfig
from zeta_guard.jose.sealing import Secrets
from zeta_guard.simulators.redis_process import RedisProcess
from zeta_guard.store import Role, open_store
from zeta_guard.store.contract import Store

T0 = 1_750_000_000.0
"""When every store of these tests was opened."""


def redis_or_skip() -> None:
    if not RedisProcess.installed():
        if "redis" in os.environ.get("ZETA_GUARD_REQUIRE", ""):
            pytest.fail("redis-server is required and not installed")
        pytest.skip("redis-server is not installed")


@pytest.fixture
def start_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., RedisProcess]]:
    """Starts servers of the test's own."""
    servers: list[RedisProcess] = []

    def start(*options: str, settings: Path | None = None) -> RedisProcess:
        redis_or_skip()
        server = RedisProcess(tmp_path_factory.mktemp("redis"), *options, settings=settings)
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    redis_or_skip()
    server = RedisProcess(tmp_path_factory.mktemp("redis"))
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
    server: RedisProcess = request.getfixturevalue("shared_redis")
    config = RedisStoreConfig(url=server.url, key_prefix=f"{secrets.token_hex(4)}:")
    return await open_redis(config), await open_redis(config)


@pytest.fixture
def store(replicas: tuple[Store, Store]) -> Store:
    return replicas[0]
