"""Active health checks: a server that fails several in a row gets no requests until it answers again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from zeta_guard.config.gateway import Health, Timeouts
from zeta_guard.gateway.upstream import UpstreamError
from zeta_guard.gateway.upstream_pool import UpstreamPool
from zeta_guard.telemetry.logging import log_event

_logger = logging.getLogger("zeta_guard.gateway")


class HealthCheck:
    """Looks at one server of one route. ``on_change`` hears whether it is healthy, at the start and at every change."""

    def __init__(
        self,
        pool: UpstreamPool,
        health: Health,
        timeouts: Timeouts,
        *,
        host: bytes,
        label: tuple[str, str],
        on_change: Callable[[bool], None],
    ) -> None:
        self._pool: Final = pool
        self._health: Final = health
        self._timeouts: Final = timeouts
        self._label: Final = label
        self._on_change: Final = on_change
        self._request: Final = b"GET %b HTTP/1.1\r\nHost: %b\r\nUser-Agent: zeta-guard\r\nConnection: close\r\n\r\n" % (
            health.path.encode("ascii", "replace"),
            host,
        )
        self._failures = 0

    async def run(self) -> None:
        """Check every ``interval`` seconds, until cancelled."""
        self._on_change(self._pool.healthy)
        while True:
            self.judge(await self.probe())
            await asyncio.sleep(self._health.interval)

    async def probe(self) -> bool:
        """One check: True when the server answered with 2xx in time."""
        try:
            connection = await self._pool.open(self._timeouts.connect_ms / 1000, counted=False)
        except UpstreamError:
            return False
        try:
            connection.begin(head_only=False)
            connection.write(self._request)
            connection.expect_within(self._timeouts.response_ms / 1000)
            return 200 <= (await connection.head()).status < 300
        except UpstreamError:
            return False
        finally:
            connection.abort()

    def judge(self, good: bool) -> None:
        """Take the result of a check into account: one success suffices, ``unhealthy_after`` failures in a row do."""
        self._failures = 0 if good else self._failures + 1
        healthy = good or (self._pool.healthy and self._failures < self._health.unhealthy_after)
        if healthy != self._pool.healthy:
            self._pool.healthy = healthy
            self._on_change(healthy)
            log_event(
                _logger,
                logging.INFO if healthy else logging.WARNING,
                "upstream_healthy" if healthy else "upstream_unhealthy",
                route=self._label[0],
                server=self._label[1],
            )
