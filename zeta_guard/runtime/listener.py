"""The public listener: aiohttp's low-level server with this guard's own words for everything that goes wrong.

One handler, no router: reserved paths go to the authorization server, everything else to the gateway. A broken request
line, an oversized header or a slow client gets the same error body as any other refusal (``wire-contract`` section 8).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Protocol

from aiohttp import HttpVersion11, web
from aiohttp.http import HttpRequestParser, StreamWriter
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import _PAYLOAD_ACCESS_ERROR, ERROR, RequestHandler, RequestPayloadError, _ErrInfo

from zeta_guard.errors import ConfigurationError, ZetaError
from zeta_guard.http.plain_request import PlainRequest, read_plain_head
from zeta_guard.http.refusal import error_response, raw_refusal
from zeta_guard.http.request_id import new_request_id
from zeta_guard.http.written import SERVER_NAME as SERVER_NAME
from zeta_guard.http.written import WrittenResponse
from zeta_guard.runtime.boundary import Boundary
from zeta_guard.telemetry.logging import log_event

if TYPE_CHECKING:
    from zeta_guard.config.limits import Limits
    from zeta_guard.runtime.exchange import Exchange

_logger = logging.getLogger("zeta_guard.runtime")

# The words of aiohttp's parser: it has no type of its own for this, and a test plays it against the installed version.
_TOO_MANY_LINES = "Too many headers received"

_READ_BYTES = 65_536

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class PlainDoor(Protocol):
    """Who answers plain requests (:class:`zeta_guard.runtime.dispatch.Dispatcher`)."""

    limits: Limits
    """The limits in force."""

    def begin(self, request: PlainRequest, protocol: GuardProtocol) -> None:
        """Begin; ``protocol.exchange`` is set when this returns, unless it is over already."""

    async def finish(self, exchange: Exchange) -> web.StreamResponse:
        """Do what was handed over."""


def require_compiled_parser() -> None:
    """Refuse to run on aiohttp's parser in Python: it is slower by far and reads broken requests differently."""
    if HttpRequestParser.__module__ != "aiohttp._http_parser":
        raise ConfigurationError(
            "aiohttp",
            "its compiled HTTP parser is missing",
            "an aiohttp wheel with C extensions, and AIOHTTP_NO_EXTENSIONS not set",
            "Install a binary wheel: pip install --only-binary aiohttp aiohttp",
        )


class GuardProtocol(RequestHandler):
    """One client connection.

    Beside aiohttp's keep-alive timer (idle connections) a header timer runs while a head is incomplete: a client that
    trickles its header is answered 408 after ``limits.header_timeout_ms``.

    ``peer_override`` is the peer that a trusted proxy named before the first byte (PROXY protocol); None: the socket's own.
    """

    __slots__ = (
        "_between",
        "_boundary",
        "_guard",
        "_handed",
        "_header_timer",
        "_later",
        "_remote",
        "exchange",
        "peer_override",
    )

    def __init__(self, server: GuardServer, **kwargs: Any) -> None:
        super().__init__(server, **kwargs)
        self._guard = server
        self._header_timer: asyncio.TimerHandle | None = None
        self.peer_override: tuple[str, int] | None = None
        self.exchange: Exchange | None = None
        """The plain request that is being answered in callbacks; meanwhile nothing further is read."""
        self._handed: Exchange | None = None
        self._later: list[bytes] = []
        self._boundary = Boundary()
        self._between = True
        """The parser holds no piece of a request."""
        self._remote: tuple[str | None, bool] | None = None

    @property
    def peername(self) -> Any:
        """Who speaks: ``request.remote`` is its first part."""
        return self.peer_override or super().peername

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if hasattr(transport, "max_size"):
            # asyncio makes a buffer of a quarter of a mebibyte for every read.
            transport.max_size = _READ_BYTES
        if not self._guard.admit(self):
            assert isinstance(transport, asyncio.Transport)
            refusal = ZetaError(
                "temporarily_unavailable", "too many connections", headers={"Retry-After": "1"}, stage="http"
            )
            transport.write(self._raw(refusal))
            self.force_close()

    def _raw(self, refusal: ZetaError) -> bytes:
        request_id = new_request_id()
        self._guard.on_refusal(refusal, request_id)
        return raw_refusal(refusal, public_url=self._guard.public_url, request_id=request_id)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._disarm()
        exchange = self.exchange
        if exchange is not None:
            # No task is at work on it that would be cancelled.
            self.exchange = self._handed = None
            exchange.abandon()
        self._later.clear()
        self._boundary.forget()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.exchange is not None:
            # One request at a time; what comes early waits, and the client with it.
            self._later.append(data)
            if self.transport is not None:
                self.transport.pause_reading()
            return
        waiter = self._waiter
        plain = self._guard.plain
        if (
            waiter is not None
            and plain is not None
            and self._between
            and not self._messages
            and not waiter.done()
            and not (self._force_close or self._close or self._upgraded)
            and (head := read_plain_head(data, plain.limits)) is not None
        ):
            remote = self._remote
            if remote is None:
                peer = self.peername
                remote = self._remote = (None if peer is None else str(peer[0]), self.ssl_context is not None)
            self._request_in_progress = True
            plain.begin(PlainRequest(head, self, self._loop, remote=remote[0], secure=remote[1]), self)
            return
        super().data_received(data)
        if data:
            # What the parser has begun may not be gone on with by anybody else.
            self._between = self._boundary.reached(data, self._messages[-1][1] if self._messages else None)
        if self._messages and isinstance(broken := self._messages[-1][0], _ErrInfo):
            if broken.exc is not None:
                # Its frames hold these bytes and lead back to it: only the garbage collector would free them.
                broken.exc.__traceback__ = broken.exc.__context__ = None
            self._blame_body()
        if self._waiter is not None and not self._waiter.done() and not self._messages:
            # Bytes came and no message is complete: a head is on its way.
            if self._header_timer is None and data:
                self._header_timer = self._loop.call_later(self._guard.header_timeout, self._head_too_slow)
        elif self._header_timer is not None:
            self._disarm()

    def take_over_exchange(self) -> None:
        """The connection's task does the rest of the exchange."""
        self._handed = self.exchange
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def exchange_over(self, keep_alive: bool) -> None:
        """The exchange was answered; the connection goes on with the next request, or ends."""
        self.exchange = None
        self._request_in_progress = False
        if self._handler_waiter is not None and not self._handler_waiter.done():
            self._handler_waiter.set_result(None)
        if self.transport is None:
            return
        self._keepalive = keep_alive
        if not keep_alive or self._close or self._force_close:
            self.transport.close()
            return
        self._next_keepalive_close_time = monotonic() + self._keepalive_timeout
        if self._keepalive_handle is None:
            self._await_next()
        if self._paused and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        if self._later:
            self._read_later()

    def _await_next(self) -> None:
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(self._next_keepalive_close_time, self._process_keepalive)

    def _read_later(self) -> None:
        data, self._later = b"".join(self._later), []
        if self.transport is not None:
            self.transport.resume_reading()
        self.data_received(data)

    def _process_keepalive(self) -> None:
        if self.exchange is None:
            super()._process_keepalive()
        else:
            self._keepalive_handle = None

    def _blame_body(self) -> None:
        """A fault inside a body belongs to the request whose body it is.

        aiohttp queues it as a message of its own, so that who reads that body would wait in vain for the rest.
        """
        if len(self._messages) > 1:
            body = self._messages[-2][1]
        elif self._current_request is not None:
            body = self._current_request.content
        else:
            return
        if not body.is_eof():
            self._messages.pop()
            body.set_exception(RequestPayloadError("the body is not well-formed"))

    async def start(self) -> None:
        """Answer message after message in the connection's one task.

        aiohttp starts a task for every request, for the sake of applications' context variables; nothing here needs them,
        and task, hand-over and bookkeeping are a tenth of a forwarded request. The rest is as there: one message at a time,
        reading paused while too many wait, an unread body swallowed for ``lingering_time`` before the next message.
        """
        manager = self._manager
        task = asyncio.current_task()
        assert manager is not None
        assert task is not None
        try:
            while not self._force_close:
                if self._paused:
                    await self._let_take()
                    continue
                if not self._messages:
                    self._waiter = self._loop.create_future()
                    try:
                        await self._waiter
                    finally:
                        self._waiter = None
                if self._handed is not None:
                    if not await self._answer_handed(self._handed):
                        break
                    continue
                if not self._messages:
                    # Woken for the sake of a slow client.
                    continue
                message, payload = self._messages.popleft()
                if self._parser is not None:
                    self._parser.message_consumed()
                if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
                    self._resume_reading_if_drained()
                manager.requests_count += 1
                writer = StreamWriter(self, self._loop)
                if isinstance(message, _ErrInfo):
                    handler: Handler = self._make_error_handler(message)
                    message = ERROR
                else:
                    handler = manager.request_handler
                request = web.BaseRequest(message, payload, self, writer, task, self._loop)
                keep_alive = await self._answer(request, handler)
                if payload.exception() is not None:
                    # Behind a broken body nothing can be told apart.
                    break
                if not payload.is_eof():
                    await self._swallow(payload)
                payload.set_exception(_PAYLOAD_ACCESS_ERROR)
                self._keepalive = keep_alive
                if not keep_alive or self._close:
                    break
                self._await_next()
        except ConnectionError:
            self.force_close()
        except asyncio.CancelledError:
            self.force_close()
            raise
        finally:
            # A task keeps its cancellation, that this frame, and this frame the task.
            del task
        if not self._force_close:
            self._task_handler = None
            if self.transport is not None:
                self.transport.close()

    async def _let_take(self) -> None:
        """Wait until the client has taken its answers, but for some: what it leaves is kept here, and is not made more."""
        try:
            async with asyncio.timeout(self._keepalive_timeout):
                await self._drain_helper()
        except TimeoutError:
            log_event(_logger, logging.INFO, "answer_cut", fault="client")
            if self.transport is not None:
                self.transport.abort()
            self.force_close()
        else:
            self._await_next()

    async def _answer_handed(self, exchange: Exchange) -> bool:
        """Do the rest of a plain request; whether the connection may go on."""
        # From here on the task hears of the client's end, and what comes early waits as it does behind any other request.
        self.exchange = self._handed = None
        plain = self._guard.plain
        assert plain is not None
        if self._later:
            self._read_later()
        keep_alive = await self._answer(exchange.request, lambda request: plain.finish(exchange))
        self._keepalive = keep_alive
        if not keep_alive or self._close:
            return False
        self._await_next()
        return True

    async def _answer(self, request: web.BaseRequest, handler: Handler) -> bool:
        """Let ``handler`` answer and write what it returned; whether the connection may go on."""
        self._request_in_progress = True
        self._current_request = request
        try:
            try:
                response = await handler(request)
            except TimeoutError:
                response = self.handle_error(request, 504)
            finally:
                self._current_request = None
            # The body of a plain request is here as a whole; nobody makes a stream of it only to look for its faults.
            if type(request) is not PlainRequest and request.content.exception() is not None:
                response.force_close()
            if type(response) is WrittenResponse and not self._upgraded:
                request._finish()
            else:
                response, gone = await self.finish_response(request, response, None)
                if gone:
                    raise ConnectionResetError("the client is gone")
        finally:
            request._task = None  # type: ignore[assignment] # breaks a reference cycle
            self._request_in_progress = False
            if self._handler_waiter is not None and not self._handler_waiter.done():
                self._handler_waiter.set_result(None)
        return bool(response.keep_alive)

    async def _swallow(self, payload: StreamReader) -> None:
        """Read on for a moment, so that a client that still sends its body sees the answer instead of a reset."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._lingering_time):
                while not payload.is_eof() and not self._force_close:
                    await payload.readany()
        if not payload.is_eof():
            self.close()

    def _disarm(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _head_too_slow(self) -> None:
        self._header_timer = None
        if self.transport is None or self._force_close or self._waiter is None or self._waiter.done():
            return
        refusal = ZetaError(
            "invalid_request",
            f"the request header was not complete after {self._guard.header_timeout:g} s",
            status=408,
            stage="http",
        )
        self.transport.write(self._raw(refusal))
        self._guard.on_refused_head(408)
        self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The error body for what the HTTP layer itself finds; closes the connection."""
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun; the connection is closed instead of a second answer")
        if isinstance(exc, HttpProcessingError):
            if isinstance(exc, LineTooLong):
                error = ZetaError("invalid_request", "a header line is too long", status=431, stage="http")
            elif exc.message == _TOO_MANY_LINES:
                error = ZetaError("invalid_request", "too many header lines", status=431, stage="http")
            else:
                error = ZetaError("invalid_request", "the request is not well-formed HTTP/1.1", stage="http")
        elif status == 504:
            error = ZetaError("gateway_timeout", "the request took too long", stage="http")
        else:
            log_event(_logger, logging.ERROR, "unexpected_error", kind=type(exc).__name__, exc_info=exc)
            error = ZetaError("server_error", "the guard failed on this request", stage="http")
        self._guard.on_refused_head(error.status)
        # aiohttp stands in an HTTP/1.0 request for one that could not be parsed; the answer is HTTP/1.1 all the same.
        request._version = HttpVersion11
        request_id = new_request_id()
        self._guard.on_refusal(error, request_id)
        response = error_response(error, public_url=self._guard.public_url, request_id=request_id)
        response.headers["Server"] = SERVER_NAME
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """aiohttp's own error lines: the kind only, since messages may quote what a client sent."""
        exc = kw.get("exc_info")
        log_event(_logger, logging.DEBUG, "http_error", kind=type(exc).__name__)


class GuardServer(web.Server):
    """Makes one :class:`GuardProtocol` per connection and counts them."""

    def __init__(
        self,
        handler: Handler,
        *,
        limits: Limits,
        public_url: str,
        on_refused_head: Callable[[int], None] = lambda status: None,
        on_refusal: Callable[[ZetaError, str], None] = lambda refusal, request_id: None,
        plain: PlainDoor | None = None,
    ) -> None:
        """``handler`` answers every request, except plain ones where there is a door for these."""
        super().__init__(
            handler,
            access_log=None,
            # The handler is cancelled when its client is gone: nothing is forwarded for nobody.
            handler_cancellation=True,
            keepalive_timeout=float(limits.keepalive),
            max_line_size=limits.request_line,
            max_field_size=limits.request_header,
            max_headers=limits.header_count + 1,
            lingering_time=2.0,
            auto_decompress=False,
        )
        self.public_url = public_url
        self.header_timeout = limits.header_timeout_ms / 1000
        self.on_refused_head = on_refused_head
        self.on_refusal = on_refusal
        self._most_connections = limits.connections
        self.plain: Final = plain

    def admit(self, protocol: RequestHandler) -> bool:
        """Whether one more connection fits."""
        return len(self._connections) <= self._most_connections

    def __call__(self) -> GuardProtocol:
        return GuardProtocol(self, loop=self._loop, **self._kwargs)
