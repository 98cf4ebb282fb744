"""A bounded memory of recent things, in two generations."""

from __future__ import annotations

from collections.abc import Hashable
from math import inf
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """Remembers at most ``size`` entries and forgets those not used for longest, roughly.

    Two plain dictionaries take turns: when the young one is half of ``size``, it becomes the old one, and what nobody asked
    for since is gone. A hit costs one dictionary look-up, and no step can leave it inconsistent for another thread.

    Who remembers things that are worthless after ``seconds`` says so and tells ``put`` the time: then they also take turns
    that often, and as much stays as comes within twice ``seconds`` instead of ``size``.
    """

    __slots__ = ("_half", "_old", "_seconds", "_turned_at", "young")

    def __init__(self, size: int, *, seconds: float = inf) -> None:
        self._half = max(1, size // 2)
        self._seconds = seconds
        self._turned_at = 0.0
        self.young: dict[K, V] = {}
        """What was used of late. Who asks with every request may look here first: that saves a call, and says the same."""
        self._old: dict[K, V] = {}

    def get(self, key: K) -> V | None:
        """The value, or None; a hit makes the entry young again."""
        value = self.young.get(key)
        if value is None:
            value = self._old.get(key)
            if value is not None:
                self.put(key, value, self._turned_at)
        return value

    def put(self, key: K, value: V, now: float = 0.0) -> None:
        """Remember. ``now`` (seconds of any clock) matters only where ``seconds`` was given."""
        if (len(self.young) >= self._half and key not in self.young) or not 0 <= now - self._turned_at < self._seconds:
            self._old = self.young
            self.young = {}
            self._turned_at = now
        self.young[key] = value

    def drop(self, key: K) -> None:
        """Forget one entry."""
        self.young.pop(key, None)
        self._old.pop(key, None)

    def clear(self) -> None:
        """Forget everything."""
        self.young = {}
        self._old = {}

    def __len__(self) -> int:
        return len(self.young) + sum(1 for key in self._old if key not in self.young)

    def __repr__(self) -> str:
        return f"Recent({len(self)} of {2 * self._half})"
