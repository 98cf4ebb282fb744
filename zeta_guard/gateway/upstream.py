"""One connection to a backend: HTTP/1.1 with strict framing and streaming in both directions (RFC 9112).

llhttp (httptools) parses; what it lets through and a backend behind us could mean differently is refused here: framing that
is not exactly one ``Content-Length`` or exactly ``chunked`` is an error, never a guess.
"""

from __future__ import annotations

import asyncio
import math
import ssl
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Final

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from zeta_guard.gateway.headers import sort_response_headers
from zeta_guard.gateway.plain_answer import LONGEST_HEAD, read_plain_answer
from zeta_guard.gateway.upstream_answer import Fault as Fault
from zeta_guard.gateway.upstream_answer import ResponseHead as ResponseHead
from zeta_guard.gateway.upstream_answer import UpstreamError as UpstreamError

if TYPE_CHECKING:
    from zeta_guard.gateway.deadline import DeadlineWatch
    from zeta_guard.gateway.upstream_pool import UpstreamPool

MAX_HEAD_BYTES: Final = 65_536
"""Largest header of an answer."""

MAX_HEADERS: Final = 200
"""Most header lines of an answer."""

MAX_INTERIM: Final = 16
"""Most 1xx answers before the final one."""

# All connections read into the same place, one after the other: what is received is parsed at once, and bodies are copied
# out by the parser. A fresh quarter of a mebibyte for every read, as asyncio takes it otherwise, costs more than the parsing.
_BUFFER: Final = bytearray(131_072)
_VIEW: Final = memoryview(_BUFFER)
_READ_AHEAD: Final = 262_144
_WRITE_AHEAD: Final = 262_144
_NO_BODY: Final = frozenset({204, 205, 304})


class UpstreamConnection(asyncio.BufferedProtocol):
    """One connection, one exchange at a time: ``begin``, ``write``…, ``head``, ``read`` until empty, then back to the pool.

    Invariants: between two exchanges no byte may arrive; ``complete`` is set exactly when the answer's framing says so.
    """

    __slots__ = (
        "_chunks",
        "_drain_waiter",
        "_error",
        "_fed",
        "_head_only",
        "_head_waiter",
        "_headers",
        "_interim",
        "_interims",
        "_keep_alive",
        "_loop",
        "_missing",
        "_parsed",
        "_parser",
        "_reason",
        "_size",
        "_trailers",
        "_until_close",
        "_waiter",
        "_watch",
        "_writing_paused",
        "answered",
        "authority",
        "busy",
        "complete",
        "deadline",
        "dirty",
        "exchanges",
        "idle_since",
        "observer",
        "pool",
        "reading_paused",
        "response",
        "transport",
        "upgraded_with",
    )

    def __init__(self, watch: DeadlineWatch, loop: asyncio.AbstractEventLoop, authority: bytes = b"") -> None:
        self.pool: UpstreamPool | None = None
        self.authority: Final = authority
        self._watch: Final = watch
        self._loop: Final = loop
        self.transport: asyncio.Transport | None = None
        self._parser: HttpResponseParser | None = HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._head_waiter: asyncio.Future[ResponseHead] | None = None
        self._drain_waiter: asyncio.Future[None] | None = None
        self._writing_paused = False
        self.reading_paused = False
        self.deadline = math.inf
        self.idle_since = 0.0
        self.exchanges = 0
        self.busy = False
        self.dirty = False
        self.observer: Callable[[], None] | None = None
        """Called when there is news of the exchange, for who does not wait for :meth:`head`."""
        self._reset(head_only=False)

    def __repr__(self) -> str:
        state = "busy" if self.busy else "idle" if self.open else "closed"
        return f"UpstreamConnection({state}, {self.exchanges} exchanges)"

    def _reset(self, *, head_only: bool) -> None:
        self._parsed = False
        self._head_only = head_only
        self._headers: list[tuple[bytes, bytes]] = []
        self._reason = b""
        self._chunks: list[bytes] = []
        self._size = 0
        self._error: Exception | None = None
        self._interim = False
        self._keep_alive = False
        self._until_close = False
        self._fed = 0
        self._missing = 0
        self._trailers = 0
        self._interims = 0
        self.response: ResponseHead | None = None
        self.complete = False
        self.answered = False
        self.upgraded_with: bytes | None = None

    # the exchange

    @property
    def open(self) -> bool:
        """Whether the connection can be written to."""
        return self.transport is not None and not self.transport.is_closing()

    @property
    def failed(self) -> bool:
        """Whether the exchange cannot be completed any more."""
        return self._error is not None

    def begin(self, *, head_only: bool) -> None:
        """Start an exchange; ``head_only`` for HEAD, whose answer has no body whatever it announces."""
        self.busy = True
        self.exchanges += 1
        if self._parsed:
            self._reset(head_only=head_only)
        else:
            # What only the parser sets is as it was.
            self._head_only = head_only
            self._chunks = []
            self._size = 0
            self.response = None
            self.complete = False
            self.answered = False

    def write(self, piece: bytes) -> None:
        """Send; nothing happens when the connection is gone (``head`` says so)."""
        if self.transport is not None:
            self.transport.write(piece)

    async def drain(self) -> None:
        """Wait until the backend has taken enough of what was written, or is gone."""
        if self._writing_paused and self.transport is not None:
            self._drain_waiter = self._loop.create_future()
            try:
                await self._drain_waiter
            finally:
                self._drain_waiter = None

    def head(self) -> asyncio.Future[ResponseHead]:
        """The head of the final answer. Fails with :class:`UpstreamError`, or what :meth:`fail` was called with."""
        waiter: asyncio.Future[ResponseHead] = self._loop.create_future()
        self._head_waiter = waiter
        if self.response is not None or self._error is not None:
            self._wake()
        return waiter

    async def read(self) -> bytes:
        """What came of the body since the last call; empty at its end. Raises as :meth:`head`."""
        while not self._chunks:
            if self.complete:
                return b""
            if self._error is not None:
                raise self._error
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self.take()

    def take(self) -> bytes:
        """What came of the body, without waiting."""
        chunks = self._chunks
        if not chunks:
            return b""
        self._chunks = []
        self._size = 0
        if self.reading_paused and self.transport is not None:
            self.reading_paused = False
            self.transport.resume_reading()
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def expect_within(self, seconds: float) -> float:
        """Set the deadline of the next step of this exchange; returns this moment (time of the event loop)."""
        return self._watch.set(self, seconds)

    def pause_deadline(self) -> None:
        """No deadline while others are waited for."""
        self._watch.drop(self)

    def deadline_passed(self) -> None:
        """Too slow: the exchange fails, the connection is closed."""
        self.fail(UpstreamError(Fault.TIMEOUT, reached=True))

    def fail(self, error: Exception) -> None:
        """End the exchange with ``error``, unless it has ended already."""
        if self._error is None and not self.complete:
            self._error = error
        self.abort()
        self._wake()

    def abort(self) -> None:
        """Drop the connection at once."""
        if self.transport is not None:
            self.transport.abort()

    def finish(self) -> None:
        """End the exchange: back to the pool if the connection can serve another one, else close it.

        It can when the answer is complete, nothing came behind it, and both sides keep the connection alive.
        """
        if self.busy:
            self.finish_at()

    def finish_at(self) -> float:
        """As :meth:`finish`, once; returns this moment (time of the event loop)."""
        self._watch.drop(self)
        self.busy = False
        self.observer = None
        now = monotonic()
        pool = self.pool
        transport = self.transport
        if transport is None:
            return now
        if not self.complete:
            transport.abort()
        elif pool is not None and self._keep_alive and not self.dirty:
            # One that is closing is found out when it is taken.
            pool.give_back(self, now)
        else:
            transport.close()
        return now

    def detach(self) -> tuple[asyncio.Transport, bytes]:
        """Hand the transport over after an upgrade, with what the backend sent behind its 101."""
        transport = self.transport
        assert transport is not None
        self._watch.drop(self)
        self.transport = None
        self._parser = None
        return transport, self.upgraded_with or b""

    def _wake(self) -> None:
        if self.observer is not None:
            self.observer()
            return
        head_waiter = self._head_waiter
        if head_waiter is not None:
            self._head_waiter = None
            if head_waiter.done():
                return
            if self.response is not None:
                head_waiter.set_result(self.response)
            elif self._error is not None:
                head_waiter.set_exception(self._error)
            return
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(high=_WRITE_AHEAD)

    def get_buffer(self, sizehint: int) -> bytearray:
        return _BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        data = _VIEW[:nbytes]
        if not self.busy or self._parser is None:
            # Nobody asked: whatever this is, the next answer must not be made of it.
            self.dirty = True
            self.abort()
            return
        if self.upgraded_with is not None:
            # Frames that came before the tunnel stood.
            self.upgraded_with += data
            return
        if not self.answered:
            self.answered = True
            if not self._head_only:
                plain = read_plain_answer(bytes(data if nbytes <= LONGEST_HEAD else data[:LONGEST_HEAD]))
                if plain is not None and plain.start + plain.length >= nbytes:
                    # The parser sees nothing of it and stands where it stood: before an answer.
                    _, _, _, length, start, self._keep_alive, self.response = plain
                    self._take_body(bytes(data[start:]), length)
                    return
        elif self._missing:
            missing = self._missing
            if nbytes > missing:
                # Nobody asked for what comes behind the answer.
                self.dirty = True
                data = data[:missing]
            self._take_body(bytes(data), missing)
            return
        self._parsed = True
        if self.response is None:
            self._fed += nbytes
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            self.upgraded_with = bytes(data[upgrade.args[0] :])
        except HttpParserError:
            if not self.complete:
                self.fail(UpstreamError(Fault.GARBAGE, reached=True))
                return
            self.dirty = True
        if self.response is None:
            if self._error is None and self._fed > MAX_HEAD_BYTES:
                self._error = UpstreamError(Fault.GARBAGE, reached=True)
            if self._error is not None:
                self.fail(self._error)
            return
        if self._size > _READ_AHEAD and not self.complete and not self.reading_paused and self.transport is not None:
            self.reading_paused = True
            self.transport.pause_reading()
        self._wake()

    def _take_body(self, piece: bytes, missing: int) -> None:
        """A piece of a body of which so many bytes are missing, this one included."""
        size = len(piece)
        if size:
            self._chunks.append(piece)
        self._missing = missing = missing - size
        if not missing:
            self.complete = True
        else:
            self._size += size
            if self._size > _READ_AHEAD and not self.reading_paused and self.transport is not None:
                self.reading_paused = True
                self.transport.pause_reading()
        if self.observer is not None:
            self.observer()
        else:
            self._wake()

    def eof_received(self) -> None:
        """The transport closes itself; ``connection_lost`` judges what came."""

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._parser = None
        self._watch.drop(self)
        if self.busy and not self.complete and self._error is None:
            if self._until_close and exc is None:
                self.complete = True
            elif self.response is not None:
                self._error = UpstreamError(Fault.TRUNCATED, reached=True)
            else:
                fault = Fault.GARBAGE if self.answered else Fault.CLOSED
                if isinstance(exc, ssl.SSLError) and not self.answered:
                    # In TLS 1.3 a server judges our certificate after we have begun to speak.
                    fault = Fault.TLS
                    if self.pool is not None:
                        self.pool.note_tls_failure(exc)
                self._error = UpstreamError(fault, reached=True)
        self._wake()
        self.resume_writing()
        if self.pool is not None:
            self.pool.lost(self)

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        waiter = self._drain_waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # httptools

    def on_message_begin(self) -> None:
        if self.complete:
            self.dirty = True

    def on_status(self, reason: bytes) -> None:
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.response is None:
            self._headers.append((name, value))
            return
        # Behind the head these are trailers, which are dropped (RFC 9110 §6.5.1), but not without a limit.
        self._trailers += 1
        if self._trailers > MAX_HEADERS:
            raise HttpParserError("too many trailers")

    def on_headers_complete(self) -> None:
        if self.complete:
            return
        parser = self._parser
        assert parser is not None
        status = parser.get_status_code()
        if 100 <= status < 200 and status != 101:
            self._interim = True
            return
        headers = self._headers
        if len(headers) > MAX_HEADERS or (
            self._fed > MAX_HEAD_BYTES and sum(len(name) + len(value) + 4 for name, value in headers) > MAX_HEAD_BYTES
        ):
            raise HttpParserError("the header of the answer is too large")
        outgoing = sort_response_headers(headers)
        if not outgoing.framed:
            raise HttpParserError("ambiguous framing")
        if self.exchanges == 1 or outgoing.chunked:
            # A server keeps its version; where the framing depends on it, it is looked at each time.
            version = parser.get_http_version()
            if version != "1.1" and (version != "1.0" or outgoing.chunked):
                raise HttpParserError("HTTP version")
        length = outgoing.length
        has_body = not (self._head_only or status in _NO_BODY or status == 101)
        delimited = outgoing.chunked or length is not None or not has_body
        self._keep_alive = delimited and status != 101 and parser.should_keep_alive()
        self._until_close = not delimited
        self.response = ResponseHead(status, self._reason, headers, outgoing, length, has_body)
        if not has_body:
            # The parser may wait for a body that the framing announces and that never comes: it is done with this connection.
            self.complete = True
            self._parser = HttpResponseParser(self)

    def on_body(self, piece: bytes) -> None:
        if self.complete:
            self.dirty = True
            return
        self._chunks.append(piece)
        self._size += len(piece)

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
            self._headers = []
            self._reason = b""
            self._interims += 1
            if self._interims > MAX_INTERIM:
                raise HttpParserError("too many interim answers")
        elif self.response is not None:
            self.complete = True
