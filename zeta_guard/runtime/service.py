"""Running the guard as a service: signals, watched files, orderly stop."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from zeta_guard.config.load import load_config
from zeta_guard.errors import GuardError
from zeta_guard.runtime.generation import Role
from zeta_guard.runtime.guard import Guard
from zeta_guard.runtime.public_socket import PublicSocket
from zeta_guard.telemetry.logging import configure, log_event

if TYPE_CHECKING:
    from zeta_guard.config.guard import GuardConfig

_logger = logging.getLogger("zeta_guard.runtime")
_WATCH_SECONDS = 2.0


async def serve(
    config: GuardConfig, *, config_file: Path, role: Role = "all", public_socket: PublicSocket | None = None
) -> None:
    """Serve until SIGTERM or SIGINT; reload on SIGHUP and when a watched file has changed."""
    guard = Guard(config, role=role, public_socket=public_socket)
    await guard.start()
    log_event(
        _logger,
        logging.INFO,
        "started",
        public_url=config.public_url,
        port=guard.public_port,
        ops_port=guard.ops_port,
        role=role,
    )
    print(
        f"zeta-guard serves {config.public_url} on port {guard.public_port}; "
        f"ops: http://{config.ops.host}:{guard.ops_port}/readyz and /metrics",
        file=sys.stderr,
        flush=True,
    )
    stop = asyncio.Event()
    reload = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, reload.set)
    watcher = loop.create_task(_watch(guard, config_file, reload))
    reloader = loop.create_task(_reload_on(guard, config_file, reload))
    try:
        await stop.wait()
        log_event(_logger, logging.INFO, "draining", seconds=config.ops.drain_seconds)
    finally:
        for task in (watcher, reloader):
            task.cancel()
        await asyncio.gather(watcher, reloader, return_exceptions=True)
        await guard.stop()
        log_event(_logger, logging.INFO, "stopped")


async def _reload_on(guard: Guard, config_file: Path, reload: asyncio.Event) -> None:
    while True:
        await reload.wait()
        reload.clear()
        try:
            config = load_config(config_file)
            await guard.reload(config)
        except GuardError as error:
            log_event(_logger, logging.ERROR, "reload_refused", detail=str(error), remedy=error.remedy)
        else:
            configure(config.telemetry)
            log_event(_logger, logging.INFO, "reloaded")


async def _watch(guard: Guard, config_file: Path, reload: asyncio.Event) -> None:
    """Look at the watched files every two seconds: works on every file system and with swapped symbolic links."""
    seen = _stamps(_watched(guard.config, config_file))
    while True:
        await asyncio.sleep(_WATCH_SECONDS)
        now = _stamps(_watched(guard.config, config_file))
        if now != seen:
            seen = now
            reload.set()


def _watched(config: GuardConfig, config_file: Path) -> Iterable[Path]:
    yield config_file
    yield from config.secret_files
    if config.tls is not None:
        yield config.tls.certificate_file
        yield config.tls.private_key_file


def _stamps(paths: Iterable[Path]) -> dict[Path, tuple[int, int, int] | None]:
    stamps: dict[Path, tuple[int, int, int] | None] = {}
    for path in paths:
        try:
            status = path.stat()
            stamps[path] = (status.st_mtime_ns, status.st_size, status.st_ino)
        except OSError:
            stamps[path] = None
    return stamps
