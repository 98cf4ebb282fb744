"""Claims for things dated in the future, kept in the process until their time has come."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Final

from zeta_guard.store.contract import Claim

MOST: Final = 100_000
"""Above it the oldest leave: with clocks that are right nothing stands here at all."""


class ClaimsAhead:
    """A new epoch refuses what is dated before its start, but not a proof that a fast clock dated after it. Whoever claimed
    such a proof remembers it here and writes it back to a store that lost its memory.

    Invariant: nothing stands here longer than until the time it is dated at, since any later epoch refuses it by itself.
    """

    __slots__ = ("_claims", "_next")

    def __init__(self) -> None:
        # Ordered, because only it finds its first element in constant time after deletions.
        self._claims: OrderedDict[bytes, tuple[float, float, str]] = OrderedDict()
        self._next = 0.0

    def __len__(self) -> int:
        return len(self._claims)

    def note(self, claims: Sequence[Claim], owner: str, now: float) -> None:
        """Remember those of the won claims that are dated after ``now``."""
        for claim in claims:
            if claim.dated > now:
                self._claims[claim.key] = (claim.dated, now + claim.ttl, owner)
                if len(self._claims) > MOST:
                    self._claims.popitem(last=False)
        if self._claims and now >= self._next:
            self._next = now + 1.0
            self._claims = OrderedDict((key, kept) for key, kept in self._claims.items() if kept[0] > now)

    def remaining(self, now: float) -> Iterator[tuple[bytes, str, int]]:
        """Key, owner and whole seconds that are left of each claim."""
        for key, (_, ends, owner) in list(self._claims.items()):
            if ends > now:
                yield key, owner, int(ends - now) + 1
