"""What becomes of a request that may pass: what the guard says to the backend, the exchange, and what the client hears.

Shared by the two ways through the gateway: the task's (:class:`zeta_guard.gateway.app.Gateway`) and the short one
(:class:`zeta_guard.gateway.passage.Passage`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from zeta_guard.config.gateway import Upstream
from zeta_guard.config.guard import GuardConfig
from zeta_guard.errors import ZetaError
from zeta_guard.gateway.access import Grant
from zeta_guard.gateway.deadline import DeadlineWatch
from zeta_guard.gateway.forward import Backend, forward, forward_late, refusal_of, relay
from zeta_guard.gateway.headers import Inbound, forwarded_line, popp_line, sort_request_headers
from zeta_guard.gateway.metrics import GatewayMetrics
from zeta_guard.gateway.refusal_event import report_refusal
from zeta_guard.gateway.response import ClientWriter, WrittenResponse
from zeta_guard.gateway.route import Route, RouteTable
from zeta_guard.gateway.upstream import UpstreamConnection, UpstreamError
from zeta_guard.gateway.upstream_pool import UpstreamGroup, UpstreamPool
from zeta_guard.http.facts import RequestFacts
from zeta_guard.http.plain_request import PlainRequest
from zeta_guard.store.contract import Bucket, ClaimOutcome, ClaimStatus, ReplayStore
from zeta_guard.telemetry.trace_context import new_traceparent

if TYPE_CHECKING:
    from zeta_guard.telemetry.security_events import SecurityEvents
    from zeta_guard.telemetry.tracing import Span, Tracing


class Forwarder:
    """The backends of one configuration."""

    def __init__(
        self,
        config: GuardConfig,
        table: RouteTable,
        *,
        replay: ReplayStore,
        metrics: GatewayMetrics,
        events: SecurityEvents,
        tracing: Tracing,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._config: Final = config
        self._replay: Final = replay
        self._metrics: Final = metrics
        self._events: Final = events
        self._tracing: Final = tracing
        self._limited: Final = config.rate_limits.enabled
        self._watch: Final = DeadlineWatch(loop)
        self.pools: Final[dict[Upstream, UpstreamPool]] = {}
        self.backends: Final = self._build_backends(table, loop)
        self.keeps_alive = True
        """Whether connections of clients stay open after the next answer."""

    def close(self) -> None:
        """Cut what is still open."""
        for pool in self.pools.values():
            pool.close()
        self._watch.close()

    def _build_backends(self, table: RouteTable, loop: asyncio.AbstractEventLoop) -> dict[Route, Backend]:
        backends: dict[Route, Backend] = {}
        for index, route in enumerate(table.routes):
            pools = []
            for number, upstream in enumerate(route.rule.upstreams):
                pool = self.pools.get(upstream)
                if pool is None:
                    where = f"gateway.routes[{index}].upstreams[{number}]"
                    pool = self.pools[upstream] = UpstreamPool(upstream, self._watch, loop, where=where)
                pools.append(pool)
            backends[route] = Backend.of(
                route.rule,
                UpstreamGroup(pools),
                self._metrics.route(route.name),
                body_idle_seconds=self._config.limits.body_timeout_ms / 1000,
            )
        return backends

    def say(self, grant: Grant, facts: RequestFacts, inbound: Inbound) -> tuple[list[bytes], Span | None]:
        """The header lines that the guard sets, and the span that began with them, where spans are exported."""
        lines, span = self.trace(grant.route, facts, carried=bool(inbound.trace))
        return [self.vouch(grant, facts, inbound), popp_line(grant.popp), lines], span

    def vouch(self, grant: Grant, facts: RequestFacts, inbound: Inbound) -> bytes:
        """The header lines about who asks, and from where; without the PoPP token's."""
        said: list[bytes] = []
        if grant.holder is not None:
            said.append(grant.holder.user_info)
            if grant.route.rule.client_data:
                said.append(grant.holder.client_data)
        said.append(forwarded_line(inbound.forwarded, facts, inbound.host))
        return b"".join(said)

    def trace(self, route: Route, facts: RequestFacts, *, carried: bool) -> tuple[bytes, Span | None]:
        """The header lines about the trace, and the span of the request where spans are exported.

        ``carried``: the request brought a trace of its own.
        """
        if not carried and not self._tracing.exporting:
            return b"traceparent: %b\r\n" % new_traceparent() if route.rule.traceparent else b"", None
        span = self._tracing.start("gateway", facts.headers)
        lines = b""
        if route.rule.traceparent:
            lines = b"traceparent: %b\r\n" % span.traceparent().encode("ascii")
            state = span.context.state
            if state and state.isascii() and state.isprintable():
                lines += b"tracestate: %b\r\n" % state.encode("ascii")
        return lines, span

    def rate_lines(self, bucket: Bucket) -> bytes:
        """The header lines about the rate limit."""
        if not self._limited:
            return b""
        return b"X-Rate-Limit-Limit: %d\r\nX-Rate-Limit-Remaining: %d\r\nX-Rate-Limit-Reset: %d\r\n" % (
            bucket.limit,
            bucket.remaining,
            bucket.reset,
        )

    def note_stripped(self, grant: Grant, facts: RequestFacts, inbound: Inbound) -> None:
        """Somebody sent headers that only the guard may send."""
        self.backends[grant.route].metrics.stripped.inc(inbound.stripped)
        self._events.emit("spoofed_header", route=grant.route.name, request_id=facts.request_id)

    async def result(
        self,
        work: Coroutine[Any, Any, web.StreamResponse],
        backend: Backend,
        grant: Grant,
        facts: RequestFacts,
        span: Span | None,
    ) -> web.StreamResponse:
        """What ``work`` answers; raises ZetaError for what failed between the guard and the backend."""
        try:
            response = await work
        except UpstreamError as error:
            backend.metrics.count_fault(error.fault.value)
            refusal = refusal_of(error)
            if refusal.status == 502 and not error.reached:
                await self._allow_resending(grant, facts)
            raise refusal from None
        finally:
            if span is not None:
                span.end()
        backend.metrics.count_request(response.status)
        return response

    async def answer_late(
        self,
        request: PlainRequest,
        facts: RequestFacts,
        grant: Grant,
        bucket: Bucket,
        connection: UpstreamConnection,
        sent_at: float,
        span: Span | None,
    ) -> web.StreamResponse:
        """Take a request over that was sent to the backend at ``sent_at``. Raises as :meth:`handle`."""
        backend = self.backends[grant.route]
        rate = self.rate_lines(bucket)

        async def again() -> WrittenResponse:
            inbound = sort_request_headers(request.raw_headers, peer_trusted=facts.peer_trusted)
            said, second = self.say(grant, facts, inbound)
            try:
                return await forward(request, facts, backend, inbound, said, rate=rate, keep_alive=self.keeps_alive)
            finally:
                if second is not None:
                    second.end()

        work = forward_late(
            request, facts, backend, connection, sent_at, rate=rate, keep_alive=self.keeps_alive, again=again
        )
        try:
            return await self.result(work, backend, grant, facts, span)
        except ZetaError as error:
            report_refusal(error, grant.route.name, self._metrics, self._events, facts.request_id)
            raise

    async def relay_late(
        self,
        request: PlainRequest,
        facts: RequestFacts,
        grant: Grant,
        connection: UpstreamConnection,
        status: int,
        keep_alive: bool,
        span: Span | None,
    ) -> web.StreamResponse:
        """Take over an answer that is partly sent."""
        backend = self.backends[grant.route]
        try:
            client = ClientWriter(request, keep_alive=keep_alive)
            await relay(request, facts, backend, connection, client)
        finally:
            connection.finish()
            if span is not None:
                span.end()
        backend.metrics.count_request(status)
        return client.done(status)

    def judge(self, outcome: ClaimOutcome, grant: Grant) -> ZetaError:
        """Why a request does not pass whose claim was not won."""
        if outcome.status is ClaimStatus.BLOCKED:
            return ZetaError("invalid_token", "access token: its session was ended; log in again", stage="block")
        if outcome.status is ClaimStatus.LOST:
            self._metrics.replays.labels(grant.route.name).inc()
            return ZetaError(
                "invalid_dpop_proof", "DPoP proof: was already used; make a fresh one per request", stage="replay"
            )
        return ZetaError(
            "invalid_dpop_proof", "DPoP proof: is older than the guard's memory; make a fresh one", stage="forgotten"
        )

    async def _allow_resending(self, grant: Grant, facts: RequestFacts) -> None:
        """The backend was never reached: the same request may come again with the same proof."""
        for claim in grant.claims:
            # Without the store the client has to make a fresh proof, as after any other failure.
            with suppress(ZetaError):
                await self._replay.mark_resendable(claim.key, owner=facts.request_id, fingerprint=grant.fingerprint)
                self._metrics.resendable.labels(grant.route.name).inc()
