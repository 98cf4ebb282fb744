"""Epochs and the clock: losing the store's memory, or time running backwards, must not reopen the past.

A claim is only worth something while the store remembers every earlier one. The *epoch* names one such span of memory; what
is dated at or before its start cannot be judged and is refused (``security`` section 3).
"""

from __future__ import annotations

import secrets
from typing import Final

from zeta_guard.errors import unavailable
from zeta_guard.store.contract import Epoch

BACKWARDS_SECONDS: Final = 15.0
"""How far behind its high-water mark the wall clock may be before everything is refused."""


def new_epoch(started_at: float) -> Epoch:
    """An epoch that starts now, with a random identity (128 bits)."""
    return Epoch(secrets.token_hex(16), started_at)


class HighWaterMark:
    """The latest time seen by this process.

    A clock set back makes proofs valid again whose claims have been forgotten; so more than :data:`BACKWARDS_SECONDS`
    behind the mark nothing passes until the clock has caught up or the process was restarted.
    """

    __slots__ = ("latest",)

    def __init__(self, latest: float = 0.0) -> None:
        self.latest = latest

    def __repr__(self) -> str:
        return f"HighWaterMark({self.latest:.3f})"

    def check(self, now: float) -> None:
        """Note ``now``. Raises ZetaError 503 when it lies too far behind the mark."""
        if now > self.latest:
            self.latest = now
        elif now < self.latest - BACKWARDS_SECONDS:
            raise unavailable("the clock of the guard ran backwards; nothing passes until it is right", stage="store")
