"""Security events that only a whole guard can have, provoked over its doors and read from its metrics."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from zeta_guard.cli.demo_story.configuration import OPEN_ROUTE, VSDM_ROUTE
from zeta_guard.config.load import load_config
from zeta_guard.policy.source import PACKAGED
from zeta_guard.runtime.guard import Guard
from zeta_guard.simulators.redis_process import RedisProcess
from zeta_guard.simulators.trust_list import trust_list
from zeta_guard.telemetry.security_events import EVENTS

_EVENT = re.compile(r'^zeta_guard_security_events_total\{event="(\w+)"\} ([0-9.]+)$', re.MULTILINE)
HERE = Path(__file__).parents[1]


async def told(world: Any) -> dict[str, float]:
    """Events by name, from the ops port."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{world.guard.ops_port}/metrics") as answer,
    ):
        return {name: float(count) for name, count in _EVENT.findall(await answer.text())}


async def until_told(world: Any, name: str) -> dict[str, float]:
    async with asyncio.timeout(10):
        while name not in (seen := await told(world)):  # noqa: ASYNC110 - the metrics page has no event
            await asyncio.sleep(0.05)
    return seen


async def restart(world: Any, *, clock: Any = time.time, **sections: Any) -> None:
    await world.guard.stop(drain_seconds=0)
    world.change(**sections)
    world.stage.guard = Guard(load_config(world.config_file), clock=clock)
    await world.guard.start()


@pytest.fixture
async def restarted(world: Any) -> AsyncIterator[Any]:
    """A world whose guard a test may restart."""
    yield world
    await world.guard.stop(drain_seconds=0)


def head(world: Any, lines: str, *, target: str = "/health", method: str = "GET") -> bytes:
    return f"{method} {target} HTTP/1.1\r\nHost: 127.0.0.1:{world.port}\r\n{lines}\r\n".encode("latin-1")


async def test_framing_with_two_readings(world: Any) -> None:
    for lines in (
        "Transfer-Encoding: gzip, chunked\r\n",
        "Content-Length: 0\r\nContent-Length: 0\r\n",
        f"Host: 127.0.0.1:{world.port}\r\n",
    ):
        assert b" 400 " in (await world.raw(head(world, lines, method="POST")))[:20]
    seen = await told(world)
    # The parser itself knows some of them.
    assert seen["smuggling_refused"] >= 1
    assert seen["smuggling_refused"] + seen.get("malformed_request", 0) == 3


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.1\nHost: a\n\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
    ],
)
async def test_what_is_not_http(world: Any, raw: bytes) -> None:
    assert b" 400 " in (await world.raw(raw))[:20]
    assert await told(world) == {"malformed_request": 1}


@pytest.mark.parametrize("target", ["/whoami/../health", "/health/%2e%2e/whoami", "/whoami%2fx", "/whoami\\x"])
async def test_a_path_that_could_mean_another(world: Any, target: str) -> None:
    assert b" 400 " in (await world.raw(head(world, "", target=target)))[:20]
    assert await told(world) == {"path_refused": 1}


async def test_slow_large_and_misdirected_requests_are_no_riddles(world: Any) -> None:
    assert b" 421 " in (await world.raw(b"GET /health HTTP/1.1\r\nHost: elsewhere\r\n\r\n"))[:20]
    assert b" 431 " in (await world.raw(head(world, f"X: {'a' * 40_000}\r\n")))[:20]
    assert await told(world) == {}


async def test_popp_tokens_of_nobody_and_of_another_practice(world: Any) -> None:
    async with world.client() as client:
        await client.login()
        assert (await client.send("GET", VSDM_ROUTE, headers=[("PoPP", "garbage")])).status == 403
        assert await told(world) == {"popp_refused": 1}
        other = world.stage.popp_token("other_institution")
        assert (await client.send("GET", VSDM_ROUTE, headers=[("PoPP", other)])).status == 403
        assert await told(world) == {"popp_refused": 1, "popp_actor_mismatch": 1}


async def test_bundles_that_are_replaced_and_that_are_refused(restarted: Any) -> None:
    world = restarted
    bundle = world.stage.directory / "policy.tar.gz"
    shutil.copy(PACKAGED / "demo.tar.gz", bundle)
    engine = {"engine": "embedded", "bundle": str(bundle), "unsafe_unsigned": True, "poll": 1}
    await restart(world, policy={"token": engine})
    assert await told(world) == {}
    _replace(bundle, (PACKAGED / "vsdm.tar.gz").read_bytes())
    assert await until_told(world, "bundle_updated") == {"bundle_updated": 1}
    # A bundle that can be read and may not decide.
    _replace(bundle, _without_code(bundle))
    assert await until_told(world, "bundle_refused") == {"bundle_updated": 1, "bundle_refused": 1}


def _replace(path: Path, content: bytes) -> None:
    fresh = path.with_name("fresh")
    fresh.write_bytes(content)
    fresh.replace(path)


def _without_code(archive: Path) -> bytes:
    import io
    import tarfile

    packed = io.BytesIO()
    with tarfile.open(archive) as source, tarfile.open(fileobj=packed, mode="w:gz") as target:
        for member in source.getmembers():
            file = source.extractfile(member)
            if file is not None and not member.name.endswith("policy.wasm"):
                target.addfile(member, file)
    return packed.getvalue()


async def test_an_older_trust_list(restarted: Any) -> None:
    world = restarted
    trust = world.guard._generation.trust
    (world.stage.directory / "trust" / "tsl.xml").write_bytes(trust_list(world.stage.pki, sequence=0))
    await trust.refresh()
    assert await told(world) == {"trust_list_alarm": 1}


class SetBack:
    """The wall clock, until somebody sets it back."""

    def __init__(self) -> None:
        self.by = 0.0

    def __call__(self) -> float:
        return time.time() - self.by


async def test_a_clock_that_runs_backwards(restarted: Any) -> None:
    world, clock = restarted, SetBack()
    await restart(world, clock=clock)
    async with world.client() as client:
        await client.login()
        assert (await client.send("GET", OPEN_ROUTE)).status == 200
        clock.by = 60
        # Which limit notices first is not the matter here; nothing passes.
        assert (await client.send("GET", OPEN_ROUTE)).status in (401, 429, 503)
        seen = await until_told(world, "clock_went_back")
    assert seen["clock_went_back"] == 1


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisProcess]:
    if not RedisProcess.installed():
        if "redis" in os.environ.get("ZETA_GUARD_REQUIRE", ""):
            pytest.fail("redis-server is required and not installed")
        pytest.skip("redis-server is not installed")
    process = RedisProcess(tmp_path)
    process.start()
    yield process
    process.stop()


@pytest.mark.redis
async def test_a_store_that_somebody_emptied(restarted: Any, redis: RedisProcess) -> None:
    world = restarted
    await restart(world, store={"kind": "redis", "url": redis.url})
    assert await told(world) == {}
    redis.ask("FLUSHALL")
    redis.ask("CLIENT", "KILL", "TYPE", "normal")
    assert await until_told(world, "store_epoch_changed") == {"store_epoch_changed": 1}


def test_every_name_is_emitted_somewhere_and_provoked_by_a_test() -> None:
    """Of the names, not of the tables: a name that nobody writes down in a test of events has no evidence."""
    pages = "".join(file.read_text() for file in HERE.rglob("test_*security_events.py"))
    pages += (HERE / "flows" / "test_proxy_protocol.py").read_text()
    sources = "".join(
        file.read_text() for file in (HERE.parent / "zeta_guard").rglob("*.py") if file.name != "security_events.py"
    )
    assert not [name for name in EVENTS if name not in pages]
    assert not [name for name in EVENTS if f'"{name}"' not in sources]
