"""The public listener: aiohttp's low-level server with this guard's own words for everything that goes wrong.

One handler, no router: reserved paths go to the authorization server, everything else to the gateway. A broken request
line, an oversized header or a slow client gets the same error body as any other refusal (``wire-contract`` section 8).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from aiohttp import HttpVersion11, web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.web_protocol import RequestHandler

from zeta_guard.errors import ZetaError
from zeta_guard.http.refusal import error_response, raw_refusal
from zeta_guard.http.request_id import new_request_id
from zeta_guard.telemetry.logging import log_event

if TYPE_CHECKING:
    from zeta_guard.config.limits import Limits

_logger = logging.getLogger("zeta_guard.runtime")

SERVER_NAME = "zeta-guard"
"""``Server`` of the guard's own answers: no versions of anything."""

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class GuardProtocol(RequestHandler):
    """One client connection.

    Beside aiohttp's keep-alive timer (idle connections) a header timer runs while a head is incomplete: a client that
    trickles its header is answered 408 after ``limits.header_timeout_ms``.
    """

    __slots__ = ("_guard", "_header_timer")

    def __init__(self, server: GuardServer, **kwargs: Any) -> None:
        super().__init__(server, **kwargs)
        self._guard = server
        self._header_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
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
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._waiter is not None and not self._waiter.done() and not self._messages:
            # Bytes came and no message is complete: a head is on its way.
            if self._header_timer is None and data:
                self._header_timer = self._loop.call_later(self._guard.header_timeout, self._head_too_slow)
        elif self._header_timer is not None:
            self._disarm()

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
    ) -> None:
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

    def admit(self, protocol: RequestHandler) -> bool:
        """Whether one more connection fits."""
        return len(self._connections) <= self._most_connections

    def __call__(self) -> RequestHandler:
        return GuardProtocol(self, loop=self._loop, **self._kwargs)
