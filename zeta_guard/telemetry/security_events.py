"""Security events: what an operator's SIEM wants to hear about, counted and logged (A_25484-03, A_28795-01)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter

from zeta_guard.telemetry.logging import log_event

EVENTS: Final = frozenset(
    {
        # once means once
        "proof_replayed",
        "nonce_replayed",
        "assertion_replayed",
        "refresh_reused",
        # what does not hold
        "token_refused",
        "proof_refused",
        "proof_key_mismatch",
        "assertion_refused",
        "subject_token_refused",
        "nonce_refused",
        "popp_refused",
        "popp_actor_mismatch",
        "address_mismatch",
        "address_unknown",
        # who may not
        "unknown_client",
        "certificate_refused",
        "certificate_revoked",
        "demo_certificate_refused",
        "binding_refused",
        "policy_denied",
        "rate_limited",
        "blocked",
        # against HTTP and the backend
        "malformed_request",
        "smuggling_refused",
        "path_refused",
        "spoofed_header",
        "proxy_header_refused",
        # what happened to sessions, clients, keys, bundles, store and clock
        "session_ended",
        "client_evicted",
        "block_added",
        "block_removed",
        "administration",
        "key_rotated",
        "bundle_updated",
        "bundle_refused",
        "trust_list_alarm",
        "store_epoch_changed",
        "clock_went_back",
    }
)
"""Names in use. One that is not here is counted as ``other``, so that the metric stays bounded."""

_LOGGER = logging.getLogger("zeta_guard.security")
_LINES_PER_SECOND: Final = 20.0
_LINES_AT_ONCE: Final = 200.0
_UNLIMITED: Final = frozenset({"administration", "block_added", "block_removed", "trust_list_alarm"})


class SecurityEvents:
    """Counts every event and writes a line for it; during a flood lines are left out and counted, never the counts."""

    def __init__(self, registry: CollectorRegistry, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._events = Counter("zeta_guard_security_events", "Security events by name.", ["event"], registry=registry)
        self._suppressed = Counter(
            "zeta_guard_security_event_lines_suppressed",
            "Lines left out during a flood of the same event.",
            ["event"],
            registry=registry,
        )
        self._budget: dict[str, tuple[float, float]] = {}

    def emit(self, name: str, /, **fields: Any) -> None:
        """Count ``name`` and log it with ``fields`` (no tokens, keys, Telematik-IDs, patient data)."""
        label = name if name in EVENTS else "other"
        self._events.labels(label).inc()
        if name not in _UNLIMITED and not self._may_write(label):
            self._suppressed.labels(label).inc()
            return
        log_event(_LOGGER, logging.WARNING, "security_event", **{**fields, "name": name})

    def _may_write(self, label: str) -> bool:
        now = self._clock()
        lines, since = self._budget.get(label, (_LINES_AT_ONCE, now))
        lines = min(_LINES_AT_ONCE, lines + max(0.0, now - since) * _LINES_PER_SECOND)
        if lines < 1.0:
            self._budget[label] = (lines, now)
            return False
        self._budget[label] = (lines - 1.0, now)
        return True
