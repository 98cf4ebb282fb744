"""What the policy room counts."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.3)


class PolicyMetrics:
    """Decisions by question and outcome (``allow``, ``deny``, ``unavailable``), bundles, shadow and decision log."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.decisions = Counter(
            "zeta_guard_policy_decisions_total", "Decisions", ["question", "outcome"], registry=registry
        )
        self.seconds = Histogram(
            "zeta_guard_policy_decision_seconds",
            "Time from question to answer",
            ["question"],
            buckets=_SECONDS,
            registry=registry,
        )
        # Finding a labelled child costs more than counting; questions and outcomes are a handful.
        self._outcomes: Final[dict[tuple[str, str], Counter]] = {}
        self._durations: Final[dict[str, Histogram]] = {}
        self.activations = Counter(
            "zeta_guard_policy_bundle_activations_total",
            "Bundles that came, by what became of them",
            ["engine", "outcome"],
            registry=registry,
        )
        self.confirmed = Gauge(
            "zeta_guard_policy_bundle_confirmed_timestamp_seconds",
            "When the source of the active bundle was last reached",
            ["engine"],
            registry=registry,
        )
        self.unsigned = Gauge(
            "zeta_guard_policy_unsafe_unsigned",
            "1 while an unsigned bundle from outside the package decides",
            ["engine"],
            registry=registry,
        )
        self.shadow = Counter(
            "zeta_guard_policy_shadow_total",
            "Answers of the shadow, by how they differ from the active ones",
            ["question", "difference"],
            registry=registry,
        )
        self.log_lines = Counter(
            "zeta_guard_policy_log_lines_total", "Lines of the decision log", ["outcome"], registry=registry
        )

    def decided(self, question: str, outcome: str, seconds: float) -> None:
        """A question was answered so, or not at all, after ``seconds``."""
        counter = self._outcomes.get((question, outcome))
        if counter is None:
            counter = self._outcomes[(question, outcome)] = self.decisions.labels(question, outcome)
        duration = self._durations.get(question)
        if duration is None:
            duration = self._durations[question] = self.seconds.labels(question)
        counter.inc()
        duration.observe(seconds)
