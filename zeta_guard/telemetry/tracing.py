"""Traces: W3C context for every request, OpenTelemetry spans for the sampled ones (A_27492-02, A_28783, A_28796).

Without a collector nothing of OpenTelemetry is imported; the context is still made or continued, because backends want it.
Ids and sampling are decided here, so that a request that is not sampled costs a microsecond and not a span.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, Literal

from multidict import MultiMapping

from zeta_guard.config.telemetry import Telemetry
from zeta_guard.telemetry.redaction import mask
from zeta_guard.telemetry.trace_context import TraceContext, new_span_id, new_trace_id, parse_traceparent

if TYPE_CHECKING:
    from zeta_guard.telemetry.span_export import SpanExport

SpanKind = Literal["server", "client", "internal"]
AttributeValue = str | int | float | bool

CLOSE_SECONDS: Final = 3.0
"""How long the last spans may take at exit."""


class Span:
    """One operation. Not sampled: only a context. Ended once, by whoever started it."""

    __slots__ = ("_ended", "_export", "attributes", "context", "kind", "name", "parent_id", "started_ns")

    def __init__(
        self, name: str, kind: SpanKind, context: TraceContext, parent_id: str, export: SpanExport | None
    ) -> None:
        self.name = name
        self.kind: SpanKind = kind
        self.context = context
        self.parent_id = parent_id
        self.attributes: dict[str, AttributeValue] = {}
        self._export = export if context.sampled else None
        self._ended = False
        self.started_ns = time.time_ns() if self._export is not None else 0

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits, for log lines."""
        return self.context.trace_id

    @property
    def recording(self) -> bool:
        """Whether attributes are worth computing."""
        return self._export is not None

    def traceparent(self) -> str:
        """Header value for whoever is called within this span."""
        return self.context.traceparent()

    def set(self, name: str, value: AttributeValue) -> None:
        """Set an attribute; text is masked (no tokens, KVNR or Telematik-IDs in traces)."""
        if self._export is not None:
            self.attributes[name] = mask(value) if isinstance(value, str) else value

    def child(self, name: str, kind: SpanKind = "internal") -> Span:
        """An operation within this one."""
        own = self.context
        return Span(
            name, kind, TraceContext(own.trace_id, new_span_id(), own.sampled, own.state), own.span_id, self._export
        )

    def end(self, error: str | None = None) -> None:
        """Hand the span to the exporter; ``error`` is a stable code. Never waits, never raises."""
        if self._export is not None and not self._ended:
            self._ended = True
            self._export.add(self, time.time_ns(), error)

    def __enter__(self) -> Span:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self.end(kind.__name__ if kind is not None else None)


class Tracing:
    """Starts spans; parent-based sampling with ratio ``telemetry.traces.sample``."""

    def __init__(self, config: Telemetry, *, count: Callable[[str, int], None] | None = None) -> None:
        """``count(result, spans)`` hears what became of spans (``exported`` or ``failed``), for a metric."""
        self._continue = config.propagate_trace == "continue"
        self._config = config
        self._count = count
        self._bound = int(config.traces.sample * 2**32) if config.traces.otlp_url else 0
        self._export: SpanExport | None = None
        self.exporting = bool(config.traces.otlp_url)
        """Whether there is a collector; without one nobody sees a span."""
        if config.traces.otlp_url:
            from zeta_guard.telemetry.span_export import SpanExport

            self._export = SpanExport(config, count)

    def start(
        self,
        name: str,
        headers: MultiMapping[str] | None = None,
        *,
        kind: SpanKind = "server",
        attributes: Mapping[str, AttributeValue] | None = None,
    ) -> Span:
        """A span for a request. ``headers`` are the request's; its context is continued if so configured and valid.

        A continued trace keeps the caller's sampling decision; a new one is sampled by ratio of its id, so that all processes
        decide alike.
        """
        parent = None
        if headers is not None and self._continue:
            values = headers.getall("traceparent", [])
            if values:
                parent = parse_traceparent(values, headers.getall("tracestate", []))
        if parent is None:
            trace_id = new_trace_id()
            context = TraceContext(trace_id, new_span_id(), int(trace_id[-8:], 16) < self._bound)
            span = Span(name, kind, context, "", self._export)
        else:
            context = TraceContext(parent.trace_id, new_span_id(), parent.sampled, parent.state)
            span = Span(name, kind, context, parent.span_id, self._export)
        if attributes and span.recording:
            for key, value in attributes.items():
                span.set(key, value)
        return span

    def close(self) -> None:
        """Send what waits, for at most three seconds."""
        export, self._export = self._export, None
        if export is not None:
            last = threading.Thread(target=export.close, name="zeta-guard-spans", daemon=True)
            last.start()
            last.join(CLOSE_SECONDS)
            if last.is_alive():
                export.abort()
