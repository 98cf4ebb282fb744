"""What connections, sockets, tokens and refusals take in the memory of a guard process: a fresh one for each kind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Final

from bench.environment import GuardSetup, guard_process, wait_until_ready, write_guard
from bench.exchange import RATE_LIMITS
from bench.gateway import make_callers, proven_request
from bench.load import closed_loop
from zeta_guard.gateway.websocket import accept_of

_KEY: Final = "dGhlIHNhbXBsZSBub25jZQ=="
_UPGRADE: Final = (
    f"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {_KEY}\r\n"
)
_CHUNK: Final = bytes(65_536)
_ENDLESS: Final = 1 << 40

Growth = Callable[[GuardSetup, int, Callable[[], None]], Awaitable[None]]
"""Brings twice so many things into a guard; between the halves it calls the function that looks at the memory. The first half
fills what the start of the process has left free."""


def guard_growth(directory: Path, growth: Growth, count: int) -> float:
    """Resident bytes of a guard process for each of ``count`` things."""
    return asyncio.run(_guard_growth(directory, growth, count))


async def _guard_growth(directory: Path, growth: Growth, count: int) -> float:
    async with AsyncExitStack() as stack:
        server = await asyncio.get_running_loop().create_server(_Backend, "127.0.0.1", 0, backlog=1024)
        stack.callback(server.close)
        route = {
            "prefix": "/service",
            "upstreams": [{"url": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"}],
            "scopes": ["vsdservice"],
            "methods": ["GET", "POST"],
            "websocket": {"enabled": True, "max_sockets": 100_000},
        }
        setup = write_guard(directory, gateway={"routes": [route]}, changes={"rate_limits": RATE_LIMITS})
        child = guard_process(setup, directory)
        stack.callback(child.stop)
        await asyncio.to_thread(wait_until_ready, child, f"http://127.0.0.1:{setup.ops_port}/readyz")
        # Tokens of the second in which the guard began are refused.
        await asyncio.sleep(1.1)
        before: list[float] = []
        await growth(setup, count, lambda: before.append(child.resident_mebibytes()))
        await asyncio.sleep(0.3)
        return (child.resident_mebibytes() - before[0]) * 1024 * 1024 / count


_living: set[asyncio.Transport] = set()


class _Feeder(asyncio.Protocol):
    """Can write without end, as fast as the other side reads."""

    _feeding = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        # Nobody else holds a transport that neither reads nor writes.
        _living.add(transport)

    def feed(self) -> None:
        self._feeding = True
        while self._feeding:
            self._transport.write(_CHUNK)

    def pause_writing(self) -> None:
        self._feeding = False

    def resume_writing(self) -> None:
        self.feed()

    def connection_lost(self, exc: Exception | None) -> None:
        self._feeding = False
        _living.discard(self._transport)


class _Backend(_Feeder):
    """Proves each handshake and says nothing more; reads no body of ``/service/stalled``; answers ``/service/endless`` so; and
    other requests with nothing."""

    def data_received(self, data: bytes) -> None:
        if b" /service/stalled " in data:
            self._transport.pause_reading()
        elif b" /service/endless " in data:
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % _ENDLESS)
            self.feed()
        elif not data.endswith(b"\r\n\r\n"):
            return
        elif b"Sec-WebSocket-Key" in data:
            proof = accept_of(_KEY.encode())
            self._transport.write(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Accept: %b\r\n\r\n" % proof
            )
        else:
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


class _Held(asyncio.Protocol):
    """A connection to the guard that stays open; ``answered`` when its answer has begun."""

    def __init__(self, want: bytes) -> None:
        self._want = want
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        if self.answered.done():
            return
        if data.startswith(b"HTTP/1.1 " + self._want):
            self.answered.set_result(None)
        else:
            self.answered.set_exception(RuntimeError(f"not {self._want.decode()}: {data[:300]!r}"))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.answered.done():
            self.answered.set_exception(RuntimeError("the guard closed the connection"))


async def _hold(port: int, requests: Sequence[bytes], want: bytes) -> list[asyncio.BaseTransport]:
    held: list[asyncio.BaseTransport] = []
    for request in requests:
        transport, protocol = await asyncio.get_running_loop().create_connection(lambda: _Held(want), "127.0.0.1", port)
        transport.write(request)
        await protocol.answered
        held.append(transport)
    return held


async def _send(port: int, requests: Sequence[bytes], want: int) -> None:
    outcome = await closed_loop(port, requests, connections=16, want=want)
    if outcome.right != len(requests):
        raise RuntimeError(f"answers {outcome.wrong} instead of {want}: {outcome.last_wrong!r}")


async def _sockets(setup: GuardSetup, count: int, begin: Callable[[], None]) -> None:
    callers = make_callers(setup)

    def requests() -> list[bytes]:
        return [
            proven_request(setup, callers[number % len(callers)], "/service/socket", _UPGRADE)
            for number in range(count)
        ]

    held = await _hold(setup.port, requests(), b"101")
    begin()
    held += await _hold(setup.port, requests(), b"101")


async def _connections(setup: GuardSetup, count: int, begin: Callable[[], None]) -> None:
    """Keep-alive connections whose last request was answered."""
    callers = make_callers(setup)

    def requests() -> list[bytes]:
        return [proven_request(setup, callers[number % len(callers)], "/service") for number in range(count)]

    held = await _hold(setup.port, requests(), b"200")
    begin()
    held += await _hold(setup.port, requests(), b"200")


async def _tokens(setup: GuardSetup, count: int, begin: Callable[[], None]) -> None:
    """Tokens that are seen for the first time, with the claim of one proof each."""
    callers = await asyncio.to_thread(make_callers, setup, 2 * count)
    for half in range(2):
        if half:
            begin()
        # Proofs live for a minute only.
        for first in range(half * count, (half + 1) * count, 500):
            some = callers[first : min(first + 500, (half + 1) * count)]
            await _send(setup.port, [proven_request(setup, caller, "/service") for caller in some], 200)


class _Uploading(_Feeder):
    """A client that sends a body for as long as somebody takes it."""

    def __init__(self, head: bytes) -> None:
        self._head = head

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._transport.write(self._head)
        self.feed()

    def data_received(self, data: bytes) -> None:
        self._transport.abort()


class _Stalled(asyncio.Protocol):
    """A client that sends a request and does not read the answer."""

    def __init__(self, request: bytes) -> None:
        self._request = request

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()
        transport.write(self._request)


async def _uploads(setup: GuardSetup, count: int, begin: Callable[[], None]) -> None:
    """Uploads to a backend that does not read."""
    await _stall(setup, count, begin, "POST", "/service/stalled", _Uploading, f"Content-Length: {_ENDLESS}\r\n")


async def _downloads(setup: GuardSetup, count: int, begin: Callable[[], None]) -> None:
    """Answers without end to clients that do not read."""
    await _stall(setup, count, begin, "GET", "/service/endless", _Stalled, "")


async def _stall(
    setup: GuardSetup,
    count: int,
    begin: Callable[[], None],
    method: str,
    path: str,
    make: Callable[[bytes], asyncio.Protocol],
    extra: str,
) -> None:
    callers = make_callers(setup)
    held: list[asyncio.BaseTransport] = []
    for half in range(2):
        if half:
            begin()
        for number in range(count):
            raw = proven_request(setup, callers[number % len(callers)], path, extra, method)
            transport, _ = await asyncio.get_running_loop().create_connection(
                partial(make, raw), "127.0.0.1", setup.port
            )
            held.append(transport)
        # Until every buffer on the way is full.
        await asyncio.sleep(3)
    if any(transport.is_closing() for transport in held):
        raise RuntimeError(f"{path}: the guard answered or closed a connection that should have stood still")


async def _refusals(setup: GuardSetup, count: int, begin: Callable[[], None]) -> None:
    host = setup.public_url.removeprefix("http://")
    request = f"GET /service HTTP/1.1\r\nHost: {host}\r\nAuthorization: DPoP a.b.c\r\nDPoP: a.b.c\r\n\r\n".encode()
    await _send(setup.port, [request] * count, 401)
    begin()
    await _send(setup.port, [request] * count, 401)


GUARD_KINDS: Final[dict[str, tuple[float, Growth]]] = {
    "idle_connection": (24, _connections),
    "idle_websocket": (40, _sockets),
    "stalled_upload": (2048, _uploads),
    "stalled_download": (1024, _downloads),
    # 4 KiB, and of the latest 1024 the text and the client's key.
    "known_token": (16, _tokens),
    "remembered_refusal": (2, _refusals),
}
"""What is measured, the most KiB that each may take (``docs/operators.md`` multiplies them with the limits), and how."""
