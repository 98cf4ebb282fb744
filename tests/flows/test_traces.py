"""Spans of a whole guard, as its collector gets them: a token request is in the trace of whoever asked."""

from __future__ import annotations

import asyncio
import gzip
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from zeta_guard.cli.demo_story.configuration import OPEN_ROUTE
from zeta_guard.config.load import load_config
from zeta_guard.runtime.guard import Guard

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector(ThreadingHTTPServer):
    """Receives spans over OTLP/HTTP."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.spans: list[Any] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1/traces"

    def named(self, name: str) -> list[Any]:
        return [span for span in self.spans if span.name == name]


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                self.server.spans.extend(scope.spans)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        return None


@pytest.fixture
def collector() -> Iterator[Collector]:
    server = Collector()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


async def _traced(world: Any, collector: Collector, **telemetry: Any) -> None:
    await world.guard.stop(drain_seconds=0)
    world.change(telemetry={**telemetry, "traces": {"otlp_url": collector.url, "sample": 1.0}})
    world.stage.guard = Guard(load_config(world.config_file))
    await world.guard.start()


@pytest.fixture
async def traced(world: Any, collector: Collector) -> AsyncIterator[Any]:
    await _traced(world, collector)
    yield world
    await world.guard.stop(drain_seconds=0)


def _attributes(span: Any) -> dict[str, str]:
    return {pair.key: pair.value.string_value for pair in span.attributes}


async def _stop(world: Any) -> None:
    """What waits is exported at the end; the collector has threads of its own."""
    await asyncio.to_thread(lambda: None)
    await world.guard.stop(drain_seconds=0)


async def test_registration_tokens_and_requests_are_spans_that_name_nobody(traced: Any, collector: Collector) -> None:
    async with traced.client() as client:
        await client.login()
        await client.refresh()
        assert (await client.send("GET", OPEN_ROUTE)).status == 200
        client_id = client.state.client_id
    async with traced.client("revoked") as stranger:
        await stranger.register()
        assert (await stranger.exchange()).status == 400
    await _stop(traced)
    assert [_attributes(span) for span in collector.named("register")] == [{"zeta_guard.outcome": "registered"}] * 2
    assert [_attributes(span) for span in collector.named("token")] == [
        {"zeta_guard.grant": "token_exchange", "zeta_guard.outcome": "issued"},
        {"zeta_guard.grant": "refresh_token", "zeta_guard.outcome": "issued"},
        {"zeta_guard.grant": "token_exchange", "zeta_guard.outcome": "invalid_grant"},
    ]
    refused = collector.named("token")[-1]
    assert (refused.status.code, refused.status.message) == (2, "invalid_grant")
    assert len(collector.named("gateway")) == 1
    whole = b"".join(span.SerializeToString() for span in collector.spans)
    for told in (client_id, "1-2012345678", "Beispiel"):
        assert str(told).encode() not in whole


def _form(world: Any, traceparent: str) -> bytes:
    return (
        f"POST /token HTTP/1.1\r\nHost: 127.0.0.1:{world.port}\r\nContent-Length: 0\r\n"
        f"Content-Type: application/x-www-form-urlencoded\r\ntraceparent: {traceparent}\r\n\r\n"
    ).encode()


async def test_the_callers_trace_is_continued_and_its_decision_kept(traced: Any, collector: Collector) -> None:
    assert b" 400 " in (await traced.raw(_form(traced, f"00-{TRACE}-{SPAN}-01")))[:20]
    assert b" 400 " in (await traced.raw(_form(traced, f"00-{TRACE}-{SPAN}-00")))[:20]
    assert b" 400 " in (await traced.raw(_form(traced, "garbage")))[:20]
    await _stop(traced)
    continued, begun = collector.named("token")
    assert (continued.trace_id.hex(), continued.parent_span_id.hex()) == (TRACE, SPAN)
    assert begun.trace_id.hex() != TRACE
    assert begun.parent_span_id == b""
    assert _attributes(begun) == {"zeta_guard.grant": "unknown", "zeta_guard.outcome": "invalid_request"}


async def test_where_callers_are_not_believed_every_token_request_is_a_trace_of_its_own(
    world: Any, collector: Collector
) -> None:
    await _traced(world, collector, propagate_trace="new")
    assert b" 400 " in (await world.raw(_form(world, f"00-{TRACE}-{SPAN}-01")))[:20]
    await _stop(world)
    (span,) = collector.named("token")
    assert span.trace_id.hex() != TRACE
    assert span.parent_span_id == b""
