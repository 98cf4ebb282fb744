"""Identifiers of requests: ULIDs (48 bit milliseconds, 80 random bits, Crockford base 32), sortable by time."""

from __future__ import annotations

import os
import random
import time
from typing import Final

_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS: Final = tuple(high + low for high in _ALPHABET for low in _ALPHABET)
# Five bits of each byte, as a character.
_CHARACTERS: Final = bytes(ord(_ALPHABET[byte & 31]) for byte in range(256))

# Ids name requests, they protect nothing: a generator seeded by the kernel once per process saves a system call each.
_random: Final = random.Random(os.urandom(32))  # noqa: S311
os.register_at_fork(after_in_child=lambda: _random.seed(os.urandom(32)))


class _Moment:
    """The first eight characters, which are the same for a second or so."""

    __slots__ = ("text", "upper")

    def __init__(self) -> None:
        self.upper = -1
        self.text = ""


_latest: Final = _Moment()


def new_request_id(now: float | None = None) -> str:
    """26 characters; ``now`` in Unix seconds (default: this moment). Unique across processes: each is seeded by the kernel."""
    milliseconds = int((time.time() if now is None else now) * 1000)
    upper = milliseconds >> 10
    if upper != _latest.upper:
        _latest.text = "".join(_ALPHABET[upper >> shift & 31] for shift in range(35, -1, -5))
        _latest.upper = upper
    text = _random.getrandbits(128).to_bytes(16, "big").translate(_CHARACTERS).decode("ascii")
    return _latest.text + _PAIRS[milliseconds & 1023] + text
