"""What a refusal is for those who watch: a metric always, a security event where somebody may be attacking."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from zeta_guard.errors import ZetaError
from zeta_guard.gateway.metrics import GatewayMetrics

if TYPE_CHECKING:
    from zeta_guard.telemetry.security_events import SecurityEvents

_BY_STAGE: Final[Mapping[str, str]] = {
    "access_token": "token_refused",
    "audience": "token_refused",
    "scope": "token_refused",
    "dpop_proof": "proof_refused",
    "dpop": "proof_key_mismatch",
    "replay": "proof_replayed",
    "block": "blocked",
    "address": "address_mismatch",
    "address_unknown": "address_unknown",
    "rate_limit": "rate_limited",
    "request_policy": "policy_denied",
}
"""Nobody attacks who sends no token at all (stage *authorization*) or needs a step-up (*acr*): those are counted only."""

_BY_CODE: Final[Mapping[str, str]] = {"popp_invalid": "popp_refused", "popp_invalid_actor": "popp_actor_mismatch"}
_GUARDS_OWN: Final = 500


def event_of(error: ZetaError) -> str | None:
    """The name of the security event that a refusal of the gateway is; None when it is none."""
    if error.status >= _GUARDS_OWN:
        return None
    if error.stage == "route":
        # No route and a path that would choose two of them come from the same place.
        return "path_refused" if error.code == "invalid_request" else None
    return _BY_CODE.get(error.code) or _BY_STAGE.get(error.stage)


def report_refusal(
    error: ZetaError, route: str, metrics: GatewayMetrics, events: SecurityEvents, request_id: str
) -> None:
    """Count the refusal; tell the security log what kind of attack it may be. No token, no address, no identity."""
    metrics.refusals.labels(route, error.stage or "unnamed", error.code).inc()
    name = event_of(error)
    if name is not None:
        events.emit(name, route=route, stage=error.stage, error=error.code, request_id=request_id)
