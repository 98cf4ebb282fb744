"""Signatures of requests that arrive together are verified one after the other.

A signature takes the processor's caches for itself (code and tables of the curve), as does everything that comes before and
after it: who alternates between the two pays for both, request by request. Under load that is a quarter of a request.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

TOGETHER: Final = 16
"""Most signatures in a row: nobody waits longer than one or two milliseconds for those of others."""


class Provable(Protocol):
    """A request whose DPoP proof is to be verified."""

    def prove(self) -> None:
        """Verify the signature; never raises."""

    def proven(self) -> None:
        """Go on, or refuse; never raises."""


class Proving:
    """Collects for one turn of the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop: Final = loop
        self._waiting: list[Provable] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, request: Provable) -> None:
        """Verify the signature of ``request`` as soon as the others that came with it have been looked at."""
        self._waiting.append(request)
        if len(self._waiting) == 1:
            self._loop.call_soon(self._prove)

    def _prove(self) -> None:
        batch, self._waiting = self._waiting[:TOGETHER], self._waiting[TOGETHER:]
        if self._waiting:
            self._loop.call_soon(self._prove)
        for request in batch:
            request.prove()
        for request in batch:
            request.proven()
