from __future__ import annotations

import gzip
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from multidict import CIMultiDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from zeta_guard.config.telemetry import Telemetry
from zeta_guard.telemetry import tracing as module
from zeta_guard.telemetry.tracing import Tracing

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector(ThreadingHTTPServer):
    """Receives spans over OTLP/HTTP."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.spans: list[Any] = []
        self.resources: list[dict[str, str]] = []
        self.status = 200
        self.hold = threading.Event()
        self.hold.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1/traces"


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.hold.wait(10)
        message = ExportTraceServiceRequest.FromString(body)
        for resource in message.resource_spans:
            self.server.resources.append({pair.key: pair.value.string_value for pair in resource.resource.attributes})
            for scope in resource.scope_spans:
                self.server.spans.extend(scope.spans)
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        return None


@pytest.fixture
def collector() -> Iterator[Collector]:
    server = Collector()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.hold.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def tracing() -> Iterator[Callable[..., Tracing]]:
    made: list[Tracing] = []

    def make(count: Callable[[str, int], None] | None = None, propagate: str = "continue", **traces: Any) -> Tracing:
        config = Telemetry.model_validate({"propagate_trace": propagate, "traces": traces})
        made.append(Tracing(config, count=count))
        return made[-1]

    yield make
    for one in made:
        one.close()
    # Whatever still talks to a collector would do so during the tests that follow.
    assert not remaining_threads(10), "threads of the span export outlive their test"


def remaining_threads(seconds: float) -> list[str]:
    """Threads of closed exports that are alive after ``seconds``."""
    deadline = time.monotonic() + seconds
    names = ("zeta-guard-spans", "OtelBatchSpanRecordProcessor")
    while True:
        alive = [thread for thread in threading.enumerate() if thread.name in names]
        if not alive or time.monotonic() > deadline:
            return [thread.name for thread in alive]
        alive[0].join(0.05)


def _incoming(flags: str = "01") -> CIMultiDict[str]:
    return CIMultiDict({"traceparent": f"00-{TRACE}-{SPAN}-{flags}", "tracestate": "vendor=1"})


def test_without_a_collector_the_context_is_continued_and_nothing_recorded(tracing: Callable[..., Tracing]) -> None:
    span = tracing().start("request", _incoming())
    assert span.trace_id == TRACE
    assert span.context.span_id != SPAN
    assert span.context.state == "vendor=1"
    assert span.traceparent() == f"00-{TRACE}-{span.context.span_id}-01"
    assert not span.recording
    span.set("a", 1)
    assert span.attributes == {}
    span.end()


def test_new_trace_ignores_the_callers_context(tracing: Callable[..., Tracing]) -> None:
    span = tracing(propagate="new").start("request", _incoming())
    assert span.trace_id != TRACE
    assert span.context.state == ""
    assert span.traceparent().endswith("-00")


def test_broken_context_begins_a_new_trace(tracing: Callable[..., Tracing]) -> None:
    assert len(tracing().start("request", CIMultiDict(traceparent="garbage")).trace_id) == 32


def test_sampled_spans_reach_the_collector_with_their_parents(
    tracing: Callable[..., Tracing], collector: Collector
) -> None:
    outcomes: list[tuple[str, int]] = []
    guard = tracing(lambda result, spans: outcomes.append((result, spans)), otlp_url=collector.url, sample=0.0)
    span = guard.start("request", _incoming(), attributes={"http.route": "/a", "note": "patient X110411675"})
    with span.child("upstream", "client") as child:
        child.set("server.address", "vsdm")
    span.end("bad_gateway")
    span.end()
    guard.close()
    assert outcomes == [("exported", 2)]
    by_name = {one.name: one for one in collector.spans}
    server, client = by_name["request"], by_name["upstream"]
    assert server.trace_id.hex() == client.trace_id.hex() == TRACE
    assert server.parent_span_id.hex() == SPAN
    assert client.parent_span_id == server.span_id
    assert server.trace_state == "vendor=1"
    assert server.status.message == "bad_gateway"
    attributes = {pair.key: pair.value.string_value for pair in server.attributes}
    assert attributes == {"http.route": "/a", "note": "patient [masked]"}
    assert 0 < server.start_time_unix_nano <= server.end_time_unix_nano
    assert collector.resources[0]["service.name"] == "zeta-guard"


def test_caller_that_does_not_sample_is_obeyed(tracing: Callable[..., Tracing], collector: Collector) -> None:
    guard = tracing(otlp_url=collector.url, sample=1.0)
    guard.start("request", _incoming("00")).end()
    guard.close()
    assert collector.spans == []


@pytest.mark.parametrize(("sample", "low", "high"), [(0.0, 0, 0), (1.0, 2000, 2000), (0.25, 350, 650)])
def test_new_traces_are_sampled_by_ratio(
    sample: float, low: int, high: int, tracing: Callable[..., Tracing], collector: Collector
) -> None:
    guard = tracing(otlp_url=collector.url, sample=sample)
    assert low <= sum(guard.start("request", CIMultiDict()).recording for _ in range(2000)) <= high


def test_exception_inside_a_span_is_named_by_its_type(tracing: Callable[..., Tracing], collector: Collector) -> None:
    guard = tracing(otlp_url=collector.url, sample=1.0)
    with pytest.raises(KeyError), guard.start("request"):
        raise KeyError("secret")
    guard.close()
    assert collector.spans[0].status.message == "KeyError"


def test_collector_that_hangs_never_holds_up_requests_or_the_end(
    tracing: Callable[..., Tracing], collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CLOSE_SECONDS", 0.2)
    collector.hold.clear()
    guard = tracing(otlp_url=collector.url, sample=1.0)
    started = time.perf_counter()
    for _ in range(6000):
        guard.start("request").end()
    guard.close()
    assert time.perf_counter() - started < 5
    guard.start("request").end()
    collector.hold.set()


def test_collector_that_is_away_is_counted(tracing: Callable[..., Tracing], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLOSE_SECONDS", 0.2)
    outcomes: list[tuple[str, int]] = []
    guard = tracing(lambda result, spans: outcomes.append((result, spans)), otlp_url="http://127.0.0.1:9/", sample=1.0)
    guard.start("request").end()
    guard.close()
    assert outcomes in ([], [("failed", 1)])


def test_a_closed_export_does_not_try_again(tracing: Callable[..., Tracing], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLOSE_SECONDS", 0.2)
    guard = tracing(otlp_url="http://127.0.0.1:9/", sample=1.0)
    guard.start("request").end()
    guard.close()
    assert not remaining_threads(0.5)


def test_opentelemetry_is_not_imported_without_a_collector() -> None:
    code = (
        "import sys\n"
        "from zeta_guard.config.telemetry import Telemetry\n"
        "from zeta_guard.telemetry.tracing import Tracing\n"
        "Tracing(Telemetry()).start('x').end()\n"
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
