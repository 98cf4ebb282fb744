"""What comes of an exchange with a backend: the head of its answer, or how it failed."""

from __future__ import annotations

from enum import StrEnum
from http import HTTPStatus
from typing import Final, NamedTuple

from zeta_guard.errors import GuardError
from zeta_guard.gateway.headers import Outgoing


class Fault(StrEnum):
    """How an exchange with a backend failed."""

    REFUSED = "refused"
    """No connection (refused, unreachable, too slow to open): nothing was sent."""
    TLS = "tls"
    """The backend's certificate does not hold, or it does not want ours: no answer came."""
    CLOSED = "closed"
    """The connection was closed before any byte of an answer."""
    GARBAGE = "garbage"
    """The answer is not HTTP, or its framing is ambiguous."""
    TRUNCATED = "truncated"
    """The answer broke off."""
    TIMEOUT = "timeout"
    BUSY = "busy"
    """Every connection is in use, and none became free in time."""
    UNHEALTHY = "unhealthy"
    """No server of the route passes its health check."""


class UpstreamError(GuardError):
    """An exchange that failed. ``reached`` says whether the backend may have seen any of the request."""

    def __init__(self, fault: Fault, *, reached: bool) -> None:
        super().__init__(fault.value)
        self.fault: Final = fault
        self.reached: Final = reached


class ResponseHead(NamedTuple):
    """The head of a final answer. ``length`` is None when the body's length is not announced."""

    status: int
    reason: bytes
    headers: list[tuple[bytes, bytes]]
    outgoing: Outgoing
    length: int | None
    has_body: bool
    ready: bytes = b""
    """The client's head up to its rate limits, where nothing else depends on the request."""

    def framing(self, length: int | None) -> bytes:
        """The header line that tells the client how long the body is; empty where nothing is to be told."""
        if self.has_body:
            return b"" if length is None else b"Content-Length: %d\r\n" % length
        # An answer to HEAD says how long its body would be; 204 and 304 say nothing.
        if self.status in (204, 205, 304) or self.length is None:
            return b""
        return b"Content-Length: %d\r\n" % self.length


_MOST_STATUS_LINES: Final = 512
_status_lines: Final[dict[tuple[int, bytes], bytes]] = {}


def status_line(status: int, reason: bytes) -> bytes:
    """The first line of the client's answer; a reason that is missing is the usual one."""
    line = _status_lines.get((status, reason))
    if line is not None:
        return line
    words = reason
    if not words:
        try:
            words = HTTPStatus(status).phrase.encode("ascii")
        except ValueError:
            words = b""
    line = b"HTTP/1.1 %d %b\r\n" % (status, words)
    if len(_status_lines) < _MOST_STATUS_LINES and len(reason) <= 64:
        _status_lines[(status, reason)] = line
    return line
