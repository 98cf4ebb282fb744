"""What the authorization server counts."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter

from zeta_guard.telemetry.tally import Tally

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class AuthorizationServerMetrics:
    """Labels are grants and error codes only: nothing that a client chooses."""

    def __init__(self, registry: CollectorRegistry) -> None:
        tally = Tally(
            registry,
            counter=(
                "zeta_guard_token_requests",
                "Requests at the token endpoint by grant and outcome ('issued', 'repeated' or the error code).",
            ),
            histogram=("zeta_guard_token_request_seconds", "Time from the complete form to the answer, by grant."),
            labels=("grant", "outcome"),
            bounds=_SECONDS,
        )
        self.token_answered: Final = tally.note
        """A request at the token endpoint (grant) ended so (outcome), so many seconds after it began."""
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
