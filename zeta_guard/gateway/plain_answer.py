"""Heads of answers without surprises, read in one go: complete, HTTP/1.1, the length announced, nothing to interpret.

What is not of this form is not judged here but left to the parser (:mod:`zeta_guard.gateway.upstream`). Whatever is read here,
the parser reads in the same way: a test compares the two.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from zeta_guard.gateway.headers import Outgoing, Treatment, response_treatment
from zeta_guard.gateway.upstream_answer import ResponseHead, status_line
from zeta_guard.http.plain_lines import FIELD_BYTES, FIELD_NAME, MOST_DIGITS, split_lines

# What the constructor of a named tuple does, without its call of Python code.
_new: Final = tuple.__new__
_STATUS: Final = re.compile(rb"HTTP/1\.1 ([2-5][0-9]{2}) ([\t -~]*)")
_NO_BODY: Final = frozenset({204, 205, 304})
_MOST_HEADERS: Final = 100
LONGEST_HEAD: Final = 16_384
"""Longer heads are left to the parser."""


# Backends repeat their lines; what they vary does not fill the memory.
_MOST_LINES: Final = 2048
_MOST_STATUSES: Final = 256
_LONGEST_LINE: Final = 160


_KEEP: Final = 0
_DATE: Final = 1
_LENGTH: Final = 2
_CONNECTION: Final = 3
_COOKIE: Final = 4
_MARKS: Final = {
    Treatment.KEEP: _KEEP,
    Treatment.FRAMING: _KEEP,
    Treatment.DATE: _DATE,
    Treatment.LENGTH: _LENGTH,
    Treatment.CONNECTION: _CONNECTION,
}
_lines: dict[bytes, tuple[bytes | None, bytes, int]] = {}
"""What passes of a line (None: nothing), its value, and what it means."""
_statuses: dict[bytes, tuple[int, bytes]] = {}
# Within a second (Date) most backends say the same to everybody.
_MOST_HEADS: Final = 256
_LONGEST_KNOWN: Final = 1024
_heads: dict[bytes, PlainAnswer] = {}


class PlainAnswer(NamedTuple):
    """The head of an answer; its body of ``length`` bytes begins at ``start``."""

    status: int
    reason: bytes
    outgoing: Outgoing
    length: int
    start: int
    keep_alive: bool
    head: ResponseHead


def read_plain_answer(data: bytes) -> PlainAnswer | None:
    """The head that ``data`` begins with; None when it is anything unusual, which proves nothing against it."""
    end = data.find(b"\r\n\r\n")
    if not 0 < end <= LONGEST_HEAD:
        return None
    head = data[:end]
    before = _heads.get(head)
    if before is not None:
        return before
    lines = split_lines(data, end, _MOST_HEADERS)
    if lines is None:
        return None
    status = _statuses.get(lines[0]) or _read_status(lines[0])
    if status is None:
        return None
    kept: list[bytes] = []
    length: int | None = None
    dated = False
    connection = b""
    common = end <= _LONGEST_KNOWN
    known = _lines
    del lines[0]
    for line in lines:
        read = known.get(line) or _read_line(line)
        if read is None:
            return None
        piece, value, mark = read
        if mark is _COOKIE:
            # Somebody's own: it passes and is forgotten.
            common = False
        if mark is _LENGTH:
            if length is not None or not value.isdigit() or len(value) > MOST_DIGITS:
                return None
            length = int(value)
        elif mark is _CONNECTION:
            if connection:
                return None
            connection = value.lower()
            if connection != b"keep-alive" and connection != b"close":
                return None
        elif piece is not None:
            kept.append(piece)
            if mark is _DATE:
                dated = True
    if length is None:
        return None
    outgoing = _new(Outgoing, (b"".join(kept), dated, False, False, length, False, True))
    ready = b""
    if dated:
        ready = b"%b%bContent-Length: %d\r\n" % (status_line(*status), outgoing.lines, length)
    head_of = _new(ResponseHead, (*status, [], outgoing, length, True, ready))
    answer = _new(PlainAnswer, (*status, outgoing, length, end + 4, connection != b"close", head_of))
    if common:
        if len(_heads) >= _MOST_HEADS:
            _heads.clear()
        _heads[head] = answer
    return answer


def _read_status(line: bytes) -> tuple[int, bytes] | None:
    match = _STATUS.fullmatch(line)
    if match is None:
        return None
    status = int(match[1])
    if status in _NO_BODY:
        return None
    if len(line) <= _LONGEST_LINE and len(_statuses) < _MOST_STATUSES:
        _statuses[line] = (status, match[2])
    return status, match[2]


def _read_line(line: bytes) -> tuple[bytes | None, bytes, int] | None:
    name, colon, value = line.partition(b":")
    if not colon or not FIELD_NAME.fullmatch(name):
        return None
    treatment = response_treatment(name)
    mark = _MARKS.get(treatment)
    lower = name.lower()
    # The parser takes Proxy-Connection for Connection, and blanks at the end of a value for a part of it.
    if mark is None or lower == b"proxy-connection" or value.translate(None, FIELD_BYTES):
        return None
    value = value.lstrip(b" \t")
    kept = b"%b: %b\r\n" % (name, value) if treatment is Treatment.KEEP or treatment is Treatment.DATE else None
    if lower == b"set-cookie":
        return kept, value, _COOKIE
    read = (kept, value, mark)
    if len(line) <= _LONGEST_LINE:
        if len(_lines) >= _MOST_LINES:
            _lines.clear()
        _lines[line] = read
    return read
