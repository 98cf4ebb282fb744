"""Charging the shared buckets of a client and an institution (``security`` section 4, ``wire-contract`` section 9)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from zeta_guard.config.limits import Rate, RateLimits
from zeta_guard.errors import ZetaError
from zeta_guard.http.limits import rate_limited
from zeta_guard.store.contract import Bucket, Charge, Store
from zeta_guard.telemetry.security_events import SecurityEvents

# What the constructor of a named tuple does, without its call of Python code.
_new: Final = tuple.__new__


class Charges:
    """What one request owes. Paid in the trip that spends its claims, or before: when a responder must be asked, and when the
    request is refused. So whoever has spent their share costs nobody anything, and a refused request is no free one.
    """

    __slots__ = ("_enabled", "_events", "_now", "_owed", "_store")

    def __init__(self, store: Store, limits: RateLimits, events: SecurityEvents, *, now: float) -> None:
        self._store = store
        self._events = events
        self._now = now
        self._enabled = limits.enabled
        self._owed: list[Charge] = []

    def owe(self, bucket: str, rate: Rate) -> None:
        """Note a charge. Only after a proof of whoever is charged: nobody can spend another's."""
        if self._enabled:
            self._owed.append(_new(Charge, (bucket, rate.per_minute, rate.burst)))

    def take_over(self) -> Sequence[Charge]:
        """What is owed, to be paid by the caller; then nothing is owed."""
        owed, self._owed = self._owed, []
        return owed

    async def pay(self) -> None:
        """Pay now what is still owed. Raises ZetaError 429, 503 when the store is away."""
        for charge in self.take_over():
            state = await self._store.take(
                charge.bucket, per_minute=charge.per_minute, burst=charge.burst, now=self._now
            )
            if not state.allowed:
                raise self.refusal(charge, state)

    def refusal(self, charge: Charge, state: Bucket) -> ZetaError:
        """The refusal of a request that found its bucket empty."""
        self._events.emit("rate_limited", kind=charge.bucket.partition(":")[0])
        return rate_limited(state)
