"""W3C Trace Context: reading and writing ``traceparent``."""

from __future__ import annotations

import os
import random
import re
from dataclasses import dataclass
from typing import Final

_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_NO_TRACE: Final = "0" * 32
_NO_SPAN: Final = "0" * 16
_SAMPLED: Final = 0x01
_LONGEST_STATE: Final = 512

# Ids of traces protect nothing: a generator seeded by the kernel once per process saves two system calls a request.
_random: Final = random.Random(os.urandom(32))  # noqa: S311
os.register_at_fork(after_in_child=lambda: _random.seed(os.urandom(32)))


@dataclass(frozen=True, slots=True)
class TraceContext:
    """Where in a trace a request stands. Ids are lower-case hexadecimal; ``state`` is passed on unread."""

    trace_id: str
    span_id: str
    sampled: bool
    state: str = ""

    def traceparent(self) -> str:
        """Value of the header, version 00."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


def parse_traceparent(values: list[str], states: list[str]) -> TraceContext | None:
    """The caller's context; None when there is none, more than one or an invalid one (then a new trace begins, §4.3).

    ``values`` and ``states`` are the lines of ``traceparent`` and ``tracestate``.
    """
    if len(values) != 1:
        return None
    match = _TRACEPARENT.fullmatch(values[0].strip())
    if match is None:
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    if version == "ff" or (version == "00" and rest) or trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    state = ",".join(states)
    if len(state) > _LONGEST_STATE or not (state.isascii() and state.isprintable()):
        state = ""
    return TraceContext(trace_id, span_id, bool(int(flags, 16) & _SAMPLED), state)


def new_trace_id() -> str:
    """32 hexadecimal digits, never all zero."""
    return f"{_random.getrandbits(128) or 1:032x}"


def new_span_id() -> str:
    """16 hexadecimal digits, never all zero."""
    return f"{_random.getrandbits(64) or 1:016x}"


def new_traceparent() -> bytes:
    """The header value of a new trace that is not sampled."""
    return b"00-%032x-%016x-00" % (_random.getrandbits(128) or 1, _random.getrandbits(64) or 1)
