"""A table whose entries vanish at their time."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Generic, TypeVar

V = TypeVar("V")


class ExpiringTable(Generic[V]):
    """Entries by name, each with the time (Unix seconds) at which it vanishes; that time may be moved in either direction.

    Invariant: every entry has a heap element that is due no later than the entry, so a sweep finds everything that is over.
    Moving an entry's end forward leaves its early element; the sweep re-inserts it. ``forget`` is called with every entry that
    a sweep removes.
    """

    __slots__ = ("_entries", "_forget", "_heap")

    def __init__(self, forget: Callable[[str, V], None] | None = None) -> None:
        self._entries: dict[str, tuple[float, float, V]] = {}
        self._heap: list[tuple[float, str]] = []
        self._forget = forget

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"ExpiringTable({len(self._entries)} entries)"

    def get(self, name: str, now: float) -> V | None:
        """The entry while it lives."""
        entry = self._entries.get(name)
        return entry[2] if entry is not None and entry[0] > now else None

    def expires(self, name: str) -> float:
        """When the entry vanishes; 0 when there is none."""
        entry = self._entries.get(name)
        return entry[0] if entry is not None else 0.0

    def put(self, name: str, value: V, expires: float) -> None:
        """Insert or replace."""
        entry = self._entries.get(name)
        scheduled = entry[1] if entry is not None else float("inf")
        if expires < scheduled:
            scheduled = expires
            heapq.heappush(self._heap, (expires, name))
        self._entries[name] = (expires, scheduled, value)

    def pop(self, name: str) -> V | None:
        """Remove an entry, dead or alive."""
        entry = self._entries.pop(name, None)
        return entry[2] if entry is not None else None

    def oldest(self) -> list[str]:
        """Names of the first few entries by insertion (1 in 64), for eviction in portions: finding the very first one of a
        dictionary whose front was deleted is slow, so it must not be done once per insertion."""
        return list(islice(self._entries, 1 + len(self._entries) // 64))

    def items(self, now: float) -> Iterator[tuple[str, V]]:
        """Living entries in the order of their first insertion."""
        return ((name, entry[2]) for name, entry in self._entries.items() if entry[0] > now)

    def sweep(self, now: float) -> None:
        """Remove everything that is over."""
        heap, entries = self._heap, self._entries
        while heap and heap[0][0] <= now:
            due, name = heapq.heappop(heap)
            entry = entries.get(name)
            if entry is None or entry[1] != due:
                continue
            if entry[0] <= now:
                del entries[name]
                if self._forget is not None:
                    self._forget(name, entry[2])
            else:
                entries[name] = (entry[0], entry[0], entry[2])
                heapq.heappush(heap, (entry[0], name))
