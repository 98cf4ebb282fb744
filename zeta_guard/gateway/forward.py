"""From an admitted request to the backend's answer at the client, streaming in both directions.

Bodies are never held whole: what one side sends waits until the other has taken it. Nothing is sent twice unless the method
is idempotent, the body was complete, and the backend closed a reused connection before answering.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from aiohttp import ClientPayloadError, HttpVersion10, web

from zeta_guard.config.gateway import Route as RouteConfig
from zeta_guard.errors import ZetaError, unavailable
from zeta_guard.gateway.headers import Inbound
from zeta_guard.gateway.metrics import RouteMetrics
from zeta_guard.gateway.response import CONTINUE, ClientWriter, WrittenResponse
from zeta_guard.gateway.upstream import Fault, ResponseHead, UpstreamConnection, UpstreamError
from zeta_guard.gateway.upstream_pool import UpstreamGroup
from zeta_guard.http.facts import RequestFacts
from zeta_guard.http.plain_request import PlainRequest
from zeta_guard.telemetry.logging import log_event

_logger = logging.getLogger("zeta_guard.gateway")

IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
"""Methods that may be sent twice (RFC 9110 §9.2.2)."""

_CLOSE: Final = {"Connection": "close"}
_END: Final = b"\r\n"


@dataclass(frozen=True, slots=True, eq=False)
class Backend:
    """Where the requests of a route go. Times in seconds."""

    group: UpstreamGroup
    metrics: RouteMetrics
    connect_seconds: float
    response_seconds: float
    idle_seconds: float
    body_idle_seconds: float
    max_body: int | None
    preserve_host: bool

    @classmethod
    def of(cls, rule: RouteConfig, group: UpstreamGroup, metrics: RouteMetrics, *, body_idle_seconds: float) -> Backend:
        """The backend of a configured route."""
        return cls(
            group=group,
            metrics=metrics,
            connect_seconds=rule.timeouts.connect_ms / 1000,
            response_seconds=rule.timeouts.response_ms / 1000,
            idle_seconds=rule.timeouts.idle_ms / 1000,
            body_idle_seconds=body_idle_seconds,
            max_body=rule.max_body,
            preserve_host=rule.host == "preserve",
        )


class _Body(NamedTuple):
    """How the body goes to the backend: nothing, all at once (``whole``), or streamed (``length`` None: chunked)."""

    framing: bytes
    whole: bytes
    streamed: bool
    length: int | None


def request_line(facts: RequestFacts) -> bytes:
    """The first line for the backend: method and target as they came."""
    return f"{facts.method} {facts.target} HTTP/1.1\r\n".encode("ascii")


def request_lines(inbound: Inbound, said: Sequence[bytes], framing: bytes, *, host: bytes | None) -> bytes:
    """The header lines for the backend: what passes of the client's, what the guard says. ``host`` None keeps the client's."""
    return b"".join((b"Host: ", inbound.host if host is None else host, _END, inbound.lines, *said, framing))


def request_head(
    facts: RequestFacts, inbound: Inbound, said: Sequence[bytes], framing: bytes, *, host: bytes | None
) -> bytes:
    """The head for the backend: :func:`request_line` and :func:`request_lines`."""
    return b"%b%b\r\n" % (request_line(facts), request_lines(inbound, said, framing, host=host))


async def forward(
    request: web.BaseRequest,
    facts: RequestFacts,
    backend: Backend,
    inbound: Inbound,
    said: Sequence[bytes],
    *,
    rate: bytes = b"",
    keep_alive: bool = True,
) -> WrittenResponse:
    """Send the request, write the answer. ``said`` are the header lines that the guard sets, ``rate`` those for the client.

    Raises :class:`UpstreamError` and ZetaError only while nothing has been written to the client; ConnectionResetError when
    the client is gone.
    """
    body = _read_framing(request, backend)
    if body.streamed:
        return await _forward_streamed(request, facts, backend, inbound, said, body, rate, keep_alive)
    repeatable = facts.method in IDEMPOTENT and not body.whole
    group = backend.group
    loop = asyncio.get_running_loop()
    while True:
        connection = group.take_idle(repeatable=repeatable)
        if connection is None:
            connection = await group.acquire(repeatable=repeatable, seconds=backend.connect_seconds)
        reused = connection.exchanges > 0
        head = request_head(
            facts, inbound, said, body.framing, host=None if backend.preserve_host else connection.authority
        )
        connection.begin(head_only=facts.method == "HEAD")
        try:
            connection.write(head + body.whole if body.whole else head)
            sent_at = connection.expect_within(backend.response_seconds)
            response = await connection.head()
            backend.metrics.observe_upstream(loop.time() - sent_at)
            break
        except UpstreamError as error:
            connection.finish()
            if not (error.fault is Fault.CLOSED and reused and repeatable):
                raise
        except BaseException:
            connection.finish()
            raise
    try:
        return await deliver(request, facts, backend, connection, response, rate, keep_alive)
    finally:
        connection.finish()


async def forward_late(
    request: web.BaseRequest,
    facts: RequestFacts,
    backend: Backend,
    connection: UpstreamConnection,
    sent_at: float,
    *,
    rate: bytes = b"",
    keep_alive: bool = True,
    again: Callable[[], Awaitable[WrittenResponse]],
) -> WrittenResponse:
    """Go on with an exchange that was begun elsewhere. ``again`` sends the request anew, when that may be done.

    Raises as :func:`forward`.
    """
    reused = connection.exchanges > 1
    repeatable = facts.method in IDEMPOTENT and (not isinstance(request, PlainRequest) or not request.body)
    try:
        response = await connection.head()
        backend.metrics.observe_upstream(asyncio.get_running_loop().time() - sent_at)
        return await deliver(request, facts, backend, connection, response, rate, keep_alive)
    except UpstreamError as error:
        if not (error.fault is Fault.CLOSED and reused and repeatable):
            raise
    finally:
        connection.finish()
    return await again()


async def _forward_streamed(
    request: web.BaseRequest,
    facts: RequestFacts,
    backend: Backend,
    inbound: Inbound,
    said: Sequence[bytes],
    body: _Body,
    rate: bytes,
    keep_alive: bool,
) -> WrittenResponse:
    connection = backend.group.take_idle(repeatable=False)
    if connection is None:
        connection = await backend.group.acquire(repeatable=False, seconds=backend.connect_seconds)
    head = request_head(
        facts, inbound, said, body.framing, host=None if backend.preserve_host else connection.authority
    )
    connection.begin(head_only=facts.method == "HEAD")
    loop = asyncio.get_running_loop()
    upload = loop.create_task(_upload(request, backend, connection, body, head))
    try:
        sent_at = loop.time()
        response = await connection.head()
        backend.metrics.observe_upstream(loop.time() - sent_at)
        # An answer before the end of the upload (413 …) is delivered while the rest goes on; after it nobody wants the rest.
        return await deliver(
            request, facts, backend, connection, response, rate, keep_alive and upload.done(), upload=upload
        )
    finally:
        if not upload.done():
            connection.dirty = True
            upload.cancel()
        # Before anything is awaited: once delivered, the connection may serve another request, which is not ours to end.
        connection.finish()
        await asyncio.gather(upload, return_exceptions=True)


def _read_framing(request: web.BaseRequest, backend: Backend) -> _Body:
    if isinstance(request, PlainRequest):
        whole = request.body
        if whole is None:
            return _Body(b"", b"", False, 0)
        if backend.max_body is not None and len(whole) > backend.max_body:
            raise too_large(backend.max_body)
        return _Body(b"Content-Length: %d\r\n" % len(whole), whole, False, len(whole))
    headers = request.headers
    coding = headers.get("Transfer-Encoding")
    announced = headers.get("Content-Length")
    if announced is None and coding is None:
        return _Body(b"", b"", False, 0)
    # The listener has refused all this already; what is forwarded does not depend on it.
    if coding is not None and (announced is not None or coding.strip(" \t").lower() != "chunked"):
        raise ZetaError("invalid_request", "The framing of the body is ambiguous.", headers=_CLOSE, stage="body")
    if announced is not None and not (announced.isascii() and announced.isdigit()):
        raise ZetaError("invalid_request", "Content-Length is no number.", headers=_CLOSE, stage="body")
    length = None if announced is None else int(announced)
    if length is not None and backend.max_body is not None and length > backend.max_body:
        raise too_large(backend.max_body)
    content = request.content
    if content.is_eof():
        whole = content.read_nowait(-1)
        if backend.max_body is not None and len(whole) > backend.max_body:
            raise too_large(backend.max_body)
        return _Body(b"Content-Length: %d\r\n" % len(whole), whole, False, len(whole))
    framing = b"Transfer-Encoding: chunked\r\n" if length is None else b"Content-Length: %d\r\n" % length
    return _Body(framing, b"", True, length)


async def _upload(
    request: web.BaseRequest, backend: Backend, connection: UpstreamConnection, body: _Body, head: bytes
) -> None:
    """Stream the request body. A failure ends the exchange with its reason; nothing is raised."""
    try:
        content = request.content
        if (
            request.headers.get("Expect") is not None
            and request.version > HttpVersion10
            and content.total_bytes == 0
            and request.transport is not None
        ):
            request.transport.write(CONTINUE)
        connection.write(head)
        size = 0
        while True:
            connection.expect_within(backend.body_idle_seconds + backend.response_seconds)
            async with asyncio.timeout(backend.body_idle_seconds):
                piece = await content.readany()
            if not piece:
                break
            size += len(piece)
            if backend.max_body is not None and size > backend.max_body:
                raise too_large(backend.max_body)
            connection.write(piece if body.length is not None else b"%x\r\n%b\r\n" % (len(piece), piece))
            # The connection has its own copy of what it could not send.
            del piece
            # Silence of the backend while it should take the body counts as the body's silence.
            connection.expect_within(backend.idle_seconds)
            await connection.drain()
        if body.length is None:
            connection.write(b"0\r\n\r\n")
        elif size != body.length:
            raise _cut_off()
        connection.expect_within(backend.response_seconds)
    except TimeoutError:
        connection.fail(
            ZetaError("invalid_request", "The body did not arrive in time.", status=408, headers=_CLOSE, stage="body")
        )
    except ZetaError as error:
        connection.fail(error)
    except (ClientPayloadError, web.RequestPayloadError, ConnectionError, ValueError):
        connection.fail(_cut_off())


async def deliver(
    request: web.BaseRequest,
    facts: RequestFacts,
    backend: Backend,
    connection: UpstreamConnection,
    response: ResponseHead,
    rate: bytes,
    keep_alive: bool,
    *,
    upload: asyncio.Task[None] | None = None,
) -> WrittenResponse:
    outgoing = response.outgoing
    if outgoing.blames_proxy:
        raise ZetaError(
            "server_error", "The service behind the guard reports a fault of the guard.", stage="zeta_cause"
        )
    if response.status == 101:
        raise UpstreamError(Fault.GARBAGE, reached=True)
    client = ClientWriter(request, keep_alive=keep_alive)
    if connection.complete and (upload is None or upload.done()):
        body = connection.take()
        # The connection is free for others before this client has its answer.
        connection.finish()
        client.whole(response, body, rate)
        return client.done(response.status)
    chunked = response.has_body and response.length is None and client.can_chunk
    if response.has_body and response.length is None and not client.can_chunk:
        client.keep_alive = False
    framing = b"Transfer-Encoding: chunked\r\n" if chunked else response.framing(response.length)
    head = client.head(response.status, response.reason, outgoing, framing, rate)
    piece = connection.take()
    client.write(head + _as_chunk(piece) if chunked else head + piece)
    await relay(request, facts, backend, connection, client, chunked=chunked)
    return client.done(response.status)


async def relay(
    request: web.BaseRequest,
    facts: RequestFacts,
    backend: Backend,
    connection: UpstreamConnection,
    client: ClientWriter,
    *,
    chunked: bool = False,
) -> None:
    """Send what is to come of an answer whose head is out; cut the client's connection when it will not come."""
    try:
        if request.protocol.writing_paused:
            connection.pause_deadline()
            await client.drain(backend.idle_seconds)
        while True:
            connection.expect_within(backend.idle_seconds)
            piece = await connection.read()
            if not piece:
                break
            client.write(_as_chunk(piece) if chunked else piece)
            if request.protocol.writing_paused:
                # While the client is slow, the backend is not.
                connection.pause_deadline()
                await client.drain(backend.idle_seconds)
        if chunked:
            client.write(b"0\r\n\r\n")
    except (UpstreamError, ZetaError, TimeoutError) as error:
        # Part of the answer is out: the client must not take it for the whole.
        fault = error.fault.value if isinstance(error, UpstreamError) else "client"
        backend.metrics.count_fault(fault)
        log_event(_logger, logging.WARNING, "answer_cut", request_id=facts.request_id, fault=fault)
        client.abort()


def _as_chunk(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b""


def too_large(limit: int) -> ZetaError:
    """The refusal of a body beyond the route's limit: 413."""
    return ZetaError(
        "invalid_request",
        f"The body is larger than {limit} bytes, the most that this route takes.",
        status=413,
        headers=_CLOSE,
        stage="body",
    )


def _cut_off() -> ZetaError:
    return ZetaError("invalid_request", "The body is cut off or badly framed.", headers=_CLOSE, stage="body")


def refusal_of(error: UpstreamError) -> ZetaError:
    """What the client hears when the backend could not be asked or did not answer."""
    if error.fault is Fault.TIMEOUT:
        return ZetaError("gateway_timeout", "The service behind the guard did not answer in time.", stage="upstream")
    if error.fault is Fault.BUSY:
        return unavailable("All connections to the service are in use.", retry_after=1, stage="upstream")
    if error.fault is Fault.UNHEALTHY:
        return unavailable("No server of the service is healthy.", stage="upstream")
    if error.fault is Fault.REFUSED:
        return ZetaError("bad_gateway", "The service behind the guard cannot be reached.", stage="upstream")
    if error.fault is Fault.TLS:
        return ZetaError(
            "bad_gateway", "The secure connection to the service behind the guard failed.", stage="upstream"
        )
    if error.fault is Fault.GARBAGE:
        return ZetaError(
            "bad_gateway", "The service behind the guard did not answer with valid HTTP.", stage="upstream"
        )
    return ZetaError("bad_gateway", "The service behind the guard closed the connection.", stage="upstream")
