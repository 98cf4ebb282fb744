"""Answers that are written to the client's connection directly, in as few writes as possible.

aiohttp's own response classes cost more than the rest of a forwarded request; what it needs afterwards is only whether the
connection stays open.
"""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import HttpVersion10, web
from aiohttp.helpers import rfc822_formatted_time

from zeta_guard.gateway.headers import API_VERSION_LINE, Outgoing
from zeta_guard.gateway.upstream import ResponseHead
from zeta_guard.gateway.upstream_answer import status_line
from zeta_guard.http.plain_request import PlainRequest
from zeta_guard.http.written import WrittenResponse as WrittenResponse

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

_LAST_LINE: Final = API_VERSION_LINE + b"\r\n"


class ClientWriter:
    """Writes one answer to the client of a request. Raises ConnectionResetError once the client is gone."""

    __slots__ = ("_request", "_transport", "_version10", "keep_alive", "size")

    def __init__(self, request: web.BaseRequest, *, keep_alive: bool) -> None:
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client is gone")
        self._request: Final = request
        self._transport: Final[asyncio.Transport] = transport
        self._version10: Final = type(request) is not PlainRequest and request.version == HttpVersion10
        self.keep_alive = keep_alive and request.keep_alive
        self.size = 0

    @property
    def can_chunk(self) -> bool:
        """Whether the client understands chunked bodies (HTTP/1.1)."""
        return not self._version10

    def head(self, status: int, reason: bytes, outgoing: Outgoing, framing: bytes, rate: bytes) -> bytes:
        """The head of the answer; ``framing`` and ``rate`` are complete header lines."""
        return _head(status, reason, outgoing, framing, rate, self.keep_alive, self._version10)

    def whole(self, response: ResponseHead, body: bytes, rate: bytes) -> None:
        """Send an answer that is complete, in one piece."""
        self.write(whole_answer(response, body, rate, keep_alive=self.keep_alive, version10=self._version10))

    def write(self, piece: bytes) -> None:
        """Send."""
        if self._transport.is_closing():
            raise ConnectionResetError("the client is gone")
        self._transport.write(piece)
        self.size += len(piece)
        # aiohttp asks this before it would answer an error of its own.
        request = self._request
        if type(request) is PlainRequest:
            request.written += len(piece)
        else:
            request.writer.output_size += len(piece)

    async def drain(self, seconds: float) -> None:
        """Wait until the client has taken enough; TimeoutError when it takes nothing for ``seconds``."""
        if self._request.protocol.writing_paused:
            async with asyncio.timeout(seconds):
                await self._request.writer.drain()

    def abort(self) -> None:
        """Cut the connection: what was announced will not come."""
        self.keep_alive = False
        self._transport.abort()

    def done(self, status: int) -> WrittenResponse:
        """The answer is complete."""
        return WrittenResponse(status, keep_alive=self.keep_alive, size=self.size)


def whole_answer(
    response: ResponseHead, body: bytes, rate: bytes, *, keep_alive: bool, version10: bool = False
) -> bytes:
    """Head and body of an answer that is complete. ``rate`` are complete header lines."""
    if response.ready and keep_alive and not version10:
        return b"".join((response.ready, rate, _LAST_LINE, body))
    framing = b"Content-Length: %d\r\n" % len(body) if response.has_body else response.framing(None)
    return _head(response.status, response.reason, response.outgoing, framing, rate, keep_alive, version10) + body


def answer_head(response: ResponseHead, rate: bytes, *, keep_alive: bool) -> bytes:
    """The head of an answer whose body of known length follows."""
    framing = response.framing(response.length)
    return _head(response.status, response.reason, response.outgoing, framing, rate, keep_alive, False)


def _head(
    status: int, reason: bytes, outgoing: Outgoing, framing: bytes, rate: bytes, keep_alive: bool, version10: bool
) -> bytes:
    line = status_line(status, reason)
    if not outgoing.dated:
        framing += b"Date: %b\r\n" % rfc822_formatted_time().encode("ascii")
    if rate and not outgoing.limited:
        framing += rate
    if not keep_alive:
        framing += b"Connection: close\r\n"
    elif version10:
        framing += b"Connection: keep-alive\r\n"
    return b"".join((line, outgoing.lines, framing, _LAST_LINE))
