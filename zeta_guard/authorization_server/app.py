"""The authorization server: one endpoint per path and method, behind one limit per client address."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Final

import orjson
from aiohttp import web
from prometheus_client import CollectorRegistry

from zeta_guard.authorization_server import endpoint
from zeta_guard.authorization_server.audience import Audiences
from zeta_guard.authorization_server.dependencies import Dependencies
from zeta_guard.authorization_server.metadata import check_issuer, server_metadata
from zeta_guard.authorization_server.metrics import AuthorizationServerMetrics
from zeta_guard.authorization_server.nonce import NonceMint
from zeta_guard.authorization_server.recent_token import RecentRefreshTokens
from zeta_guard.authorization_server.refusal_event import report_refusal
from zeta_guard.authorization_server.registration import (
    SLOT,
    Registrar,
    check_product_ids,
    read_metadata,
    registration_answer,
)
from zeta_guard.authorization_server.revocation import answer_revocation
from zeta_guard.authorization_server.session import SessionSealer
from zeta_guard.authorization_server.signing_keys import SigningKeys
from zeta_guard.authorization_server.token_endpoint import answer_token_request
from zeta_guard.config.guard import GuardConfig
from zeta_guard.errors import ZetaError
from zeta_guard.http.error_page import ERRORS_PREFIX, error_page
from zeta_guard.http.etag import conditional
from zeta_guard.http.facts import RequestFacts
from zeta_guard.http.limits import (
    AddressBuckets,
    BucketKind,
    parse_json_body,
    rate_headers,
    rate_limited,
    read_body,
)
from zeta_guard.http.written import Unkept, answer_unkept
from zeta_guard.jose.sealing import Pseudonymizer, Secrets
from zeta_guard.policy.contract import PolicyEngine
from zeta_guard.recent import Recent
from zeta_guard.store.contract import Store
from zeta_guard.telemetry.audit import Audit
from zeta_guard.telemetry.logging import log_event
from zeta_guard.telemetry.security_events import SecurityEvents
from zeta_guard.telemetry.tracing import Span, Tracing
from zeta_guard.trust.contract import Trust

_LOGGER: Final = logging.getLogger("zeta_guard.authorization_server")
_KEY_FOLDER_SECONDS: Final = 5.0
_RECENT_CLIENTS: Final = 8192

_Answer = Callable[[web.BaseRequest, RequestFacts], Awaitable[web.StreamResponse | Unkept]]


class AuthorizationServer:
    """Answers the reserved paths but the protected-resource metadata. Raises ZetaError for every refusal."""

    def __init__(
        self,
        config: GuardConfig,
        store: Store,
        trust: Trust,
        policy: PolicyEngine,
        secrets: Secrets,
        signing_keys: SigningKeys,
        events: SecurityEvents,
        audit: Audit,
        clock: Callable[[], float],
        registry: CollectorRegistry,
        *,
        workers: int = 1,
        tracing: Tracing | None = None,
    ) -> None:
        """``workers``: processes that share the address limits. Raises ConfigurationError."""
        check_issuer(config)
        check_product_ids(config.authorization_server)
        server = config.authorization_server
        self._clock = clock
        self._audit = audit
        self._tracing: Final = tracing
        self.dependencies: Final = Dependencies(
            config=config,
            endpoints=endpoint.Endpoints.of(config),
            store=store,
            trust=trust,
            policy=policy,
            signing_keys=signing_keys,
            mint=NonceMint(secrets, lifetime=server.lifetimes.nonce, skew=config.limits.skew),
            pseudonymizer=Pseudonymizer(secrets),
            sealer=SessionSealer(secrets),
            audiences=Audiences(config),
            events=events,
            audit=audit,
            metrics=AuthorizationServerMetrics(registry),
            leaves=Recent(_RECENT_CLIENTS),
            recent=RecentRefreshTokens(),
        )
        self._buckets = AddressBuckets(config.rate_limits, workers)
        self._registrar = Registrar(server, store)
        self._metadata = orjson.dumps(server_metadata(config))
        self._watcher: asyncio.Task[None] | None = None
        self._endpoints: dict[str, tuple[BucketKind, dict[str, _Answer]]] = {
            endpoint.METADATA: ("metadata", {"GET": self._server_metadata, "HEAD": self._server_metadata}),
            endpoint.JWKS: ("metadata", {"GET": self._jwks, "HEAD": self._jwks}),
            endpoint.NONCE: ("nonce", {"GET": self._nonce}),
            endpoint.REGISTER: ("register", {"POST": self._register}),
            endpoint.TOKEN: ("token", {"POST": self._token}),
            endpoint.REVOKE: ("token", {"POST": self._revoke}),
            endpoint.AUTHORIZE: ("metadata", {"GET": self._code_flow}),
            endpoint.REDIRECT: ("metadata", {"GET": self._code_flow}),
        }

    @property
    def paths(self) -> frozenset[str]:
        """Exact paths of the endpoints; :meth:`owns` also knows the pages below ``/errors/``."""
        return endpoint.PATHS

    def owns(self, path: str) -> bool:
        """Whether a raw path is this server's and never the gateway's."""
        return path in endpoint.PATHS or path.startswith(ERRORS_PREFIX)

    async def start(self) -> None:
        """Watch the folder of the signing keys (they were started by whoever made them)."""
        self._watcher = asyncio.create_task(self._watch_keys(), name="signing keys")

    async def close(self) -> None:
        """Stop watching."""
        if self._watcher is not None:
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher
            self._watcher = None

    async def _watch_keys(self) -> None:
        keys, events = self.dependencies.signing_keys, self.dependencies.events
        kid = keys.current(self._clock()).kid
        while True:
            await asyncio.sleep(_KEY_FOLDER_SECONDS)
            try:
                await keys.reload_in_background(self._clock())
                current = keys.current(self._clock()).kid
                if current != kid:
                    kid = current
                    events.emit("key_rotated", kid=kid)
                    self._audit.record("key_rotated", kid=kid)
            except Exception as error:  # noqa: BLE001 - the watcher must outlive whatever happens to the folder
                log_event(_LOGGER, logging.ERROR, "signing_keys_watch_failed", kind=type(error).__name__)

    async def handle(self, request: web.BaseRequest, facts: RequestFacts) -> web.StreamResponse:
        """Answer a request for a path that this server owns. Every answer, refusals too, carries ``X-Rate-Limit-*``."""
        path = facts.path.raw
        kind, methods = self._endpoints.get(path, ("metadata", {"GET": self._error_page, "HEAD": self._error_page}))
        bucket = self._buckets.take(kind, facts.client_address, facts.now)
        if not bucket.allowed:
            self.dependencies.events.emit("rate_limited", kind=kind)
            raise rate_limited(bucket)
        try:
            if not self.owns(path):
                raise ZetaError("resource_not_found", "no endpoint of this server has that path", stage="route")
            answer = methods.get(facts.method)
            if answer is None:
                allowed = ", ".join(methods)
                raise ZetaError(
                    "method_not_allowed",
                    f"this endpoint accepts {allowed}",
                    headers={"Allow": allowed},
                    stage="route",
                )
            response = await answer(request, facts)
        except ZetaError as error:
            report_refusal(error, self.dependencies.events, request_id=facts.request_id)
            raise _with_headers(error, rate_headers(bucket)) from error
        if isinstance(response, Unkept):
            return answer_unkept(request, response, bucket)
        response.headers.update(rate_headers(bucket))
        return response

    async def _server_metadata(self, request: web.BaseRequest, facts: RequestFacts) -> web.StreamResponse:
        lifetimes = self.dependencies.config.authorization_server.lifetimes
        return conditional(request, self._metadata, "application/json", lifetimes.metadata_max_age)

    async def _jwks(self, request: web.BaseRequest, facts: RequestFacts) -> web.StreamResponse:
        body = orjson.dumps(self.dependencies.signing_keys.jwks(facts.now))
        lifetimes = self.dependencies.config.authorization_server.lifetimes
        return conditional(request, body, "application/jwk-set+json", lifetimes.jwks_max_age)

    async def _nonce(self, request: web.BaseRequest, facts: RequestFacts) -> Unkept:
        deps = self.dependencies
        nonce = deps.mint.issue(epoch=deps.store.epoch, now=facts.now)
        deps.metrics.nonces.inc()
        # Bare text whatever Accept says: the SDK decodes the whole body.
        return Unkept(b"text/plain; charset=utf-8", nonce.encode("ascii"))

    async def _register(self, request: web.BaseRequest, facts: RequestFacts) -> web.StreamResponse:
        deps = self.dependencies
        limits = deps.config.limits
        outcome, error = "registered", "unexpected"
        span = self._start_span("register", facts)
        try:
            body = await read_body(request, limit=limits.registration, idle_seconds=limits.body_timeout_ms / 1000)
            members = parse_json_body(body, request.headers.get("Content-Type"), code=SLOT.code, name=SLOT.name)
            client, new = await self._registrar.register(read_metadata(members), now=facts.now)
            outcome, error = "registered" if new else "known", ""
        except ZetaError as refusal:
            outcome = error = refusal.code
            raise
        finally:
            # A_25738: every attempt, without reference to a user.
            deps.metrics.registrations.labels(outcome).inc()
            log_event(_LOGGER, logging.INFO, "registration", outcome=outcome, request_id=facts.request_id)
            if span is not None:
                span.set("zeta_guard.outcome", outcome)
                span.end(error or None)
        return web.Response(
            status=201,
            body=orjson.dumps(registration_answer(client)),
            content_type="application/json",
            headers={"Cache-Control": "no-store"},
        )

    def _token(self, request: web.BaseRequest, facts: RequestFacts) -> Awaitable[Unkept]:
        span = self._start_span("token", facts)
        if span is None:
            return answer_token_request(self.dependencies, request, facts)
        return self._traced_token(request, facts, span)

    async def _traced_token(self, request: web.BaseRequest, facts: RequestFacts, span: Span) -> Unkept:
        error: str | None = "unexpected"
        try:
            response = await answer_token_request(self.dependencies, request, facts, span)
            error = None
        except ZetaError as refusal:
            error = refusal.code
            raise
        finally:
            span.end(error)
        return response

    def _start_span(self, name: str, facts: RequestFacts) -> Span | None:
        """A span, where spans are exported: child of the caller's under the same rule as the gateway's."""
        if self._tracing is None or not self._tracing.exporting:
            return None
        return self._tracing.start(name, facts.headers)

    async def _revoke(self, request: web.BaseRequest, facts: RequestFacts) -> web.StreamResponse:
        return await answer_revocation(self.dependencies, request, facts)

    async def _code_flow(self, request: web.BaseRequest, facts: RequestFacts) -> web.StreamResponse:
        raise ZetaError(
            "unsupported_response_type",
            "the authorization code flow is not offered; use the token exchange at the token endpoint",
            stage="route",
        )

    async def _error_page(self, request: web.BaseRequest, facts: RequestFacts) -> web.StreamResponse:
        code = facts.path.raw.removeprefix(ERRORS_PREFIX)
        return error_page(code, accept=request.headers.get("Accept", ""))


def _with_headers(error: ZetaError, headers: dict[str, str]) -> ZetaError:
    # A shared bucket that refused has said its own limits already.
    return ZetaError(
        error.code,
        error.description,
        status=error.status,
        headers={**headers, **error.headers},
        members=error.members,
        stage=error.stage,
        remedy=error.remedy,
    )
