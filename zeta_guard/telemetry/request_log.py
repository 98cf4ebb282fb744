"""One line per request, without making the request wait for the pipe behind standard output."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any, Final

import orjson

from zeta_guard.telemetry.redaction import mask

FLUSH_SECONDS: Final = 0.2
FLUSH_BYTES: Final = 64 * 1024
MOST_WAITING: Final = 4 * 1024 * 1024
"""Bytes that may wait while the reader of the log is slow; lines beyond are dropped and counted."""


class RequestLog:
    """Collects lines and writes them from a thread, at most 0.2 s later. Used from one event loop."""

    def __init__(
        self, *, text: bool = False, descriptor: int = 2, on_drop: Callable[[int], None] = lambda lines: None
    ) -> None:
        """``text`` writes ``key=value`` lines; ``on_drop`` hears how many lines were lost."""
        self._text = text
        self._descriptor = descriptor
        self._on_drop = on_drop
        self._lines: list[bytes | str] = []
        """Bytes go out as they are, text is masked first."""
        self._size = 0
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Future[None] | None = None
        self._second = ("", -1)
        # As many as the configurations of this process name.
        self._routes: dict[str | None, str] = {}

    def write(self, fields: dict[str, Any], now: float) -> None:
        """Queue a line. ``fields`` follow ``time``, ``level`` and ``event``; ``now`` in Unix seconds."""
        document = {"time": self._moment(now), "level": "info", "event": "request", **fields}
        if self._text:
            line = " ".join(f"{name}={value}" for name, value in document.items()) + "\n"
        else:
            line = orjson.dumps(document, default=str, option=orjson.OPT_APPEND_NEWLINE).decode()
        self._queue(line)

    def note(
        self, request_id: str, door: str, method: str, status: int, seconds: float, route: str | None, now: float
    ) -> None:
        """As :meth:`write` for a request that was answered.

        No word of it may come from outside: ``method`` is one of those that everybody knows, ``route`` is named in the
        configuration. So nothing has to be masked.
        """
        end = self._routes.get(route)
        if end is None:
            end = self._routes[route] = self._end(route)
        text, second = self._second
        fraction = now - second
        if not 0 <= fraction < 1:
            moment = self._moment(now)
        else:
            moment = f"{text}.{int(fraction * 1000):03}Z"
        if self._text:
            line = (
                f"time={moment} level=info event=request request_id={request_id} door={door} "
                f"method={method} status={status} ms={seconds * 1000:.3f}{end}"
            )
        else:
            line = (
                f'{{"time":"{moment}","level":"info","event":"request","request_id":"{request_id}","door":"{door}",'
                f'"method":"{method}","status":{status},"ms":{seconds * 1000:.3f}{end}'
            )
        self._queue(line.encode())

    def _end(self, route: str | None) -> str:
        if self._text:
            return "\n" if route is None else f" route={route}\n"
        return "}\n" if route is None else f',"route":{orjson.dumps(route).decode()}}}\n'

    def _queue(self, line: bytes | str) -> None:
        if self._size >= MOST_WAITING:
            self._on_drop(1)
            return
        self._lines.append(line)
        self._size += len(line)
        if self._size >= FLUSH_BYTES:
            self._start()
        elif self._timer is None and self._writing is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self._start)

    async def close(self) -> None:
        """Write what waits."""
        while self._lines or self._writing is not None:
            self._start()
            if self._writing is not None:
                await asyncio.wait((self._writing,))

    def _moment(self, now: float) -> str:
        second = int(now)
        if second != self._second[1]:
            self._second = (time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)), second)
        return f"{self._second[0]}.{int((now - second) * 1000):03}Z"

    def _start(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writing is not None or not self._lines:
            return
        lines, self._lines, self._size = self._lines, [], 0
        self._writing = asyncio.get_running_loop().run_in_executor(None, self._drain, lines)
        self._writing.add_done_callback(lambda done: self._finished(done, len(lines)))

    def _finished(self, done: asyncio.Future[None], lines: int) -> None:
        self._writing = None
        if not done.cancelled() and done.exception() is not None:
            self._on_drop(lines)
        if self._lines and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self._start)

    def _drain(self, lines: list[bytes | str]) -> None:
        # Masking is done here as well: off the event loop.
        view = memoryview(b"".join(line if type(line) is bytes else _masked(line) for line in lines))
        while view:
            view = view[os.write(self._descriptor, view) :]


def _masked(line: str | bytes) -> bytes:
    assert isinstance(line, str)
    return mask(line).encode("utf-8", "backslashreplace")
