"""One connection, many requests: order, pipelining, unread bodies, errors and cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from zeta_guard.errors import ConfigurationError
from zeta_guard.runtime import listener as listener_module
from zeta_guard.runtime.listener import require_compiled_parser

Make = Callable[..., Awaitable[Any]]
HEAD = b"POST / HTTP/1.1\r\nHost: guard.example.de\r\nContent-Length: %d\r\n\r\n"


async def test_pipelined_requests_are_answered_in_order(make_listener: Make) -> None:
    listener = await make_listener()
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    writer.write(b"".join(HEAD % size + b"x" * size for size in range(1, 60)))
    for size in range(1, 60):
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert await reader.readexactly(len(b"seen %d" % size)) == b"seen %d" % size
    writer.close()


async def test_a_body_that_the_handler_left_unread_does_not_spoil_the_next_request(make_listener: Make) -> None:
    listener = await make_listener()

    async def careless(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=b"done")

    listener.server.request_handler = careless
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    for _ in range(3):
        writer.write(HEAD % 100_000 + b"x" * 100_000)
        assert (await reader.readuntil(b"done")).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_connection_close_is_kept(make_listener: Make) -> None:
    listener = await make_listener()
    answer = await listener.talk(b"GET / HTTP/1.1\r\nHost: guard.example.de\r\nConnection: close\r\n\r\n")
    assert b"connection: close" in answer.lower()


async def test_a_client_that_leaves_cancels_its_handler(make_listener: Make) -> None:
    listener = await make_listener()
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def slow(request: web.BaseRequest) -> web.StreamResponse:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        raise AssertionError

    listener.server.request_handler = slow
    _, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    writer.write(HEAD % 0)
    await asyncio.wait_for(begun.wait(), 5)
    writer.close()
    await asyncio.wait_for(cancelled.wait(), 5)


async def test_shutdown_lets_the_running_request_end(make_listener: Make) -> None:
    listener = await make_listener()
    begun, release = asyncio.Event(), asyncio.Event()

    async def slow(request: web.BaseRequest) -> web.StreamResponse:
        begun.set()
        await release.wait()
        return web.Response(body=b"late")

    listener.server.request_handler = slow
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    writer.write(HEAD % 0)
    await asyncio.wait_for(begun.wait(), 5)
    shutdown = asyncio.create_task(listener.server.shutdown(5.0))
    await asyncio.sleep(0)
    release.set()
    assert (await asyncio.wait_for(reader.read(), 5)).endswith(b"late")
    await asyncio.wait_for(shutdown, 5)
    writer.close()


async def test_an_idle_connection_is_closed_after_its_time(make_listener: Make) -> None:
    listener = await make_listener(keepalive=1)
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    writer.write(HEAD % 0)
    await reader.readuntil(b"seen 0")
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()


def test_without_the_compiled_parser_the_guard_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    require_compiled_parser()

    class Parser:
        """Stands for the parser in Python."""

    monkeypatch.setattr(listener_module, "HttpRequestParser", Parser)
    with pytest.raises(ConfigurationError) as caught:
        require_compiled_parser()
    assert "AIOHTTP_NO_EXTENSIONS" in caught.value.expected
