"""The policy room's face: two questions, whichever engine answers, with shadow and decision log behind them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry

from zeta_guard.config.policy import Engine, OpaServer, Policy
from zeta_guard.errors import JsonValue
from zeta_guard.http.outbound import Outbound
from zeta_guard.policy.asked_engine import AskedEngine
from zeta_guard.policy.contract import PolicyEngine, Question
from zeta_guard.policy.decision_log import DecisionLog
from zeta_guard.policy.embedded import EmbeddedEngine
from zeta_guard.policy.masking import Masker
from zeta_guard.policy.metrics import PolicyMetrics
from zeta_guard.policy.opa_server import OpaServerEngine
from zeta_guard.policy.shadow import Shadow, ShadowEngine
from zeta_guard.telemetry.security_events import SecurityEvents

REQUEST_DECISION: Final = "policies/zeta/request/decision"


class PolicyService:
    """Makes the engines of the configuration. ``token`` and ``request`` are what callers ask.

    The request question goes to the token's bundle unless ``policy.request`` names an engine of its own. ``pseudonym`` turns
    identifiers into keyed hashes for the decision log; without it they are left out.
    """

    def __init__(
        self,
        config: Policy,
        outbound: Outbound,
        clock: Callable[[], float],
        registry: CollectorRegistry,
        *,
        pseudonym: Callable[[str], str] | None = None,
        events: SecurityEvents | None = None,
    ) -> None:
        self._metrics = PolicyMetrics(registry)
        self._events = events
        self._outbound = outbound
        self._clock = clock
        masker = Masker(pseudonym, include_address=config.log.include_address)
        self._log = DecisionLog(config.log, outbound=outbound, metrics=self._metrics, masker=masker)
        decisions: dict[Question, str] = {"token": config.token.decision}
        if config.request is None:
            decisions["request"] = REQUEST_DECISION
        self._token = self._engine(config.token, decisions, "token", "policy.token")
        self._request = self._token
        request_path = REQUEST_DECISION
        if config.request is not None:
            request_path = _request_path(config.request)
            self._request = self._engine(config.request, {"request": request_path}, "request", "policy.request")
        self._shadow: Shadow | None = None
        if config.shadow is not None:
            asked: dict[Question, str] = {"token": config.shadow.decision, "request": REQUEST_DECISION}
            candidate = self._engine(config.shadow, asked, "shadow", "policy.shadow")
            self._shadow = Shadow(candidate, self._metrics, clock)
        self.token: Final[PolicyEngine] = self._asked(self._token, config.token.decision)
        self.request: Final[PolicyEngine] = self._asked(self._request, request_path)

    def _engine(self, config: Engine, decisions: Mapping[Question, str], name: str, where: str) -> ShadowEngine:
        if isinstance(config, OpaServer):
            return OpaServerEngine(config, decisions, where=where)
        return EmbeddedEngine(
            config,
            decisions,
            name=name,
            where=where,
            outbound=self._outbound,
            clock=self._clock,
            metrics=self._metrics,
            events=self._events,
        )

    def _asked(self, engine: PolicyEngine, path: str) -> AskedEngine:
        return AskedEngine(engine, path=path, metrics=self._metrics, log=self._log, shadow=self._shadow)

    @property
    def _engines(self) -> list[PolicyEngine]:
        engines: list[PolicyEngine] = [self._token]
        if self._request is not self._token:
            engines.append(self._request)
        if self._shadow is not None:
            engines.append(self._shadow.engine)
        return engines

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
        self._log.start()

    async def readiness(self) -> str | None:
        """None when every question can be decided, else one line. The shadow does not count."""
        for engine in self._engines:
            if self._shadow is None or engine is not self._shadow.engine:
                line = await engine.readiness()
                if line is not None:
                    return line
        return None

    def shadow_summary(self) -> dict[str, JsonValue] | None:
        """What would change if the shadow decided; None without a shadow."""
        return None if self._shadow is None else self._shadow.summary()

    async def close(self) -> None:
        """Release everything, the decision log last; may be called again."""
        await self.token.close()
        await self.request.close()
        for engine in self._engines:
            await engine.close()
        await self._log.close()


def _request_path(config: Engine) -> str:
    """The default of 'decision' names the token question; a request engine that names none means the other one."""
    return config.decision if "decision" in config.model_fields_set else REQUEST_DECISION
