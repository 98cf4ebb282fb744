"""The short way of a plain request through the gateway: in callbacks, without a task to wake at every step.

Claim, forward, answer: each step begins the next in the moment in which its reply arrives. It is the same way that
:meth:`zeta_guard.gateway.app.Gateway.handle` goes, made of the same pieces, for the case in which nothing has to be waited for:
an idle connection is there, the answer's length is known, the client takes what it is sent. In every other case, and for
every refusal, the rest of the way is handed over to the connection's task (:meth:`Exchange.hand_over`), which takes it from
there.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Protocol

from aiohttp import web

from zeta_guard.errors import ZetaError
from zeta_guard.gateway.forward import IDEMPOTENT, request_head, request_line, request_lines, too_large
from zeta_guard.gateway.headers import popp_line, sort_plain_request
from zeta_guard.gateway.response import answer_head, whole_answer
from zeta_guard.http.plain_request import remember_head
from zeta_guard.jose.dpop import prove
from zeta_guard.store.contract import ClaimOutcome, ClaimStatus

if TYPE_CHECKING:
    from zeta_guard.gateway.access import Grant, Unproven
    from zeta_guard.gateway.app import Gateway
    from zeta_guard.gateway.forward import Backend
    from zeta_guard.gateway.upstream import ResponseHead, UpstreamConnection
    from zeta_guard.http.facts import RequestFacts
    from zeta_guard.http.plain_request import PlainRequest
    from zeta_guard.jose.dpop import DpopProof
    from zeta_guard.store.contract import Bucket
    from zeta_guard.telemetry.tracing import Span


class Exchange(Protocol):
    """A plain request and who answers it. After any number of ``write``, exactly one of the other methods is called, once."""

    @property
    def request(self) -> PlainRequest:
        """The request."""

    @property
    def slow(self) -> bool:
        """The client takes less than is sent to it."""

    gone: bool
    """The client is gone; nothing is to be called any more."""
    on_gone: Callable[[], None] | None
    """Called when the client goes."""

    def write(self, piece: bytes) -> None:
        """Send to the client. Raises ConnectionResetError when it is gone."""

    def answered(self, status: int, *, keep_alive: bool) -> None:
        """The answer is written."""

    def refuse(self, error: ZetaError) -> None:
        """The refusal is to be written."""

    def hand_over(self, work: Coroutine[Any, Any, web.StreamResponse]) -> None:
        """The rest is done by ``work``, in the connection's task."""

    def fail(self, error: Exception) -> None:
        """Nothing of the above was called, and cannot be."""


class Passage:
    """One plain request on its way."""

    __slots__ = (
        "_connection",
        "_gateway",
        "_keep_alive",
        "_proof",
        "_refusal",
        "_sent_at",
        "_span",
        "_streaming",
        "backend",
        "begun",
        "bucket",
        "exchange",
        "facts",
        "grant",
    )

    backend: Backend
    grant: Grant
    _proof: DpopProof
    begun: Unproven

    def __init__(self, gateway: Gateway, exchange: Exchange, facts: RequestFacts, bucket: Bucket) -> None:
        self._gateway: Final = gateway
        self.exchange: Final = exchange
        self.facts: Final = facts
        self.bucket: Final = bucket
        self._refusal: Exception | None = None
        self._connection: UpstreamConnection | None = None
        self._span: Span | None = None
        self._sent_at = 0.0
        self._streaming = False
        self._keep_alive = False

    def prove(self) -> None:
        """Verify the signature of the proof."""
        try:
            self._proof = prove(self.begun.proof)
        except Exception as error:  # noqa: BLE001 - told in its turn, by proven()
            self._refusal = error

    def proven(self) -> None:
        """The signature was verified: the rest of the check, and the claim."""
        if self.exchange.gone:
            return
        gateway = self._gateway
        try:
            try:
                if self._refusal is not None:
                    raise self._refusal
                request = self.exchange.request
                verdict = gateway.access.conclude(self.begun, self._proof, self.facts, request.known)
                if request.rest:
                    remember_head(request, gateway.limits)
                gateway.enter(self, verdict)
            except ZetaError as error:
                gateway.report(error, self.facts, self.begun.route.name)
                self.exchange.refuse(error)
        except Exception as error:  # noqa: BLE001 - called for many requests in a row; none may end the others
            self.exchange.fail(error)

    def claimed(self, outcome: ClaimOutcome | None) -> None:
        """The store has spoken, or cannot in this way."""
        if self.exchange.gone:
            return
        try:
            if outcome is None:
                self._hand_over(claimed=False)
            elif outcome.status is ClaimStatus.WON:
                self.forward()
            else:
                self._refuse(self._gateway.forwarder.judge(outcome, self.grant))
        except Exception as error:  # noqa: BLE001 - called by the store, which has other callers to serve
            self.exchange.fail(error)

    def forward(self) -> None:
        """Send the request to the backend."""
        exchange, facts, backend, gateway, grant = self.exchange, self.facts, self.backend, self._gateway, self.grant
        request = exchange.request
        body = request.body
        if body is not None and backend.max_body is not None and len(body) > backend.max_body:
            self._refuse(too_large(backend.max_body))
            return
        connection = backend.group.take_idle(repeatable=facts.method in IDEMPOTENT and not body)
        if connection is None:
            self._hand_over(claimed=True)
            return
        host = None if backend.preserve_host else connection.authority
        known = request.known
        prepared_for = (
            gateway,
            grant.route,
            grant.holder,
            facts.client_address,
            facts.peer_trusted,
            facts.scheme,
            host,
        )
        if known is not None and known.prepared_for == prepared_for:
            trace, self._span = gateway.forwarder.trace(grant.route, facts, carried=False)
            head = b"%b%b%b%b\r\n" % (request_line(facts), known.prepared, popp_line(grant.popp), trace)
        else:
            inbound = sort_plain_request(request, peer_trusted=facts.peer_trusted)
            if inbound.stripped:
                gateway.forwarder.note_stripped(grant, facts, inbound)
            vouched = gateway.forwarder.vouch(grant, facts, inbound)
            trace, self._span = gateway.forwarder.trace(grant.route, facts, carried=bool(inbound.trace))
            framing = b"" if body is None else b"Content-Length: %d\r\n" % len(body)
            head = request_head(facts, inbound, (vouched, popp_line(grant.popp), trace), framing, host=host)
            if known is not None and not inbound.trace and not inbound.stripped:
                known.prepared = request_lines(inbound, (vouched,), b"", host=host)
                known.prepared_for = prepared_for
        self._connection = connection
        connection.begin(head_only=facts.method == "HEAD")
        connection.observer = self._heard
        exchange.on_gone = self._abandon
        connection.write(head + body if body else head)
        self._sent_at = connection.expect_within(backend.response_seconds)

    def _heard(self) -> None:
        """The backend has answered, or failed to."""
        exchange = self.exchange
        try:
            connection = self._connection
            assert connection is not None
            connection.observer = None
            response = connection.response
            if self._streaming and response is not None:
                self._stream(connection, response)
                return
            if response is None or response.length is None or response.status == 101 or response.outgoing.blames_proxy:
                exchange.hand_over(
                    self._gateway.forwarder.answer_late(
                        exchange.request, self.facts, self.grant, self.bucket, connection, self._sent_at, self._span
                    )
                )
                return
            gateway, backend = self._gateway, self.backend
            piece = connection.take()
            if not connection.complete:
                self._streaming = True
                backend.metrics.observe_upstream(monotonic() - self._sent_at)
                self._keep_alive = gateway.forwarder.keeps_alive and exchange.request.keep_alive
                exchange.write(
                    answer_head(response, gateway.forwarder.rate_lines(self.bucket), keep_alive=self._keep_alive)
                )
                if piece:
                    exchange.write(piece)
                self._wait_for_more(connection, response)
                return
            keep_alive = gateway.forwarder.keeps_alive and exchange.request.keep_alive
            # The client first; what is noted down follows within the same turn of the event loop.
            exchange.write(
                whole_answer(response, piece, gateway.forwarder.rate_lines(self.bucket), keep_alive=keep_alive)
            )
            exchange.on_gone = None
            if self._span is not None:
                self._span.end()
            backend.metrics.observe_answer(response.status, connection.finish_at() - self._sent_at)
            exchange.answered(response.status, keep_alive=keep_alive)
        except Exception as error:  # noqa: BLE001 - called by the backend's connection, which would take it for its own
            exchange.fail(error)

    def _stream(self, connection: UpstreamConnection, response: ResponseHead) -> None:
        """More of the body has come, or will not come."""
        exchange = self.exchange
        piece = connection.take()
        if piece:
            exchange.write(piece)
        if not connection.complete:
            self._wait_for_more(connection, response)
            return
        exchange.on_gone = None
        connection.finish()
        if self._span is not None:
            self._span.end()
        self.backend.metrics.count_request(response.status)
        exchange.answered(response.status, keep_alive=self._keep_alive)

    def _wait_for_more(self, connection: UpstreamConnection, response: ResponseHead) -> None:
        exchange = self.exchange
        if connection.failed or exchange.slow:
            # To wait for a slow client, or to cut its answer short, is the task's business.
            exchange.hand_over(
                self._gateway.forwarder.relay_late(
                    exchange.request,
                    self.facts,
                    self.grant,
                    connection,
                    response.status,
                    self._keep_alive,
                    self._span,
                )
            )
            return
        connection.observer = self._heard
        exchange.on_gone = self._abandon
        connection.expect_within(self.backend.idle_seconds)

    def _abandon(self) -> None:
        connection = self._connection
        if connection is not None:
            connection.finish()
        if self._span is not None:
            self._span.end("client_gone")

    def _refuse(self, error: ZetaError) -> None:
        self._gateway.report(error, self.facts, self.grant.route.name)
        self.exchange.refuse(error)

    def _hand_over(self, *, claimed: bool) -> None:
        self.exchange.hand_over(
            self._gateway.go_on(self.exchange.request, self.facts, self.grant, self.bucket, claimed=claimed)
        )
