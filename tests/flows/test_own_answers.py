"""The guard's own answers: the same on both ways through it, whole or in pieces."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.flows.conftest import World

HEAD = b"Host: 127.0.0.1:%d\r\n"
FORM = b"Content-Type: application/x-www-form-urlencoded\r\n"


async def answers(world: World, *requests: tuple[bytes, ...]) -> list[tuple[bytes, dict[bytes, bytes], bytes]]:
    """Status line, headers and body of each answer on one connection; the pieces of a request come one after the other."""
    reader, writer = await world.connect()
    found = []
    try:
        for pieces in requests:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                # So that they are two reads at the other side.
                await asyncio.sleep(0.05 if len(pieces) > 1 else 0)
            async with asyncio.timeout(10):
                head = await reader.readuntil(b"\r\n\r\n")
                status, *lines = head[:-4].split(b"\r\n")
                headers = {name.lower(): value for name, _, value in (line.partition(b": ") for line in lines)}
                assert len(headers) == len(lines)
                found.append((status, headers, await reader.readexactly(int(headers[b"content-length"]))))
    finally:
        writer.close()
    return found


def split(request: bytes) -> tuple[bytes, ...]:
    return request[:20], request[20:]


async def test_a_nonce_is_answered_alike_whole_and_in_pieces(world: World) -> None:
    request = b"GET /nonce HTTP/1.1\r\n" + HEAD % world.port + b"\r\n"
    (status, headers, body), (other_status, others, other_body) = await answers(world, (request,), split(request))
    assert status == other_status == b"HTTP/1.1 200 OK"
    changing = (b"date", b"x-rate-limit-remaining", b"x-rate-limit-reset")
    assert {name: value for name, value in headers.items() if name not in changing} == {
        b"content-type": b"text/plain; charset=utf-8",
        b"cache-control": b"no-store",
        b"zeta-api-version": b"1.0.0",
        b"server": b"zeta-guard",
        b"content-length": b"22",
        b"x-rate-limit-limit": headers[b"x-rate-limit-limit"],
    }
    assert headers.keys() == others.keys()
    assert {name: value for name, value in headers.items() if name not in changing} == {
        name: value for name, value in others.items() if name not in changing
    }
    assert int(headers[b"x-rate-limit-remaining"]) == int(others[b"x-rate-limit-remaining"]) + 1
    assert len(body) == len(other_body) == 22
    assert body != other_body


async def test_the_connection_ends_where_the_client_says_so(world: World) -> None:
    request = b"GET /nonce HTTP/1.1\r\nConnection: close\r\n" + HEAD % world.port + b"\r\n"
    for pieces in ((request,), split(request)):
        reader, writer = await world.connect()
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0.05)
        async with asyncio.timeout(10):
            answer = await reader.read()
        writer.close()
        assert b"\r\nConnection: close\r\n" in answer
        assert len(answer.partition(b"\r\n\r\n")[2]) == 22


async def test_several_requests_sent_at_once_are_answered_in_order(world: World) -> None:
    nonce = b"GET /nonce HTTP/1.1\r\n" + HEAD % world.port + b"\r\n"
    wrong = b"GET /errors/nothing HTTP/1.1\r\n" + HEAD % world.port + b"\r\n"
    reader, writer = await world.connect()
    writer.write(nonce + wrong + nonce)
    statuses = []
    async with asyncio.timeout(10):
        for _ in range(3):
            head = await reader.readuntil(b"\r\n\r\n")
            statuses.append(head.split(b" ", 2)[1])
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.partition(b":")[2]))
    writer.close()
    assert statuses == [b"200", b"404", b"200"]


@pytest.mark.parametrize("whole", [True, False])
async def test_a_form_that_is_too_large_or_encoded_is_refused(world: World, whole: bool) -> None:
    limit = world.guard.config.limits.token_form

    def request(body: bytes, *more: bytes) -> bytes:
        lines = b"".join((HEAD % world.port, FORM, b"Content-Length: %d\r\n" % len(body), *more))
        return b"POST /token HTTP/1.1\r\n" + lines + b"\r\n" + body

    fitting, large = request(b"a=" + b"b" * (limit - 2)), request(b"a=" + b"b" * (limit - 1))
    encoded = request(b"a=b", b"Content-Encoding: gzip\r\n")
    for sent, status, words in (
        (fitting, b"400", b"grant_type"),
        (large, b"413", b"larger than"),
        (encoded, b"415", b"content coding"),
    ):
        answer = await answers(world, (sent,) if whole else split(sent))
        assert status in answer[0][0] or (status == b"415" and b"400" in answer[0][0])
        assert words in answer[0][2]
