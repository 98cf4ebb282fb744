"""What a source of bundles hands out."""

from __future__ import annotations

from dataclasses import dataclass

from zeta_guard.policy.bundle import Bundle


@dataclass(frozen=True, slots=True)
class Fetched:
    """A bundle just read, and its archive (None for a folder)."""

    bundle: Bundle
    archive: bytes | None
