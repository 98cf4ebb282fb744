"""What the authorization server counts."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class AuthorizationServerMetrics:
    """Labels are grants and error codes only: nothing that a client chooses."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.tokens = Counter(
            "zeta_guard_token_requests",
            "Requests at the token endpoint by grant and outcome ('issued', 'repeated' or the error code).",
            ("grant", "outcome"),
            registry=registry,
        )
        self.seconds = Histogram(
            "zeta_guard_token_request_seconds",
            "Time from the complete form to the answer, by grant.",
            ("grant",),
            buckets=_SECONDS,
            registry=registry,
        )
        # Finding a labelled child costs more than counting; grants and error codes are a few dozen pairs.
        self._outcomes: Final[dict[tuple[str, str], Counter]] = {}
        self._durations: Final[dict[str, Histogram]] = {}
        self.registrations = Counter(
            "zeta_guard_registrations",
            "Registration attempts by outcome ('registered', 'known' or the error code).",
            ("outcome",),
            registry=registry,
        )
        self.nonces = Counter("zeta_guard_nonces", "Nonces issued.", registry=registry)
        self.revocations = Counter(
            "zeta_guard_revocations",
            "Requests at the revocation endpoint by outcome ('ended', 'nothing' or the error code).",
            ("outcome",),
            registry=registry,
        )
        self.evictions = Counter(
            "zeta_guard_client_evictions", "Clients that left because an institution had too many.", registry=registry
        )
        self.sessions_ended = Counter(
            "zeta_guard_sessions_ended", "Sessions ended before their time, by reason.", ("reason",), registry=registry
        )

    def token_answered(self, grant: str, outcome: str, seconds: float) -> None:
        """A request at the token endpoint ended so, ``seconds`` after it began."""
        counter = self._outcomes.get((grant, outcome))
        if counter is None:
            counter = self._outcomes[(grant, outcome)] = self.tokens.labels(grant, outcome)
        duration = self._durations.get(grant)
        if duration is None:
            duration = self._durations[grant] = self.seconds.labels(grant)
        counter.inc()
        duration.observe(seconds)
