"""Load on loopback: a closed loop over keep-alive connections, and an open loop at a fixed rate.

Requests are prepared bytes, each sent once (a proof passes once only). Only complete answers with the wanted status count.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import httptools


@dataclass(slots=True)
class Outcome:
    """What came back: how many right answers, other statuses, and the time each right answer took in seconds."""

    right: int = 0
    wrong: dict[int, int] = field(default_factory=dict)
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    bodies: dict[int, bytes] = field(default_factory=dict)
    """Body of each right answer by the place of its request, where the caller asked to keep them."""
    last_wrong: bytes = b""
    """Body of the last answer with another status."""

    def quantile(self, share: float) -> float:
        """Latency below which ``share`` of the right answers lie, in seconds."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


class _Connection(asyncio.Protocol):
    """One keep-alive connection; reads answers and tells the loop when one is complete."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.done: asyncio.Future[int] | None = None
        self.lost = False
        self.body = b""
        self._parts: list[bytes] = []
        self._parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._finish(-2)

    def on_body(self, part: bytes) -> None:
        self._parts.append(part)

    def on_message_complete(self) -> None:
        self.body = b"".join(self._parts)
        self._parts.clear()
        status = self._parser.get_status_code()
        self._parser = httptools.HttpResponseParser(self)
        self._finish(status)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._finish(-1)

    def _finish(self, status: int) -> None:
        if self.done is not None and not self.done.done():
            self.done.set_result(status)

    async def exchange(self, request: bytes) -> int:
        """Send one request, wait for the whole answer; its status, or a negative number when the connection broke."""
        if self.lost or self.transport is None:
            return -1
        self.done = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self.done


async def closed_loop(
    port: int, requests: Sequence[bytes], *, connections: int = 32, want: int = 200, keep: bool = False
) -> Outcome:
    """Send all requests as fast as the answers come; with ``keep`` the bodies of the right answers are kept."""
    loop = asyncio.get_running_loop()
    outcome = Outcome()
    queue = iter(enumerate(requests))

    async def worker() -> None:
        _, connection = await loop.create_connection(_Connection, "127.0.0.1", port)
        for place, request in queue:
            started = time.perf_counter()
            status = await connection.exchange(request)
            if status == want:
                outcome.right += 1
                if keep:
                    outcome.bodies[place] = connection.body
                outcome.latencies.append(time.perf_counter() - started)
            else:
                outcome.wrong[status] = outcome.wrong.get(status, 0) + 1
                outcome.last_wrong = connection.body
                if status < 0:
                    _, connection = await loop.create_connection(_Connection, "127.0.0.1", port)
        if connection.transport is not None:
            connection.transport.close()

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(connections)))
    outcome.seconds = time.perf_counter() - began
    return outcome


async def open_loop(port: int, requests: Sequence[bytes], *, rate: float, want: int = 200) -> Outcome:
    """Send at a fixed rate whatever the answers do; latency counts from the planned moment, so waiting is not hidden."""
    loop = asyncio.get_running_loop()
    outcome = Outcome()
    idle: list[_Connection] = []
    running: set[asyncio.Task[None]] = set()

    async def one(request: bytes, planned: float) -> None:
        connection = idle.pop() if idle else (await loop.create_connection(_Connection, "127.0.0.1", port))[1]
        status = await connection.exchange(request)
        if status == want:
            outcome.right += 1
            outcome.latencies.append(time.perf_counter() - planned)
        else:
            outcome.wrong[status] = outcome.wrong.get(status, 0) + 1
        if not connection.lost:
            idle.append(connection)

    # Connections are opened before the clock starts: the rate is that of requests, not of handshakes.
    idle += [(await loop.create_connection(_Connection, "127.0.0.1", port))[1] for _ in range(16)]
    began = time.perf_counter()
    for index, request in enumerate(requests):
        planned = began + index / rate
        delay = planned - time.perf_counter()
        if delay > 0:
            await asyncio.sleep(delay)
        task = loop.create_task(one(request, planned))
        running.add(task)
        task.add_done_callback(running.discard)
    await asyncio.gather(*list(running))
    outcome.seconds = time.perf_counter() - began
    for connection in idle:
        if connection.transport is not None:
            connection.transport.close()
    return outcome
