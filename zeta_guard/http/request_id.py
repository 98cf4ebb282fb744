"""Identifiers of requests: ULIDs (48 bit milliseconds, 80 random bits, Crockford base 32), sortable by time."""

from __future__ import annotations

import os
import random
import time
from typing import Final

_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS: Final = tuple(high + low for high in _ALPHABET for low in _ALPHABET)

# Ids name requests, they protect nothing: a generator seeded by the kernel once per process saves a system call each.
_random: Final = random.Random(os.urandom(32))  # noqa: S311
os.register_at_fork(after_in_child=lambda: _random.seed(os.urandom(32)))


def new_request_id(now: float | None = None) -> str:
    """26 characters; ``now`` in Unix seconds (default: this moment). Unique across processes: each is seeded by the kernel."""
    moment = time.time() if now is None else now
    value = (int(moment * 1000) & 0xFFFFFFFFFFFF) << 80 | _random.getrandbits(80)
    pairs = _PAIRS
    return (
        pairs[value >> 120]
        + pairs[value >> 110 & 1023]
        + pairs[value >> 100 & 1023]
        + pairs[value >> 90 & 1023]
        + pairs[value >> 80 & 1023]
        + pairs[value >> 70 & 1023]
        + pairs[value >> 60 & 1023]
        + pairs[value >> 50 & 1023]
        + pairs[value >> 40 & 1023]
        + pairs[value >> 30 & 1023]
        + pairs[value >> 20 & 1023]
        + pairs[value >> 10 & 1023]
        + pairs[value & 1023]
    )
