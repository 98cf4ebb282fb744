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
        "proof_replayed",
        "nonce_replayed",
        "assertion_replayed",
        "proof_key_mismatch",
        "stolen_token",
        "address_mismatch",
        "spoofed_header",
        "path_refused",
        "smuggling_refused",
        "proxy_header_refused",
        "unknown_client",
        "certificate_revoked",
        "certificate_refused",
        "demo_certificate_refused",
        "binding_refused",
        "refresh_reused",
        "session_ended",
        "session_blocked",
        "block_added",
        "block_removed",
        "policy_denied",
        "popp_actor_mismatch",
        "popp_refused",
        "token_refused",
        "rate_limited",
        "client_evicted",
        "store_epoch_changed",
        "clock_went_back",
        "trust_list_alarm",
        "bundle_updated",
        "bundle_refused",
        "key_rotated",
        "administration",
        "audit_checkpoint",
        "audit_failed",
    }
)
"""Names in use. One that is not here is counted as ``other``, so that the metric stays bounded."""

_LOGGER = logging.getLogger("zeta_guard.security")
_LINES_PER_SECOND: Final = 20.0
_LINES_AT_ONCE: Final = 200.0
_UNLIMITED: Final = frozenset(
    {"audit_checkpoint", "administration", "block_added", "block_removed", "trust_list_alarm"}
)


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
