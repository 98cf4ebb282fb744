"""Where trust anchors come from: what a folder and a trust list have in common."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Protocol

from zeta_guard.errors import ConfigurationError
from zeta_guard.trust.anchor_directory import Signature, directory_signature, load_directory
from zeta_guard.trust.anchors import TrustAnchors


class AnchorSource(Protocol):
    """A source that is looked at again and again. One per process."""

    @property
    def pause(self) -> float:
        """Seconds until the next look."""

    async def start(self, *, now: float) -> TrustAnchors:
        """The first anchors. Raises ConfigurationError when what is there cannot be used."""

    async def refresh(self, *, now: float) -> TrustAnchors | None:
        """New anchors, or None when nothing changed. Raises GuardError when what is there now is refused; the old ones stay."""


class DirectorySource:
    """A folder of certificates, read again when a file in it changes.

    A folder that is empty at start is one that is still to be filled: the guard runs, and nobody can log in. A folder that
    became empty later (a mount that is being replaced) takes nothing away.
    """

    def __init__(self, directory: Path, *, pause: float = 10.0) -> None:
        self.pause = pause
        self._directory = directory
        self._seen: Signature = ()

    async def start(self, *, now: float) -> TrustAnchors:
        """Read the folder. Raises ConfigurationError."""
        self._seen = directory_signature(self._directory)
        return await asyncio.to_thread(load_directory, self._directory)

    async def refresh(self, *, now: float) -> TrustAnchors | None:
        """Read the folder if it changed. Raises ConfigurationError, once per change."""
        signature = await asyncio.to_thread(directory_signature, self._directory)
        if signature == self._seen:
            return None
        self._seen = signature
        anchors = await asyncio.to_thread(load_directory, self._directory)
        if not anchors.authority_count:
            raise ConfigurationError(
                "trust.directory",
                "no certificate any more",
                "at least one CA certificate; the earlier ones stay in use",
            )
        return anchors
