"""What the policy engine is asked and what it answers (``policy-contract`` sections 1 to 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from zeta_guard.errors import JsonValue

Question = Literal["token", "request"]


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a decision was a no. ``code`` is stable; ``message`` is for people; ``spec`` names the requirement, if any."""

    message: str
    code: str = ""
    spec: str = ""


class Decision(NamedTuple):
    """A validated answer. Lifetimes are seconds, None where the policy named none; ``audience`` only with contract 2."""

    allow: bool
    decision_id: str
    revision: str
    reasons: tuple[Reason, ...] = ()
    access_token_ttl: int | None = None
    refresh_token_ttl: int | None = None
    audience: tuple[str, ...] = ()
    cache_seconds: int = 0
    milliseconds: float = 0.0

    def reasons_map(self) -> dict[str, JsonValue]:
        """``reasons`` of the error body: text → true."""
        return {reason.message: True for reason in self.reasons}


class PolicyEngine(Protocol):
    """An engine with one active bundle. No answer of any kind is a 503 (ZetaError), never an allow."""

    @property
    def revision(self) -> str:
        """Revision of the active bundle."""

    async def start(self) -> None:
        """Load; raises ConfigurationError with the remedy when the bundle cannot be used."""

    async def decide(self, question: Question, document: Mapping[str, JsonValue], *, now: float) -> Decision:
        """Ask one question. Raises ZetaError 503 when there is no valid answer."""

    async def readiness(self) -> str | None:
        """None when it can decide, else one line that says why not."""

    async def close(self) -> None:
        """Release threads and connections."""
