"""The policy room's face: two questions, whichever engine answers, with shadow and decision log behind them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry

from zeta_guard.config.policy import EmbeddedEngine as EmbeddedConfig
from zeta_guard.config.policy import OpaServer as OpaServerConfig
from zeta_guard.config.policy import Policy
from zeta_guard.errors import JsonValue
from zeta_guard.http.outbound import Outbound
from zeta_guard.policy.contract import Decision, PolicyEngine, Question
from zeta_guard.policy.embedded import EmbeddedEngine
from zeta_guard.policy.metrics import PolicyMetrics

REQUEST_DECISION: Final = "policies/zeta/request/decision"


class PolicyService:
    """Makes the engines of the configuration. ``token`` and ``request`` are what callers ask.

    The request question goes to the token's bundle unless ``policy.request`` names an engine of its own.
    """

    def __init__(
        self,
        config: Policy,
        outbound: Outbound,
        clock: Callable[[], float],
        registry: CollectorRegistry,
        *,
        pseudonym: Callable[[str], str] | None = None,
    ) -> None:
        self._metrics = PolicyMetrics(registry)
        self._outbound = outbound
        self._clock = clock
        self._pseudonym = pseudonym
        decisions: dict[Question, str] = {"token": config.token.decision}
        if config.request is None:
            decisions["request"] = REQUEST_DECISION
        self._token = self._engine(config.token, decisions, "token", "policy.token")
        self._request = self._token
        if config.request is not None:
            named = "decision" in config.request.model_fields_set
            entry = config.request.decision if named else REQUEST_DECISION
            self._request = self._engine(config.request, {"request": entry}, "request", "policy.request")
        self.token: Final[PolicyEngine] = AskedEngine(self._token, self._metrics)
        self.request: Final[PolicyEngine] = AskedEngine(self._request, self._metrics)

    def _engine(
        self, config: EmbeddedConfig | OpaServerConfig, decisions: Mapping[Question, str], name: str, where: str
    ) -> PolicyEngine:
        return EmbeddedEngine(
            config,
            decisions,
            name=name,
            where=where,
            outbound=self._outbound,
            clock=self._clock,
            metrics=self._metrics,
        )

    @property
    def _engines(self) -> list[PolicyEngine]:
        return [self._token] if self._request is self._token else [self._token, self._request]

    async def start(self) -> None:
        """Load all bundles. Raises ConfigurationError; nothing keeps running then."""
        started: list[PolicyEngine] = []
        try:
            for engine in self._engines:
                started.append(engine)
                await engine.start()
        except BaseException:
            for engine in started:
                await engine.close()
            raise

    async def readiness(self) -> str | None:
        """None when every question can be decided, else one line."""
        for engine in self._engines:
            line = await engine.readiness()
            if line is not None:
                return line
        return None

    async def close(self) -> None:
        """Release everything; may be called again."""
        for engine in self._engines:
            await engine.close()


class AskedEngine:
    """An engine as callers see it: every question is counted and timed."""

    def __init__(self, engine: PolicyEngine, metrics: PolicyMetrics) -> None:
        self._engine = engine
        self._metrics = metrics

    @property
    def revision(self) -> str:
        """Revision of the bundle that decides."""
        return self._engine.revision

    async def start(self) -> None:
        """The service starts its engines."""

    async def decide(self, question: Question, document: Mapping[str, JsonValue], *, now: float) -> Decision:
        """Ask. Raises ZetaError 503 when there is no valid answer."""
        start = time.perf_counter()
        outcome = "unavailable"
        try:
            decision = await self._engine.decide(question, document, now=now)
            outcome = "allow" if decision.allow else "deny"
        finally:
            self._metrics.decisions.labels(question, outcome).inc()
            self._metrics.seconds.labels(question).observe(time.perf_counter() - start)
        return decision

    async def readiness(self) -> str | None:
        """As the engine says."""
        return await self._engine.readiness()

    async def close(self) -> None:
        """The service closes its engines."""
