"""Looks whether the store lost its memory or the wall clock ran backwards: the security log hears of both.

Neither lets anything pass (the store refuses by itself, ``security`` section 3); but somebody may have emptied a Redis or set a
clock to make old proofs good again, and whoever watches should know.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from zeta_guard.store.epoch import BACKWARDS_SECONDS

if TYPE_CHECKING:
    from zeta_guard.store.contract import Store
    from zeta_guard.telemetry.security_events import SecurityEvents

LOOK_SECONDS: Final = 1.0


class StoreWatch:
    """Compares epoch and clock with what they were. ``events`` is asked anew each time: a reload replaces it."""

    def __init__(self, store: Store, clock: Callable[[], float], events: Callable[[], SecurityEvents]) -> None:
        self._store = store
        self._clock = clock
        self._events = events
        self._epoch = store.epoch.identity
        self._latest = clock()
        self._backwards = False

    def look(self) -> None:
        """One comparison; each change is told once."""
        epoch = self._store.epoch.identity
        if epoch != self._epoch:
            self._epoch = epoch
            self._events().emit("store_epoch_changed")
        now = self._clock()
        backwards = now < self._latest - BACKWARDS_SECONDS
        if backwards and not self._backwards:
            self._events().emit("clock_went_back", seconds=round(self._latest - now))
        self._backwards = backwards
        self._latest = max(self._latest, now)

    async def run(self) -> None:
        """Look every second until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.look()
