"""Stops asking an engine that does not answer, and tries again by itself."""

from __future__ import annotations

from typing import Final

FAILURES: Final = 5
FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 15.0


class CircuitBreaker:
    """After five failures in a row everybody is refused at once for a second (doubling up to 15 s); then one may try.

    ``now`` is any clock in seconds that does not run backwards.
    """

    def __init__(self) -> None:
        self._failures = 0
        self._pause = FIRST_PAUSE
        self._closed_until = 0.0
        self._trying = False

    @property
    def is_open(self) -> bool:
        """Whether the engine counts as away."""
        return self._failures >= FAILURES

    def admit(self, now: float) -> bool:
        """Whether this caller may ask. Who was admitted must say how it went, or :meth:`give_back` the turn."""
        if not self.is_open:
            return True
        if now < self._closed_until or self._trying:
            return False
        self._trying = True
        return True

    def seconds_left(self, now: float) -> int:
        """Whole seconds until the next try, at least 1."""
        return max(1, int(self._closed_until - now + 0.999))

    def give_back(self) -> None:
        """The caller was cancelled: nothing was learned."""
        self._trying = False

    def succeeded(self) -> None:
        """The engine answered."""
        self._failures = 0
        self._pause = FIRST_PAUSE
        self._trying = False

    def failed(self, now: float) -> None:
        """The engine did not answer in time, or not at all."""
        self._failures += 1
        if self._trying:
            self._pause = min(self._pause * 2, LONGEST_PAUSE)
        self._trying = False
        if self.is_open:
            self._closed_until = now + self._pause
