"""The decision log: one line per decision in OPA's format, masked, bounded, never in a request's way."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import orjson
from cryptography.hazmat.primitives.asymmetric import ec

from zeta_guard import __version__
from zeta_guard.config.policy import DecisionLog as LogConfig
from zeta_guard.errors import JsonValue
from zeta_guard.http.outbound import Outbound, OutboundError
from zeta_guard.policy.contract import Decision, Question
from zeta_guard.policy.masking import Masker
from zeta_guard.policy.metrics import PolicyMetrics
from zeta_guard.policy.sealed_input import load_sealing_key, seal_input
from zeta_guard.telemetry.logging import log_event, time_text

_logger = logging.getLogger("zeta_guard.policy")

_BATCH: Final = 500
_TRIES: Final = 5
_GATHERED: Final = 0.05
"""Lines that come within so many seconds are written together: a change of threads costs more than five lines."""
_SLICE: Final = 0.000_5
"""Longest time on the event loop at a stretch in seconds; a thread would fight for the interpreter with those who wait for answers."""
_POST_SECONDS: Final = 5.0
_LABELS: Final = {"app": "zeta-guard", "version": __version__}


@dataclass(frozen=True, slots=True)
class Line:
    """One decision as it happened. ``decision`` is None when there was no answer; ``shadow`` when no shadow was asked."""

    question: Question
    path: str
    time: float
    document: Mapping[str, JsonValue]
    decision: Decision | None
    shadow: dict[str, JsonValue] | None = None
    request_id: str = ""


class Sink(Protocol):
    """A place for lines. Raises OSError or OutboundError; then the batch comes again."""

    name: str

    async def write(self, lines: list[bytes]) -> None:
        """All of them or an error."""


class DecisionLog:
    """A queue, a task that empties it, and the sinks of the configuration. Without a sink nothing is queued."""

    def __init__(self, config: LogConfig, *, outbound: Outbound, metrics: PolicyMetrics, masker: Masker) -> None:
        self._limit = config.queue
        self._metrics = metrics
        self._masker = masker
        self._key = (
            load_sealing_key(config.sealing_key_file, "policy.log.sealing_key_file")
            if config.sealing_key_file is not None
            else None
        )
        self._sinks: list[Sink] = []
        if config.file is not None:
            self._sinks.append(_FileSink(config.file))
        if config.stdout:
            self._sinks.append(_StreamSink())
        if config.url is not None:
            self._sinks.append(_HttpSink(config.url, outbound))
        self._queue: deque[Line] = deque()
        self._wake = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    @property
    def on(self) -> bool:
        """Whether there is a sink."""
        return bool(self._sinks)

    def start(self) -> None:
        """Begin to write."""
        if self.on and self._writer is None:
            self._closing.clear()
            self._writer = asyncio.get_running_loop().create_task(self._write(), name="policy-decision-log")

    def record(self, line: Line) -> None:
        """Queue a line; when the queue is full it is dropped and counted."""
        if not self.on:
            return
        if len(self._queue) >= self._limit:
            self._metrics.log_lines.labels("dropped").inc()
            return
        self._queue.append(line)
        self._wake.set()

    async def close(self) -> None:
        """Write what is queued, within some seconds, then stop."""
        if self._writer is None:
            return
        self._closing.set()
        self._wake.set()
        try:
            async with asyncio.timeout(_POST_SECONDS):
                await self._writer
        except TimeoutError:
            self._metrics.log_lines.labels("dropped").inc(len(self._queue))
        self._queue.clear()
        self._writer = None

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GATHERED):
                    await self._closing.wait()
            while self._queue:
                batch = [self._queue.popleft() for _ in range(min(_BATCH, len(self._queue)))]
                rendered = await self._render(batch)
                # Each sink gets every line, however long another one takes to fail.
                done = await asyncio.gather(*(self._deliver(sink, rendered) for sink in self._sinks))
                self._metrics.log_lines.labels("written" if all(done) else "dropped").inc(len(batch))
            if self._closing.is_set():
                return

    async def _deliver(self, sink: Sink, lines: list[bytes]) -> bool:
        for attempt in range(_TRIES):
            try:
                await sink.write(lines)
            except (OSError, OutboundError) as error:
                last = attempt + 1 == _TRIES or self._closing.is_set()
                log_event(
                    _logger,
                    logging.ERROR if last else logging.WARNING,
                    "decision_log_failed",
                    sink=sink.name,
                    lines=len(lines),
                    dropped=last,
                    detail=getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__,
                )
                if last:
                    return False
                await asyncio.sleep(min(2**attempt, 8) / 2)
            else:
                return True
        return False

    async def _render(self, batch: list[Line]) -> list[bytes]:
        lines: list[bytes] = []
        began = time.perf_counter()
        for line in batch:
            lines.append(orjson.dumps(render(line, self._masker, self._key), default=str))
            if time.perf_counter() - began > _SLICE:
                await asyncio.sleep(0)
                began = time.perf_counter()
        return lines


def render(line: Line, masker: Masker, key: ec.EllipticCurvePublicKey | None) -> dict[str, JsonValue]:
    """The line as OPA's decision log writes it, with the members ``question``, ``reasons``, ``shadow``, ``sealed_input`` added."""
    masked = masker.mask(line.document)
    event: dict[str, JsonValue] = {
        "labels": dict(_LABELS),
        "decision_id": line.decision.decision_id if line.decision else "",
        "path": line.path,
        "question": line.question,
        "input": masked.document,
        "timestamp": time_text(line.time),
    }
    if line.request_id:
        event["req_id"] = line.request_id
    if masked.erased:
        event["erased"] = list(masked.erased)
    if masked.hashed:
        event["masked"] = list(masked.hashed)
    if line.decision is None:
        event["error"] = {"code": "no_answer", "message": "the policy gave no valid answer"}
    else:
        event["bundles"] = {"active": {"revision": line.decision.revision}}
        event["result"] = result_of(line.decision)
        event["metrics"] = {"timer_rego_query_eval_ns": int(line.decision.milliseconds * 1_000_000)}
    if line.shadow is not None:
        event["shadow"] = line.shadow
    if key is not None:
        event["sealed_input"] = seal_input(dict(line.document), key)
    return event


def result_of(decision: Decision) -> dict[str, JsonValue]:
    """A decision as a policy would have written it."""
    result: dict[str, JsonValue] = {"allow": decision.allow}
    if decision.reasons:
        result["reasons"] = [
            {
                name: value
                for name, value in (("code", reason.code), ("message", reason.message), ("spec", reason.spec))
                if value
            }
            for reason in decision.reasons
        ]
    ttl: dict[str, JsonValue] = {}
    if decision.access_token_ttl is not None:
        ttl["access_token"] = decision.access_token_ttl
    if decision.refresh_token_ttl is not None:
        ttl["refresh_token"] = decision.refresh_token_ttl
    if ttl:
        result["ttl"] = ttl
    if decision.audience:
        result["aud"] = list(decision.audience)
    if decision.cache_seconds:
        result["cache_seconds"] = decision.cache_seconds
    return result


class _FileSink:
    """Opened for each batch, so that a rotated file is let go of."""

    name = "file"

    def __init__(self, file: os.PathLike[str]) -> None:
        self._file = file

    async def write(self, lines: list[bytes]) -> None:
        await asyncio.to_thread(self._append, b"\n".join(lines) + b"\n")

    def _append(self, content: bytes) -> None:
        descriptor = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(descriptor, view) :]
        finally:
            os.close(descriptor)


class _StreamSink:
    name = "stdout"

    async def write(self, lines: list[bytes]) -> None:
        await asyncio.to_thread(self._print, b"\n".join(lines).decode())

    def _print(self, text: str) -> None:
        print(text, file=sys.stdout, flush=True)


class _HttpSink:
    """``POST URL/logs`` with a gzip-compressed JSON array: what OPA's own decision log service does."""

    name = "http"

    def __init__(self, url: str, outbound: Outbound) -> None:
        self._url = url if url.rstrip("/").endswith("/logs") else url.rstrip("/") + "/logs"
        self._outbound = outbound

    async def write(self, lines: list[bytes]) -> None:
        body = await asyncio.to_thread(gzip.compress, b"[" + b",".join(lines) + b"]", 6)
        answer = await self._outbound.post(
            self._url,
            body,
            content_type="application/json",
            timeout=_POST_SECONDS,
            extra_headers={"Content-Encoding": "gzip"},
        )
        answer.expect(200, 201, 202, 204)
