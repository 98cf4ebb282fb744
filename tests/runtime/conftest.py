"""A listener with a trivial handler, spoken to with raw bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from zeta_guard.config.limits import Limits
from zeta_guard.runtime.listener import GuardServer

Talk = Callable[[bytes], Awaitable[bytes]]


class Listener:
    """The server under test and the statuses of heads that it refused by itself."""

    def __init__(self, limits: Limits) -> None:
        self.refused: list[int] = []
        self.seen: list[str] = []
        self.server = GuardServer(
            self.answer, limits=limits, public_url="http://guard.example.de", on_refused_head=self.refused.append
        )
        self.port = 0

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.seen.append(request.method)
        body = await request.read()
        return web.Response(body=b"seen %d" % len(body))

    async def talk(self, raw: bytes, *, close: bool = False, seconds: float = 5.0) -> bytes:
        """Send bytes on a new connection and read until the guard closes it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(raw)
        if close:
            writer.write_eof()
        async with asyncio.timeout(seconds):
            answer = await reader.read()
        writer.close()
        return answer


@pytest.fixture
async def make_listener() -> AsyncIterator[Callable[..., Awaitable[Listener]]]:
    """Start a listener with changed limits."""
    running: list[tuple[asyncio.Server, Listener]] = []

    async def make(**limits: Any) -> Listener:
        listener = Listener(Limits(**limits))
        server = await asyncio.get_running_loop().create_server(listener.server, "127.0.0.1", 0)
        listener.port = server.sockets[0].getsockname()[1]
        running.append((server, listener))
        return listener

    yield make
    for server, listener in running:
        server.close()
        await listener.server.shutdown(0.1)
