"""What reaches the backend and what comes back, byte by byte."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.gateway.conftest import MakeWorld, RawBackend, Reply, World

To = Callable[..., dict[str, Any]]


@pytest.fixture
async def world(make_world: MakeWorld, backend: RawBackend, to: To) -> World:
    return await make_world([to(backend, methods=["GET", "HEAD", "POST", "PUT", "DELETE"])])


def decoded(value: str) -> dict[str, Any]:
    assert len(value) % 4 == 0, "padding is expected"
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(value))
    return found


async def test_request_reaches_the_backend_and_its_answer_the_client(world: World, backend: RawBackend) -> None:
    backend.answer = lambda head: b'HTTP/1.1 200 Fine\r\nContent-Length: 2\r\nETag: "x"\r\n\r\nok'
    reply = await world.get("/vsd/x%7C$,?a=1&b=%20")
    assert (reply.status, reply.body) == (200, b"ok")
    assert reply.raw.startswith(b"HTTP/1.1 200 Fine\r\n")
    assert reply.header("ETag") == '"x"'
    assert reply.header("ZETA-API-Version") == "1.0.0"
    assert backend.head.startswith(b"GET /vsd/x%7C$,?a=1&b=%20 HTTP/1.1\r\nHost: guard.example\r\n")


async def test_backend_hears_who_asks_and_gets_no_credentials(world: World, backend: RawBackend) -> None:
    await world.get(extra="X-Own: 1\r\nPoPP: something\r\n")
    assert decoded(backend.seen("ZETA-User-Info")[0]) == {
        "identifier": "1-2012345678",
        "professionOID": "1.2.276.0.76.4.50",
        "commonName": "Praxis Dr. Müller",
        "organizationName": "Praxis am Deich",
    }
    for name in ("Authorization", "DPoP", "PoPP", "ZETA-Client-Data", "ZETA-PoPP-Token-Content"):
        assert backend.seen(name) == []
    assert backend.seen("X-Own") == ["1"]
    assert backend.seen("Forwarded") == ["by=_zetaguard;for=127.0.0.1;host=guard.example;proto=http"]
    assert len(backend.seen("traceparent")) == 1


async def test_connections_are_kept_and_used_again(world: World, backend: RawBackend) -> None:
    reader, writer = await world.connect()
    for _ in range(3):
        writer.write(world.head())
        assert (await world.reply(reader)).status == 200
    assert backend.connections == 1
    assert len(backend.heads) == 3


async def test_head_and_bodiless_answers_end_with_their_head(world: World, backend: RawBackend) -> None:
    answers = iter(
        [
            b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.1 204 No Content\r\n\r\n",
            b"HTTP/1.1 304 Not Modified\r\nContent-Length: 77\r\nETag: x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        ]
    )
    backend.answer = lambda head: next(answers)
    reader, writer = await world.connect()
    seen: list[Reply] = []
    for method in ("HEAD", "HEAD", "GET", "GET", "GET"):
        writer.write(world.head(method=method))
        seen.append(await world.reply(reader, head_only=method == "HEAD"))
    assert [reply.status for reply in seen] == [200, 200, 204, 304, 200]
    assert [reply.header("Content-Length") for reply in seen] == ["500", None, None, None, "2"]
    assert seen[4].body == b"ok"
    # Framing was never lost: one connection served all five.
    assert backend.connections == 1


async def test_chunked_answers_arrive_whole_and_trailers_do_not(world: World, backend: RawBackend) -> None:
    backend.answer = lambda head: (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
        b"3;ext=1\r\nabc\r\n4\r\ndefg\r\n0\r\nX-Sum: 1\r\nZETA-User-Info: x\r\n\r\n"
    )
    for _ in range(2):
        reply = await world.get()
        assert reply.body == b"abcdefg"
        assert reply.values("X-Sum") == []
    assert backend.connections == 1


async def test_answer_until_close_arrives_whole(world: World, backend: RawBackend) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await backend.read_request(reader)
        for piece in (b"HTTP/1.1 200 OK\r\n\r\nab", b"cd"):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)

    backend.script = script
    reply = await world.get()
    assert (reply.body, reply.header("Transfer-Encoding")) == (b"abcd", "chunked")


@pytest.mark.parametrize("size", [0, 1, 65_536, 3_000_000])
@pytest.mark.parametrize("chunked", [False, True])
async def test_bodies_of_every_size_pass_in_both_directions(
    world: World, backend: RawBackend, size: int, chunked: bool
) -> None:
    body = bytes(index % 251 for index in range(size))

    def answer(head: bytes) -> bytes:
        if not chunked:
            return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + body
        pieces = [body[start : start + 70_000] for start in range(0, size, 70_000)]
        return (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
            + b"0\r\n\r\n"
        )

    backend.answer = answer
    reader, writer = await world.connect()
    for _ in range(2):
        if chunked:
            extra = "Transfer-Encoding: chunked\r\n"
            framed = b"".join(
                b"%x\r\n%b\r\n" % (len(piece), piece)
                for piece in [body[at : at + 50_000] for at in range(0, size, 50_000)]
            )
            writer.write(world.head(method="POST", extra=extra) + framed + b"0\r\n\r\n")
        else:
            writer.write(world.head(method="POST", extra=f"Content-Length: {size}\r\n") + body)
        reply = await world.reply(reader)
        assert reply.status == 200
        assert reply.body == body
    assert backend.bodies == [body, body]


async def test_trailers_of_a_request_are_dropped(world: World, backend: RawBackend) -> None:
    head = world.head(method="POST", extra="Transfer-Encoding: chunked\r\n")
    reply = await world.send(head + b"3\r\nabc\r\n0\r\nZETA-User-Info: x\r\nX-Trail: 1\r\n\r\n")
    assert reply.status == 200
    assert backend.bodies == [b"abc"]
    assert b"X-Trail" not in backend.head


async def test_expectation_is_met_here_and_never_forwarded(world: World, backend: RawBackend) -> None:
    reader, writer = await world.connect()
    writer.write(world.head(method="POST", extra="Expect: 100-Continue\r\nContent-Length: 3\r\n"))
    assert (await world.reply(reader)).status == 100
    writer.write(b"abc")
    assert (await world.reply(reader)).status == 200
    assert backend.seen("Expect") == []
    assert backend.bodies == [b"abc"]


async def test_no_continue_before_the_request_is_admitted(world: World, backend: RawBackend) -> None:
    head = world.head(method="POST", extra="Expect: 100-continue\r\nContent-Length: 3\r\n", exp=0)
    reply = await world.send(head)
    assert reply.status == 401
    assert backend.heads == []


async def test_unknown_expectation_is_417(world: World, backend: RawBackend) -> None:
    reply = await world.get(extra="Expect: 200-ok\r\n")
    assert reply.status == 417
    assert json.loads(reply.body)["error"] == "invalid_request"
    assert backend.heads == []


async def test_answer_before_the_upload_ends_is_delivered(world: World, backend: RawBackend) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Much\r\nContent-Length: 3\r\n\r\nbig")
        await writer.drain()
        await reader.read(100)

    backend.script = script
    reader, writer = await world.connect()
    writer.write(world.head(method="POST", extra="Content-Length: 100000000\r\n") + b"x" * 1000)
    reply = await world.reply(reader)
    assert (reply.status, reply.body, reply.header("Connection")) == (413, b"big", "close")


async def test_answer_may_flow_while_the_upload_does(world: World, backend: RawBackend) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while (size := int(await reader.readline(), 16)) > 0:
            piece = await reader.readexactly(size + 2)
            writer.write(b"%x\r\n%b" % (size, piece))
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    backend.script = echo
    reader, writer = await world.connect()
    writer.write(world.head(method="POST", extra="Transfer-Encoding: chunked\r\n"))
    assert await reader.readuntil(b"\r\n\r\n")
    for piece in (b"one", b"three"):
        writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        assert await reader.readuntil(piece + b"\r\n")
    writer.write(b"0\r\n\r\n")
    assert await reader.readuntil(b"0\r\n\r\n")


async def test_body_beyond_the_routes_limit_is_413(make_world: MakeWorld, backend: RawBackend, to: To) -> None:
    world = await make_world([to(backend, methods=["POST"], max_body=10)])
    good = world.head(method="POST", extra="Content-Length: 10\r\n") + b"x" * 10
    assert (await world.send(good)).status == 200
    reply = await world.send(world.head(method="POST", extra="Content-Length: 11\r\n") + b"x" * 11)
    assert reply.status == 413
    chunked = world.head(method="POST", extra="Transfer-Encoding: chunked\r\n")
    assert (await world.send(chunked + b"b\r\n" + b"x" * 11 + b"\r\n0\r\n\r\n")).status == 413
    reader, writer = await world.connect()
    writer.write(world.head(method="POST", extra="Transfer-Encoding: chunked\r\n"))
    writer.write(b"5\r\nxxxxx\r\n")
    await asyncio.sleep(0.05)
    writer.write(b"6\r\nxxxxxx\r\n")
    assert (await world.reply(reader)).status == 413
    assert len(backend.bodies) == 1


async def test_malformed_and_cut_off_bodies_are_refused_and_never_complete_upstream(
    make_world: MakeWorld, backend: RawBackend, to: To
) -> None:
    world = await make_world([to(backend, methods=["POST"])], limits={"body_timeout_ms": 300})
    reader, writer = await world.connect()
    writer.write(world.head(method="POST", extra="Transfer-Encoding: chunked\r\n") + b"3\r\nabc\r\n")
    await asyncio.sleep(0.05)
    writer.write(b"zz\r\n")
    assert (await world.reply(reader)).status in (400, 408)
    reader, writer = await world.connect()
    writer.write(world.head(method="POST", extra="Content-Length: 10\r\n") + b"abc")
    await asyncio.sleep(0.05)
    writer.close()
    await asyncio.sleep(0.05)
    assert backend.bodies == []
    assert backend.open == 0


async def test_silence_inside_a_body_is_408(make_world: MakeWorld, backend: RawBackend, to: To) -> None:
    world = await make_world([to(backend, methods=["POST"])], limits={"body_timeout_ms": 100})
    reader, writer = await world.connect()
    writer.write(world.head(method="POST", extra="Content-Length: 10\r\n") + b"abc")
    reply = await world.reply(reader)
    assert (reply.status, reply.header("Connection")) == (408, "close")
    assert backend.bodies == []


async def test_http10_clients_get_no_chunks(world: World, backend: RawBackend) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await backend.read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n")
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.write(b"2\r\ncd\r\n0\r\n\r\n")
        await writer.drain()

    backend.script = script
    reply = await world.send(world.head().replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert reply.body == b"abcd"
    assert reply.header("Connection") == "close"
    assert reply.header("Transfer-Encoding") is None


async def test_connection_close_of_the_client_is_honoured(world: World, backend: RawBackend) -> None:
    reader, writer = await world.connect()
    writer.write(world.head(extra="Connection: close\r\n"))
    reply = await world.reply(reader)
    assert reply.header("Connection") == "close"
    assert await reader.read() == b""
    # The backend's connection is not the client's.
    await world.get()
    assert backend.connections == 1


async def test_draining_gateway_answers_with_close(world: World) -> None:
    assert (await world.get()).header("Connection") is None
    await world.gateway.drain()
    assert (await world.get()).header("Connection") == "close"


async def test_zeta_cause_proxy_becomes_500_and_leaks_nothing(world: World, backend: RawBackend) -> None:
    backend.answer = lambda head: (
        b"HTTP/1.1 403 No\r\nzeta-cause: Proxy\r\nX-Secret: inner\r\nContent-Length: 6\r\n\r\nsecret"
    )
    reply = await world.get()
    body = json.loads(reply.body)
    assert (reply.status, body["error"]) == (500, "server_error")
    assert b"secret" not in reply.body
    assert reply.values("X-Secret") == reply.values("zeta-cause") == []


async def test_backends_own_errors_pass_unchanged(world: World, backend: RawBackend) -> None:
    backend.answer = lambda head: b'HTTP/1.1 428 Precondition Required\r\nContent-Length: 4\r\n\r\n{"a"'
    reply = await world.get()
    assert (reply.status, reply.body) == (428, b'{"a"')


async def test_answers_carry_the_rate_of_the_address(make_world: MakeWorld, backend: RawBackend, to: To) -> None:
    world = await make_world([to(backend)], rate_limits={"routes": {"per_minute": 60, "burst": 2}})
    first, second, third = [await world.get() for _ in range(3)]
    assert (first.header("X-Rate-Limit-Limit"), first.header("X-Rate-Limit-Remaining")) == ("2", "1")
    assert second.header("X-Rate-Limit-Remaining") == "0"
    assert (third.status, third.header("Retry-After")) == (429, "1")
    world.clock.now += 1
    assert (await world.get()).status == 200
    assert len(backend.heads) == 3


async def test_time_until_the_backends_answer_is_measured(world: World) -> None:
    await world.get()
    await world.get(method="POST", extra="Content-Length: 0\r\n")
    assert world.metric("zeta_guard_gateway_upstream_seconds_count", route="/vsd") == 2
    assert world.metric("zeta_guard_gateway_requests_total", route="/vsd", status="200") == 2


async def test_an_upload_that_is_over_never_ends_the_next_request_on_its_connection(
    make_world: MakeWorld, backend: RawBackend, to: To
) -> None:
    rules = to(backend, methods=["GET", "POST"])
    rules["upstreams"][0]["max_connections"] = 2
    world = await make_world([rules])

    def answer(head: bytes) -> bytes:
        target = head.split(b" ", 2)[1]
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(target) + target

    backend.answer = answer

    async def client(number: int) -> None:
        reader, writer = await world.connect()
        for turn in range(25):
            path = f"/vsd/{number}-{turn}"
            if number % 2:
                writer.write(world.head(path, "POST", extra="Content-Length: 4\r\n"))
                # Streamed: the guard has the head before any of the body.
                await asyncio.sleep(0.005)
                writer.write(b"body")
            else:
                writer.write(world.head(path))
            reply = await world.reply(reader)
            assert (reply.status, reply.body) == (200, path.encode())

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        for number in range(8):
            group.create_task(client(number))
