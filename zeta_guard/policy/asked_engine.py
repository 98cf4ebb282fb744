"""An engine as callers see it: what they ask is counted, timed, compared with the shadow and written to the decision log."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Final

from zeta_guard.errors import JsonValue
from zeta_guard.policy.contract import Decision, PolicyEngine, Question
from zeta_guard.policy.decision_log import DecisionLog, Line
from zeta_guard.policy.metrics import PolicyMetrics
from zeta_guard.policy.shadow import Shadow
from zeta_guard.telemetry.logging import bound_request, log_event

_logger = logging.getLogger("zeta_guard.policy")
_MAX_COMPARISONS: Final = 64


class AskedEngine:
    """One question's face. Shadow and log work after the answer was given and can neither delay nor change it."""

    def __init__(
        self,
        engine: PolicyEngine,
        *,
        path: str,
        metrics: PolicyMetrics,
        log: DecisionLog,
        shadow: Shadow | None,
    ) -> None:
        self._engine = engine
        self._path = path
        self._metrics = metrics
        self._log = log
        self._shadow = shadow
        self._comparisons: set[asyncio.Task[None]] = set()

    @property
    def revision(self) -> str:
        """Revision of the bundle that decides."""
        return self._engine.revision

    async def start(self) -> None:
        """Nothing: the service starts the engines."""

    async def decide(self, question: Question, document: Mapping[str, JsonValue], *, now: float) -> Decision:
        """Ask. Raises ZetaError 503 when there is no valid answer."""
        start = time.perf_counter()
        decision: Decision | None = None
        try:
            decision = await self._engine.decide(question, document, now=now)
        finally:
            outcome = "unavailable" if decision is None else "allow" if decision.allow else "deny"
            self._metrics.decided(question, outcome, time.perf_counter() - start)
            if self._shadow is not None or self._log.on:
                self._follow_up(Line(question, self._path, now, document, decision, request_id=bound_request()[0]))
        return decision

    def _follow_up(self, line: Line) -> None:
        if self._shadow is None or line.decision is None:
            self._log.record(line)
        elif len(self._comparisons) >= _MAX_COMPARISONS:
            self._shadow.skipped(line.question)
            self._log.record(line)
        else:
            task = asyncio.get_running_loop().create_task(self._compare(self._shadow, line, line.decision))
            self._comparisons.add(task)
            task.add_done_callback(self._comparisons.discard)

    async def _compare(self, shadow: Shadow, line: Line, decision: Decision) -> None:
        found: dict[str, JsonValue] | None = None
        try:
            found = await shadow.compare(line.question, line.document, decision, now=line.time)
        except Exception as error:  # noqa: BLE001
            log_event(_logger, logging.ERROR, "policy_shadow_failed", exc_info=error)
        if found is not None and found["difference"] not in ("same", "no_answer"):
            log_event(
                _logger,
                logging.INFO,
                "policy_shadow_differs",
                question=line.question,
                decision_id=decision.decision_id,
                shadow=found,
            )
        self._log.record(Line(line.question, line.path, line.time, line.document, decision, found, line.request_id))

    async def readiness(self) -> str | None:
        """As the engine says."""
        return await self._engine.readiness()

    async def close(self) -> None:
        """Wait for the comparisons under way; the service closes the engines."""
        if self._comparisons:
            await asyncio.wait(self._comparisons, timeout=2.0)
