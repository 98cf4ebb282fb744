"""What the policy room counts."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from zeta_guard.telemetry.tally import Tally

_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.3)


class PolicyMetrics:
    """Decisions by question and outcome (``allow``, ``deny``, ``unavailable``), bundles, shadow and decision log."""

    def __init__(self, registry: CollectorRegistry) -> None:
        tally = Tally(
            registry,
            counter=("zeta_guard_policy_decisions", "Decisions"),
            histogram=("zeta_guard_policy_decision_seconds", "Time from question to answer"),
            labels=("question", "outcome"),
            bounds=_SECONDS,
        )
        self.decided: Final = tally.note
        """A question (first) was answered so (second), or not at all, after so many seconds (third)."""
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
