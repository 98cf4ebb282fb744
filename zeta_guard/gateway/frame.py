"""WebSocket frames as far as a tunnel must know them: where one ends (RFC 6455 §5.2), and how to write a Close."""

from __future__ import annotations

import os
from typing import Final

CLOSE_OPCODE: Final = 8
_LARGEST: Final = (1 << 63) - 1


class FrameError(ValueError):
    """No frame of RFC 6455: a length with the highest bit set."""


class FrameReader:
    """Follows the frames of one direction by their headers only; payloads are counted, never looked at.

    Invariant: ``at_boundary`` is true exactly when the bytes consumed so far are whole frames.
    """

    __slots__ = ("_header", "_left", "close_seen")

    def __init__(self) -> None:
        self._header = b""
        self._left = 0
        self.close_seen = False

    @property
    def at_boundary(self) -> bool:
        """Whether a frame of our own may be put in here."""
        return self._left == 0 and not self._header

    def consume(self, data: bytes, *, to_boundary: bool = False) -> int:
        """Follow ``data``; returns how many bytes of it were consumed.

        All of them, unless ``to_boundary``: then only up to the first place where a frame has ended. Raises FrameError.
        """
        position = 0
        size = len(data)
        while True:
            if self._left:
                step = min(self._left, size - position)
                self._left -= step
                position += step
                if self._left:
                    return size
            if to_boundary and not self._header:
                return position
            if position == size:
                return size
            position = self._read_header(data, position)

    def _read_header(self, data: bytes, position: int) -> int:
        """Read a header, or as much of it as there is; returns the position behind it."""
        known = len(self._header)
        header = self._header + data[position : position + 14 - known]
        if len(header) < 2:
            self._header = header
            return len(data)
        short = header[1] & 0x7F
        extended = 2 if short == 126 else 8 if short == 127 else 0
        needed = 2 + extended + (4 if header[1] & 0x80 else 0)
        if len(header) < needed:
            self._header = header
            return len(data)
        length = int.from_bytes(header[2 : 2 + extended], "big") if extended else short
        if length > _LARGEST:
            raise FrameError("frame length")
        self._header = b""
        self._left = length
        if header[0] & 0x0F == CLOSE_OPCODE:
            self.close_seen = True
        return position + needed - known


def close_frame(code: int, reason: str, *, masked: bool) -> bytes:
    """A Close frame; ``masked`` as clients must send it (RFC 6455 §5.3). ``reason``: at most 123 bytes of ASCII."""
    payload = code.to_bytes(2, "big") + reason.encode("ascii")[:123]
    if not masked:
        return bytes((0x80 | CLOSE_OPCODE, len(payload))) + payload
    key = os.urandom(4)
    hidden = bytes(byte ^ key[index & 3] for index, byte in enumerate(payload))
    return bytes((0x80 | CLOSE_OPCODE, 0x80 | len(payload))) + key + hidden
