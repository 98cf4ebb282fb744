"""What the HTTP layer itself finds is answered with the error body, never with aiohttp's words."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

GOOD = b"GET / HTTP/1.1\r\nHost: guard.example.de\r\nConnection: close\r\n\r\n"
Make = Callable[..., Awaitable[Any]]


def refusal(answer: bytes, status: int) -> dict[str, Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), answer
    assert b"application/json" in head.lower()
    assert b"no-store" in head.lower()
    assert b"zeta-api-version" in head.lower()
    document = json.loads(body)
    assert isinstance(document, dict)
    assert document["error_uri"] == "http://guard.example.de/errors/" + document["error"]
    assert document["request_id"]
    return document


async def test_a_good_request_is_answered(make_listener: Make) -> None:
    listener = await make_listener()
    assert (await listener.talk(GOOD)).endswith(b"seen 0")


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS client hello\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\nHost: a\n\n",
        b"GET / HTTP/1.1\r\nHost : guard.example.de\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: guard.example.de\r\nX: a\r\n b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: guard.example.de\r\nX: a\x00b\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: guard.example.de\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: guard.example.de\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nHost: guard.example.de\r\nContent-Length: +3\r\n\r\nabc",
        b"GET / HTTP/9.9\r\nHost: guard.example.de\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
async def test_broken_http_is_400_with_the_error_body_and_the_connection_closes(
    make_listener: Make, raw: bytes
) -> None:
    listener = await make_listener()
    assert refusal(await listener.talk(raw, close=False), 400)["error"] == "invalid_request"
    assert listener.refused == [400]
    assert listener.seen == []


async def test_an_oversized_header_line_is_431(make_listener: Make) -> None:
    listener = await make_listener(request_header=1000)
    raw = b"GET / HTTP/1.1\r\nHost: guard.example.de\r\nX: " + b"a" * 5000 + b"\r\n\r\n"
    refusal(await listener.talk(raw, close=False), 431)


async def test_a_trickling_header_is_408_and_a_quick_client_is_not_disturbed(make_listener: Make) -> None:
    listener = await make_listener(header_timeout_ms=150)
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    answer = b""
    for byte in (b"GET / HTTP/1.1\r\n", b"Host: gu", b"ard.exam", b"ple.de\r\n", b"X: "):
        writer.write(byte)
        await asyncio.sleep(0.04)
    async with asyncio.timeout(5):
        answer = await reader.read()
    writer.close()
    refusal(answer, 408)
    assert (await listener.talk(GOOD)).endswith(b"seen 0")


async def test_the_header_timer_does_not_run_while_a_connection_idles_between_requests(make_listener: Make) -> None:
    listener = await make_listener(header_timeout_ms=60)
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    for _ in range(3):
        writer.write(b"GET / HTTP/1.1\r\nHost: guard.example.de\r\n\r\n")
        assert (await reader.readuntil(b"seen 0")).startswith(b"HTTP/1.1 200")
        await asyncio.sleep(0.1)
    writer.close()
    assert listener.refused == []


async def test_one_connection_too_many_is_told_so(make_listener: Make) -> None:
    listener = await make_listener(connections=1)
    _, first = await asyncio.open_connection("127.0.0.1", listener.port)
    await asyncio.sleep(0.02)
    answer = await listener.talk(GOOD, close=False)
    assert refusal(answer, 503)["error"] == "temporarily_unavailable"
    first.close()
