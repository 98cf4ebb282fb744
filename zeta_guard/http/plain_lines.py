"""Heads that leave nothing to interpret, taken apart: what requests and answers have in common."""

from __future__ import annotations

import re
from typing import Final

FIELD_BYTES: Final = bytes([9, *range(32, 127)])
"""What a plain field value is made of: visible ASCII, blank and tab."""

FIELD_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A field name (RFC 9110 §5.1)."""

MOST_DIGITS: Final = 18
"""Longest ``Content-Length`` that is read, in digits."""


def split_lines(data: bytes, end: int, most: int) -> list[bytes] | None:
    """The lines of the head ``data[:end]``, the start line first; None when it has more than ``most`` line breaks or one that
    is not CR LF."""
    lines = data[:end].splitlines()
    breaks = len(lines) - 1
    # Every line break is of two bytes, so that a lone one stands nowhere; one at the end would hide one that is missing a byte.
    if breaks > most or sum(map(len, lines)) + 2 * breaks != end or data[end - 1] in b"\r\n":
        return None
    return lines
