"""Log lines: one JSON object (or one line of text) per event, masked before they leave the process.

``log_event(logger, logging.INFO, "tsl_loaded", sequence=12)`` writes ``{"time", "level", "logger", "event", …}``. What
belongs to the running request (``request_id``, ``trace_id``) is taken from :func:`bind_request`.
"""

from __future__ import annotations

import logging
import sys
import traceback
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final, TextIO

import orjson

from zeta_guard.config.telemetry import Telemetry
from zeta_guard.telemetry.redaction import MASK, SENSITIVE_FIELDS, mask

ROOT: Final = "zeta_guard"

_RESERVED: Final = frozenset({"time", "level", "logger", "event"})

_request: ContextVar[tuple[str, str]] = ContextVar("zeta_guard_request", default=("", ""))
_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def bind_request(request_id: str, trace_id: str = "") -> None:
    """Name the request for all log lines of the running task (and of tasks started from it)."""
    _request.set((request_id, trace_id))


def bound_request() -> tuple[str, str]:
    """``(request_id, trace_id)`` of the running task, empty texts outside a request."""
    return _request.get()


def log_event(
    logger: logging.Logger, level: int, event: str, /, *, exc_info: BaseException | None = None, **fields: Any
) -> None:
    """Write an event. ``fields`` are JSON values; fields named like secrets are masked whatever they hold.

    Of ``exc_info`` the type and the places are written, never the message: it may quote what could not be parsed.
    """
    if logger.isEnabledFor(level):
        # Not logger.log(): it walks the stack for file and line, which no event shows.
        info = (type(exc_info), exc_info, exc_info.__traceback__) if exc_info is not None else None
        record = logger.makeRecord(logger.name, level, "", 0, event, (), info)
        record.event_fields = fields
        logger.handle(record)


def time_text(moment: float) -> str:
    """Unix seconds as RFC 3339 in UTC with milliseconds."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _document(record: logging.LogRecord) -> dict[str, Any]:
    document: dict[str, Any] = {
        "time": time_text(record.created),
        "level": record.levelname.lower(),
        "logger": record.name,
        "event": record.getMessage(),
    }
    request_id, trace_id = _request.get()
    if request_id:
        document["request_id"] = request_id
    if trace_id:
        document["trace_id"] = trace_id
    for name, value in getattr(record, "event_fields", {}).items():
        key = f"{name}_" if name in _RESERVED else name
        document[key] = MASK if name.lower() in SENSITIVE_FIELDS else value
    if record.exc_info and record.exc_info[0] is not None:
        document["exception"] = record.exc_info[0].__name__
        document["traceback"] = "".join(traceback.format_tb(record.exc_info[2]))
    return document


class JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, masked, without line end."""
        return mask(orjson.dumps(_document(record), default=str, option=orjson.OPT_NON_STR_KEYS).decode())


class TextFormatter(logging.Formatter):
    """``time LEVEL event key=value …`` for people."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, masked, without line end; a traceback follows on further lines."""
        document = _document(record)
        head = f"{document.pop('time')} {document.pop('level').upper():7} {document.pop('event')}"
        trace = document.pop("traceback", "")
        document.pop("logger")
        pairs = " ".join(f"{name}={_plain(value)}" for name, value in document.items())
        return mask(f"{head} {pairs}".rstrip() + (f"\n{trace}".rstrip() if trace else ""))


def _plain(value: object) -> str:
    text = value if isinstance(value, str) else orjson.dumps(value, default=str).decode()
    return text if text.isprintable() and " " not in text else orjson.dumps(text).decode()


def configure(config: Telemetry, stream: TextIO | None = None) -> None:
    """Send the events of this project to ``stream`` (default: standard error), once, masked.

    Calling it again replaces the earlier handler (reload). Warnings of libraries arrive there too.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if config.log_format == "json" else TextFormatter())
    handler.set_name(ROOT)
    own = logging.getLogger(ROOT)
    own.setLevel(_LEVELS[config.log_level])
    own.propagate = False
    libraries = logging.getLogger()
    libraries.setLevel(logging.WARNING)
    for logger in (own, libraries):
        for old in list(logger.handlers):
            if old.get_name() == ROOT:
                logger.removeHandler(old)
        logger.addHandler(handler)
