"""All open WebSockets of the process: how many may be, and which must end."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter as Tally
from collections.abc import Collection
from typing import Final

from zeta_guard.errors import unavailable
from zeta_guard.gateway.metrics import RouteMetrics
from zeta_guard.gateway.tunnel import CLOSE_SECONDS, GOING_AWAY, POLICY, SocketRule, Tunnel
from zeta_guard.telemetry.logging import log_event

_logger = logging.getLogger("zeta_guard.gateway")


class Sockets:
    """The registry. A place is reserved before the backend is asked, and free again when both connections are gone."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop: Final = loop
        self._tunnels: Final[set[Tunnel]] = set()
        self._taken: Final[Tally[str]] = Tally()
        self._metrics: Final[dict[str, RouteMetrics]] = {}
        self._emptied = asyncio.Event()
        self._emptied.set()

    def __len__(self) -> int:
        return len(self._tunnels)

    @property
    def taken(self) -> int:
        """Open sockets and handshakes under way."""
        return self._taken.total()

    def reserve(self, route: str, most: int, metrics: RouteMetrics) -> None:
        """Take a place. Raises ZetaError 503 when the route has as many sockets as it may."""
        if self._taken[route] >= most:
            raise unavailable("This route has as many open WebSockets as it may.", retry_after=5, stage="websocket")
        self._taken[route] += 1
        self._metrics[route] = metrics

    def release(self, route: str) -> None:
        """Give a place back whose handshake did not become a socket."""
        self._taken[route] -= 1

    def open(self, client: asyncio.Transport, upstream: asyncio.Transport, rule: SocketRule) -> Tunnel:
        """Join two connections on a reserved place."""
        tunnel = Tunnel(client, upstream, rule, loop=self._loop, on_end=self._ended)
        self._tunnels.add(tunnel)
        self._emptied.clear()
        self._metrics[rule.route].sockets.inc()
        return tunnel

    def sweep(self, now: float, blocked: Collection[str]) -> None:
        """Close what is over its time, silent for too long, or blocked. ``now`` in Unix seconds."""
        here = self._loop.time()
        for tunnel in list(self._tunnels):
            rule = tunnel.rule
            if tunnel.stirred:
                tunnel.stirred = False
                tunnel.quiet_since = here
            if blocked and any(subject in blocked for subject in rule.subjects):
                tunnel.close(POLICY, "the session was ended", "blocked")
            elif rule.ends_at is not None and now >= rule.ends_at:
                tunnel.close(POLICY, "the access token has expired", "expired")
            elif here - tunnel.quiet_since > rule.idle:
                tunnel.close(GOING_AWAY, "idle for too long", "idle")

    async def drain(self) -> None:
        """Close all with 1001 and wait until they are gone; a second at most per socket, all at once."""
        for tunnel in list(self._tunnels):
            tunnel.close(GOING_AWAY, "the gateway restarts", "drained")
        try:
            async with asyncio.timeout(2 * CLOSE_SECONDS):
                await self._emptied.wait()
        except TimeoutError:
            self.abort()

    def abort(self) -> None:
        """Cut all at once."""
        for tunnel in list(self._tunnels):
            tunnel.cut("aborted")

    def _ended(self, tunnel: Tunnel, reason: str) -> None:
        route = tunnel.rule.route
        self._tunnels.discard(tunnel)
        self._taken[route] -= 1
        if not self._tunnels:
            self._emptied.set()
        metrics = self._metrics[route]
        metrics.sockets.dec()
        metrics.count_socket_end(reason)
        log_event(
            _logger,
            logging.INFO,
            "websocket_ended",
            route=route,
            reason=reason,
            seconds=round(self._loop.time() - tunnel.opened_at, 3),
        )
