"""Connections to the servers behind a route: kept alive, counted, shared fairly."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from zeta_guard.config.gateway import Upstream
from zeta_guard.errors import ConfigurationError
from zeta_guard.gateway.deadline import DeadlineWatch
from zeta_guard.gateway.upstream import Fault, UpstreamConnection, UpstreamError
from zeta_guard.telemetry.logging import log_event

_logger = logging.getLogger("zeta_guard.gateway")

IDLE_SECONDS: Final = 60.0
"""An idle connection is closed after this time."""

FRESH_SECONDS: Final = 1.0
"""A request that must not be sent twice takes an idle connection only when it was used so recently: the backend may be about
to close an older one, and nobody could tell whether it has seen the request."""

PASSIVE_FAILURES: Final = 3
PASSIVE_SECONDS: Final = 10.0
"""After so many refused connections in a row a server is asked last for so long."""


class UpstreamPool:
    """All connections of this process to one server. The freshest idle one is taken first."""

    def __init__(
        self, upstream: Upstream, watch: DeadlineWatch, loop: asyncio.AbstractEventLoop, *, where: str = "upstreams"
    ) -> None:
        parts = urlsplit(upstream.url)
        secure = parts.scheme == "https"
        self._host: Final = parts.hostname or ""
        try:
            self._port: Final = parts.port or (443 if secure else 80)
        except ValueError:
            raise ConfigurationError(f"{where}.url", repr(upstream.url), "a port from 1 to 65535") from None
        self.authority: Final = parts.netloc.encode("ascii", "replace")
        self._tls: Final = client_context(upstream, where) if secure else None
        self._server_name: Final = (upstream.server_name or self._host) if secure else None
        self._most: Final = upstream.max_connections
        self._watch: Final = watch
        self._loop: Final = loop
        self._idle: Final[list[UpstreamConnection]] = []
        self._waiting: Final[deque[asyncio.Future[UpstreamConnection | None]]] = deque()
        self._pruning: asyncio.TimerHandle | None = None
        self._refused = 0
        self._where: Final = where
        self._tls_trouble = ""
        self._closed = False
        self.size = 0
        self.healthy = True
        self.suspect_until = 0.0

    def __repr__(self) -> str:
        return f"UpstreamPool({self.size} connections, {len(self._idle)} idle)"

    @property
    def in_use(self) -> int:
        """Connections that serve a request now, and those that are being opened."""
        return self.size - len(self._idle)

    @property
    def idle(self) -> int:
        """Connections that wait for a request."""
        return len(self._idle)

    def take_idle(self, *, repeatable: bool) -> UpstreamConnection | None:
        """An idle connection, without waiting. ``repeatable``: the request may be sent again when it was stale."""
        idle = self._idle
        while idle:
            connection = idle[-1]
            transport = connection.transport
            if transport is None or transport.is_closing():
                idle.pop()
                continue
            if not repeatable and self._loop.time() - connection.idle_since > FRESH_SECONDS:
                return None
            return idle.pop()
        return None

    async def acquire(self, *, repeatable: bool, seconds: float) -> UpstreamConnection:
        """A connection, opened if need be, within ``seconds`` for waiting and as many for opening.

        Raises :class:`UpstreamError` REFUSED or BUSY; nothing was sent in either case.
        """
        until = self._loop.time() + seconds
        while True:
            connection = self.take_idle(repeatable=repeatable)
            if connection is not None:
                return connection
            if self.size < self._most:
                return await self.open(seconds)
            if self._idle:
                # Too old for this request, but it holds a place.
                self._idle.pop(0).abort()
            handed_over = await self._wait_for_place(until - self._loop.time())
            if handed_over is not None and handed_over.open:
                return handed_over

    async def open(self, seconds: float, *, counted: bool = True) -> UpstreamConnection:
        """A new connection. ``counted`` False: it does not belong to the pool (tunnels, health checks)."""
        if counted:
            self.size += 1
        connection: UpstreamConnection | None = None
        try:
            async with asyncio.timeout(seconds):
                _, connection = await self._loop.create_connection(
                    lambda: UpstreamConnection(self._watch, self._loop, self.authority),
                    self._host,
                    self._port,
                    ssl=self._tls,
                    server_hostname=self._server_name,
                )
            if not connection.open:
                connection = None
                raise ConnectionResetError
        except ssl.SSLError as error:
            self._note_refusal()
            self.note_tls_failure(error)
            raise UpstreamError(Fault.TLS, reached=False) from None
        except (OSError, UnicodeError):
            self._note_refusal()
            raise UpstreamError(Fault.REFUSED, reached=False) from None
        finally:
            if counted and connection is None:
                self._leave()
        # Only now does the pool hear of its end: a connection that never opened was counted off above.
        if counted:
            connection.pool = self
        self._refused = 0
        self.suspect_until = 0.0
        return connection

    def give_back(self, connection: UpstreamConnection, now: float) -> None:
        """A connection whose exchange is over and that can serve another one; ``now`` is the event loop's time."""
        connection.idle_since = now
        if self._closed:
            connection.abort()
            return
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        self._idle.append(connection)
        if self._pruning is None:
            self._pruning = self._loop.call_later(IDLE_SECONDS / 2, self._prune)

    def lost(self, connection: UpstreamConnection) -> None:
        """A connection of this pool is gone."""
        if connection in self._idle:
            self._idle.remove(connection)
        connection.pool = None
        self._leave()

    def close(self) -> None:
        """Close idle connections now, the others when their exchange is over."""
        self._closed = True
        if self._pruning is not None:
            self._pruning.cancel()
            self._pruning = None
        for connection in list(self._idle):
            connection.abort()
        self._idle.clear()

    async def _wait_for_place(self, seconds: float) -> UpstreamConnection | None:
        waiter: asyncio.Future[UpstreamConnection | None] = self._loop.create_future()
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout(seconds):
                return await waiter
        except BaseException as error:
            if waiter.done() and not waiter.cancelled():
                # It was given a place in the moment in which it gave up.
                connection = waiter.result()
                if connection is not None:
                    self.give_back(connection, self._loop.time())
                else:
                    self._offer_place()
            if isinstance(error, TimeoutError):
                raise UpstreamError(Fault.BUSY, reached=False) from None
            raise

    def _leave(self) -> None:
        self.size -= 1
        self._offer_place()

    def _offer_place(self) -> None:
        while self._waiting and self.size < self._most:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def note_tls_failure(self, error: ssl.SSLError) -> None:
        """Say why in the log, once per reason: OpenSSL's own word, such as ``CERTIFICATE_VERIFY_FAILED``."""
        reason = error.reason or type(error).__name__
        if reason != self._tls_trouble:
            self._tls_trouble = reason
            detail = error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else ""
            log_event(
                _logger, logging.WARNING, "upstream_tls_failed", upstream=self._where, reason=reason, detail=detail
            )

    def _note_refusal(self) -> None:
        self._refused += 1
        if self._refused >= PASSIVE_FAILURES:
            self.suspect_until = self._loop.time() + PASSIVE_SECONDS

    def _prune(self) -> None:
        self._pruning = None
        oldest = self._loop.time() - IDLE_SECONDS
        for connection in [one for one in self._idle if one.idle_since <= oldest]:
            connection.abort()
        if self._idle and not self._closed:
            self._pruning = self._loop.call_later(IDLE_SECONDS / 2, self._prune)


class UpstreamGroup:
    """The servers of one route. The least busy one that is healthy is asked; a refused connection goes to the next."""

    def __init__(self, pools: Sequence[UpstreamPool]) -> None:
        self.pools: Final = tuple(pools)
        self._only: Final = self.pools[0] if len(self.pools) == 1 else None
        self._turn = 0

    def take_idle(self, *, repeatable: bool) -> UpstreamConnection | None:
        """An idle connection, without waiting, where there is no choice between servers; ``acquire`` does the rest."""
        only = self._only
        return only.take_idle(repeatable=repeatable) if only is not None and only.healthy else None

    async def acquire(self, *, repeatable: bool, seconds: float) -> UpstreamConnection:
        """A connection to one of the servers. Raises :class:`UpstreamError` REFUSED, BUSY or UNHEALTHY; nothing was sent."""
        error = UpstreamError(Fault.UNHEALTHY, reached=False)
        for pool in self.order():
            try:
                return await pool.acquire(repeatable=repeatable, seconds=seconds)
            except UpstreamError as failed:
                error = failed
        raise error

    async def open(self, seconds: float) -> UpstreamConnection:
        """A connection of its own for a tunnel. Raises as :meth:`acquire`."""
        error = UpstreamError(Fault.UNHEALTHY, reached=False)
        for pool in self.order():
            try:
                connection = await pool.open(seconds, counted=False)
            except UpstreamError as failed:
                error = failed
            else:
                return connection
        raise error

    def order(self) -> list[UpstreamPool]:
        """Healthy servers: those without recent refusals first, then the least busy, then in turn."""
        pools = [pool for pool in self.pools if pool.healthy]
        if len(pools) > 1:
            self._turn = (self._turn + 1) % len(pools)
            pools = pools[self._turn :] + pools[: self._turn]
            now = pools[0]._loop.time()
            pools.sort(key=lambda pool: (pool.suspect_until > now, pool.in_use))
        return pools


def client_context(upstream: Upstream, where: str) -> ssl.SSLContext:
    """The TLS context towards one server. Raises ConfigurationError when a file cannot be used."""
    try:
        context = ssl.create_default_context(cafile=upstream.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise _bad_file(f"{where}.ca_file", upstream.ca_file, error, "PEM certificates") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if upstream.certificate_file is not None:
        try:
            context.load_cert_chain(upstream.certificate_file, upstream.private_key_file)
        except (OSError, ssl.SSLError) as error:
            raise _bad_file(
                f"{where}.certificate_file", upstream.certificate_file, error, "a PEM certificate and its key"
            ) from error
    return context


def _bad_file(where: str, file: Path | None, error: Exception, expected: str) -> ConfigurationError:
    reason = getattr(error, "strerror", None) or type(error).__name__
    name = file.name if file is not None else "the system's trust anchors"
    return ConfigurationError(where, f"{name} cannot be used ({reason})", expected)
