"""Security events of what the HTTP layer refuses before a room was found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from zeta_guard.errors import ZetaError
    from zeta_guard.telemetry.security_events import SecurityEvents

FRAMING: Final = "framing"
"""Stage of heads that two parsers could read as different requests."""

_BY_STAGE: Final[Mapping[str, str]] = {
    FRAMING: "smuggling_refused",
    "path": "path_refused",
    "http": "malformed_request",
}
_MALFORMED: Final = 400


def report_early_refusal(error: ZetaError, events: SecurityEvents, *, request_id: str) -> None:
    """Emit the event of ``error``: 400 only, since slow, large and misdirected requests are no riddles."""
    name = _BY_STAGE.get(error.stage)
    if name is not None and error.status == _MALFORMED:
        events.emit(name, stage=error.stage, request_id=request_id)
