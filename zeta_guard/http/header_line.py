"""Header lines of requests as clients send them again and again: read once, then found by their bytes."""

from __future__ import annotations

from typing import Final

from multidict import istr

from zeta_guard.http.plain_lines import FIELD_BYTES, FIELD_NAME
from zeta_guard.recent import Recent

# What a line means for the reading of the head; each of these may stand there once.
HOST: Final = 1
LENGTH: Final = 2
CONNECTION: Final = 4
_TYPE: Final = 8
AUTHORIZATION: Final = 16
PROOF: Final = 2048
POPP: Final = 4096
PRIVATE: Final = 8192 | 16_384
"""Secrets that are nobody's business here."""
OTHER: Final = 1 << 30
"""Left to the parser."""
_MARKS: Final = {
    b"host": HOST,
    b"content-length": LENGTH,
    b"connection": CONNECTION,
    b"content-type": _TYPE,
    b"authorization": AUTHORIZATION,
    b"transfer-encoding": OTHER,
    b"upgrade": OTHER,
    b"expect": OTHER,
    b"proxy-connection": OTHER,
    # The parser takes these once, too.
    b"user-agent": 32,
    b"content-location": 64,
    b"content-range": 128,
    b"etag": 256,
    b"max-forwards": 512,
    b"server": 1024,
    # Twice is an error that others word, or so rare that the parser may have it.
    b"dpop": PROOF,
    b"popp": POPP,
    b"cookie": 8192,
    b"proxy-authorization": 16_384,
}

# Lines that clients repeat are remembered; secrets are not among them.
_SECRET: Final = AUTHORIZATION | PROOF | POPP | PRIVATE
_MOST_LINES: Final = 4096
_LONGEST_LINE: Final = 128


class HeaderName:
    """The name of a header as clients spell it. ``treatment`` is for whoever forwards it to remember what is done with it."""

    __slots__ = ("mark", "secret", "text", "treatment")

    def __init__(self, name: bytes) -> None:
        lower = name.lower()
        self.text = istr(name.decode("ascii"))
        self.mark = _MARKS.get(lower, 0)
        self.secret = bool(self.mark & _SECRET)
        self.treatment = -1
        """-1: not known yet."""


class Line:
    """A header line, read. ``kept`` is for whoever forwards it to remember what of it passes."""

    __slots__ = ("field", "kept", "mark", "name", "pair")

    def __init__(self, name: bytes, value: bytes, known: HeaderName) -> None:
        self.pair = (name, value)
        self.field = (known.text, value.decode("ascii"))
        self.name = known
        self.mark = known.mark
        self.kept = b""


_MOST_NAMES: Final = 1024
_LONGEST_NAME: Final = 64
_names: dict[bytes, HeaderName] = {}
known_lines: dict[bytes, Line] = {}
_LONGEST_TOKEN: Final = 2048
known_tokens: Recent[bytes, Line] = Recent(1024)


def read_line(text: bytes) -> Line | None:
    """The line, remembered where clients repeat it; None when it is of no plain form."""
    name, colon, value = text.partition(b":")
    known = _names.get(name)
    if known is None:
        if not colon or not FIELD_NAME.fullmatch(name):
            return None
        known = HeaderName(name)
        if len(name) <= _LONGEST_NAME:
            if len(_names) >= _MOST_NAMES:
                _names.clear()
            _names[name] = known
    elif not colon:
        return None
    if value.translate(None, FIELD_BYTES):
        return None
    line = Line(name, value.strip(b" \t"), known)
    if known.mark is AUTHORIZATION:
        # The same token again and again: its text is one object then, and what was found out about it is found by that.
        if len(text) <= _LONGEST_TOKEN:
            known_tokens.put(text, line)
    elif len(text) <= _LONGEST_LINE and not known.secret:
        if len(known_lines) >= _MOST_LINES:
            known_lines.clear()
        known_lines[text] = line
    return line
