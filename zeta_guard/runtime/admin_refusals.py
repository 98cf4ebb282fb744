"""The last refusals of a process, so that a request id leads to the reason (``zeta-guard explain REQUEST_ID``)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from zeta_guard.errors import JsonValue, ZetaError
from zeta_guard.telemetry.redaction import mask

MOST_REFUSALS: Final = 10_000
LONGEST_DESCRIPTION: Final = 1000


@dataclass(frozen=True, slots=True)
class Refusal:
    """One refused request, without anybody's identifiers. ``time`` in Unix seconds.

    ``door`` is the room that refused (``authorization_server``, ``gateway``, ``http``), ``route`` empty where none was found.
    ``reasons`` are the policy's, None where no policy spoke or its reasons are not to be shown.
    """

    request_id: str
    time: float
    door: str
    route: str
    stage: str
    code: str
    status: int
    description: str
    decision_id: str | None
    reasons: JsonValue

    def document(self) -> dict[str, JsonValue]:
        """The JSON answer, masked."""
        return {
            "request_id": self.request_id,
            "time": self.time,
            "door": self.door,
            "route": self.route or None,
            "stage": self.stage,
            "code": self.code,
            "status": self.status,
            "description": mask(self.description),
            "decision_id": self.decision_id,
            "reasons": _masked(self.reasons),
        }


class RecentRefusals:
    """A ring: the newest ``most`` stay, older ones are forgotten. Used from one event loop."""

    def __init__(self, most: int = MOST_REFUSALS) -> None:
        self._ring: Final[deque[Refusal]] = deque(maxlen=most)

    def __len__(self) -> int:
        return len(self._ring)

    @property
    def most(self) -> int:
        """How many are kept."""
        return self._ring.maxlen or 0

    def note(self, error: ZetaError, *, request_id: str, door: str, route: str, now: float) -> None:
        """Remember a refusal. Of the error nothing but words is kept: its traceback would keep the request alive."""
        decision_id = error.members.get("decision_id")
        self._ring.append(
            Refusal(
                request_id=request_id,
                time=now,
                door=door,
                route=route,
                stage=error.stage or "unnamed",
                code=error.code,
                status=error.status,
                description=error.description[:LONGEST_DESCRIPTION],
                decision_id=decision_id if isinstance(decision_id, str) else None,
                reasons=error.members.get("reasons"),
            )
        )

    def find(self, request_id: str) -> Refusal | None:
        """The refusal of a request; None when it was not refused here, or too long ago."""
        return next((refusal for refusal in reversed(self._ring) if refusal.request_id == request_id), None)

    def latest(self, count: int) -> list[Refusal]:
        """The newest ones, newest first."""
        newest = reversed(self._ring)
        return [refusal for refusal, _ in zip(newest, range(count), strict=False)]


def _masked(value: JsonValue) -> JsonValue:
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, list):
        return [_masked(one) for one in value]
    if isinstance(value, dict):
        return {name: _masked(one) for name, one in value.items()}
    return value
