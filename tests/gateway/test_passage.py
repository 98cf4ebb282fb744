"""The short way of plain requests, from warm connection to warm connection, and everything that makes it end elsewhere.

Each test first brings one request through, so that an idle connection to the backend is there: the next one then goes in
callbacks from beginning to end, unless the test is about what stops it.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from zeta_guard.config.store import RedisStore
from zeta_guard.gateway.passage import Passage
from zeta_guard.http.facts import RequestFacts
from zeta_guard.http.plain_request import PlainRequest
from zeta_guard.runtime.exchange import Exchange
from zeta_guard.runtime.listener import GuardProtocol
from zeta_guard.simulators.redis_process import RedisProcess
from zeta_guard.store.contract import Block, ClaimOutcome, Epoch
from zeta_guard.store.redis_replay import RedisReplayStore

if TYPE_CHECKING:
    import ssl

    from tests.gateway.conftest import Clock, MakeWorld, RawBackend, World

To = Callable[..., dict[str, Any]]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

only_plain = pytest.mark.parametrize("lane", ["plain"], indirect=True)
METHODS = ["GET", "HEAD", "POST", "PUT", "OPTIONS"]


@pytest.fixture
async def world(make_world: MakeWorld, backend: RawBackend, to: To) -> World:
    return await make_world([to(backend, methods=METHODS, max_body=1000)])


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The statuses of what was answered in callbacks alone."""
    statuses: list[int] = []
    answered = Exchange.answered

    def note(exchange: Exchange, status: int, *, keep_alive: bool) -> None:
        statuses.append(status)
        answered(exchange, status, keep_alive=keep_alive)

    monkeypatch.setattr(Exchange, "answered", note)
    return statuses


async def warm(world: World) -> Streams:
    """A client connection that has had one answer, with an idle connection to the backend behind it."""
    reader, writer = await world.connect()
    writer.write(world.head("/vsd/warm"))
    assert (await world.reply(reader)).status == 200
    return reader, writer


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection as a crashed client does."""
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Gate:
    """A backend that answers when it is told to, each request with its own path."""

    def __init__(self, backend: RawBackend) -> None:
        self.backend = backend
        self.asked = asyncio.Queue[bytes]()
        self.open = asyncio.Event()
        backend.script = self.serve

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head, _ = await self.backend.read_request(reader)
            self.backend.heads.append(head)
            path = head.split(b" ")[1]
            if path != b"/vsd/warm":
                self.asked.put_nowait(path)
                await self.open.wait()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(path), path))


async def test_a_plain_request_is_answered_in_callbacks(
    world: World, backend: RawBackend, passed: list[int], lane: str
) -> None:
    reader, writer = await warm(world)
    for number in range(3):
        writer.write(world.head(f"/vsd/{number}", extra="X-A: b\r\n"))
        reply = await world.reply(reader)
        assert (reply.status, reply.body) == (200, b"ok")
        assert b"\r\nX-A: b\r\n" in backend.heads[-1]
    assert backend.connections == 1
    assert passed == ([200] * 3 if lane == "plain" else [])


async def test_a_body_in_the_same_segment_goes_along(
    world: World, backend: RawBackend, passed: list[int], lane: str
) -> None:
    reader, writer = await warm(world)
    for body in (b"{}", b"", b"GET /vsd/evil HTTP/1.1\r\nHost: guard.example\r\n\r\n."):
        writer.write(world.head(method="POST", extra=f"Content-Length: {len(body)}\r\n") + body)
        assert (await world.reply(reader)).status == 200
        assert backend.bodies[-1] == body
        assert backend.heads[-1].count(b"Content-Length: %d\r\n" % len(body)) == 1
    assert passed == ([200] * 3 if lane == "plain" else [])
    assert len(backend.heads) == 4


async def test_a_body_beyond_the_limit_is_413_and_stays_here(world: World, backend: RawBackend) -> None:
    reader, writer = await warm(world)
    writer.write(world.head(method="POST", extra="Content-Length: 1001\r\n") + b"x" * 1001)
    assert (await world.reply(reader)).status == 413
    assert len(backend.heads) == 1


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n" + b"x" * 300_000, 200, b"x" * 300_000),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno", 404, b"no"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n", 304, b""),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 200, b"abc"),
        (b"HTTP/1.1 103 Early\r\nX-A: 1\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, b"ok"),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", 200, b"ok"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, b"ok"),
    ],
    ids=["large", "error", "204", "304", "chunked", "interim", "close", "1.0"],
)
async def test_every_kind_of_answer_comes_whole_and_the_next_one_too(
    world: World, backend: RawBackend, answer: bytes, status: int, body: bytes
) -> None:
    reader, writer = await warm(world)
    backend.answer = lambda head: answer if b"/vsd/it" in head else b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext"
    for _ in range(2):
        writer.write(world.head("/vsd/it"))
        reply = await world.reply(reader)
        assert (reply.status, reply.body) == (status, body)
        assert reply.raw.count(b"HTTP/1.1 ") == 1
        writer.write(world.head("/vsd/next"))
        assert (await world.reply(reader)).body == b"next"


async def test_head_has_no_body_whatever_is_announced(world: World, backend: RawBackend) -> None:
    reader, writer = await warm(world)
    backend.answer = lambda head: (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + (b"" if head[:4] == b"HEAD" else b"ok")
    )
    for _ in range(2):
        writer.write(world.head(method="HEAD"))
        reply = await world.reply(reader, head_only=True)
        assert (reply.status, reply.header("Content-Length")) == (200, "2")
        writer.write(world.head())
        assert (await world.reply(reader)).body == b"ok"


async def test_a_body_behind_an_answer_to_head_is_nobody_s_answer(world: World, backend: RawBackend) -> None:
    reader, writer = await warm(world)
    backend.answer = lambda head: b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nHI"
    writer.write(world.head(method="HEAD"))
    assert (await world.reply(reader, head_only=True)).status == 200
    backend.answer = lambda head: b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    writer.write(world.head())
    assert (await world.reply(reader)).body == b"ok"


@pytest.mark.parametrize(
    "answer",
    [
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX-A: 1\rSet-Cookie: evil\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX-A: 1\x00\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX-A : 1\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 O\rK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    ],
)
async def test_an_answer_that_is_no_clean_http_is_502(world: World, backend: RawBackend, answer: bytes) -> None:
    reader, writer = await warm(world)
    good = backend.answer
    backend.answer = lambda head: answer
    writer.write(world.head())
    reply = await world.reply(reader)
    assert (reply.status, json.loads(reply.body)["error"]) == (502, "bad_gateway")
    assert b"evil" not in reply.raw
    backend.answer = good
    writer.write(world.head())
    assert (await world.reply(reader)).body == b"ok"


async def test_what_comes_behind_an_answer_is_nobody_s_answer(world: World, backend: RawBackend) -> None:
    reader, writer = await warm(world)
    good = backend.answer
    evil = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    backend.answer = lambda head: b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" + evil
    writer.write(world.head())
    assert (await world.reply(reader)).body == b"ok"
    backend.answer = good
    for _ in range(2):
        writer.write(world.head())
        assert (await world.reply(reader)).body == b"ok"


# one after the other


async def test_a_second_request_waits_until_the_first_is_answered(world: World, backend: RawBackend) -> None:
    gate = Gate(backend)
    reader, writer = await warm(world)
    writer.write(world.head("/vsd/1"))
    assert await gate.asked.get() == b"/vsd/1"
    second = world.head("/vsd/2")
    writer.write(second[:50])
    await asyncio.sleep(0.02)
    writer.write(second[50:] + world.head("/vsd/3"))
    await asyncio.sleep(0.05)
    assert gate.asked.empty()
    gate.open.set()
    assert [(await world.reply(reader)).body for _ in range(3)] == [b"/vsd/1", b"/vsd/2", b"/vsd/3"]
    # Reading goes on.
    writer.write(world.head("/vsd/4"))
    assert (await world.reply(reader)).body == b"/vsd/4"


@only_plain
async def test_what_comes_early_stays_with_the_client(world: World, backend: RawBackend) -> None:
    gate = Gate(backend)
    reader, writer = await warm(world)
    writer.write(world.head("/vsd/1"))
    await gate.asked.get()
    early = b"GET /vsd/x HTTP/1.1\r\nHost: guard.example\r\nX-A: %b\r\n\r\n" % (b"a" * 1000)
    writer.write(early * 6_000)
    await asyncio.sleep(0.3)
    [protocol] = world.server.connections
    assert isinstance(protocol, GuardProtocol)
    assert 0 < sum(map(len, protocol._later)) <= 200_000
    gate.open.set()
    assert (await world.reply(reader)).body == b"/vsd/1"
    assert (await world.reply(reader)).status == 401


async def test_a_second_request_waits_for_a_refusal_too(world: World, backend: RawBackend) -> None:
    gate = Gate(backend)
    reader, writer = await warm(world)
    spent = world.head("/vsd/1")
    writer.write(spent)
    await gate.asked.get()
    writer.write(spent)
    await asyncio.sleep(0.02)
    writer.write(world.head("/vsd/2"))
    gate.open.set()
    assert [(await world.reply(reader)).status for _ in range(3)] == [200, 401, 200]


async def test_a_request_in_pieces_behind_a_whole_one_stays_one_request(world: World, backend: RawBackend) -> None:
    """The second piece looks like a request of its own, and is the value of a header."""
    reader, writer = await warm(world)
    writer.write(world.head("/vsd/1") + b"GET /vsd/2 HTTP/1.1\r\nX-A: ")
    assert (await world.reply(reader)).status == 200
    await asyncio.sleep(0.02)
    writer.write(world.head("/vsd/evil"))
    assert (await world.reply(reader)).status == 401
    assert not any(b"evil" in head for head in backend.heads)


async def test_after_a_request_in_pieces_the_short_way_is_open_again(
    world: World, backend: RawBackend, passed: list[int], lane: str
) -> None:
    reader, writer = await warm(world)
    first = world.head("/vsd/1")
    writer.write(first[:30])
    await asyncio.sleep(0.02)
    writer.write(first[30:])
    assert (await world.reply(reader)).status == 200
    assert passed == []
    writer.write(world.head("/vsd/2"))
    assert (await world.reply(reader)).status == 200
    assert passed == ([200] if lane == "plain" else [])


async def test_after_a_body_in_a_segment_of_its_own_the_short_way_is_open_again(
    world: World, backend: RawBackend, passed: list[int], lane: str
) -> None:
    reader, writer = await warm(world)
    for _ in range(2):
        writer.write(world.head(method="POST", extra="Content-Length: 2\r\n"))
        await asyncio.sleep(0.02)
        writer.write(b"{}")
        assert (await world.reply(reader)).status == 200
        writer.write(world.head(method="POST", extra="Content-Length: 2\r\n") + b"[]")
        assert (await world.reply(reader)).status == 200
    assert backend.bodies == [b"", b"{}", b"[]", b"{}", b"[]"]
    assert passed == ([200, 200] if lane == "plain" else [])


async def test_chunked_and_plain_requests_take_turns(world: World, backend: RawBackend) -> None:
    reader, writer = await warm(world)
    for _ in range(3):
        writer.write(world.head(method="POST", extra="Transfer-Encoding: chunked\r\n"))
        await asyncio.sleep(0.01)
        writer.write(b"3\r\nabc\r\n0\r\n\r\n")
        assert (await world.reply(reader)).status == 200
        assert backend.bodies[-1] == b"abc"
        writer.write(world.head())
        assert (await world.reply(reader)).status == 200
        assert backend.bodies[-1] == b""


async def test_a_client_that_takes_no_answers_is_asked_nothing_further(world: World, backend: RawBackend) -> None:
    """What it has not taken would have to be kept here, answer after answer."""
    count, size = 200, 60_000
    backend.answer = lambda head: (
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + head.split(b" ")[1].ljust(size)
    )
    requests = [world.head(f"/vsd/{number}") for number in range(count)]
    reader, writer = await world.connect()
    transport = world.pause(writer)
    for request in requests:
        writer.write(request)
        await asyncio.sleep(0.001)
    seen = -1
    while seen != len(backend.heads):
        seen = len(backend.heads)
        await asyncio.sleep(0.2)
    assert 10 < seen < 150
    transport.resume_reading()
    for number in range(count):
        assert (await world.reply(reader)).body.rstrip() == b"/vsd/%d" % number


async def test_a_client_that_takes_no_answers_is_let_go(make_world: MakeWorld, backend: RawBackend, to: To) -> None:
    world = await make_world([to(backend)], limits={"keepalive": 1})
    backend.answer = lambda head: b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n" + bytes(60_000)
    _, writer = await world.connect()
    world.pause(writer)
    for number in range(150):
        writer.write(world.head(f"/vsd/{number}"))
    await world.until(lambda: backend.heads)
    await world.until(lambda: not world.server.connections)


async def test_connection_close_is_kept(world: World, backend: RawBackend) -> None:
    reader, writer = await warm(world)
    writer.write(world.head(extra="Connection: close\r\n"))
    reply = await world.reply(reader)
    assert (reply.status, reply.header("Connection")) == (200, "close")
    assert await reader.read() == b""


async def test_http_1_0_is_answered_and_closed(world: World, backend: RawBackend) -> None:
    reader, writer = await warm(world)
    writer.write(world.head().replace(b" HTTP/1.1", b" HTTP/1.0", 1))
    assert (await world.reply(reader)).status == 200
    assert await reader.read() == b""


async def test_an_idle_connection_is_closed_after_its_time(make_world: MakeWorld, backend: RawBackend, to: To) -> None:
    world = await make_world([to(backend)], limits={"keepalive": 1})
    reader, writer = await warm(world)
    writer.write(world.head())
    assert (await world.reply(reader)).status == 200
    async with asyncio.timeout(3):
        assert await reader.read() == b""


async def test_a_connection_with_a_request_is_not_idle(make_world: MakeWorld, backend: RawBackend, to: To) -> None:
    world = await make_world([to(backend)], limits={"keepalive": 1})
    gate = Gate(backend)
    reader, writer = await warm(world)
    writer.write(world.head("/vsd/1"))
    await gate.asked.get()
    await asyncio.sleep(1.2)
    gate.open.set()
    assert (await world.reply(reader)).body == b"/vsd/1"
    async with asyncio.timeout(3):
        assert await reader.read() == b""


async def test_answers_under_drain_are_the_last_ones(world: World, backend: RawBackend, lane: str) -> None:
    gate = Gate(backend)
    reader, writer = await warm(world)
    idle = await warm(world)
    writer.write(world.head("/vsd/1"))
    await gate.asked.get()
    await world.gateway.drain()
    gate.open.set()
    # Whether connections end is seen when the answer begins; the task sees it when the request is sent.
    reply = await world.reply(reader)
    assert (reply.status, reply.header("Connection")) == (200, "close" if lane == "plain" else None)
    reader, writer = (reader, writer) if lane == "parser" else idle
    writer.write(world.head("/vsd/2"))
    reply = await world.reply(reader)
    assert (reply.status, reply.header("Connection")) == (200, "close")
    assert await reader.read() == b""


async def test_a_websocket_opens_behind_a_plain_request(make_world: MakeWorld, backend: RawBackend, to: To) -> None:
    world = await make_world([to(backend, websocket={"enabled": True})])
    reader, writer = await warm(world)
    writer.write(world.head())
    assert (await world.reply(reader)).status == 200
    key = base64.b64encode(bytes(16)).decode()
    writer.write(
        world.head(
            extra="Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {key}\r\n"
        )
    )
    # The backend does not care for WebSockets; its words come back, and the connection serves on.
    refused = await world.reply(reader)
    assert refused.status == 200
    assert b"\r\nUpgrade: websocket\r\n" in backend.heads[-1]
    writer.write(world.head("/vsd/after"))
    assert (await world.reply(reader)).status == 200


async def test_over_tls_it_is_the_same(
    make_world: MakeWorld,
    backend: RawBackend,
    to: To,
    tls_contexts: tuple[ssl.SSLContext, ssl.SSLContext, Path],
    passed: list[int],
    lane: str,
) -> None:
    server, client, _ = tls_contexts
    world = await make_world([to(backend)], tls=server)
    gate = Gate(backend)
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port, ssl=client)
    world.writers.append(writer)
    writer.write(world.head("/vsd/warm"))
    assert (await world.reply(reader)).status == 200
    writer.write(world.head("/vsd/1"))
    await gate.asked.get()
    assert b"proto=https" in backend.heads[-1]
    writer.write(world.head("/vsd/2"))
    await asyncio.sleep(0.05)
    assert gate.asked.empty()
    gate.open.set()
    assert [(await world.reply(reader)).body for _ in range(2)] == [b"/vsd/1", b"/vsd/2"]
    assert passed == ([200, 200] if lane == "plain" else [])


async def test_shutdown_lets_the_running_request_end(world: World, backend: RawBackend) -> None:
    gate = Gate(backend)
    reader, writer = await warm(world)
    writer.write(world.head("/vsd/1"))
    await gate.asked.get()
    shutdown = asyncio.create_task(world.server.shutdown(5.0))
    await asyncio.sleep(0.02)
    assert not shutdown.done()
    gate.open.set()
    assert (await world.reply(reader)).body == b"/vsd/1"
    assert await reader.read() == b""
    async with asyncio.timeout(2):
        await shutdown


async def test_shutdown_does_not_wait_for_ever(world: World, backend: RawBackend) -> None:
    gate = Gate(backend)
    reader, writer = await warm(world)
    writer.write(world.head("/vsd/1"))
    await gate.asked.get()
    async with asyncio.timeout(2):
        await world.server.shutdown(0.1)
        assert await reader.read() == b""
    await world.until(lambda: not world.dispatcher.in_flight)


# the proof


async def test_of_many_at_once_each_hears_its_own_verdict(world: World, backend: RawBackend, lane: str) -> None:
    """More than are verified in a row, good and bad ones mixed, and some whose clients do not wait."""
    streams = [await warm(world) for _ in range(30)]
    for number, (_, writer) in enumerate(streams):
        raw = world.head(f"/vsd/{number}")
        if number % 3 == 1:
            place = raw.index(b"\r\n\r\n") - 20
            raw = raw[:place] + (b"A" if raw[place : place + 1] != b"A" else b"B") + raw[place + 1 :]
        writer.write(raw)
        if number % 3 == 2:
            reset(writer)
    backend.answer = lambda head: b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n%02d" % int(head.split()[1][5:])
    for number, (reader, _) in enumerate(streams):
        if number % 3 == 0:
            reply = await world.reply(reader)
            assert (reply.status, reply.body) == (200, b"%02d" % number)
        elif number % 3 == 1:
            reply = await world.reply(reader)
            assert (reply.status, json.loads(reply.body)["error"]) == (401, "invalid_dpop_proof")
    seen = {int(head.split()[1][5:]) for head in backend.heads[30:]}
    assert not any(number % 3 == 1 for number in seen)
    await world.until(lambda: not world.dispatcher.in_flight)


async def test_a_spent_proof_is_refused_and_stays_here(world: World, backend: RawBackend) -> None:
    reader, writer = await warm(world)
    raw = world.head()
    seen = []
    for _ in range(3):
        writer.write(raw)
        reply = await world.reply(reader)
        seen.append((reply.status, json.loads(reply.body)["error"] if reply.status != 200 else ""))
    assert seen == [(200, ""), (401, "invalid_dpop_proof"), (401, "invalid_dpop_proof")]
    assert len(backend.heads) == 2
    assert world.metric("zeta_guard_gateway_replayed_proofs_total", route="/vsd") == 2


async def test_of_many_at_once_one_passes(world: World, backend: RawBackend) -> None:
    streams = [await warm(world) for _ in range(6)]
    raw = world.head("/vsd/once")
    for _, writer in streams:
        writer.write(raw)
    statuses = [(await world.reply(reader)).status for reader, _ in streams]
    assert sorted(statuses) == [200] + [401] * 5
    assert sum(b"/vsd/once" in head for head in backend.heads) == 1


async def test_a_blocked_session_is_refused(world: World, backend: RawBackend) -> None:
    reader, writer = await warm(world)
    await world.store.block(Block("session:session-1", "revoked", world.clock() + 60, world.clock()), now=world.clock())
    writer.write(world.head())
    assert (await world.reply(reader)).status == 401
    assert len(backend.heads) == 1


async def test_a_proof_older_than_the_memory_is_refused(world: World, backend: RawBackend) -> None:
    reader, writer = await warm(world)
    world.store._epoch = Epoch("another", world.clock())
    writer.write(world.head())
    assert (await world.reply(reader)).status == 401
    assert len(backend.heads) == 1


@only_plain
async def test_a_store_without_an_answer_is_asked_again_in_the_other_way(
    world: World, backend: RawBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = await warm(world)

    def lose(claims: Any, subjects: Any, *, then: Callable[[ClaimOutcome | None], None], **options: Any) -> None:
        world.store._claim(claims, subjects, options["owner"], options["fingerprint"], options["now"])
        then(None)

    monkeypatch.setattr(world.store, "claim_soon", lose)
    raw = world.head()
    for status in (200, 401):
        writer.write(raw)
        assert (await world.reply(reader)).status == status
    assert len(backend.heads) == 2


@pytest.fixture
async def redis(tmp_path: Path, clock: Clock) -> AsyncIterator[tuple[RedisProcess, RedisReplayStore]]:
    if not RedisProcess.installed():
        if "redis" in os.environ.get("ZETA_GUARD_REQUIRE", ""):
            pytest.fail("redis-server is required and not installed")
        pytest.skip("redis-server is not installed")
    server = RedisProcess(tmp_path)
    server.start()
    clock.now -= 100
    store = RedisReplayStore(RedisStore(url=server.url, timeout_ms=300), clock=clock)
    await store.start()
    clock.now += 100
    yield server, store
    await store.close()
    server.stop()


@pytest.mark.redis
async def test_with_redis_it_is_the_same(
    make_world: MakeWorld,
    backend: RawBackend,
    to: To,
    redis: tuple[RedisProcess, RedisReplayStore],
    passed: list[int],
    lane: str,
) -> None:
    server, store = redis
    world = await make_world([to(backend)], replay=store)
    reader, writer = await warm(world)
    spent = world.head("/vsd/1")
    for status in (200, 401):
        writer.write(spent)
        assert (await world.reply(reader)).status == status
    assert passed == ([200] if lane == "plain" else [])
    # A script that the server forgot is no reason to refuse anybody.
    server.ask("SCRIPT", "FLUSH")
    fresh = world.head("/vsd/2")
    for status in (200, 401):
        writer.write(fresh)
        assert (await world.reply(reader)).status == status
    assert len(backend.heads) == 3


@pytest.mark.redis
@pytest.mark.parametrize("how", ["stop", "pause"])
async def test_without_redis_nothing_passes(
    make_world: MakeWorld, backend: RawBackend, to: To, redis: tuple[RedisProcess, RedisReplayStore], how: str
) -> None:
    server, store = redis
    world = await make_world([to(backend)], replay=store)
    reader, writer = await warm(world)
    (server.stop if how == "stop" else server.pause)()
    try:
        for _ in range(2):
            writer.write(world.head())
            reply = await world.reply(reader)
            assert (reply.status, json.loads(reply.body)["error"]) == (503, "temporarily_unavailable")
            assert reply.header("Retry-After")
    finally:
        server.resume()
    assert len(backend.heads) == 1


@pytest.mark.redis
async def test_a_claim_whose_answer_is_lost_passes_once(
    make_world: MakeWorld, backend: RawBackend, to: To, redis: tuple[RedisProcess, RedisReplayStore]
) -> None:
    server, store = redis
    world = await make_world([to(backend)], replay=store)
    reader, writer = await warm(world)
    connection = store._link.current
    assert connection is not None
    assert connection._transport is not None
    connection._transport.pause_reading()
    raw = world.head("/vsd/1")
    writer.write(raw)
    while "2" not in server.ask("EVAL", "return #redis.call('keys', '*c:*')", "0"):  # noqa: ASYNC110 - asked of the server
        await asyncio.sleep(0.005)
    connection.abort()
    for status in (200, 401):
        assert (await world.reply(reader)).status == status
        if status == 200:
            writer.write(raw)
    assert len(backend.heads) == 2


# the backend


async def test_a_silent_backend_is_504(make_world: MakeWorld, backend: RawBackend, to: To) -> None:
    world = await make_world([to(backend, timeouts={"response_ms": 100})])
    gate = Gate(backend)
    reader, writer = await warm(world)
    writer.write(world.head("/vsd/1"))
    assert (await world.reply(reader)).status == 504
    # What it says too late is nobody's answer.
    gate.open.set()
    writer.write(world.head("/vsd/2"))
    assert (await world.reply(reader)).body == b"/vsd/2"


@pytest.mark.parametrize(("method", "status", "times"), [("GET", 200, 2), ("PUT", 200, 2), ("POST", 502, 1)])
async def test_a_connection_that_ended_while_idle_costs_a_second_try_where_that_is_harmless(
    world: World, backend: RawBackend, method: str, status: int, times: int
) -> None:
    """The backend closes in the moment in which the request is on its way."""
    ended: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = True
        while True:
            head, _ = await backend.read_request(reader)
            if b"/vsd/it" in head:
                ended.append(head)
                if not first:
                    return
            first = False
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    backend.script = serve
    reader, writer = await warm(world)
    raw = world.head("/vsd/it", method)
    writer.write(raw)
    assert (await world.reply(reader)).status == status
    assert len(ended) == times
    assert len({head.split(b"traceparent")[0] for head in ended}) == 1
    # The proof is spent in each case: the backend may have seen the request.
    writer.write(raw)
    assert (await world.reply(reader)).status == 401


async def test_a_connection_that_the_backend_closed_is_not_taken(world: World, backend: RawBackend) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head, _ = await backend.read_request(reader)
        backend.heads.append(head)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    backend.script = serve
    reader, writer = await warm(world)
    await world.until(lambda: backend.open == 0)
    await asyncio.sleep(0.02)
    writer.write(world.head(method="POST", extra="Content-Length: 1\r\n") + b"x")
    assert (await world.reply(reader)).status == 200
    assert len(backend.heads) == 2


async def test_the_proof_of_a_request_that_reached_nobody_may_come_again(world: World, backend: RawBackend) -> None:
    reader, writer = await warm(world)
    await backend.stop()
    pool = next(iter(world.gateway.forwarder.pools.values()))
    await world.until(lambda: pool.size == 0)
    raw = world.head()
    writer.write(raw)
    assert (await world.reply(reader)).status == 502
    await backend.start()
    for status in (200, 401):
        writer.write(raw)
        assert (await world.reply(reader)).status == status


async def test_an_answer_in_pieces_is_delivered(world: World, backend: RawBackend) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head, _ = await backend.read_request(reader)
            for piece in (b"HTTP/1.1 200 OK\r\nContent-", b"Length: 6\r\n\r\n", b"abc", b"def"):
                writer.write(piece)
                await asyncio.sleep(0 if b"warm" in head else 0.01)

    backend.script = serve
    reader, writer = await warm(world)
    for _ in range(2):
        writer.write(world.head())
        assert (await world.reply(reader)).body == b"abcdef"
    assert backend.connections == 1


async def test_an_answer_that_breaks_off_ends_the_connection(world: World, backend: RawBackend) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await backend.read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await backend.read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc")

    backend.script = serve
    reader, writer = await warm(world)
    writer.write(world.head())
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await world.reply(reader)


# the client leaves


async def test_a_client_that_leaves_before_the_claim_is_decided_sends_nothing(
    world: World, backend: RawBackend, monkeypatch: pytest.MonkeyPatch, lane: str
) -> None:
    if lane == "parser":
        pytest.skip("the task is cancelled there; test_app shows it")
    _, writer = await warm(world)
    waiting: list[Callable[[], None]] = []
    claim_soon = world.store.claim_soon

    def later(*arguments: Any, **options: Any) -> None:
        waiting.append(lambda: claim_soon(*arguments, **options))

    monkeypatch.setattr(world.store, "claim_soon", later)
    writer.write(world.head("/vsd/1"))
    await world.until(lambda: waiting)
    assert world.dispatcher.in_flight == 1
    reset(writer)
    await world.until(lambda: not world.dispatcher.in_flight)
    waiting[0]()
    await asyncio.sleep(0.02)
    assert len(backend.heads) == 1
    monkeypatch.undo()
    reader, writer = await world.connect()
    writer.write(world.head("/vsd/2"))
    assert (await world.reply(reader)).status == 200


@pytest.mark.parametrize("leave", [reset, lambda writer: writer.close()], ids=["reset", "closed"])
async def test_a_client_that_leaves_before_the_answer_takes_its_connection_along(
    world: World, backend: RawBackend, leave: Callable[[asyncio.StreamWriter], None]
) -> None:
    gate = Gate(backend)
    _, writer = await warm(world)
    writer.write(world.head("/vsd/1"))
    await gate.asked.get()
    leave(writer)
    await world.until(lambda: not world.dispatcher.in_flight)
    pool = next(iter(world.gateway.forwarder.pools.values()))
    await world.until(lambda: pool.size == 0)
    gate.open.set()
    reader, writer = await world.connect()
    writer.write(world.head("/vsd/2"))
    assert (await world.reply(reader)).body == b"/vsd/2"


@pytest.mark.parametrize("leave", [reset, lambda writer: writer.close()], ids=["reset", "closed"])
async def test_a_client_that_leaves_in_the_middle_of_its_answer_takes_its_connection_along(
    world: World, backend: RawBackend, leave: Callable[[asyncio.StreamWriter], None]
) -> None:
    reader, writer = await warm(world)
    backend.answer = lambda head: b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc"
    writer.write(world.head("/vsd/1"))
    await reader.readuntil(b"\r\n\r\nabc")
    leave(writer)
    await world.until(lambda: not world.dispatcher.in_flight)
    pool = next(iter(world.gateway.forwarder.pools.values()))
    await world.until(lambda: pool.size == 0)
    backend.answer = lambda head: b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    reader, writer = await world.connect()
    writer.write(world.head("/vsd/2"))
    assert (await world.reply(reader)).body == b"ok"


async def test_an_answer_of_many_pieces_is_the_same_bytes_for_a_slow_client(world: World, backend: RawBackend) -> None:
    body = bytes(range(256)) * 40_000

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head, _ = await backend.read_request(reader)
            size = 2 if b"warm" in head else len(body)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + body[:size])
            await writer.drain()

    backend.script = serve
    reader, writer = await warm(world)
    for _ in range(2):
        transport = world.pause(writer)
        writer.write(world.head("/vsd/1"))
        await asyncio.sleep(0.2)
        transport.resume_reading()
        assert (await world.reply(reader)).body == body
    assert backend.connections == 1


@only_plain
async def test_a_client_that_leaves_while_its_request_is_handed_over_leaves_no_connection_behind(
    world: World, backend: RawBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is gone before the connection's task could begin."""
    _, writer = await warm(world)
    backend.answer = lambda head: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
    take_over = GuardProtocol.take_over_exchange

    def leave(protocol: GuardProtocol) -> None:
        assert protocol.transport is not None
        protocol.transport.abort()
        take_over(protocol)

    monkeypatch.setattr(GuardProtocol, "take_over_exchange", leave)
    writer.write(world.head("/vsd/1"))
    pool = next(iter(world.gateway.forwarder.pools.values()))
    await world.until(lambda: len(backend.heads) == 2 and not world.dispatcher.in_flight)
    await world.until(lambda: pool.size == 0)


@only_plain
async def test_a_request_whose_task_finds_the_client_gone_is_counted_out_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writing fails before the connection is told of its end."""
    reader, writer = await warm(world)

    async def gone(*arguments: Any, **options: Any) -> None:
        raise ConnectionResetError

    monkeypatch.setattr(world.gateway, "go_on", gone)
    monkeypatch.setattr(world.gateway, "_draining", True)
    writer.write(world.head())
    assert await reader.read() == b""
    await world.until(lambda: world.dispatcher.in_flight <= 0)
    await asyncio.sleep(0.02)
    assert world.dispatcher.in_flight == 0


@only_plain
async def test_what_fails_behind_a_written_answer_makes_no_second_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = await warm(world)

    def fail(*arguments: Any) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as broken:
        broken.setattr(world.dispatcher._request_log, "write", fail)
        writer.write(world.head())
        assert (await world.reply(reader)).body == b"ok"
        await asyncio.sleep(0.05)
    assert world.dispatcher.in_flight == 0
    writer.write(world.head())
    assert (await world.reply(reader)).body == b"ok"


@only_plain
async def test_what_fails_on_the_way_is_500(world: World, backend: RawBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = await warm(world)

    def fail(*arguments: Any) -> None:
        raise OSError("no more words")

    pool = next(iter(world.gateway.forwarder.pools.values()))
    with monkeypatch.context() as broken:
        broken.setattr(world.gateway.forwarder, "rate_lines", fail)
        writer.write(world.head())
        reply = await world.reply(reader)
        assert (reply.status, json.loads(reply.body)["error"]) == (500, "server_error")
    assert pool.in_use == 0
    writer.write(world.head())
    assert (await world.reply(reader)).body == b"ok"


@only_plain
async def test_what_fails_in_the_middle_of_an_answer_cuts_it_off(
    world: World, backend: RawBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head, _ = await backend.read_request(reader)
            if b"warm" in head:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                continue
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
            await more.wait()
            writer.write(b"def")

    def fail(*arguments: Any) -> None:
        raise OSError("no more words")

    backend.script = serve
    reader, writer = await warm(world)
    monkeypatch.setattr(Passage, "_stream", fail)
    writer.write(world.head())
    head = await reader.readuntil(b"abc")
    more.set()
    assert head.count(b"HTTP/1.1 ") == 1
    assert await reader.read() == b""
    pool = next(iter(world.gateway.forwarder.pools.values()))
    await world.until(lambda: pool.size == 0)


@only_plain
async def test_nothing_of_a_request_waits_for_the_garbage_collector(world: World, backend: RawBackend) -> None:
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    halves = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc", b"def"
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", b"0\r\n\r\n"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head, _ = await backend.read_request(reader)
            if b"/vsd/silent" in head:
                await asyncio.Event().wait()
            pieces = halves if b"/halves" in head else chunked if b"/chunked" in head else (ok,)
            writer.write(pieces[0])
            if b"/leave" in head:
                await asyncio.Event().wait()
            await asyncio.sleep(0.01 * (len(pieces) - 1))
            writer.writelines(pieces[1:])

    def left() -> list[Any]:
        return [one for one in gc.get_objects() if isinstance(one, Exchange | Passage | PlainRequest | RequestFacts)]

    backend.script = serve
    reader, writer = await warm(world)
    gc.collect()
    gc.disable()
    try:
        assert left() == []
        for path, status in (("/vsd/1", 200), ("/vsd/halves", 200), ("/vsd/chunked", 200), ("/none", 404)):
            raw = world.head(path)
            writer.write(raw)
            assert (await world.reply(reader)).status == status
            await asyncio.sleep(0.02)
            assert left() == [], path
            writer.write(raw)
            assert (await world.reply(reader)).status == (401 if status == 200 else status)
            await asyncio.sleep(0.02)
            assert left() == [], path
        writer.write(world.head(method="POST", extra="Content-Length: 1001\r\n") + b"x" * 1001)
        assert (await world.reply(reader)).status == 413
        for path in ("/vsd/silent", "/vsd/halves/leave", "/vsd/chunked/leave"):
            reader, writer = await warm(world)
            writer.write(world.head(path))
            await (asyncio.sleep(0.05) if "silent" in path else reader.readuntil(b"abc"))
            reset(writer)
            await world.until(lambda: not world.dispatcher.in_flight)
            await asyncio.sleep(0.02)
            assert left() == [], path
    finally:
        gc.enable()
