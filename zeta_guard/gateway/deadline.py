"""Deadlines of exchanges, without a timer for each: one lazy timer looks at those that run."""

from __future__ import annotations

import asyncio
import math
from time import monotonic
from typing import Final, Protocol


class Watched(Protocol):
    """Something with a deadline (time of the event loop, ``inf`` for none)."""

    deadline: float

    def deadline_passed(self) -> None:
        """The deadline is over; called once for each time it was set."""


class DeadlineWatch:
    """Calls ``deadline_passed`` when a deadline is over, never early.

    Deadlines mostly move into the future before they are reached, so the timer is set once and looks again when it fires.
    """

    __slots__ = ("_at", "_loop", "_timer", "_watched")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop: Final = loop
        self._watched: Final[set[Watched]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._at = math.inf

    def set(self, watched: Watched, seconds: float) -> float:
        """The deadline of ``watched`` is in ``seconds``; an earlier one is replaced. Returns this moment."""
        # What loop.time() is, without a call of Python code.
        now = monotonic()
        watched.deadline = due = now + seconds
        self._watched.add(watched)
        if due < self._at:
            if self._timer is not None:
                self._timer.cancel()
            self._at = due
            self._timer = self._loop.call_at(due, self._look)
        return now

    def drop(self, watched: Watched) -> None:
        """``watched`` has no deadline any more."""
        watched.deadline = math.inf
        self._watched.discard(watched)

    def close(self) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._at = math.inf
        self._watched.clear()

    def __len__(self) -> int:
        return len(self._watched)

    def _look(self) -> None:
        now = self._loop.time()
        self._timer = None
        self._at = math.inf
        # The event loop may fire a timer one clock tick early.
        over = [watched for watched in self._watched if watched.deadline <= now + 0.001]
        for watched in over:
            self.drop(watched)
        if self._watched:
            self._at = min(watched.deadline for watched in self._watched)
            self._timer = self._loop.call_at(self._at, self._look)
        for watched in over:
            watched.deadline_passed()
