"""Metrics of the trust room."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from zeta_guard.telemetry.tally import Counts


class TrustMetrics:
    """Anchors, trust list and OCSP, with few labels: outcome, source and stable reasons."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.anchors = Gauge(
            "zeta_guard_trust_anchors",
            "Certificates believed: issuing CAs and OCSP responders.",
            ["kind"],
            registry=registry,
        )
        self.sequence = Gauge(
            "zeta_guard_trust_list_sequence_revision", "Sequence number of the trust list in use.", registry=registry
        )
        self.next_update = Gauge(
            "zeta_guard_trust_list_next_update_timestamp_seconds",
            "When the trust list in use should have been replaced (Unix seconds).",
            registry=registry,
        )
        self.issued = Gauge(
            "zeta_guard_trust_list_issued_timestamp_seconds",
            "When the trust list in use was issued (Unix seconds).",
            registry=registry,
        )
        self.refreshed = Gauge(
            "zeta_guard_trust_refreshed_timestamp_seconds",
            "When the source of the trust anchors was last read with success (Unix seconds).",
            registry=registry,
        )
        self.refreshes = Counter(
            "zeta_guard_trust_refreshes",
            "Looks at the source of the trust anchors, by result.",
            ["result"],
            registry=registry,
        )
        self.alarms = Counter(
            "zeta_guard_trust_list_alarms",
            "Trust lists refused because they point at an attack.",
            ["reason"],
            registry=registry,
        )
        self.unsafe = Gauge(
            "zeta_guard_trust_unsafe_ratio",
            "1 while an unsafe trust setting is in force.",
            ["setting"],
            registry=registry,
        )
        self.outcomes = Counts(
            "zeta_guard_ocsp_outcomes",
            "Revocation checks by outcome, source and reason.",
            ["outcome", "source", "reason"],
            registry=registry,
        )
        self.questions = Histogram(
            "zeta_guard_ocsp_question_seconds",
            "Duration of questions to responders.",
            ["outcome"],
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0),
            registry=registry,
        )
        self.cached_unusable = Counter(
            "zeta_guard_ocsp_cached_unusable", "Answers in the shared cache that did not verify.", registry=registry
        )
