"""The one connection of a process to Redis, kept up: handshake, reconnect with backoff, scripts, errors.

Fail closed: while there is no connection every call is a 503. A call that finds a connection just lost waits for the first
attempt to reconnect, within its deadline; while attempts keep failing, calls are refused at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import hiredis

from zeta_guard.config.store import RedisStore as RedisStoreConfig
from zeta_guard.errors import ConfigurationError, ConfigurationErrors, ZetaError, unavailable
from zeta_guard.store.metrics import CommandCounts
from zeta_guard.store.redis_connection import Argument, ConnectionLost, RedisConnection, Reply, pack
from zeta_guard.store.redis_scripts import Script
from zeta_guard.store.redis_server import (
    RedisAddress,
    check_server,
    parse_address,
    parse_server_report,
    read_password,
)

_LOGGER: Final = logging.getLogger("zeta_guard.store")

FIRST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 1.0
"""Seconds between two attempts to reconnect: doubling between these, with up to a quarter of chance added."""


def no_answer() -> ZetaError:
    """503: the store is away."""
    return unavailable("the store of the guard does not answer", stage="store")


def number(reply: Reply) -> float:
    """A number that a script or a field holds as text. Raises ZetaError 503 for anything else."""
    try:
        found = float(reply) if isinstance(reply, bytes) else math.nan
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise no_answer()
    return found


def script_call(script: Script, keys: Sequence[bytes], *arguments: Argument) -> bytes:
    """A packed call of a script."""
    return pack(("EVALSHA", script.sha, len(keys), *keys, *arguments))


class RedisLink:
    """Owns the connection and the task that restores it.

    ``settle`` is called with every new connection before anybody else may use it (epoch, write-back). ``scripts`` are loaded
    with every connection, and again when the server forgot them.
    """

    def __init__(
        self,
        config: RedisStoreConfig,
        scripts: Sequence[Script],
        settle: Callable[[RedisConnection], Awaitable[None]],
    ) -> None:
        self._config = config
        self._address = parse_address(config.url)
        self._scripts = tuple(scripts)
        self._settle = settle
        self._timeout = config.timeout_ms / 1000
        self._connection: RedisConnection | None = None
        self._restoring: asyncio.Task[None] | None = None
        self._first_attempt: asyncio.Event = asyncio.Event()
        self._closed = False
        self._complains_from = 0.0
        self.counts: Final = CommandCounts()
        self.reconnects = 0
        """Connections made after the first one."""

    def __repr__(self) -> str:
        return f"RedisLink({'up' if self._connection is not None else 'down'}, {self.reconnects} reconnects)"

    async def start(self) -> None:
        """Connect once. Raises ConfigurationError for what an operator must change, ZetaError 503 otherwise."""
        try:
            self._connection = await self._connect()
        except (OSError, ConnectionLost, TimeoutError) as error:
            self.counts.unreachable += 1
            _log(logging.ERROR, "store_unreachable", reason=_reason(error))
            raise no_answer() from None

    async def close(self) -> None:
        """Close the connection and end the restoring task."""
        self._closed = True
        if self._restoring is not None:
            self._restoring.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._restoring
        if self._connection is not None:
            self._connection.abort()
            self._connection = None
            # The transport closes its socket in the next turn of the loop.
            await asyncio.sleep(0)

    @property
    def connected(self) -> bool:
        """A connection is up."""
        return self._connection is not None

    @property
    def current(self) -> RedisConnection | None:
        """The connection, if it is up."""
        return self._connection

    async def connection(self) -> RedisConnection:
        """The connection; waits for the first attempt to restore a lost one. Raises ZetaError 503."""
        if self._connection is None:
            if self._closed or self._restoring is None:
                raise no_answer()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._timeout):
                    await self._first_attempt.wait()
            if self._connection is None:
                raise no_answer()
        return self._connection

    async def call(self, *command: Argument) -> Reply:
        """One command. Raises ZetaError 503 when there is no usable answer."""
        return (await self.call_all(command))[0]

    async def call_all(self, *commands: tuple[Argument, ...]) -> list[Reply]:
        """Several commands in one trip. Raises ZetaError 503 when one of them has no usable answer."""
        connection = self._connection or await self.connection()
        try:
            futures = [connection.send(pack(command)) for command in commands]
            replies = [await future for future in futures]
        except ConnectionLost:
            raise no_answer() from None
        for reply in replies:
            if isinstance(reply, hiredis.ReplyError):
                raise self.refused(connection, reply)
        return replies

    async def run(self, script: Script, keys: Sequence[bytes], *arguments: Argument) -> Reply:
        """One script. Raises ConnectionLost when nobody knows whether it ran, ZetaError 503 when it did not."""
        return await self.evaluate(script, script_call(script, keys, *arguments))

    async def evaluate(self, script: Script, command: bytes, connection: RedisConnection | None = None) -> Reply:
        """As :meth:`run`, for a packed call; on ``connection`` while that is still being set up."""
        if connection is None:
            connection = self._connection or await self.connection()
        reply = await connection.send(command)
        if isinstance(reply, hiredis.ReplyError):
            if not str(reply).startswith("NOSCRIPT"):
                raise self.refused(connection, reply)
            await connection.send(pack(("SCRIPT", "LOAD", script.source)))
            reply = await connection.send(command)
            if isinstance(reply, hiredis.ReplyError):
                raise self.refused(connection, reply)
        return reply

    def refused(self, connection: RedisConnection, error: hiredis.ReplyError) -> ZetaError:
        """What an error reply means for the caller. A server that is no master any more is left."""
        self.counts.refused += 1
        kind = str(error).split(" ", 1)[0]
        moment = asyncio.get_running_loop().time()
        # A server that refuses refuses every request: one line a second says as much.
        if moment >= self._complains_from:
            self._complains_from = moment + 1.0
            _log(logging.ERROR, "store_refused", kind=kind)
        if kind in ("READONLY", "LOADING", "MASTERDOWN", "NOAUTH", "UNBLOCKED"):
            connection.abort()
        return no_answer()

    # connecting

    async def _connect(self) -> RedisConnection:
        address = self._address
        if self._config.sentinel_master is not None:
            address = await self._ask_sentinel(self._config.sentinel_master)
        connection = await self._open(address)
        try:
            await self._greet(connection, address)
            await self._settle(connection)
        except BaseException:
            connection.abort()
            raise
        if connection.ended:
            raise ConnectionLost
        return connection

    async def _open(self, address: RedisAddress) -> RedisConnection:
        loop = asyncio.get_running_loop()

        def factory() -> RedisConnection:
            return RedisConnection(loop, self._timeout, self._lost, self.counts)

        async with asyncio.timeout(self._config.connect_timeout_ms / 1000):
            if address.path is not None:
                _, connection = await loop.create_unix_connection(factory, address.path)
            else:
                context = self._tls() if address.tls else None
                _, connection = await loop.create_connection(factory, address.host, address.port, ssl=context)
        return connection

    def _tls(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self._config.ca_file)
        except (OSError, ssl.SSLError):
            raise ConfigurationError(
                "store.ca_file", "a file that holds no certificates", "a readable PEM file with the issuing CA"
            ) from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context

    async def _log_in(self, connection: RedisConnection) -> Reply:
        password = read_password(self._config.password_file)
        if password is None:
            return b"OK"
        user = (self._config.username,) if self._config.username is not None else ()
        return await connection.send(pack(("AUTH", *user, password)))

    async def _greet(self, connection: RedisConnection, address: RedisAddress) -> None:
        answer = await self._log_in(connection)
        if isinstance(answer, hiredis.ReplyError):
            raise ConfigurationError(
                "store.password_file",
                "user and password that Redis refuses",
                "the user of store.username with its password",
                "Compare with: redis-cli ACL LIST",
            )
        commands: list[tuple[Argument, ...]] = [("SELECT", address.database)] if address.database else []
        commands += [("INFO",), *(("SCRIPT", "LOAD", script.source) for script in self._scripts)]
        replies = [await future for future in [connection.send(pack(command)) for command in commands]]
        # The report before other errors: a server of the wrong kind explains them.
        for reply in replies:
            if isinstance(reply, bytes) and b"run_id:" in reply:
                report = parse_server_report(reply)
                check_server(self._config, report)
                connection.run_id = report.get("run_id", "")
        for reply in replies:
            if isinstance(reply, hiredis.ReplyError):
                self._explain(reply)

    def _explain(self, error: hiredis.ReplyError) -> None:
        """Raise what an error during the handshake means."""
        kind, _, words = str(error).partition(" ")
        if kind == "NOAUTH":
            raise ConfigurationError(
                "store.password_file", "nothing, and Redis asks for a password", "a file with the password"
            )
        if kind == "NOPERM":
            raise ConfigurationError(
                "store.username",
                f"an ACL user that lacks a permission: {words}",
                "the permissions of this role",
                "The lines for redis are in the operator's guide and in zeta_guard/store/redis.py",
            )
        _log(logging.ERROR, "store_refused", kind=kind)
        raise ConnectionLost

    async def _ask_sentinel(self, master: str) -> RedisAddress:
        connection = await self._open(self._address)
        try:
            await self._log_in(connection)
            reply = await connection.send(pack(("SENTINEL", "GET-MASTER-ADDR-BY-NAME", master)))
        finally:
            connection.abort()
        words = reply if isinstance(reply, list) else []
        host, port = (*(word.decode("ascii", "replace") for word in words if isinstance(word, bytes)), "", "")[:2]
        if not (host and port.isdecimal() and 0 < int(port) < 65_536):
            raise ConfigurationError(
                "store.sentinel_master", master, "the name of a master that the Sentinel at store.url watches"
            )
        return RedisAddress(host, int(port), None, self._address.tls, self._address.database)

    # restoring

    def _lost(self, connection: RedisConnection) -> None:
        if connection is not self._connection:
            return
        self._connection = None
        if not self._closed:
            _log(logging.WARNING, "store_connection_lost")
            self._first_attempt = asyncio.Event()
            self._restoring = asyncio.get_running_loop().create_task(self._restore())

    async def _restore(self) -> None:
        pause = FIRST_PAUSE
        while not self._closed:
            try:
                connection = await self._connect()
            except Exception as error:  # noqa: BLE001
                # Whatever it was, the next attempt comes: a guard that gave up would be without its store until a restart.
                self.counts.unreachable += 1
                _log(logging.WARNING, "store_unreachable", reason=_reason(error))
            else:
                self._connection = connection
                self.reconnects += 1
                self._first_attempt.set()
                _log(logging.INFO, "store_reconnected")
                return
            self._first_attempt.set()
            await asyncio.sleep(pause * (1 + random.random() / 4))  # noqa: S311
            pause = min(LONGEST_PAUSE, pause * 2)


def _reason(error: BaseException) -> str:
    if isinstance(error, ConfigurationError | ConfigurationErrors):
        return str(error)
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else type(error).__name__


def _log(level: int, event: str, **fields: object) -> None:
    _LOGGER.log(level, event, extra={"event_fields": fields})
