"""The guard as a whole: start, answer, reload, drain, stop."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from operator import attrgetter
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from zeta_guard import __version__
from zeta_guard.errors import ConfigurationError, GuardError
from zeta_guard.http.plain_request import forget_heads
from zeta_guard.jose.sealing import Secrets
from zeta_guard.runtime.admin import AdminServer
from zeta_guard.runtime.admin_api import AdminApi
from zeta_guard.runtime.dispatch import Dispatcher
from zeta_guard.runtime.generation import Generation, Role
from zeta_guard.runtime.listener import GuardServer, require_compiled_parser
from zeta_guard.runtime.metrics import RuntimeMetrics
from zeta_guard.runtime.ops import OpsServer, Readiness
from zeta_guard.runtime.public_door import PublicDoor, open_public_door
from zeta_guard.runtime.public_socket import PublicSocket, bind_public_socket
from zeta_guard.runtime.store_watch import StoreWatch
from zeta_guard.runtime.tls_context import minimum_version, server_context
from zeta_guard.store import open_store
from zeta_guard.telemetry.audit import Audit
from zeta_guard.telemetry.logging import log_event
from zeta_guard.telemetry.metrics import Metrics, merge
from zeta_guard.telemetry.request_log import RequestLog
from zeta_guard.telemetry.tracing import Tracing

if TYPE_CHECKING:
    from zeta_guard.config.guard import GuardConfig
    from zeta_guard.store.contract import Store

_logger = logging.getLogger("zeta_guard.runtime")

# What only a restart can change (surface section 4).
_RESTART_ONLY = (
    "public_url",
    "listen",
    "store",
    "ops",
    "audit",
    "telemetry.traces",
    "telemetry.log_format",
    "telemetry.service_name",
    "limits.request_line",
    "limits.request_header",
    "limits.header_count",
    "limits.header_timeout_ms",
    "limits.keepalive",
    "limits.connections",
)


class Guard:
    """One guard process. ``start`` returns when the first request can be answered."""

    def __init__(
        self,
        config: GuardConfig,
        *,
        role: Role = "all",
        clock: Callable[[], float] = time.time,
        public_socket: PublicSocket | None = None,
        log_descriptor: int = 2,
    ) -> None:
        """``public_socket`` is bound here when it is not given; request lines go to ``log_descriptor``."""
        self.config = config
        self.role = role
        self._clock = clock
        self._public_socket = public_socket
        self._log_descriptor = log_descriptor
        self._ready_from = 0.0
        self._metrics = Metrics()
        self._runtime_metrics = RuntimeMetrics(self._metrics.registry)
        self._store: Store | None = None
        self._secrets: Secrets | None = None
        self._generation: Generation | None = None
        self._retired: list[Generation] = []
        self._retiring: set[asyncio.Task[None]] = set()
        self._past_metrics: list[bytes] = []
        self._dispatcher: Dispatcher | None = None
        self._server: GuardServer | None = None
        self._listener: PublicDoor | None = None
        self._ops: OpsServer | None = None
        self._admin: AdminServer | None = None
        self._loop_watch: asyncio.Task[None] | None = None
        self._store_watch: asyncio.Task[None] | None = None
        self._tls: ssl.SSLContext | None = None
        self._audit: Audit | None = None
        self._tracing: Tracing | None = None
        self._request_log: RequestLog | None = None
        self._draining = False

    @property
    def public_port(self) -> int:
        """Port that the public listener is bound to."""
        return _port_of(self._listener)

    @property
    def ops_port(self) -> int:
        """Port that the ops listener is bound to."""
        assert self._ops is not None
        return self._ops.port

    @property
    def store(self) -> Store:
        """The store (administration)."""
        assert self._store is not None
        return self._store

    async def start(self) -> None:
        """Open the store, load everything, then open the doors. Raises ConfigurationError or ZetaError."""
        config = self.config
        require_compiled_parser()
        try:
            public = self._public_socket = self._public_socket or bind_public_socket(config.listen, self._clock)
            secrets = self._secrets = Secrets.load(config.secret_files)
            self._store = open_store(
                config.store,
                secrets=secrets,
                # The memory store's epoch begins when this process alone owned the port.
                clock=(lambda: public.bound_at) if config.store.kind == "memory" else self._clock,
                role=self.role,
                registry=self._metrics.registry,
            )
            self._tls = server_context(config.tls) if config.tls is not None else None
            await self._store.start()
            # Proofs carry whole seconds: those of the second in which the epoch began are refused.
            self._ready_from = math.floor(self._store.epoch.started_at) + 1.0
            self._audit = Audit(config.audit, secrets, clock=self._clock, registry=self._metrics.registry)
            self._tracing = Tracing(config.telemetry, count=self._runtime_metrics.count_spans)
            self._generation = await self._next_generation(config, secrets)
            await self._open_doors()
        except BaseException:
            await self.stop(drain_seconds=0)
            raise
        self._note_unsafe(config)
        self._runtime_metrics.info.labels(__version__, self.role).set(1)
        # What lives from start to stop need not be looked at by every collection (p99 18 → 5 ms when measured). Requests leave
        # nothing to collect. A connection leaves some 2 KiB in seven objects, since asyncio's transports hold themselves, and has
        # grown old when it ends: the oldest are looked at once for 36 000 connections.
        _collect()
        gc.set_threshold(10_000, 5, 5)
        # Who is told that the guard has started may send a proof at once.
        await asyncio.sleep(min(1.0, max(0.0, self._ready_from - self._clock())))

    async def _next_generation(self, config: GuardConfig, secrets: Secrets) -> Generation:
        assert self._store is not None
        assert self._audit is not None
        assert self._tracing is not None
        generation = Generation(
            config,
            role=self.role,
            store=self._store,
            secrets=secrets,
            audit=self._audit,
            tracing=self._tracing,
            clock=self._clock,
        )
        await generation.start()
        return generation

    async def _open_doors(self) -> None:
        config = self.config
        assert self._generation is not None
        self._request_log = RequestLog(
            text=config.telemetry.log_format == "text",
            on_drop=self._runtime_metrics.dropped_lines.inc,
            descriptor=self._log_descriptor,
        )
        self._dispatcher = Dispatcher(
            self._generation, metrics=self._runtime_metrics, request_log=self._request_log, clock=self._clock
        )
        self._server = GuardServer(
            self._dispatcher.handle,
            limits=config.limits,
            public_url=config.public_url,
            on_refused_head=self._dispatcher.count_refused_head,
            on_refusal=self._dispatcher.note_early_refusal,
            plain=self._dispatcher,
        )
        api = AdminApi(
            generation=lambda: self._generation,
            store=self.store,
            refusals=self._dispatcher.refusals,
            clock=self._clock,
        )
        self._admin = AdminServer(config.ops, api, registry=self._metrics.registry)
        await self._admin.start()
        self._ops = OpsServer(
            config.ops,
            metrics=self.render_metrics,
            readiness=self.readiness,
            administration=self._admin.on_ops if self._admin.on_ops_port else None,
        )
        await self._ops.start()
        loop = asyncio.get_running_loop()
        self._loop_watch = loop.create_task(self._metrics.watch_loop(self._clock), name="event loop watch")
        watch = StoreWatch(self.store, self._clock, lambda: self._current_generation().events)
        self._store_watch = loop.create_task(watch.run(), name="store watch")
        assert self._public_socket is not None
        self._listener = await open_public_door(
            config,
            self._public_socket,
            self._server,
            self._tls,
            generation=self._current_generation,
            metrics=self._runtime_metrics,
        )

    def _current_generation(self) -> Generation:
        assert self._generation is not None
        return self._generation

    def _note_unsafe(self, config: GuardConfig) -> None:
        from zeta_guard.config.unsafe import unsafe_settings

        self._runtime_metrics.unsafe.clear()
        for setting in unsafe_settings(config):
            self._runtime_metrics.unsafe.labels(setting).set(1)
            log_event(_logger, logging.WARNING, "unsafe_setting", setting=setting)

    async def reload(self, config: GuardConfig) -> None:
        """Take a new configuration without dropping a connection; on any error the old one stays and the error is raised."""
        assert self._dispatcher is not None
        try:
            for key in _RESTART_ONLY:
                if attrgetter(key)(config) != attrgetter(key)(self.config):
                    raise ConfigurationError(
                        key, "changed by a reload", "the value the guard was started with", "Restart to change it."
                    )
            secrets = self._same_secrets(config)
            if (config.tls is None) != (self._tls is None):
                raise ConfigurationError("tls", "switched by a reload", "as at start", "Restart to change it.")
            if config.tls is not None and self._tls is not None:
                server_context(config.tls)
            generation = await self._next_generation(config, secrets)
            if config.tls is not None and self._tls is not None:
                self._tls.load_cert_chain(config.tls.certificate_file, config.tls.private_key_file)
                self._tls.minimum_version = minimum_version(config.tls)
        except (GuardError, OSError):
            self._runtime_metrics.reloads.labels("refused").inc()
            raise
        old, self._generation, self.config = self._generation, generation, config
        self._dispatcher.generation = generation
        self._note_unsafe(config)
        self._runtime_metrics.reloads.labels("done").inc()
        if old is not None:
            self._retired.append(old)
            task = asyncio.get_running_loop().create_task(self._retire(old))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    def _same_secrets(self, config: GuardConfig) -> Secrets:
        # The store keeps what it knows over a reload: with other pseudonyms every bound client would be somebody else's.
        secrets = Secrets.load(config.secret_files)
        if self._secrets is None or secrets.derive("reload") != self._secrets.derive("reload"):
            raise ConfigurationError(
                "secret_files",
                "other secrets after a reload",
                "those the guard was started with",
                "Restart to change them.",
            )
        return secrets

    async def _retire(self, generation: Generation) -> None:
        """Close an old generation when its last request and socket have ended."""
        assert self._dispatcher is not None
        # Requests and sockets end in several rooms; a look twice a second is enough.
        while generation.running or (  # noqa: ASYNC110
            generation.gateway is not None and generation.gateway.open_sockets
        ):
            await asyncio.sleep(0.5)
        self._past_metrics = [merge([*self._past_metrics, Metrics.render_registry(generation.registry)])]
        self._retired.remove(generation)
        # Nobody else will remember anything for it: its last request has ended.
        forget_heads()
        closing = asyncio.ensure_future(generation.close())
        try:
            await asyncio.shield(closing)
        except asyncio.CancelledError:
            # The guard stops: what was begun is brought to its end, since nobody else knows of it.
            await closing
            raise
        asyncio.get_running_loop().call_soon(_collect)

    def render_metrics(self) -> bytes:
        """The text exposition of all rooms and generations."""
        registries: list[CollectorRegistry] = [generation.registry for generation in self._retired]
        if self._generation is not None:
            registries.append(self._generation.registry)
        parts = [*self._past_metrics, *(Metrics.render_registry(registry) for registry in registries)]
        return self._metrics.render() + (merge(parts) if len(parts) > 1 else b"".join(parts))

    async def readiness(self) -> Readiness:
        """200 once loaded until drain begins; an outage of a dependency is a line, not a 503 (surface section 4)."""
        lines: dict[str, str | None] = {}
        if self._store is not None:
            try:
                await self._store.ping()
                lines["store"] = None
            except GuardError as error:
                lines["store"] = str(error)
        if self._audit is not None and self._audit.enabled:
            lines["audit"] = self._audit.failing
        if self._generation is not None:
            lines.update(await self._generation.readiness())
        loaded = self._generation is not None and self._listener is not None
        ready = loaded and self._clock() >= self._ready_from and not self._draining
        return Readiness(ready=ready, draining=self._draining, lines=lines)

    async def drain(self, seconds: float) -> None:
        """Stop accepting, close sockets with 1001, let running requests end for at most ``seconds``."""
        self._draining = True
        if self._listener is not None:
            self._listener.close()
        generations = [*self._retired, *([self._generation] if self._generation else [])]
        for generation in generations:
            if generation.gateway is not None:
                await generation.gateway.drain()
        deadline = time.monotonic() + seconds
        while self._dispatcher is not None and self._dispatcher.in_flight and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    async def stop(self, *, drain_seconds: float | None = None) -> None:
        """Drain, then close everything in the reverse order of start."""
        seconds = float(self.config.ops.drain_seconds) if drain_seconds is None else drain_seconds
        await self.drain(seconds)
        if self._server is not None:
            await self._server.shutdown(timeout=1.0)
        if self._listener is None and self._public_socket is not None:
            self._public_socket.socket.close()
            self._public_socket = None
        for task in list(self._retiring):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        if self._admin is not None:
            await self._admin.close()
            self._admin = None
        for watch in (self._loop_watch, self._store_watch):
            if watch is not None:
                watch.cancel()
                with suppress(asyncio.CancelledError):
                    await watch
        self._loop_watch = self._store_watch = None
        for generation in [*self._retired, *([self._generation] if self._generation else [])]:
            await generation.close()
        self._retired.clear()
        self._generation = None
        if self._ops is not None:
            await self._ops.close()
            self._ops = None
        if self._request_log is not None:
            await self._request_log.close()
            self._request_log = None
        if self._tracing is not None:
            self._tracing.close()
            self._tracing = None
        if self._audit is not None:
            self._audit.close()
            self._audit = None
        if self._store is not None:
            await self._store.close()
            self._store = None


def _port_of(server: PublicDoor | None) -> int:
    assert server is not None
    sockets = server.sockets
    assert sockets
    for sock in sockets:
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            return int(sock.getsockname()[1])
    raise AssertionError("the listener has no TCP socket")


def _collect() -> None:
    """Free what is left over, and let the collector look at the rest no more, until the next reload. Takes some 50 ms."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
