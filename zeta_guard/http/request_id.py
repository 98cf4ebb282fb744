"""Identifiers of requests: ULIDs (48 bit milliseconds, 80 further bits, Crockford base 32), sortable by time.

The 80 bits are 50 that the kernel's generator gave this process and 30 that count. Ids name requests, they protect nothing.
"""

from __future__ import annotations

import os
import secrets
import time
from typing import Final

_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS: Final = tuple(high + low for high in _ALPHABET for low in _ALPHABET)
_COUNTS: Final = 1 << 30


class _State:
    """The parts of an id that stay for a while."""

    __slots__ = ("count", "process", "text", "upper")

    def __init__(self) -> None:
        self.upper = -1
        self.text = ""
        """Eight characters of the time, which are the same for a second or so."""
        self.process = ""
        self.count = 0
        self.begin()

    def begin(self) -> None:
        """Another process, or all counts were used."""
        self.process = "".join(secrets.choice(_ALPHABET) for _ in range(10))
        self.count = secrets.randbelow(_COUNTS // 2)


_state: Final = _State()
os.register_at_fork(after_in_child=_state.begin)


def new_request_id(now: float | None = None) -> str:
    """26 characters; ``now`` in Unix seconds (default: this moment). Unique across processes."""
    state = _state
    milliseconds = int((time.time() if now is None else now) * 1000)
    upper = milliseconds >> 10
    if upper != state.upper:
        state.text = "".join(_ALPHABET[upper >> shift & 31] for shift in range(35, -1, -5))
        state.upper = upper
    count = state.count = state.count + 1
    if count >= _COUNTS:
        state.begin()
        count = state.count
    pairs = _PAIRS
    return (
        f"{state.text}{pairs[milliseconds & 1023]}{state.process}"
        f"{pairs[count >> 20]}{pairs[count >> 10 & 1023]}{pairs[count & 1023]}"
    )
