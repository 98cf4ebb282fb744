"""Rate limits per client address, in process memory (``wire-contract`` section 9), and the readers of limited bodies."""

from __future__ import annotations

from collections import OrderedDict
from functools import lru_cache
from ipaddress import IPv4Address
from math import ceil
from typing import Final, Literal

from zeta_guard.config.limits import Rate, RateLimits
from zeta_guard.errors import ZetaError
from zeta_guard.http.address import IPAddress, parse_network
from zeta_guard.http.body import parse_form as parse_form
from zeta_guard.http.body import parse_json_body as parse_json_body
from zeta_guard.http.body import read_body as read_body
from zeta_guard.store.contract import Bucket

BucketKind = Literal["metadata", "nonce", "register", "token", "routes"]

_SMALLEST_BURST = 10
"""Dividing by workers never takes more than this away: a cold client with its retries may meet a single worker."""

_UNKNOWN = -1
# What the constructor of a named tuple does, without its call of Python code.
_new: Final = tuple.__new__


class _Pace:
    """A rate as seconds: one token comes every ``interval``; ``window`` is what a full bucket is worth."""

    __slots__ = ("burst", "interval", "slack", "window")

    def __init__(self, rate: Rate, workers: int) -> None:
        self.interval = 60.0 * workers / rate.per_minute
        self.burst = max(ceil(rate.burst / workers), min(rate.burst, _SMALLEST_BURST))
        self.window = self.interval * self.burst
        # What sums of floats may be off; without it a bucket would lose its last token.
        self.slack = self.interval / 100


class AddressBuckets:
    """Token buckets, one per kind and address (IPv4 /32, IPv6 /64); a named network is one bucket as a whole.

    The table is bounded: the least recently seen address goes and starts afresh when it comes again. Every worker has its
    share of the rate.
    """

    def __init__(self, rate_limits: RateLimits, workers: int = 1) -> None:
        self._enabled = rate_limits.enabled
        self._most = rate_limits.table
        rates: dict[BucketKind, Rate] = {
            "metadata": rate_limits.metadata,
            "nonce": rate_limits.nonce,
            "register": rate_limits.register_,
            "token": rate_limits.token,
            "routes": rate_limits.routes,
        }
        # A bucket is the moment at which it will be full again: one float, no refill task.
        self._begin: float | None = None
        self._kinds: dict[BucketKind, tuple[_Pace, OrderedDict[int | str, float]]] = {
            kind: (_Pace(rate, workers), OrderedDict()) for kind, rate in rates.items()
        }
        self._networks = tuple(
            (parse_network(text, f"rate_limits.networks[{text!r}]"), _Pace(rate, workers), text)
            for text, rate in rate_limits.networks.items()
        )
        self._named = lru_cache(maxsize=4096)(self._find_network)

    def take(self, kind: BucketKind, address: IPAddress | None, now: float) -> Bucket:
        """Take one token. All unknown addresses share a bucket."""
        pace, table = self._kinds[kind]
        if not self._enabled:
            return Bucket(True, pace.burst, pace.burst, 0, 0)
        key: int | str
        # The integer behind an address; int() is a call of Python code for each request.
        if type(address) is IPv4Address:
            key = address._ip  # type: ignore[attr-defined]
        elif address is None:
            key = _UNKNOWN
        else:
            key = address._ip >> 64 | 1 << 64  # type: ignore[union-attr]
        if self._networks and address is not None:
            named = self._named(address)
            if named is not None:
                pace, key = named
        # Counted from the first request on: sums of small intervals keep their precision beside small numbers only.
        if self._begin is None:
            self._begin = now
        now -= self._begin
        full_at = table.get(key, now)
        interval = pace.interval
        slack = pace.slack
        after = full_at - now + interval if full_at > now else interval
        excess = after - pace.window
        if excess > slack:
            table.move_to_end(key)
            return Bucket(False, pace.burst, 0, ceil(after - interval), max(1, ceil(excess)))
        table[key] = now + after
        table.move_to_end(key)
        if len(table) > self._most:
            table.popitem(last=False)
        remaining = int((slack - excess) / interval)
        return _new(Bucket, (True, pace.burst, remaining if remaining > 0 else 0, ceil(after), 0))

    def _find_network(self, address: IPAddress) -> tuple[_Pace, str] | None:
        found = None
        longest = -1
        for network, pace, text in self._networks:
            if network.version == address.version and address in network and network.prefixlen > longest:
                found, longest = (pace, text), network.prefixlen
        return found

    def __len__(self) -> int:
        """Addresses remembered, over all kinds."""
        return sum(len(table) for _, table in self._kinds.values())


def rate_headers(bucket: Bucket) -> dict[str, str]:
    """``X-Rate-Limit-Limit``, ``-Remaining`` and ``-Reset`` (seconds until the bucket is full again)."""
    return {
        "X-Rate-Limit-Limit": str(bucket.limit),
        "X-Rate-Limit-Remaining": str(bucket.remaining),
        "X-Rate-Limit-Reset": str(bucket.reset),
    }


def rate_limited(bucket: Bucket) -> ZetaError:
    """The refusal of a request that found its bucket empty: 429 with ``Retry-After``."""
    return ZetaError(
        "rate_limit_exceeded",
        f"Too many requests; try again in {bucket.retry_after} s.",
        headers=rate_headers(bucket) | {"Retry-After": str(bucket.retry_after)},
        stage="rate_limit",
    )
