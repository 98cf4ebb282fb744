"""Faults that only show while a request is under way, or beyond aiohttp's own limits."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from zeta_guard.cli.demo_story.stage import Stage
from zeta_guard.errors import ZetaError
from zeta_guard.http.body import read_body
from zeta_guard.http.refusal import error_response

Make = Callable[..., Awaitable[Any]]


async def test_a_broken_chunk_is_refused_at_once_and_not_after_the_idle_time(make_listener: Make) -> None:
    listener = await make_listener()

    async def reads(request: web.BaseRequest) -> web.StreamResponse:
        try:
            await read_body(request, limit=1000, idle_seconds=30)
        except ZetaError as error:
            return error_response(error, public_url="http://guard.example.de", request_id="r")
        return web.Response(body=b"read")

    listener.server.request_handler = reads
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    writer.write(b"POST / HTTP/1.1\r\nHost: guard.example.de\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
    await asyncio.sleep(0.05)
    writer.write(b"zz\r\n")
    async with asyncio.timeout(3):
        answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 "), answer
    # One answer: the fault must not be told a second time as a request of its own.
    assert answer.count(b"HTTP/1.1 ") == 1
    assert json.loads(body)["error"] == "invalid_request"


@pytest.mark.parametrize("extra", [1, 2, 3, 50])
async def test_too_many_header_lines_are_431_however_many(world_listener: Any, extra: int) -> None:
    lines = b"".join(b"X-%d: 1\r\n" % number for number in range(100 - 1 + extra))
    answer = await world_listener(b"GET /nonce HTTP/1.1\r\n%b" + lines + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 431 "), answer[:200]


@pytest.mark.parametrize("version", [b"2.0", b"0.9"])
async def test_a_refused_version_is_answered_in_http_1_1(world_listener: Any, version: bytes) -> None:
    answer = await world_listener(b"GET /nonce HTTP/" + version + b"\r\n%b\r\n")
    assert answer.startswith(b"HTTP/1.1 400 "), answer[:200]


@pytest.fixture
async def world_listener(tmp_path: Path) -> AsyncIterator[Callable[[bytes], Awaitable[bytes]]]:
    """A whole guard's answer to raw bytes; ``%b`` stands for its ``Host`` line."""
    directory = tmp_path / "guard"
    directory.mkdir(mode=0o700)
    async with Stage(directory) as stage:
        await stage.build_pki()
        await stage.start_services()
        await stage.start_guard()

        async def ask(raw: bytes) -> bytes:
            context = ssl.create_default_context(cafile=str(stage.ca_file))
            reader, writer = await asyncio.open_connection("127.0.0.1", stage.around.public_port, ssl=context)
            host = f"Host: 127.0.0.1:{stage.around.public_port}\r\n".encode()
            writer.write(raw.replace(b"%b", host))
            async with asyncio.timeout(5):
                answer = await reader.readuntil(b"\r\n\r\n")
            writer.close()
            return answer

        yield ask
