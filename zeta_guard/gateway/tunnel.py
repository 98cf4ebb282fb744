"""The byte tunnel of an upgraded connection (``wire-contract`` section 7.4).

Bytes pass untouched in both directions; the tunnel reads frame headers only, to know where a frame ends, because a Close of
its own may stand there and nowhere else. When one side cannot take more, the other is not read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from zeta_guard.gateway.frame import FrameError, FrameReader, close_frame

NORMAL_END: Final = "peer"
CLOSE_SECONDS: Final = 1.0
"""How long a close of ours waits for a frame boundary and for the answers; then the connections are cut."""

POLICY: Final = 1008
GOING_AWAY: Final = 1001
INTERNAL: Final = 1011

_WRITE_AHEAD: Final = 65_536


@dataclass(frozen=True, slots=True)
class SocketRule:
    """How long a socket may live. ``ends_at``: Unix seconds or None; ``idle``: seconds of silence in both directions."""

    route: str
    subjects: tuple[str, ...]
    ends_at: float | None
    idle: float


class _Side(asyncio.Protocol):
    """One of the two connections. Its reader follows what this side sends, which is written to the peer."""

    __slots__ = ("muted", "peer", "reader", "transport", "tunnel")

    def __init__(self, tunnel: Tunnel, transport: asyncio.Transport) -> None:
        self.tunnel: Tunnel | None = tunnel
        self.transport: asyncio.Transport | None = transport
        self.peer: _Side | None = None
        self.reader = FrameReader()
        self.muted = False

    def data_received(self, data: bytes) -> None:
        tunnel, peer = self.tunnel, self.peer
        if tunnel is None or peer is None:
            return
        tunnel.stirred = True
        try:
            if not tunnel.closing:
                self.reader.consume(data)
            elif self.muted:
                self.reader.consume(data)
                tunnel.answered(self)
                return
            else:
                end = self.reader.consume(data, to_boundary=True)
                if peer.transport is not None:
                    peer.transport.write(data[:end])
                if self.reader.at_boundary:
                    tunnel.put_close(self)
                    self.data_received(data[end:])
                return
        except FrameError:
            tunnel.cut("malformed")
            return
        if peer.transport is not None:
            peer.transport.write(data)

    def eof_received(self) -> None:
        """The transport closes itself; ``connection_lost`` follows."""

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self.tunnel is not None:
            self.tunnel.lost(self)

    def pause_writing(self) -> None:
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.resume_reading()


class Tunnel:
    """Two connections, joined. ``on_end`` is called once, with the reason, when both are gone."""

    __slots__ = (
        "_client",
        "_code",
        "_label",
        "_loop",
        "_on_end",
        "_reason",
        "_timer",
        "_upstream",
        "closing",
        "opened_at",
        "quiet_since",
        "rule",
        "stirred",
    )

    def __init__(
        self,
        client: asyncio.Transport,
        upstream: asyncio.Transport,
        rule: SocketRule,
        *,
        loop: asyncio.AbstractEventLoop,
        on_end: Callable[[Tunnel, str], None],
    ) -> None:
        self.rule: Final = rule
        self.opened_at = self.quiet_since = loop.time()
        self.stirred = False
        self.closing = False
        self._loop: Final = loop
        self._on_end: Callable[[Tunnel, str], None] | None = on_end
        self._reason = ""
        self._label = ""
        self._code = 0
        self._timer: asyncio.TimerHandle | None = None
        self._client: Final = _Side(self, client)
        self._upstream: Final = _Side(self, upstream)
        self._client.peer = self._upstream
        self._upstream.peer = self._client
        for side, transport in ((self._client, client), (self._upstream, upstream)):
            transport.set_write_buffer_limits(high=_WRITE_AHEAD)
            transport.set_protocol(side)

    def __repr__(self) -> str:
        return f"Tunnel({self.rule.route}, {'closing' if self.closing else 'open'})"

    def start(self, from_client: bytes, from_upstream: bytes) -> None:
        """Pass on what had come before the tunnel stood."""
        if from_upstream:
            self._upstream.data_received(from_upstream)
        if from_client:
            self._client.data_received(from_client)
        for side in (self._client, self._upstream):
            if side.transport is not None and not side.transport.is_reading() and not side.transport.is_closing():
                side.transport.resume_reading()

    def close(self, code: int, reason: str, label: str) -> None:
        """Close both sides with ``code``, each at a frame boundary; ``label`` is the reason for metrics.

        Whoever has not come to a boundary, or not answered, after a second is cut off.
        """
        if self.closing or self._on_end is None:
            return
        self.closing = True
        self._code = code
        self._reason = reason
        self._note(label)
        self._timer = self._loop.call_later(CLOSE_SECONDS, self.cut, label)
        for side in (self._client, self._upstream):
            if side.reader.at_boundary:
                self.put_close(side)

    def put_close(self, side: _Side) -> None:
        """Send the peer of ``side`` a Close, unless it has one already; what ``side`` sends from now on is dropped."""
        side.muted = True
        peer = side.peer
        if peer is None or peer.transport is None:
            return
        if not side.reader.close_seen:
            peer.transport.write(close_frame(self._code, self._reason, masked=peer is self._upstream))
        self.answered(peer)

    def answered(self, side: _Side) -> None:
        """Close the connection of ``side`` once it has sent its own Close and was sent one."""
        peer = side.peer
        if side.reader.close_seen and peer is not None and peer.muted and side.transport is not None:
            side.transport.close()

    def cut(self, label: str) -> None:
        """Drop both connections at once."""
        self._note(label)
        for side in (self._client, self._upstream):
            if side.transport is not None:
                side.transport.abort()

    def lost(self, side: _Side) -> None:
        """A connection is gone: so is the other, after what is under way to it."""
        peer = side.peer
        if peer is not None and peer.transport is not None:
            self._note(NORMAL_END if side.reader.close_seen or peer.reader.close_seen else "lost")
            if (
                side is self._upstream
                and not self.closing
                and not side.reader.close_seen
                and side.reader.at_boundary
                and not peer.transport.is_closing()
            ):
                peer.transport.write(close_frame(INTERNAL, "the service closed the connection", masked=False))
            peer.transport.close()
            if self._timer is None:
                self._timer = self._loop.call_later(CLOSE_SECONDS, self.cut, "lost")
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        on_end, self._on_end = self._on_end, None
        for one in (self._client, self._upstream):
            one.tunnel = one.peer = None
        if on_end is not None:
            on_end(self, self._label)

    def _note(self, label: str) -> None:
        # The first reason is the reason.
        if not self._label:
            self._label = label
