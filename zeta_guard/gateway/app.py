"""The gateway: decides, claims, asks, forwards (``architecture`` section 3)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web
from prometheus_client import CollectorRegistry

from zeta_guard.config.guard import GuardConfig
from zeta_guard.errors import ZetaError, unavailable
from zeta_guard.gateway import metadata
from zeta_guard.gateway.access import AccessCheck, Grant, MissingKeys, Refuse, Unproven, Verdict
from zeta_guard.gateway.forward import forward
from zeta_guard.gateway.forwarder import Forwarder
from zeta_guard.gateway.headers import sort_request_headers
from zeta_guard.gateway.metrics import GatewayMetrics
from zeta_guard.gateway.passage import Exchange, Passage
from zeta_guard.gateway.popp import SLOT as POPP_SLOT
from zeta_guard.gateway.popp import PoppVerifier
from zeta_guard.gateway.popp_keys import PoppKeys
from zeta_guard.gateway.proving import Proving
from zeta_guard.gateway.refusal_event import report_refusal
from zeta_guard.gateway.request_policy import RequestPolicy
from zeta_guard.gateway.route import Route, build_routes
from zeta_guard.gateway.sockets import Sockets
from zeta_guard.gateway.tunnel import SocketRule
from zeta_guard.gateway.upstream_health import HealthCheck
from zeta_guard.gateway.websocket import check_handshake, is_upgrade, open_websocket
from zeta_guard.http.facts import RequestFacts
from zeta_guard.http.limits import AddressBuckets, rate_limited
from zeta_guard.store.contract import Bucket, ClaimStatus, ReplayStore
from zeta_guard.telemetry.logging import log_event
from zeta_guard.tokens.key_sets import KeySet, RemoteKeySet
from zeta_guard.tokens.verifier import SLOT as TOKEN_SLOT
from zeta_guard.tokens.verifier import AccessTokenVerifier

if TYPE_CHECKING:
    from zeta_guard.http.outbound import Outbound
    from zeta_guard.jose.sealing import Pseudonymizer
    from zeta_guard.policy.contract import PolicyEngine
    from zeta_guard.telemetry.security_events import SecurityEvents
    from zeta_guard.telemetry.tracing import Tracing

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
        self._clock: Final = clock
        self._metrics: Final = GatewayMetrics(registry)
        self._metadata: Final = metadata.Metadata(config)
        self._buckets: Final = buckets or AddressBuckets(config.rate_limits)
        self._limited: Final = config.rate_limits.enabled
        self.limits: Final = config.limits
        self._popp_keys: Final = {issuer.issuer: PoppKeys(issuer, outbound) for issuer in config.gateway.popp_issuers}
        self._policy: Final = RequestPolicy(policy, show_reasons=config.authorization_server.show_reasons)
        self._sockets: Final = Sockets(loop)
        self._proving: Final = Proving(loop)
        table = build_routes(config)
        self.forwarder: Final = Forwarder(
            config, table, replay=replay, metrics=self._metrics, events=events, tracing=tracing, loop=loop
        )
        self.access: Final = AccessCheck(
            config,
            table=table,
            verifier=verifier,
            popp=PoppVerifier(self._popp_keys, max_bytes=config.limits.popp_token, skew=config.limits.skew),
            pseudonyms=pseudonymizer.pseudonyms if pseudonymizer is not None else None,
        )
        self._tasks: Final[list[asyncio.Task[None]]] = []
        self._draining = False

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
        for route, backend in self.forwarder.backends.items():
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
        self.forwarder.keeps_alive = False
        await self._sockets.drain()

    async def close(self) -> None:
        """Stop everything. What is still open is cut."""
        self._draining = True
        self.forwarder.keeps_alive = False
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        self._sockets.abort()
        for keys in self._popp_keys.values():
            await keys.close()
        self.forwarder.close()

    def readiness(self) -> dict[str, str | None]:
        """One line per dependency of the gateway: None when fine, else what is wrong."""
        now = self._clock()
        lines: dict[str, str | None] = {
            f"popp keys {issuer}": keys.readiness(now) for issuer, keys in self._popp_keys.items()
        }
        for issuer, key_set in self._key_sets.items():
            if isinstance(key_set, RemoteKeySet):
                lines[f"token keys {issuer}"] = key_set.readiness()
        for route, backend in self.forwarder.backends.items():
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
            bucket = self._buckets.take("routes", facts.client_address, facts.now)
            if not bucket.allowed:
                raise rate_limited(bucket)
            passage = Passage(self, exchange, facts, bucket)
            verdict = self.access.begin(facts, request.known)
            if type(verdict) is Unproven:
                request._state["route"] = verdict.route.name
                passage.begun = verdict
                self._proving.add(passage)
            else:
                if type(verdict) is Grant:
                    request._state["route"] = verdict.route.name
                self.enter(passage, verdict)  # type: ignore[arg-type]
        except ZetaError as error:
            self.report(error, facts, request._state.get("route", ""))
            exchange.refuse(error)

    def enter(self, passage: Passage, verdict: Verdict) -> None:
        """Go on with the verdict on a plain request. Raises ZetaError."""
        facts = passage.facts
        if type(verdict) is not Grant or verdict.route.rule.request_policy or self._draining:
            request = passage.exchange.request
            if verdict.route is not None:
                request._state["route"] = verdict.route.name
            if type(verdict) is Refuse:
                raise verdict.error
            passage.exchange.hand_over(self.go_on(request, facts, verdict, passage.bucket, claimed=False))
            return
        passage.grant = verdict
        passage.backend = self.forwarder.backends[verdict.route]
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

    def _admit(self, request: web.BaseRequest, facts: RequestFacts) -> tuple[Bucket, Grant | Refuse | MissingKeys]:
        bucket = self._buckets.take("routes", facts.client_address, facts.now)
        if not bucket.allowed:
            raise rate_limited(bucket)
        _check_expectation(facts)
        verdict = self.access.decide(facts)
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

    def report(self, error: ZetaError, facts: RequestFacts, route: str) -> None:
        """Count a refusal; tell the security log what kind of attack it may be."""
        report_refusal(error, route, self._metrics, self._events, facts.request_id)

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
            missing = self.access.decide(facts)
        return missing

    async def _pass(
        self, request: web.BaseRequest, facts: RequestFacts, grant: Grant, bucket: Bucket, *, claimed: bool = False
    ) -> web.StreamResponse:
        rule = grant.route.rule
        backend = self.forwarder.backends[grant.route]
        # What is wrong with a handshake is found before the proof is spent.
        key = self._handshake(request, grant.route) if is_upgrade(request) else None
        if grant.claims and not claimed:
            await self._claim(grant, facts)
        if rule.request_policy:
            await self._policy.check(grant, facts, websocket=key is not None)
        inbound = sort_request_headers(request.raw_headers, peer_trusted=facts.peer_trusted)
        if inbound.stripped:
            self.forwarder.note_stripped(grant, facts, inbound)
        said, span = self.forwarder.say(grant, facts, inbound)
        rate = self.forwarder.rate_lines(bucket)
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
                keep_alive=self.forwarder.keeps_alive,
            )
        else:
            work = forward(request, facts, backend, inbound, said, rate=rate, keep_alive=self.forwarder.keeps_alive)
        return await self.forwarder.result(work, backend, grant, facts, span)

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
            raise self.forwarder.judge(outcome, grant)

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
