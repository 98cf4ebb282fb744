"""Several servers behind a route, their health, and TLS towards them."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from zeta_guard.config.gateway import Upstream
from zeta_guard.errors import ConfigurationError
from zeta_guard.gateway.deadline import DeadlineWatch
from zeta_guard.gateway.upstream_pool import UpstreamPool

if TYPE_CHECKING:
    from tests.gateway.conftest import MakeWorld, RawBackend

To = Callable[..., dict[str, Any]]
MakeBackend = Callable[[], Any]


@pytest.fixture
async def second(backend: RawBackend) -> AsyncIterator[RawBackend]:
    other = type(backend)()
    await other.start()
    yield other
    await other.stop()


def both(backend: RawBackend, second: RawBackend, **rules: Any) -> dict[str, Any]:
    urls = [{"url": f"http://127.0.0.1:{one.port}"} for one in (backend, second)]
    return {"prefix": "/vsd", "upstreams": urls, **rules}


async def test_requests_are_shared_between_servers(
    make_world: MakeWorld, backend: RawBackend, second: RawBackend
) -> None:
    world = await make_world([both(backend, second)])
    for _ in range(10):
        assert (await world.get()).status == 200
    assert len(backend.heads) == len(second.heads) == 5


async def test_least_busy_server_is_asked(make_world: MakeWorld, backend: RawBackend, second: RawBackend) -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    backend.script = hang
    world = await make_world([both(backend, second)])
    waiting: list[asyncio.Task[Any]] = []
    for _ in range(2):
        waiting.append(asyncio.create_task(world.get()))
        await asyncio.sleep(0.05)
    await world.until(lambda: backend.open)
    before = len(second.heads)
    for _ in range(4):
        assert (await world.get()).status == 200
    assert len(second.heads) == before + 4
    await backend.stop()
    await asyncio.gather(*waiting)


async def test_refused_connection_goes_to_the_next_server(
    make_world: MakeWorld, backend: RawBackend, second: RawBackend
) -> None:
    world = await make_world([both(backend, second)])
    await backend.stop()
    for _ in range(8):
        assert (await world.get()).status == 200
    await second.stop()
    assert (await world.get()).status == 502


async def test_host_of_the_server_that_is_asked_is_sent(
    make_world: MakeWorld, backend: RawBackend, second: RawBackend
) -> None:
    world = await make_world([both(backend, second, host="upstream")])
    for _ in range(2):
        await world.get()
    assert backend.seen("Host") == [f"127.0.0.1:{backend.port}"]
    assert second.seen("Host") == [f"127.0.0.1:{second.port}"]


async def test_unhealthy_server_gets_no_requests_until_it_answers_again(
    make_world: MakeWorld, backend: RawBackend, second: RawBackend
) -> None:
    sick = True
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    backend.answer = lambda head: (
        b"HTTP/1.1 503 Sick\r\nContent-Length: 0\r\n\r\n" if sick and head.startswith(b"GET /health ") else ok
    )
    world = await make_world([both(backend, second, health={"interval": 1, "unhealthy_after": 1})])
    gauge = "zeta_guard_gateway_upstream_healthy"
    await world.until(
        lambda: not world.metric(gauge, route="/vsd", server="0") and world.metric(gauge, route="/vsd", server="1")
    )

    def asked(server: RawBackend) -> int:
        return sum(head.startswith(b"GET /vsd/") for head in server.heads)

    for _ in range(6):
        assert (await world.get()).status == 200
    assert (asked(backend), asked(second)) == (0, 6)
    sick = False
    await world.until(lambda: world.metric(gauge, route="/vsd", server="0"))
    for _ in range(4):
        await world.get()
    assert asked(backend) == 2


async def test_route_without_healthy_server_is_503(make_world: MakeWorld, backend: RawBackend, to: To) -> None:
    backend.answer = lambda head: b"HTTP/1.1 500 Sick\r\nContent-Length: 0\r\n\r\n"
    world = await make_world([to(backend, health={"interval": 1, "unhealthy_after": 1})])
    await world.until(lambda: world.gateway.readiness().get("route /vsd"))
    reply = await world.get()
    assert (reply.status, json.loads(reply.body)["error"]) == (503, "temporarily_unavailable")
    assert reply.header("Retry-After") is not None


# TLS


@pytest.fixture
async def secure(tls_contexts: tuple[ssl.SSLContext, ssl.SSLContext, Path]) -> AsyncIterator[int]:
    """Port of a TLS server that answers everything with ok."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls_contexts[0])
    yield server.sockets[0].getsockname()[1]
    server.close()


async def test_tls_upstream_is_believed_with_its_own_trust_file_only(
    make_world: MakeWorld, secure: int, tls_contexts: tuple[ssl.SSLContext, ssl.SSLContext, Path]
) -> None:
    trusted = {"url": f"https://127.0.0.1:{secure}", "ca_file": str(tls_contexts[2])}
    named = {**trusted, "server_name": "localhost"}
    misnamed = {**trusted, "server_name": "other.example"}
    untrusted = {"url": f"https://127.0.0.1:{secure}"}
    routes = [
        {"prefix": prefix, "upstreams": [upstream]}
        for prefix, upstream in (
            ("/vsd", trusted),
            ("/named", named),
            ("/misnamed", misnamed),
            ("/untrusted", untrusted),
        )
    ]
    world = await make_world(routes)
    for path, status in (("/vsd/x", 200), ("/named/x", 200), ("/misnamed/x", 502), ("/untrusted/x", 502)):
        for _ in range(2):
            assert (await world.get(path)).status == status


async def test_trust_file_that_cannot_be_used_is_an_error_at_load(make_world: MakeWorld, tmp_path: Path) -> None:
    bad = tmp_path / "bad.pem"
    bad.write_text("nonsense")
    for file in (bad, tmp_path / "missing.pem"):
        route = {"prefix": "/vsd", "upstreams": [{"url": "https://127.0.0.1:1", "ca_file": str(file)}]}
        with pytest.raises(ConfigurationError) as caught:
            await make_world([route])
        assert caught.value.path == "gateway.routes[0].upstreams[0].ca_file"


# the pool itself


async def test_idle_connections_are_closed_after_a_while(backend: RawBackend) -> None:
    loop = asyncio.get_running_loop()
    pool = UpstreamPool(Upstream(url=f"http://127.0.0.1:{backend.port}"), DeadlineWatch(loop), loop)
    connection = await pool.acquire(repeatable=True, seconds=1)
    connection.begin(head_only=False)
    connection.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await connection.head()
    connection.finish()
    assert (pool.size, pool.idle, pool.in_use) == (1, 1, 0)
    connection.idle_since -= 61
    pool._prune()
    await asyncio.sleep(0.01)
    assert (pool.size, pool.idle) == (0, 0)
    pool.close()


async def test_old_idle_connection_is_not_used_for_what_may_not_be_repeated(backend: RawBackend) -> None:
    loop = asyncio.get_running_loop()
    pool = UpstreamPool(Upstream(url=f"http://127.0.0.1:{backend.port}", max_connections=1), DeadlineWatch(loop), loop)
    connection = await pool.acquire(repeatable=True, seconds=1)
    connection.begin(head_only=False)
    connection.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await connection.head()
    connection.finish()
    connection.idle_since -= 2
    assert pool.take_idle(repeatable=False) is None
    # It gives its place up, so that a fresh one fits.
    other = await pool.acquire(repeatable=False, seconds=1)
    assert other is not connection
    assert pool.size == 1
    other.abort()
    await asyncio.sleep(0.01)
    assert pool.size == 0
    pool.close()


async def test_place_is_not_lost_with_a_waiter_that_gives_up(backend: RawBackend) -> None:
    loop = asyncio.get_running_loop()
    pool = UpstreamPool(Upstream(url=f"http://127.0.0.1:{backend.port}", max_connections=1), DeadlineWatch(loop), loop)
    first = await pool.acquire(repeatable=True, seconds=1)
    first.begin(head_only=False)
    first.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await first.head()
    waiter = asyncio.create_task(pool.acquire(repeatable=True, seconds=5))
    await asyncio.sleep(0)
    first.finish()
    waiter.cancel()
    await asyncio.gather(waiter, return_exceptions=True)
    again = await pool.acquire(repeatable=True, seconds=1)
    assert again is first
    again.abort()
    await asyncio.sleep(0.01)
    pool.close()


async def test_deadlines_pass_once_and_never_early() -> None:
    loop = asyncio.get_running_loop()
    watch = DeadlineWatch(loop)

    class Thing:
        def __init__(self) -> None:
            self.deadline = 0.0
            self.passed: list[float] = []

        def deadline_passed(self) -> None:
            self.passed.append(loop.time())

    early, late, moved, dropped = Thing(), Thing(), Thing(), Thing()
    start = loop.time()
    watch.set(late, 0.06)
    watch.set(early, 0.02)
    watch.set(moved, 0.02)
    watch.set(dropped, 0.02)
    watch.set(moved, 0.06)
    watch.drop(dropped)
    await asyncio.sleep(0.12)
    assert len(early.passed) == len(late.passed) == len(moved.passed) == 1
    assert dropped.passed == []
    assert 0.018 <= early.passed[0] - start < 0.05
    assert late.passed[0] - start >= 0.058
    assert len(watch) == 0
    watch.close()
