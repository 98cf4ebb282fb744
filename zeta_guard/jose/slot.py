"""A slot: where a JWT stands, and how its faults are named."""

from __future__ import annotations

from dataclasses import dataclass

from zeta_guard.errors import ZetaError


@dataclass(frozen=True, slots=True)
class Slot:
    """``name`` appears in descriptions ("client assertion"); ``code`` and ``status`` are those of the refusal.

    ``status`` None means the usual status of ``code``.
    """

    name: str
    code: str
    status: int | None = None

    def refuse(self, description: str) -> ZetaError:
        """The refusal of this slot; the caller raises it."""
        return ZetaError(
            self.code, f"{self.name}: {description}", status=self.status, stage=self.name.lower().replace(" ", "_")
        )
