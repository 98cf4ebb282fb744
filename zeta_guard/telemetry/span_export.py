"""Finished spans to an OTLP/HTTP collector, in batches, from a thread. Imported only when a collector is configured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.span import TraceState

from zeta_guard import __version__
from zeta_guard.config.telemetry import Telemetry

if TYPE_CHECKING:
    from zeta_guard.telemetry.tracing import Span

QUEUE: Final = 4096
"""Spans that wait; the oldest go when the collector is too slow."""

_BATCH: Final = 512
_DELAY_MS: Final = 1000
_TIMEOUT_SECONDS: Final = 5.0
_KINDS: Final = {"server": SpanKind.SERVER, "client": SpanKind.CLIENT, "internal": SpanKind.INTERNAL}
_SCOPE: Final = InstrumentationScope("zeta_guard", __version__)
_UNSET: Final = Status(StatusCode.UNSET)


class _Counting(SpanExporter):
    """Tells what became of the spans."""

    def __init__(self, exporter: SpanExporter, count: Callable[[str, int], None] | None) -> None:
        self._exporter = exporter
        self._count = count

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            if self._count is not None:
                self._count("exported" if result is SpanExportResult.SUCCESS else "failed", len(spans))
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


class SpanExport:
    """Batch processor of the OpenTelemetry SDK in front of its OTLP exporter."""

    def __init__(self, config: Telemetry, count: Callable[[str, int], None] | None = None) -> None:
        self._resource = Resource({"service.name": config.service_name, "service.version": __version__})
        self._exporter = OTLPSpanExporter(
            endpoint=config.traces.otlp_url,
            certificate_file=str(config.traces.ca_file) if config.traces.ca_file else None,
            timeout=_TIMEOUT_SECONDS,
        )
        self._processor = BatchSpanProcessor(
            _Counting(self._exporter, count),
            max_queue_size=QUEUE,
            schedule_delay_millis=_DELAY_MS,
            max_export_batch_size=_BATCH,
        )

    def add(self, span: Span, ended_ns: int, error: str | None) -> None:
        """Queue a finished span."""
        own = span.context
        state = TraceState.from_header([own.state]) if own.state else None
        trace_id = int(own.trace_id, 16)
        flags = TraceFlags(TraceFlags.SAMPLED)
        parent = SpanContext(trace_id, int(span.parent_id, 16), True, flags) if span.parent_id else None
        self._processor.on_end(
            ReadableSpan(
                name=span.name,
                context=SpanContext(trace_id, int(own.span_id, 16), False, flags, state),
                parent=parent,
                resource=self._resource,
                attributes=span.attributes,
                kind=_KINDS[span.kind],
                status=Status(StatusCode.ERROR, error) if error else _UNSET,
                start_time=span.started_ns,
                end_time=ended_ns,
                instrumentation_scope=_SCOPE,
            )
        )

    def close(self) -> None:
        """Export what waits and end the thread."""
        self._processor.shutdown()  # type: ignore[no-untyped-call]

    def abort(self) -> None:
        """Give up what waits: no further try, so that :meth:`close` in its thread comes to an end."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]
