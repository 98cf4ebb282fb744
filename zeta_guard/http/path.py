"""PLACEHOLDER: written by the http room."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CanonicalPath:
    """``raw`` is forwarded byte for byte; ``segments`` is the matching form (decoded once, cut at ``;``, no empty ones)."""

    raw: str
    segments: tuple[str, ...]
