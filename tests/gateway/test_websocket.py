"""WebSockets through the gateway: real peers at both ends, raw bytes where it matters."""

from __future__ import annotations

import asyncio
import gc
import json
import ssl
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web

from zeta_guard.gateway.frame import close_frame
from zeta_guard.gateway.websocket import accept_of
from zeta_guard.store.contract import Block

if TYPE_CHECKING:
    from tests.gateway.conftest import MakeWorld, RawBackend, Reply, World

To = Callable[..., dict[str, Any]]
Connect = Callable[..., Awaitable[aiohttp.ClientWebSocketResponse]]

WEBSOCKET = {"enabled": True}
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
UPGRADE = f"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n"
ACCEPT = accept_of(KEY.encode()).decode()
PROVEN = (
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n"
    f"Sec-WebSocket-Accept: {ACCEPT}\r\nZETA-Secret: 1\r\n\r\n"
).encode()


class EchoService:
    """A real WebSocket service: echoes, closes on command, remembers how its sockets ended."""

    def __init__(self) -> None:
        self.headers: list[dict[str, str]] = []
        self.closes: list[int | None] = []
        self.compressed: list[bool] = []
        self.port = 0

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        if request.path.endswith("/refuse"):
            return web.json_response({"error": "mine"}, status=403, headers={"X-Own": "1"})
        socket = web.WebSocketResponse(protocols=("popp.v1",), max_msg_size=1 << 24, autoping=True)
        await socket.prepare(request)
        self.compressed.append(bool(socket.compress))
        async for message in socket:
            if message.type is aiohttp.WSMsgType.TEXT:
                if message.data.startswith("close "):
                    await socket.close(code=int(message.data[6:]), message=b"bye")
                    break
                await socket.send_str(message.data)
            elif message.type is aiohttp.WSMsgType.BINARY:
                await socket.send_bytes(message.data)
        self.closes.append(socket.close_code)
        return socket


@pytest.fixture
async def echo() -> AsyncIterator[EchoService]:
    service = EchoService()
    server = web.Server(service.handle)
    runner = web.ServerRunner(server, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    service.port = runner.addresses[0][1]
    yield service
    await runner.cleanup()


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """``connect(world, path, …)``: an authorised WebSocket of a real client."""
    async with aiohttp.ClientSession() as session:

        async def open_socket(
            world: World, path: str = "/ws/echo", *, claims: dict[str, Any] | None = None, **options: Any
        ) -> aiohttp.ClientWebSocketResponse:
            token = world.issuer.token(world.client, **(claims or {}))
            proof = world.client.proof(token, path=path, htu=f"wss://guard.example{path}")
            headers = {"Host": "guard.example", "Authorization": f"DPoP {token}", "DPoP": proof}
            socket: aiohttp.ClientWebSocketResponse = await session.ws_connect(
                f"http://127.0.0.1:{world.port}{path}", headers=headers, **options
            )
            return socket

        yield open_socket


@pytest.fixture
async def world(make_world: MakeWorld, echo: EchoService) -> World:
    return await make_world(
        [{"prefix": "/ws", "upstreams": [{"url": f"http://127.0.0.1:{echo.port}"}], "websocket": WEBSOCKET}]
    )


async def test_messages_pass_in_both_directions(world: World, echo: EchoService, connect: Connect) -> None:
    socket = await connect(world)
    for text in ("a", "ä" * 100, "x" * 200_000):
        await socket.send_str(text)
        assert await socket.receive_str() == text
    await socket.send_bytes(bytes(range(256)) * 5000)
    assert await socket.receive_bytes() == bytes(range(256)) * 5000
    assert echo.headers[0]["host"] == "guard.example"
    assert "zeta-user-info" in echo.headers[0]
    assert "authorization" not in echo.headers[0]
    await socket.close()
    assert world.gateway.open_sockets in (0, 1)
    await world.until(lambda: world.gateway.open_sockets == 0)
    assert world.metric("zeta_guard_gateway_websocket_ends_total", route="/ws", reason="peer") == 1


@pytest.mark.parametrize("code", [1000, 1001, 3000, 4999])
async def test_close_codes_pass_in_both_directions(
    world: World, echo: EchoService, connect: Connect, code: int
) -> None:
    socket = await connect(world)
    await socket.close(code=code, message=b"done")
    await world.until(lambda: echo.closes == [code])
    socket = await connect(world)
    await socket.send_str(f"close {code}")
    message = await socket.receive()
    assert (message.type, message.data, message.extra) == (aiohttp.WSMsgType.CLOSE, code, "bye")


async def test_pings_pass(world: World, connect: Connect) -> None:
    socket = await connect(world, autoping=False)
    await socket.ping(b"hello")
    message = await socket.receive()
    assert (message.type, message.data) == (aiohttp.WSMsgType.PONG, b"hello")
    await socket.close()


async def test_compression_is_negotiated_end_to_end(world: World, echo: EchoService, connect: Connect) -> None:
    socket = await connect(world, compress=15)
    assert socket.compress == 15
    await socket.send_str("x" * 100_000)
    assert await socket.receive_str() == "x" * 100_000
    await socket.close()
    plain = await connect(world)
    assert plain.compress == 0
    await plain.close()
    assert echo.compressed == [True, False]


async def test_subprotocol_passes(world: World, connect: Connect) -> None:
    socket = await connect(world, protocols=("popp.v1",))
    assert socket.protocol == "popp.v1"
    await socket.close()


async def test_socket_works_over_tls(
    make_world: MakeWorld, echo: EchoService, tls_contexts: tuple[ssl.SSLContext, ssl.SSLContext, Path]
) -> None:
    server, client, _ = tls_contexts
    world = await make_world(
        [{"prefix": "/ws", "upstreams": [{"url": f"http://127.0.0.1:{echo.port}"}], "websocket": WEBSOCKET}], tls=server
    )
    token = world.issuer.token(world.client)
    headers = {
        "Host": "guard.example",
        "Authorization": f"DPoP {token}",
        "DPoP": world.client.proof(token, path="/ws/echo"),
    }
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"https://127.0.0.1:{world.port}/ws/echo", headers=headers, ssl=client) as socket,
    ):
        await socket.send_str("x" * 300_000)
        assert await socket.receive_str() == "x" * 300_000
        await world.gateway.drain()
        message = await socket.receive()
        assert message.data == 1001


# who may


async def test_upgrade_is_authorised_like_any_request(world: World, echo: EchoService) -> None:
    reply = await world.get("/ws/echo", extra=UPGRADE, exp=0)
    assert reply.status == 401
    reply = await world.send(f"GET /ws/echo HTTP/1.1\r\nHost: guard.example\r\n{UPGRADE}\r\n".encode())
    assert reply.status == 401
    assert echo.headers == []


@pytest.mark.parametrize(
    ("old", "new", "status"),
    [
        ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 8", 426),
        ("Sec-WebSocket-Version: 13\r\n", "", 426),
        (f"Sec-WebSocket-Key: {KEY}\r\n", "", 400),
        (KEY, "AAAA", 400),
        (KEY, "!" * 24, 400),
        (UPGRADE, UPGRADE + f"Sec-WebSocket-Key: {KEY}\r\n", 400),
        (UPGRADE, UPGRADE + "Content-Length: 3\r\n", 400),
        ("Upgrade: websocket", "Upgrade: h2c", 400),
        ("Upgrade: websocket", "Upgrade: websocket, h2c", 400),
    ],
)
async def test_malformed_handshake_is_refused_here(
    world: World, echo: EchoService, old: str, new: str, status: int
) -> None:
    assert old in UPGRADE
    reply = await world.get("/ws/echo", extra=UPGRADE.replace(old, new))
    assert reply.status == status
    if status == 426:
        assert reply.header("Sec-WebSocket-Version") == "13"
    assert echo.headers == []


async def test_upgrade_is_refused_where_the_route_offers_none(
    make_world: MakeWorld, backend: RawBackend, to: To
) -> None:
    world = await make_world([to(backend, methods=["GET", "POST"])])
    assert (await world.get(extra=UPGRADE)).status == 400
    assert (await world.get(method="POST", extra=UPGRADE)).status == 400
    assert backend.heads == []
    # Without Connection it is no upgrade (RFC 9110 §7.8) and the name goes no further.
    assert (await world.get(extra="Upgrade: websocket\r\n")).status == 200
    assert backend.seen("Upgrade") == []


async def test_connection_works_on_after_a_refused_upgrade(make_world: MakeWorld, backend: RawBackend, to: To) -> None:
    world = await make_world([to(backend)])
    reader, writer = await world.connect()
    writer.write(world.head(extra=UPGRADE))
    assert (await world.reply(reader)).status == 400
    writer.write(world.head())
    assert (await world.reply(reader)).status == 200


# the proof


def socket_route(backend: RawBackend, **rules: Any) -> dict[str, Any]:
    return {
        "prefix": "/vsd",
        "upstreams": [{"url": f"http://127.0.0.1:{backend.port}"}],
        "websocket": {**WEBSOCKET, **rules},
    }


LIES = {
    "wrong accept": PROVEN.replace(ACCEPT.encode(), b"AAAAAAAAAAAAAAAAAAAAAAAAAAA="),
    "no accept": PROVEN.replace(b"Sec-WebSocket-Accept", b"X-Accept"),
    "two accepts": PROVEN[:-2] + f"Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n".encode(),
    "other protocol": PROVEN.replace(b"Upgrade: WebSocket", b"Upgrade: h2c"),
    "no upgrade": PROVEN.replace(b"Upgrade: WebSocket\r\n", b""),
    "no connection": PROVEN.replace(b"Connection: Upgrade\r\n", b""),
    "two upgrades": PROVEN[:-2] + b"Upgrade: h2c\r\n\r\n",
}


@pytest.mark.parametrize("name", LIES)
async def test_only_a_proven_101_becomes_a_tunnel(make_world: MakeWorld, backend: RawBackend, name: str) -> None:
    backend.answer = lambda head: LIES[name] + b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    world = await make_world([socket_route(backend)])
    reply = await world.get(extra=UPGRADE)
    assert (reply.status, json.loads(reply.body)["error"]) == (502, "bad_gateway")
    assert world.gateway.open_sockets == 0


async def test_refusal_of_the_service_passes(world: World, connect: Connect) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await connect(world, "/ws/refuse")
    assert caught.value.status == 403
    assert caught.value.headers is not None
    assert caught.value.headers["X-Own"] == "1"
    assert world.gateway.open_sockets == 0


async def test_answer_of_200_is_no_tunnel(make_world: MakeWorld, backend: RawBackend) -> None:
    world = await make_world([socket_route(backend)])
    reader, writer = await world.connect()
    writer.write(world.head(extra=UPGRADE))
    assert (await world.reply(reader)).body == b"ok"
    writer.write(world.head())
    assert (await world.reply(reader)).status == 200
    assert len(backend.heads) == 2


async def test_service_that_cannot_be_reached_is_502_and_the_proof_lives(
    make_world: MakeWorld, backend: RawBackend
) -> None:
    world = await make_world([socket_route(backend)])
    await backend.stop()
    request = world.head(extra=UPGRADE)
    assert (await world.send(request)).status == 502
    backend.answer = lambda head: PROVEN
    await backend.start()
    assert (await world.send(request)).status == 101


# bytes


class Joined:
    """Both ends of a tunnel as raw streams."""

    def __init__(self, world: World, backend: RawBackend) -> None:
        self.world = world
        self.backend = backend
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter
        self.served: asyncio.StreamReader
        self.server: asyncio.StreamWriter
        self.head = b""

    async def open(self, *, behind_request: bytes = b"", behind_answer: bytes = b"", **claims: Any) -> Reply:
        joined: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.head = await reader.readuntil(b"\r\n\r\n")
            self.served, self.server = reader, writer
            writer.write(PROVEN + behind_answer)
            joined.set_result(None)
            await asyncio.sleep(60)

        self.backend.script = script
        self.reader, self.writer = await self.world.connect()
        self.writer.write(self.world.head(extra=UPGRADE, **claims) + behind_request)
        reply = await self.world.reply(self.reader)
        await joined
        return reply


Join = Callable[..., Awaitable[Joined]]


@pytest.fixture
async def join(make_world: MakeWorld, backend: RawBackend) -> Join:
    """``join(…)``: an open tunnel with raw ends."""

    async def make(claims: dict[str, Any] | None = None, **rules: Any) -> Joined:
        pair = Joined(await make_world([socket_route(backend, **rules)]), backend)
        reply = await pair.open(**(claims or {}))
        assert reply.status == 101
        return pair

    return make


async def test_head_of_the_upgrade_is_the_services_without_its_secrets(join: Join, backend: RawBackend) -> None:
    pair = await join()
    again = Joined(pair.world, backend)
    reply = await again.open()
    assert reply.header("Sec-WebSocket-Accept") == ACCEPT
    assert reply.header("ZETA-Secret") is None
    assert reply.header("ZETA-API-Version") == "1.0.0"
    assert again.head.lower().count(b"\r\nupgrade: websocket\r\n") == 1
    assert f"Sec-WebSocket-Key: {KEY}\r\n".encode() in again.head


async def test_bytes_behind_the_upgrade_are_not_lost(make_world: MakeWorld, backend: RawBackend) -> None:
    for size in (0, 5, 100_000, 600_000):
        pair = Joined(await make_world([socket_route(backend)]), backend)
        payload = b"p" * size
        early = b"\x82\xff" + size.to_bytes(8, "big") + b"\0\0\0\0" + payload
        await pair.open(behind_request=early, behind_answer=b"\x82\x05hello")
        assert await pair.served.readexactly(len(early)) == early
        assert await pair.reader.readexactly(7) == b"\x82\x05hello"


async def test_frames_pass_untouched_in_any_pieces(join: Join) -> None:
    pair = await join()
    fragments = [b"\x02\x83\1\2\3\4abc", b"\x89\x80\1\2\3\4", b"\x80\x81\1\2\3\4d", b"\xc2\x80\0\0\0\0"]
    for byte in b"".join(fragments):
        pair.writer.write(bytes((byte,)))
        await asyncio.sleep(0)
    assert await pair.served.readexactly(sum(map(len, fragments))) == b"".join(fragments)


async def test_close_of_the_guard_waits_for_the_end_of_a_frame(join: Join) -> None:
    pair = await join()
    pair.writer.write(b"\x82\x8a\1\2\3\4first")
    pair.server.write(b"\x82\x0asecon")
    assert await pair.served.readexactly(11) == b"\x82\x8a\1\2\3\4first"
    assert await pair.reader.readexactly(7) == b"\x82\x0asecon"
    draining = asyncio.create_task(pair.world.gateway.drain())
    await asyncio.sleep(0.05)
    pair.writer.write(b"-half")
    pair.server.write(b"d.end")
    # Each side gets the rest of the frame, then the close; what the peers send behind it is dropped.
    assert await pair.served.readexactly(5) == b"-half"
    close = await pair.served.readexactly(2)
    assert close[0] == 0x88
    assert close[1] & 0x80
    await pair.served.readexactly(4 + (close[1] & 0x7F))
    assert await pair.reader.readexactly(5) == b"d.end"
    assert (await pair.reader.readexactly(4))[2:] == (1001).to_bytes(2, "big")
    pair.writer.write(b"\x82\x81\1\2\3\4x" + close_frame(1001, "", masked=True))
    pair.server.write(close_frame(1001, "", masked=False))
    await draining
    assert pair.world.gateway.open_sockets == 0


async def test_peer_that_never_ends_its_frame_is_cut_after_a_second(join: Join) -> None:
    pair = await join()
    pair.writer.write(b"\x82\x8a\1\2\3\4half")
    await pair.served.readexactly(10)
    loop = asyncio.get_running_loop()
    start = loop.time()
    await pair.world.gateway.drain()
    assert 0.9 < loop.time() - start < 1.9
    assert await pair.served.read() == b""
    assert pair.world.gateway.open_sockets == 0


async def test_no_second_close_when_the_peer_has_sent_one(join: Join) -> None:
    pair = await join()
    theirs = close_frame(1000, "", masked=False)
    pair.server.write(theirs)
    assert await pair.reader.readexactly(len(theirs)) == theirs
    draining = asyncio.create_task(pair.world.gateway.drain())
    close = await pair.served.readexactly(2)
    assert close[0] == 0x88
    pair.writer.write(close_frame(1000, "", masked=True))
    await draining
    assert await pair.reader.read() == b""


async def test_length_that_is_none_cuts_the_tunnel(join: Join) -> None:
    pair = await join()
    pair.writer.write(b"\x82\xff" + b"\xff" * 8 + b"\1\2\3\4")
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await pair.reader.readexactly(1)
    assert pair.world.metric("zeta_guard_gateway_websocket_ends_total", route="/vsd", reason="malformed") == 1


async def test_service_that_dies_is_told_to_the_client_as_1011(join: Join) -> None:
    pair = await join()
    pair.server.close()
    close = await pair.reader.readexactly(4)
    assert (close[0], close[2:]) == (0x88, (1011).to_bytes(2, "big"))
    await pair.world.until(lambda: pair.world.gateway.open_sockets == 0)


async def test_client_that_leaves_closes_the_service_side(join: Join) -> None:
    pair = await join()
    pair.writer.close()
    assert await pair.served.read() == b""
    await pair.world.until(lambda: pair.world.gateway.open_sockets == 0)


async def test_client_that_does_not_read_holds_the_service_back(join: Join) -> None:
    pair = await join()
    held_back = pair.world.pause(pair.writer)
    sent = 0

    async def pour() -> None:
        nonlocal sent
        piece = b"\x82\x7f" + (65_536).to_bytes(8, "big") + b"x" * 65_536
        for _ in range(400):
            pair.server.write(piece)
            await pair.server.drain()
            sent += len(piece)

    task = asyncio.create_task(pour())
    await asyncio.sleep(0.4)
    held = sent
    assert held < 400 * 65_546 // 2
    held_back.resume_reading()
    received = 0
    while received < 400 * 65_546:
        received += len(await pair.reader.read(1 << 20))
    await task
    assert sent == received


# how long


async def test_socket_ends_with_its_token(world: World, connect: Connect, echo: EchoService) -> None:
    socket = await connect(world, claims={"exp": int(world.clock.now) + 600})
    world.clock.now += 629
    await world.gateway.check_sockets()
    await socket.send_str("still here")
    assert await socket.receive_str() == "still here"
    world.clock.now += 1
    await world.gateway.check_sockets()
    message = await socket.receive()
    assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1008)
    await world.until(lambda: echo.closes == [1008])


async def test_socket_lives_at_least_three_hundred_seconds(world: World, connect: Connect) -> None:
    socket = await connect(world, claims={"exp": int(world.clock.now) + 10})
    world.clock.now += 299
    await world.gateway.check_sockets()
    await socket.send_str("still here")
    assert await socket.receive_str() == "still here"
    world.clock.now += 1
    await world.gateway.check_sockets()
    assert (await socket.receive()).data == 1008


@pytest.mark.parametrize(
    ("rules", "lives", "ends"),
    [
        ({"end_with_token": False}, 100_000, None),
        ({"end_with_token": False, "max_life": 50}, 49, 50),
        ({"max_life": 50}, 49, 50),
    ],
)
async def test_route_may_set_another_life(join: Join, rules: dict[str, Any], lives: int, ends: int | None) -> None:
    pair = await join(**rules)
    start = pair.world.clock.now
    pair.world.clock.now = start + lives
    await pair.world.gateway.check_sockets()
    pair.server.write(b"\x82\x01x")
    assert await pair.reader.readexactly(3) == b"\x82\x01x"
    if ends is not None:
        pair.world.clock.now = start + ends
        await pair.world.gateway.check_sockets()
        assert (await pair.reader.readexactly(4))[2:] == (1008).to_bytes(2, "big")


@pytest.mark.parametrize("subject", ["session:session-1", "client:client-1", "product:product"])
async def test_blocked_socket_is_closed_within_a_second(
    world: World, connect: Connect, echo: EchoService, subject: str
) -> None:
    socket = await connect(world)
    now = world.clock.now
    await world.store.block(Block("session:other", "emergency", now + 100, now), now=now)
    await world.gateway.check_sockets()
    await world.store.block(Block(subject, "emergency", now + 100, now), now=now)
    message = await socket.receive(timeout=2)
    assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1008)
    assert (await world.get("/ws/echo", extra=UPGRADE)).status == 401


async def test_silent_socket_is_closed_and_pings_count_as_sound(join: Join) -> None:
    pair = await join(idle=1)
    for _ in range(3):
        await asyncio.sleep(0.5)
        pair.writer.write(b"\x89\x80\0\0\0\0")
        assert await pair.served.readexactly(6)
    close = await pair.reader.readexactly(4)
    assert close[2:] == (1001).to_bytes(2, "big")


async def test_limit_of_sockets_is_503_and_places_come_back(
    make_world: MakeWorld, echo: EchoService, connect: Connect
) -> None:
    route = {
        "prefix": "/ws",
        "upstreams": [{"url": f"http://127.0.0.1:{echo.port}"}],
        "websocket": {**WEBSOCKET, "max_sockets": 2},
    }
    world = await make_world([route])
    first, second = [await connect(world) for _ in range(2)]
    reply = await world.get("/ws/echo", extra=UPGRADE)
    assert (reply.status, reply.header("Retry-After")) == (503, "5")
    await first.close()
    await world.until(lambda: world.gateway.open_sockets == 1)
    third = await connect(world)
    await third.close()
    await second.close()


async def test_drain_closes_all_with_1001(world: World, connect: Connect, echo: EchoService) -> None:
    sockets = [await connect(world) for _ in range(5)]
    draining = asyncio.create_task(world.gateway.drain())
    for socket in sockets:
        message = await socket.receive()
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1001)
    await draining
    assert world.gateway.open_sockets == 0
    await world.until(lambda: echo.closes == [1001] * 5)


async def test_three_hundred_idle_sockets_cost_less_than_forty_kibibytes_each(
    make_world: MakeWorld, backend: RawBackend
) -> None:
    class Silent(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            if data.endswith(b"\r\n\r\n"):
                self.transport.write(PROVEN)

    loop = asyncio.get_running_loop()
    server = await loop.create_server(Silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    route = {"prefix": "/vsd", "upstreams": [{"url": f"http://127.0.0.1:{port}"}], "websocket": WEBSOCKET}
    world = await make_world([route])

    class Idle(asyncio.Protocol):
        opened: int = 0

        def data_received(self, data: bytes) -> None:
            assert data.startswith(b"HTTP/1.1 101 ")
            Idle.opened += 1

    async def open_one() -> asyncio.Transport:
        transport, _ = await loop.create_connection(Idle, "127.0.0.1", world.port)
        transport.write(world.head(extra=UPGRADE))
        return transport

    transports = [await open_one() for _ in range(20)]
    await world.until(lambda: Idle.opened == 20)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(300):
            transports.append(await open_one())
        await world.until(lambda: Idle.opened == 320)
        await asyncio.sleep(0.05)
        gc.collect()
        # Both ends of the test itself are in this figure, too.
        each = (tracemalloc.get_traced_memory()[0] - before) / 300
    finally:
        tracemalloc.stop()
    assert world.gateway.open_sockets == 320
    assert each < 40 * 1024
    for transport in transports:
        transport.abort()
    await world.until(lambda: world.gateway.open_sockets == 0)
    server.close()


async def test_draining_gateway_opens_no_more_sockets(world: World, connect: Connect, echo: EchoService) -> None:
    await world.gateway.drain()
    reply = await world.get("/ws/echo", extra=UPGRADE)
    assert reply.status == 503
    assert echo.headers == []


async def test_malformed_handshake_does_not_spend_the_proof(make_world: MakeWorld, backend: RawBackend) -> None:
    backend.answer = lambda head: PROVEN
    world = await make_world([socket_route(backend)])
    good = world.head(extra=UPGRADE)
    assert (await world.send(good.replace(b"Version: 13", b"Version: 12"))).status == 426
    assert (await world.send(good)).status == 101
