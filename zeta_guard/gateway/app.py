"""The gateway: decides, claims, asks, forwards (``architecture`` section 3)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web
from prometheus_client import CollectorRegistry

from zeta_guard.config.gateway import Upstream
from zeta_guard.config.guard import GuardConfig
from zeta_guard.errors import ZetaError, unavailable
from zeta_guard.gateway import metadata
from zeta_guard.gateway.access import AccessCheck, Grant, MissingKeys, Refuse, Unproven, Verdict
from zeta_guard.gateway.deadline import DeadlineWatch
from zeta_guard.gateway.forward import Backend, forward, forward_late, refusal_of, relay
from zeta_guard.gateway.headers import Inbound, forwarded_line, popp_line, sort_request_headers
from zeta_guard.gateway.metrics import GatewayMetrics
from zeta_guard.gateway.passage import Exchange, Passage
from zeta_guard.gateway.popp import SLOT as POPP_SLOT
from zeta_guard.gateway.popp import PoppVerifier
from zeta_guard.gateway.popp_keys import PoppKeys
from zeta_guard.gateway.proving import Proving
from zeta_guard.gateway.refusal_event import report_refusal
from zeta_guard.gateway.request_policy import RequestPolicy
from zeta_guard.gateway.response import ClientWriter, WrittenResponse
from zeta_guard.gateway.route import Route, RouteTable, build_routes
from zeta_guard.gateway.sockets import Sockets
from zeta_guard.gateway.tunnel import SocketRule
from zeta_guard.gateway.upstream import UpstreamConnection, UpstreamError
from zeta_guard.gateway.upstream_health import HealthCheck
from zeta_guard.gateway.upstream_pool import UpstreamGroup, UpstreamPool
from zeta_guard.gateway.websocket import check_handshake, is_upgrade, open_websocket
from zeta_guard.http.facts import RequestFacts
from zeta_guard.http.limits import AddressBuckets, rate_limited
from zeta_guard.http.plain_request import PlainRequest
from zeta_guard.store.contract import Bucket, ClaimOutcome, ClaimStatus, ReplayStore
from zeta_guard.telemetry.logging import log_event
from zeta_guard.telemetry.trace_context import new_traceparent
from zeta_guard.tokens.key_sets import KeySet, RemoteKeySet
from zeta_guard.tokens.verifier import SLOT as TOKEN_SLOT
from zeta_guard.tokens.verifier import AccessTokenVerifier

if TYPE_CHECKING:
    from zeta_guard.http.outbound import Outbound
    from zeta_guard.jose.dpop import DpopProof
    from zeta_guard.jose.sealing import Pseudonymizer
    from zeta_guard.policy.contract import PolicyEngine
    from zeta_guard.telemetry.security_events import SecurityEvents
    from zeta_guard.telemetry.tracing import Span, Tracing

_logger = logging.getLogger("zeta_guard.gateway")

SWEEP_SECONDS: Final = 1.0
"""How often open WebSockets are looked at: a block is effective within this time."""

TOKEN_GRACE: Final = 30
LEAST_LIFE: Final = 300
"""A WebSocket ends ``TOKEN_GRACE`` seconds after its token, but not within its first ``LEAST_LIFE`` seconds."""

_NO_CONDITION: Final = "100-continue"


class Gateway:
    """Answers everything that is not the authorization server's. One per configuration, used from one event loop.

    ``pseudonymizer`` names institutions as the block list does; without it (role *gateway*) institutions are blocked by their
    sessions. ``buckets`` are the rate limits per address of this process.
    """

    def __init__(
        self,
        config: GuardConfig,
        *,
        replay: ReplayStore,
        verifier: AccessTokenVerifier,
        key_sets: Mapping[str, KeySet],
        policy: PolicyEngine,
        outbound: Outbound,
        events: SecurityEvents,
        tracing: Tracing,
        clock: Callable[[], float],
        registry: CollectorRegistry,
        pseudonymizer: Pseudonymizer | None = None,
        buckets: AddressBuckets | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._config: Final = config
        self._replay: Final = replay
        self._key_sets: Final = dict(key_sets)
        self._events: Final = events
        self._tracing: Final = tracing
        self._clock: Final = clock
        self._metrics: Final = GatewayMetrics(registry)
        self._metadata: Final = metadata.Metadata(config)
        self._buckets: Final = buckets or AddressBuckets(config.rate_limits)
        self._limited: Final = config.rate_limits.enabled
        self._popp_keys: Final = {issuer.issuer: PoppKeys(issuer, outbound) for issuer in config.gateway.popp_issuers}
        self._policy: Final = RequestPolicy(policy, show_reasons=config.authorization_server.show_reasons)
        self._watch: Final = DeadlineWatch(loop)
        self._sockets: Final = Sockets(loop)
        self._proving: Final = Proving(loop)
        self._pools: Final[dict[Upstream, UpstreamPool]] = {}
        table = build_routes(config)
        self._backends: Final = self._build_backends(table, loop)
        self._access: Final = AccessCheck(
            config,
            table=table,
            verifier=verifier,
            popp=PoppVerifier(self._popp_keys, max_bytes=config.limits.popp_token, skew=config.limits.skew),
            pseudonyms=pseudonymizer.pseudonyms if pseudonymizer is not None else None,
        )
        self._tasks: Final[list[asyncio.Task[None]]] = []
        self._draining = False
        self.keeps_alive = True
        """Whether connections stay open after the next answer."""

    def _build_backends(self, table: RouteTable, loop: asyncio.AbstractEventLoop) -> dict[Route, Backend]:
        backends: dict[Route, Backend] = {}
        for index, route in enumerate(table.routes):
            pools = []
            for number, upstream in enumerate(route.rule.upstreams):
                pool = self._pools.get(upstream)
                if pool is None:
                    where = f"gateway.routes[{index}].upstreams[{number}]"
                    pool = self._pools[upstream] = UpstreamPool(upstream, self._watch, loop, where=where)
                pools.append(pool)
            backends[route] = Backend.of(
                route.rule,
                UpstreamGroup(pools),
                self._metrics.route(route.name),
                body_idle_seconds=self._config.limits.body_timeout_ms / 1000,
            )
        return backends

    @property
    def open_sockets(self) -> int:
        """WebSockets that are open or being opened."""
        return self._sockets.taken

    async def start(self) -> None:
        """Start what runs beside the requests. Nothing is waited for: what is away at the start is a 503 later."""
        create = asyncio.get_running_loop().create_task
        self._tasks.append(create(self._watch_sockets(), name="websocket watch"))
        for issuer, keys in self._popp_keys.items():
            self._tasks.append(create(keys.keep_fresh(self._clock), name=f"PoPP keys of {issuer}"))
        for route, backend in self._backends.items():
            if route.rule.health is None:
                continue
            for number, pool in enumerate(backend.group.pools):
                gauge = self._metrics.upstream_healthy.labels(route.name, str(number))
                check = HealthCheck(
                    pool,
                    route.rule.health,
                    route.rule.timeouts,
                    host=pool.authority,
                    label=(route.name, str(number)),
                    on_change=lambda healthy, gauge=gauge: gauge.set(int(healthy)),  # type: ignore[misc]
                )
                self._tasks.append(create(check.run(), name=f"health of {route.name}"))

    async def drain(self) -> None:
        """Close WebSockets with 1001 and let client connections end after their next answer."""
        self._draining = True
        self.keeps_alive = False
        await self._sockets.drain()

    async def close(self) -> None:
        """Stop everything. What is still open is cut."""
        self._draining = True
        self.keeps_alive = False
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        self._sockets.abort()
        for keys in self._popp_keys.values():
            await keys.close()
        for pool in self._pools.values():
            pool.close()
        self._watch.close()

    def readiness(self) -> dict[str, str | None]:
        """One line per dependency of the gateway: None when fine, else what is wrong."""
        now = self._clock()
        lines: dict[str, str | None] = {
            f"popp keys {issuer}": keys.readiness(now) for issuer, keys in self._popp_keys.items()
        }
        for issuer, key_set in self._key_sets.items():
            if isinstance(key_set, RemoteKeySet):
                lines[f"token keys {issuer}"] = key_set.readiness()
        for route, backend in self._backends.items():
            if not any(pool.healthy for pool in backend.group.pools):
                lines[f"route {route.name}"] = "no server is healthy"
        return lines

    async def handle(self, request: web.BaseRequest, facts: RequestFacts) -> web.StreamResponse:
        """Answer one request. Raises ZetaError for refusals, ConnectionResetError when the client is gone.

        A forwarded answer comes back already written (``prepared``). ``request._state["route"]`` names the route for the
        request log.
        """
        if facts.path.raw == metadata.PATH:
            return self._answer_metadata(request, facts)
        try:
            bucket, verdict = self._admit(request, facts)
            return await self._proceed(request, facts, verdict, bucket)
        except ZetaError as error:
            self.report(error, facts, request._state.get("route", ""))
            raise

    def begin(self, exchange: Exchange, facts: RequestFacts) -> None:
        """As :meth:`handle` for a plain request, in callbacks as far as they lead (:class:`Passage`)."""
        request = exchange.request
        if facts.path.raw == metadata.PATH:
            exchange.hand_over(self.handle(request, facts))
            return
        try:
            passage = Passage(self, exchange, facts, self._take(facts))
            verdict = self._access.begin(facts)
            if type(verdict) is Unproven:
                request._state["route"] = verdict.route.name
                passage.begun = verdict
                self._proving.add(passage)
            else:
                self.enter(passage, verdict)  # type: ignore[arg-type]
        except ZetaError as error:
            self.report(error, facts, request._state.get("route", ""))
            exchange.refuse(error)

    def enter(self, passage: Passage, verdict: Verdict) -> None:
        """Go on with the verdict on a plain request. Raises ZetaError."""
        facts = passage.facts
        request = passage.exchange.request
        if verdict.route is not None:
            request._state["route"] = verdict.route.name
        if type(verdict) is Refuse:
            raise verdict.error
        if type(verdict) is not Grant or verdict.route.rule.request_policy or self._draining:
            passage.exchange.hand_over(self.go_on(request, facts, verdict, passage.bucket, claimed=False))
            return
        passage.granted(verdict, self._backends[verdict.route])
        if verdict.claims:
            self._replay.claim_soon(
                verdict.claims,
                verdict.subjects,
                owner=facts.request_id,
                fingerprint=verdict.fingerprint,
                now=facts.now,
                then=passage.claimed,
            )
        else:
            passage.forward()

    def conclude(self, begun: Unproven, proof: DpopProof, facts: RequestFacts) -> Verdict:
        """The verdict on a request whose proof is proven."""
        return self._access.conclude(begun, proof, facts)

    def _take(self, facts: RequestFacts) -> Bucket:
        bucket = self._buckets.take("routes", facts.client_address, facts.now)
        if not bucket.allowed:
            raise rate_limited(bucket)
        return bucket

    def _admit(self, request: web.BaseRequest, facts: RequestFacts) -> tuple[Bucket, Grant | Refuse | MissingKeys]:
        bucket = self._take(facts)
        _check_expectation(facts)
        verdict = self._access.decide(facts)
        if verdict.route is not None:
            request._state["route"] = verdict.route.name
        if type(verdict) is Refuse:
            raise verdict.error
        return bucket, verdict

    async def _proceed(
        self, request: web.BaseRequest, facts: RequestFacts, verdict: Grant | Refuse | MissingKeys, bucket: Bucket
    ) -> web.StreamResponse:
        if isinstance(verdict, MissingKeys):
            verdict = await self._with_keys(verdict, facts)
        if isinstance(verdict, Refuse):
            raise verdict.error
        return await self._pass(request, facts, verdict, bucket)

    async def go_on(
        self,
        request: web.BaseRequest,
        facts: RequestFacts,
        verdict: Grant | Refuse | MissingKeys,
        bucket: Bucket,
        *,
        claimed: bool,
    ) -> web.StreamResponse:
        """Take a request over where its :class:`Passage` left it: before or after the claim. Raises as :meth:`handle`."""
        try:
            if claimed and type(verdict) is Grant:
                return await self._pass(request, facts, verdict, bucket, claimed=True)
            return await self._proceed(request, facts, verdict, bucket)
        except ZetaError as error:
            self.report(error, facts, request._state.get("route", ""))
            raise

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
        backend = self._backends[grant.route]
        rate = self.rate_lines(bucket)

        async def again() -> WrittenResponse:
            inbound = sort_request_headers(request.raw_headers, peer_trusted=facts.peer_trusted)
            said, _ = self.say(grant, facts, inbound)
            return await forward(request, facts, backend, inbound, said, rate=rate, keep_alive=self.keeps_alive)

        work = forward_late(
            request, facts, backend, connection, sent_at, rate=rate, keep_alive=self.keeps_alive, again=again
        )
        try:
            return await self._forwarded(work, backend, grant, facts, span)
        except ZetaError as error:
            self.report(error, facts, grant.route.name)
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
        backend = self._backends[grant.route]
        try:
            client = ClientWriter(request, keep_alive=keep_alive)
            await relay(request, facts, backend, connection, client)
        finally:
            connection.finish()
            if span is not None:
                span.end()
        backend.metrics.count_request(status)
        return client.done(status)

    def report(self, error: ZetaError, facts: RequestFacts, route: str) -> None:
        """Count a refusal; tell the security log what kind of attack it may be."""
        report_refusal(error, route, self._metrics, self._events, facts.request_id)

    def rate_lines(self, bucket: Bucket) -> bytes:
        """The header lines about the rate limit."""
        if not self._limited:
            return b""
        return b"X-Rate-Limit-Limit: %d\r\nX-Rate-Limit-Remaining: %d\r\nX-Rate-Limit-Reset: %d\r\n" % (
            bucket.limit,
            bucket.remaining,
            bucket.reset,
        )

    def _answer_metadata(self, request: web.BaseRequest, facts: RequestFacts) -> web.StreamResponse:
        bucket = self._buckets.take("metadata", facts.client_address, facts.now)
        if not bucket.allowed:
            raise rate_limited(bucket)
        response = self._metadata.answer(request)
        if self._limited:
            response.headers["X-Rate-Limit-Limit"] = str(bucket.limit)
            response.headers["X-Rate-Limit-Remaining"] = str(bucket.remaining)
            response.headers["X-Rate-Limit-Reset"] = str(bucket.reset)
        return response

    async def _with_keys(self, verdict: MissingKeys, facts: RequestFacts) -> Grant | Refuse:
        """Load the keys that are missing and decide again; a key that is not there then is unknown. Raises ZetaError 503."""
        asked: set[tuple[str, str]] = set()
        missing: Grant | Refuse | MissingKeys = verdict
        while isinstance(missing, MissingKeys):
            if (missing.kind, missing.kid) in asked:
                slot = TOKEN_SLOT if missing.kind == "token" else POPP_SLOT
                return Refuse(slot.refuse("'kid' is not a key of its issuer"), missing.route)
            asked.add((missing.kind, missing.kid))
            if missing.kind == "token":
                await self._key_sets[missing.issuer].refresh(now=facts.now, kid=missing.kid)
            else:
                await self._popp_keys[missing.issuer].refresh(now=facts.now, kid=missing.kid)
            missing = self._access.decide(facts)
        return missing

    async def _pass(
        self, request: web.BaseRequest, facts: RequestFacts, grant: Grant, bucket: Bucket, *, claimed: bool = False
    ) -> web.StreamResponse:
        rule = grant.route.rule
        backend = self._backends[grant.route]
        # What is wrong with a handshake is found before the proof is spent.
        key = self._handshake(request, grant.route) if is_upgrade(request) else None
        if grant.claims and not claimed:
            await self._claim(grant, facts)
        if rule.request_policy:
            await self._policy.check(grant, facts, websocket=key is not None)
        inbound = sort_request_headers(request.raw_headers, peer_trusted=facts.peer_trusted)
        if inbound.stripped:
            self.note_stripped(grant, facts, inbound)
        said, span = self.say(grant, facts, inbound)
        rate = self.rate_lines(bucket)
        work: Coroutine[Any, Any, web.StreamResponse]
        if key is not None:
            work = open_websocket(
                request,
                facts,
                backend,
                inbound,
                said,
                key=key,
                sockets=self._sockets,
                most=rule.websocket.max_sockets,
                rule=self._socket_rule(grant, facts.now),
                rate=rate,
                keep_alive=self.keeps_alive,
            )
        else:
            work = forward(request, facts, backend, inbound, said, rate=rate, keep_alive=self.keeps_alive)
        return await self._forwarded(work, backend, grant, facts, span)

    async def _forwarded(
        self,
        work: Coroutine[Any, Any, web.StreamResponse],
        backend: Backend,
        grant: Grant,
        facts: RequestFacts,
        span: Span | None,
    ) -> web.StreamResponse:
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

    def note_stripped(self, grant: Grant, facts: RequestFacts, inbound: Inbound) -> None:
        """Somebody sent headers that only the guard may send."""
        self._backends[grant.route].metrics.stripped.inc(inbound.stripped)
        self._events.emit("spoofed_header", route=grant.route.name, request_id=facts.request_id)

    def _handshake(self, request: web.BaseRequest, route: Route) -> bytes:
        """The key of a WebSocket handshake that may go on. Raises ZetaError."""
        if not route.rule.websocket.enabled:
            raise ZetaError("invalid_request", "This route offers no WebSocket.", stage="websocket")
        if self._draining:
            raise unavailable("The gateway is about to stop.", retry_after=1, stage="websocket")
        return check_handshake(request)

    async def _claim(self, grant: Grant, facts: RequestFacts) -> None:
        outcome = await self._replay.claim(
            grant.claims, grant.subjects, owner=facts.request_id, fingerprint=grant.fingerprint, now=facts.now
        )
        if outcome.status is not ClaimStatus.WON:
            raise self.judge(outcome, grant)

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

    def say(self, grant: Grant, facts: RequestFacts, inbound: Inbound) -> tuple[list[bytes], Span | None]:
        """The header lines that the guard sets, and the span that began with them, where spans are exported."""
        said: list[bytes] = []
        rule = grant.route.rule
        if grant.holder is not None:
            said.append(grant.holder.user_info)
            if rule.client_data:
                said.append(grant.holder.client_data)
        if grant.popp is not None:
            said.append(popp_line(grant.popp))
        said.append(forwarded_line(inbound.forwarded, facts, inbound.host))
        if not inbound.trace and not self._tracing.exporting:
            if rule.traceparent:
                said.append(b"traceparent: %b\r\n" % new_traceparent())
            return said, None
        span = self._tracing.start("gateway", facts.headers)
        if rule.traceparent:
            said.append(b"traceparent: %b\r\n" % span.traceparent().encode("ascii"))
            state = span.context.state
            if state and state.isascii() and state.isprintable():
                said.append(b"tracestate: %b\r\n" % state.encode("ascii"))
        return said, span

    def _socket_rule(self, grant: Grant, now: float) -> SocketRule:
        rule = grant.route.rule.websocket
        ends_at: float | None = None
        if rule.end_with_token and grant.holder is not None:
            ends_at = max(grant.holder.token.expires_at + TOKEN_GRACE, now + LEAST_LIFE)
        if rule.max_life is not None:
            ends_at = now + rule.max_life if ends_at is None else min(ends_at, now + rule.max_life)
        return SocketRule(grant.route.name, grant.subjects, ends_at, float(rule.idle))

    async def _watch_sockets(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            if len(self._sockets):
                await self.check_sockets()

    async def check_sockets(self) -> None:
        """Look at all open WebSockets: token end, longest life, silence, block list."""
        now = self._clock()
        blocked: frozenset[str] = frozenset()
        try:
            blocked = frozenset(block.subject for block in await self._replay.blocks(now=now))
        except ZetaError as error:
            self._metrics.block_checks_failed.inc()
            log_event(_logger, logging.WARNING, "block_check_failed", reason=error.description)
        self._sockets.sweep(now, blocked)


def _check_expectation(facts: RequestFacts) -> None:
    expectation = facts.headers.get("Expect")
    if expectation is not None and expectation.strip().lower() != _NO_CONDITION:
        raise ZetaError(
            "invalid_request", "The only expectation that is met is 100-continue.", status=417, stage="http"
        )
