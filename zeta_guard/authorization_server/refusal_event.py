"""What a refusal of the authorization server is for those who watch the security log.

Steps that know more than their error tells (whose nonce, which block) emit their event themselves; the stages here are those
that do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from zeta_guard.errors import ZetaError
    from zeta_guard.telemetry.security_events import SecurityEvents

_BY_STAGE: Final[Mapping[str, str]] = {
    "dpop_proof": "proof_refused",
    "client_assertion": "assertion_refused",
    "client_statement": "assertion_refused",
    "institution_assertion": "assertion_refused",
    "subject_token": "subject_token_refused",
    "nonce": "nonce_refused",
    "refresh_token": "token_refused",
    "address_unknown": "address_unknown",
}
_CERTIFICATE_STAGES: Final[Mapping[str, str]] = {
    "demo_certificate": "demo_certificate_refused",
    "ocsp_revoked": "certificate_revoked",
}
_GUARDS_OWN: Final = 500


def certificate_event(error: ZetaError) -> str | None:
    """The event of a refused certificate; None when it was not judged (503)."""
    return None if error.status >= _GUARDS_OWN else _CERTIFICATE_STAGES.get(error.stage, "certificate_refused")


def report_refusal(error: ZetaError, events: SecurityEvents, *, request_id: str) -> None:
    """Emit the event of ``error``, if its stage has one. No token, no address, no identity."""
    name = _BY_STAGE.get(error.stage)
    # A parameter that is missing is a mistake in a request, not something that does not hold.
    missing = error.code == "invalid_request" and error.stage != "address_unknown"
    if name is not None and not missing and error.status < _GUARDS_OWN:
        events.emit(name, stage=error.stage, error=error.code, request_id=request_id)
