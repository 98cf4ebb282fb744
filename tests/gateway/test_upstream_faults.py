"""Backends that refuse, lie, dawdle or die: what the client hears, and what becomes of connection and proof."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.gateway.conftest import MakeWorld, RawBackend, Reply, World

To = Callable[..., dict[str, Any]]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture
async def world(make_world: MakeWorld, backend: RawBackend, to: To) -> World:
    return await make_world([to(backend, methods=["GET", "HEAD", "POST", "PUT"])])


def error_of(reply: Reply) -> tuple[int, str]:
    return reply.status, json.loads(reply.body)["error"]


GARBAGE = {
    "no HTTP": b"SSH-2.0-OpenSSH\r\n\r\n",
    "empty status": b"HTTP/1.1  OK\r\n\r\n",
    "other version": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "bare LF": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
    "two equal lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
    "list of lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok",
    "signed length": b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
    "hex length": b"HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\nok",
    "length and chunked": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "gzip, chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked, identity": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "xchunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked in 1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "obs-fold": b"HTTP/1.1 200 OK\r\nX-A: 1\r\n 2\r\nContent-Length: 0\r\n\r\n",
    "space before colon": b"HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n",
    "NUL in a value": b"HTTP/1.1 200 OK\r\nX-A: a\x00b\r\nContent-Length: 0\r\n\r\n",
    "CR in a value": b"HTTP/1.1 200 OK\r\nX-A: a\rSet-Cookie: evil\r\nContent-Length: 0\r\n\r\n",
    "LF in a value": b"HTTP/1.1 200 OK\r\nX-A: a\nSet-Cookie: evil\r\nContent-Length: 0\r\n\r\n",
    "no colon": b"HTTP/1.1 200 OK\r\nnonsense\r\nContent-Length: 0\r\n\r\n",
    "101 nobody asked for": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "101 without upgrade": b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "large head": b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 70_000 + b"\r\nContent-Length: 0\r\n\r\n",
    "head that never ends": b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 70_000,
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"X-A: 1\r\n" * 201 + b"Content-Length: 0\r\n\r\n",
    "endless interim": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 17 + OK,
    "half a head": b"HTTP/1.1 200 OK\r\nContent-Le",
}


@pytest.mark.parametrize("name", GARBAGE)
async def test_garbage_becomes_502_and_its_connection_is_dropped(world: World, backend: RawBackend, name: str) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await backend.read_request(reader)
        writer.write(GARBAGE[name])
        await writer.drain()
        if name != "half a head":
            await reader.read()

    backend.script = script
    reply = await world.get()
    assert error_of(reply) == (502, "bad_gateway")
    assert b"evil" not in reply.raw + reply.body
    backend.script = None
    assert (await world.get()).status == 200


async def test_interim_answers_are_skipped(world: World, backend: RawBackend) -> None:
    backend.answer = lambda head: b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK
    reply = await world.get()
    assert (reply.status, reply.body, reply.header("Link")) == (200, b"ok", None)


async def test_refused_connection_is_502_and_the_proof_may_come_again_twice(
    make_world: MakeWorld, backend: RawBackend, to: To
) -> None:
    world = await make_world([to(backend, methods=["GET", "POST"])])
    await backend.stop()
    request = world.head()
    assert error_of(await world.send(request)) == (502, "bad_gateway")
    # Another request with the same proof is a replay all the same.
    assert error_of(await world.send(request.replace(b"/vsd/x HTTP", b"/vsd/x?y HTTP"))) == (401, "invalid_dpop_proof")
    await backend.start()
    assert (await world.send(request)).status == 200
    assert error_of(await world.send(request)) == (401, "invalid_dpop_proof")
    assert world.metric("zeta_guard_gateway_upstream_faults_total", route="/vsd", fault="refused") == 1
    assert world.metric("zeta_guard_gateway_replayed_proofs_total", route="/vsd") == 2


async def test_proof_of_a_request_that_reached_the_backend_is_spent(world: World, backend: RawBackend) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await backend.read_request(reader)

    backend.script = script
    request = world.head(method="POST", extra="Content-Length: 0\r\n")
    assert error_of(await world.send(request)) == (502, "bad_gateway")
    backend.script = None
    assert error_of(await world.send(request)) == (401, "invalid_dpop_proof")


async def test_slow_backend_is_504_and_its_proof_is_spent(make_world: MakeWorld, backend: RawBackend, to: To) -> None:
    world = await make_world([to(backend, timeouts={"response_ms": 80})])

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await backend.read_request(reader)
        await reader.read()

    backend.script = script
    request = world.head()
    assert error_of(await world.send(request)) == (504, "gateway_timeout")
    assert backend.open == 0
    backend.script = None
    assert error_of(await world.send(request)) == (401, "invalid_dpop_proof")


async def test_backend_that_dawdles_inside_its_head_is_504(make_world: MakeWorld, backend: RawBackend, to: To) -> None:
    world = await make_world([to(backend, timeouts={"response_ms": 150})])

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await backend.read_request(reader)
        for byte in OK[:20]:
            writer.write(bytes((byte,)))
            await asyncio.sleep(0.02)

    backend.script = script
    assert error_of(await world.get()) == (504, "gateway_timeout")


async def test_backend_that_does_not_open_in_time_is_502(make_world: MakeWorld, to: To) -> None:
    # A listening socket whose queue is full answers no further connection.
    import socket

    with socket.socket() as server, socket.socket() as filler:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        port = server.getsockname()[1]
        filler.connect(("127.0.0.1", port))
        others = []
        for _ in range(4):
            other = socket.socket()
            other.setblocking(False)
            other.connect_ex(("127.0.0.1", port))
            others.append(other)
        route = {"prefix": "/vsd", "upstreams": [{"url": f"http://127.0.0.1:{port}"}], "timeouts": {"connect_ms": 100}}
        world = await make_world([route])
        assert error_of(await world.get()) == (502, "bad_gateway")
        for other in others:
            other.close()


async def test_answer_that_breaks_off_is_not_taken_for_the_whole(world: World, backend: RawBackend) -> None:
    for start in (
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n",
    ):

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, start: bytes = start) -> None:
            await backend.read_request(reader)
            writer.write(start)
            await writer.drain()
            await asyncio.sleep(0.02)

        backend.script = script
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError, ValueError)):
            await world.get()


async def test_silence_inside_an_answer_cuts_it(make_world: MakeWorld, backend: RawBackend, to: To) -> None:
    world = await make_world([to(backend, timeouts={"idle_ms": 80})])

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await backend.read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
        await reader.read()

    backend.script = script
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await world.get()
    assert world.metric("zeta_guard_gateway_upstream_faults_total", route="/vsd", fault="timeout") == 1


@pytest.mark.parametrize("method", ["GET", "PUT"])
async def test_stale_connection_costs_an_idempotent_request_nothing(
    world: World, backend: RawBackend, method: str
) -> None:
    served = 0

    async def once_then_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        await backend.read_request(reader)
        served += 1
        writer.write(OK)
        await writer.drain()
        # The next request is read, and answered with an end.
        await reader.read(1)

    backend.script = once_then_close
    extra = "Content-Length: 0\r\n" if method == "PUT" else ""
    for _ in range(3):
        assert (await world.get(method=method, extra=extra)).status == 200
    assert served == backend.connections == 3


async def test_post_is_never_sent_twice(world: World, backend: RawBackend) -> None:
    seen = 0

    async def once_then_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        await backend.read_request(reader)
        seen += 1
        writer.write(OK)
        await writer.drain()
        await reader.readuntil(b"\r\n\r\n")
        seen += 1

    backend.script = once_then_close
    extra = "Content-Length: 0\r\n"
    assert (await world.get(method="POST", extra=extra)).status == 200
    assert error_of(await world.get(method="POST", extra=extra)) == (502, "bad_gateway")
    assert seen == 2


async def test_connection_closed_by_the_backend_while_idle_is_not_used(world: World, backend: RawBackend) -> None:
    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await backend.read_request(reader)
        writer.write(OK)
        await writer.drain()

    backend.script = once
    for _ in range(3):
        assert (await world.get(method="POST", extra="Content-Length: 0\r\n")).status == 200
        await asyncio.sleep(0.02)


async def test_bytes_behind_an_answer_never_become_the_next_one(world: World, backend: RawBackend) -> None:
    evil = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    backend.answer = lambda head: OK + evil
    assert (await world.get()).body == b"ok"
    backend.answer = lambda head: OK
    assert (await world.get()).body == b"ok"
    assert backend.connections == 2

    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await backend.read_request(reader)
        writer.write(OK)
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.write(evil)
        await writer.drain()
        await reader.read()

    backend.script = late
    assert (await world.get()).body == b"ok"
    await asyncio.sleep(0.06)
    backend.script = None
    assert (await world.get()).body == b"ok"


@pytest.mark.parametrize("body", [b"\r\n\r\nGET /evil HTTP/1.1\r\n\r\n", b"x" * 10])
async def test_answer_to_head_with_a_body_does_not_poison_the_connection(
    world: World, backend: RawBackend, body: bytes
) -> None:
    backend.answer = lambda head: b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    assert (await world.get(method="HEAD")).status == 200
    backend.answer = lambda head: OK
    assert (await world.get()).body == b"ok"


async def test_slow_client_holds_the_backend_back(world: World, backend: RawBackend) -> None:
    sent = 0
    size = 64 << 20

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await backend.read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        piece = b"x" * 65_536
        while sent < size:
            writer.write(piece)
            await writer.drain()
            sent += len(piece)

    backend.script = pour
    reader, writer = await world.connect()
    held = world.pause(writer)
    writer.write(world.head())
    await asyncio.sleep(0.5)
    assert 0 < sent < size // 2
    before = sent
    held.resume_reading()
    await reader.readuntil(b"\r\n\r\n")
    read = 0
    while read < size:
        read += len(await reader.read(1 << 20))
    assert before < sent == size


async def test_slow_backend_holds_the_client_back(world: World, backend: RawBackend) -> None:
    go = asyncio.Event()
    size = 64 << 20

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"Content-Length: %d" % size in head
        await go.wait()
        await reader.readexactly(size)
        writer.write(OK)
        await writer.drain()

    backend.script = wait
    reader, writer = await world.connect()
    writer.write(world.head(method="POST", extra=f"Content-Length: {size}\r\n"))
    sent = 0

    async def upload() -> None:
        nonlocal sent
        piece = b"x" * 65_536
        while sent < size:
            writer.write(piece)
            await writer.drain()
            sent += len(piece)

    task = asyncio.create_task(upload())
    await asyncio.sleep(0.5)
    assert sent < size // 2
    go.set()
    assert (await world.reply(reader)).status == 200
    await task


async def test_client_that_leaves_takes_its_exchange_with_it(world: World, backend: RawBackend) -> None:
    gone = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await backend.read_request(reader)
        await reader.read()
        gone.set()

    backend.script = script
    _, writer = await world.connect()
    writer.write(world.head())
    await asyncio.sleep(0.05)
    writer.close()
    async with asyncio.timeout(2):
        await gone.wait()


async def test_full_pool_makes_requests_wait_and_then_503(make_world: MakeWorld, backend: RawBackend) -> None:
    go = asyncio.Event()
    busy = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal busy
        while True:
            await backend.read_request(reader)
            busy += 1
            await go.wait()
            writer.write(OK)
            await writer.drain()

    backend.script = script
    upstream = {"url": f"http://127.0.0.1:{backend.port}", "max_connections": 2}
    world = await make_world([{"prefix": "/vsd", "upstreams": [upstream], "timeouts": {"connect_ms": 250}}])
    first = [asyncio.create_task(world.get()) for _ in range(2)]
    await world.until(lambda: busy == 2)
    waits = asyncio.create_task(world.get())
    reply = await waits
    assert error_of(reply) == (503, "temporarily_unavailable")
    assert reply.header("Retry-After") == "1"
    late = asyncio.create_task(world.get())
    await asyncio.sleep(0.05)
    go.set()
    assert [(await task).status for task in (*first, late)] == [200, 200, 200]
    assert backend.connections == 2
