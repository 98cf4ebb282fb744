"""What a request or connection needed is gone when it is over: nothing waits for the garbage collector.

The collector of a busy guard runs rarely (it must not stop requests), so what only it can free would be a leak for minutes,
and a buffer of kilobytes hangs on a few objects.
"""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from zeta_guard.cli.demo_story.configuration import POPP_ROUTE
from zeta_guard.errors import ZetaError
from zeta_guard.gateway.tunnel import Tunnel
from zeta_guard.http.facts import RequestFacts
from zeta_guard.runtime.listener import GuardProtocol

OF_A_REQUEST = (GuardProtocol, web.BaseRequest, RequestFacts, ZetaError, HttpProcessingError, Tunnel)
HEAD = b"Host: 127.0.0.1:%d\r\n"
ROUNDS = 5

Leftovers = Callable[..., Awaitable[Counter[str]]]


def living() -> Counter[str]:
    # web.Request is what the simulated services make, which live in this process, too.
    return Counter(
        type(one).__name__ for one in gc.get_objects() if isinstance(one, OF_A_REQUEST) and type(one) is not web.Request
    )


@pytest.fixture
async def leftovers() -> AsyncIterator[Leftovers]:
    """What is there more than at the first call, once connections have had the time to end."""
    gc.collect()
    gc.disable()
    before = living()

    async def more(looks: int = 40) -> Counter[str]:
        found: Counter[str] = Counter()
        for _ in range(looks):
            found = living() - before
            if not found:
                break
            await asyncio.sleep(0.05)
        return found

    yield more
    gc.enable()


REQUESTS = {
    "refused token": b"GET /whoami HTTP/1.1\r\n" + HEAD + b"Authorization: DPoP a.b.c\r\nDPoP: a.b.c\r\n\r\n",
    "no route": b"GET /nowhere HTTP/1.1\r\n" + HEAD + b"\r\n",
    "refused path": b"GET /a/%%2e%%2e/b HTTP/1.1\r\n" + HEAD + b"\r\n",
    "foreign host": b"GET / HTTP/1.1\r\nHost: other.example\r\nX-Port: %d\r\n\r\n",
    "answer": b"GET /nonce HTTP/1.1\r\n" + HEAD + b"\r\n",
    "answer, closed by the guard": b"GET /nonce HTTP/1.1\r\n" + HEAD + b"Connection: close\r\n\r\n",
    "refused body": b"POST /register HTTP/1.1\r\n"
    + HEAD
    + b"Content-Type: application/json\r\nContent-Length: 3\r\n\r\n[[[",
    "refused framing": b"POST /token HTTP/1.1\r\n"
    + HEAD
    + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "long header": b"GET / HTTP/1.1\r\n" + HEAD + b"X: " + b"b" * 40_000 + b"\r\n\r\n",
    "no HTTP": b"GARBAGE %d\r\n\r\n",
}


async def test_nothing_is_left_of_a_connection_that_is_gone(world: Any, leftovers: Leftovers) -> None:
    found = {}
    for name, request in REQUESTS.items():
        for _ in range(ROUNDS):
            assert (await world.raw(request % world.port)).startswith(b"HTTP/1.1 ")
        found[name] = await leftovers()
        gc.collect()
    assert found == {name: {} for name in REQUESTS}


async def test_nothing_is_left_of_a_connection_that_ended_inside_a_head(world: Any, leftovers: Leftovers) -> None:
    for _ in range(ROUNDS):
        _, writer = await world.connect()
        writer.write(b"GET /nonce HTT")
        await writer.drain()
        writer.close()
    assert not await leftovers()


async def test_nothing_is_left_of_refused_requests_on_a_connection_that_stays(world: Any, leftovers: Leftovers) -> None:
    reader, writer = await world.connect()
    for _ in range(ROUNDS):
        writer.write(b"GET /nowhere HTTP/1.1\r\n" + HEAD % world.port + b"\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        await reader.readexactly(int(length[15:]))
    found = await leftovers(looks=2)
    # The connection itself, and the one request that it was asked last.
    assert found["ZetaError"] <= 1
    assert found["BaseRequest"] <= 1
    writer.close()
    assert not await leftovers()


@pytest.mark.parametrize("orderly", [True, False], ids=["closed", "cut"])
async def test_nothing_is_left_of_a_websocket(world: Any, leftovers: Leftovers, *, orderly: bool) -> None:
    async with world.client() as client:
        await client.login()
        for _ in range(ROUNDS):
            socket = await client.websocket(POPP_ROUTE)
            await socket.send_str("x" * 1000)
            if orderly:
                await socket.close()
            else:
                connection = socket._response.connection
                assert connection is not None
                assert connection.transport is not None
                assert isinstance(socket, aiohttp.ClientWebSocketResponse)
                connection.transport.abort()
                await socket.close()
    assert not await leftovers()
