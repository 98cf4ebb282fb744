"""What a refusal is for those who watch: a metric always, a security event where somebody may be attacking."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from zeta_guard.errors import ZetaError
from zeta_guard.gateway.metrics import GatewayMetrics

if TYPE_CHECKING:
    from zeta_guard.telemetry.security_events import SecurityEvents

_BY_STAGE: Final[Mapping[str, str]] = {
    "replay": "proof_replayed",
    "block": "session_blocked",
    "dpop": "proof_key_mismatch",
    "address": "address_mismatch",
    "rate_limit": "rate_limited",
    "request_policy": "policy_denied",
    "route": "path_refused",
}
_BY_CODE: Final[Mapping[str, str]] = {
    "invalid_token": "token_refused",
    "invalid_dpop_proof": "token_refused",
    "insufficient_scope": "token_refused",
    "popp_invalid": "popp_refused",
    "popp_invalid_actor": "popp_actor_mismatch",
}
_MISSING: Final = frozenset({"resource_not_found", "temporarily_unavailable"})


def report_refusal(
    error: ZetaError, route: str, metrics: GatewayMetrics, events: SecurityEvents, request_id: str
) -> None:
    """Count the refusal; tell the security log what kind of attack it may be. No token, no address, no identity."""
    metrics.refusals.labels(route, error.stage or "unnamed", error.code).inc()
    if error.code in _MISSING:
        return
    name = _BY_STAGE.get(error.stage) or _BY_CODE.get(error.code)
    if name is not None:
        events.emit(name, route=route, stage=error.stage, error=error.code, request_id=request_id)
