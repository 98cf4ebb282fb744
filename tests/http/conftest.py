"""A running low-level server that hands every request to the test's handler, spoken to with raw bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

import pytest
from aiohttp import web

from zeta_guard.config.guard import GuardConfig
from zeta_guard.errors import ZetaError
from zeta_guard.http.refusal import error_response

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Serve(Protocol):
    """Starts a server with a handler and returns its port."""

    async def __call__(self, handler: Handler) -> int: ...


@pytest.fixture
def make_config() -> Callable[..., GuardConfig]:
    def make(**gateway: Any) -> GuardConfig:
        public_url = gateway.pop("public_url", "https://guard.example.de")
        issuer = gateway.pop("issuer", None)
        return GuardConfig.model_validate(
            {
                "public_url": public_url,
                "secret_files": ["secret"],
                "authorization_server": {"signing_keys": "keys", "scopes": ["vsd"], "issuer": issuer},
                "trust": {"directory": "trust"},
                "policy": {"token": {"engine": "embedded", "bundle": "package:demo"}},
                "gateway": gateway,
            }
        )

    return make


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    started: list[tuple[web.Server, asyncio.Server]] = []

    async def start(handler: Handler) -> int:
        async def guarded(request: web.BaseRequest) -> web.StreamResponse:
            try:
                return await handler(request)
            except ZetaError as error:
                return error_response(error, public_url="https://guard.example.de", request_id="r")

        server = web.Server(guarded, auto_decompress=False, lingering_time=0.1)
        listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
        started.append((server, listener))
        port: int = listener.sockets[0].getsockname()[1]
        return port

    yield start
    for server, listener in started:
        listener.close()
        await server.shutdown(1.0)


@pytest.fixture
def exchange() -> Callable[[int, bytes], Awaitable[bytes]]:
    async def send(port: int, raw: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(raw)
        await writer.drain()
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer

    return send
