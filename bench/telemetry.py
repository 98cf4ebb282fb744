"""What watching costs: requests with metrics, request log and sampled traces, beside the same with as little as can be configured.

``on`` is the default with traces sampled at 0.1 to a collector on the other core. ``off`` has no request log, no traces and logs
errors only; metrics have no switch and are counted in both. CPU time of the guard process per right answer, median of
interleaved rounds; the requests are those of ``bench gateway`` with the full check.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
import urllib.request
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from bench.environment import (
    GUARD_CORE,
    LOAD_CORE,
    free_port,
    guard_process,
    nginx_process,
    scratch,
    wait_until_ready,
    write_guard,
)
from bench.frame import Measure, Report, median_of_rounds
from bench.gateway import RATE_LIMITS, Variant, make_callers, plain_requests, proven_request
from bench.load import closed_loop

_ROUTES: Final = 100
_SAMPLE: Final = 0.1


class _Collector(BaseHTTPRequestHandler):
    """Takes spans and forgets them."""

    protocol_version = "HTTP/1.1"
    batches = 0

    def do_POST(self) -> None:
        """One batch of spans."""
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        type(self).batches += 1
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def run(quick: bool) -> Report:
    """Interleaved rounds of both, then scrapes of a guard with a hundred routes."""
    rounds, count = (2, 3000) if quick else (5, 12_000)
    os.sched_setaffinity(0, {LOAD_CORE})
    with scratch() as directory, ExitStack() as stack:
        return _measure(directory, stack, rounds, count)


def _measure(directory: Path, stack: ExitStack, rounds: int, count: int) -> Report:
    backend = free_port()
    nginx = nginx_process(
        directory,
        "backend",
        f"""server {{ listen 127.0.0.1:{backend} backlog=1024;
          location / {{ default_type application/json; return 200 '{{"resourceType":"Bundle","entry":[1,2,3]}}'; }} }}""",
        core=LOAD_CORE,
    )
    stack.callback(nginx.stop)
    collector = ThreadingHTTPServer(("127.0.0.1", 0), _Collector)
    stack.callback(collector.shutdown)
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    traces = {"otlp_url": f"http://127.0.0.1:{collector.server_address[1]}/v1/traces", "sample": _SAMPLE}
    telemetry: dict[str, dict[str, Any]] = {
        "on": {"log_format": "json", "traces": traces},
        "off": {"log_format": "json", "request_log": False, "log_level": "error"},
    }
    upstreams = [{"url": f"http://127.0.0.1:{backend}"}]
    routes: list[dict[str, Any]] = [{"prefix": "/service", "upstreams": upstreams, "scopes": ["vsdservice"]}]
    routes += [{"prefix": f"/open{number}", "upstreams": upstreams, "public": True} for number in range(_ROUTES - 1)]
    variants: dict[str, Variant] = {}
    setups = {}
    for name, section in telemetry.items():
        home = directory / name
        home.mkdir()
        setup = setups[name] = write_guard(
            home, gateway={"routes": routes}, changes={"telemetry": section, "rate_limits": RATE_LIMITS}
        )
        child = guard_process(setup, home)
        stack.callback(child.stop)
        wait_until_ready(child, f"http://127.0.0.1:{setup.ops_port}/readyz")
        callers = make_callers(setup)

        def make(number: int, setup: Any = setup, callers: Any = callers) -> list[bytes]:
            return [proven_request(setup, callers[each % len(callers)], "/service/bundle") for each in range(number)]

        variants[name] = Variant(name, child, setup.port, make, count)
    # Proofs dated in the second of the start belong to the epoch before it and are refused.
    time.sleep(1.1)
    for _ in range(rounds):
        for variant in variants.values():
            variant.play()
    scrapes, size = _scrapes(setups["on"].port, setups["on"].ops_port, setups["on"].public_url)
    return _report(variants, scrapes, size)


def _scrapes(port: int, ops_port: int, public_url: str) -> tuple[list[float], int]:
    host = public_url.removeprefix("http://")
    for number in range(_ROUTES - 1):
        outcome = asyncio.run(closed_loop(port, plain_requests(host, f"/open{number}", 4), connections=4))
        if outcome.wrong:
            raise RuntimeError(f"/open{number}: wrong answers {outcome.wrong}")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    taken, size = [], 0
    for _ in range(20):
        began = time.perf_counter()
        with opener.open(f"http://127.0.0.1:{ops_port}/metrics", timeout=10) as answer:
            size = len(answer.read())
        taken.append(time.perf_counter() - began)
    return taken, size


def _report(variants: dict[str, Variant], scrapes: list[float], size: int) -> Report:
    report = Report("telemetry")
    on, off = variants["on"], variants["off"]
    report.measures["throughput_on_vs_off"] = Measure(
        off.cpu / on.cpu,
        "ratio",
        f"no request log, no traces, errors only: {off.cpu:.1f} µs CPU per answer",
        goal=0.9,
        floor=0.8,
    )
    report.measures["scrape_ms_100_routes"] = Measure(
        median_of_rounds(scrapes) * 1000,
        "ms",
        f"GET /metrics, {size / 1024:.0f} KiB, every one of {_ROUTES} routes was used",
        goal=50,
        higher_is_better=False,
    )
    for name, variant in variants.items():
        report.remarks.append(
            f"{name}: {variant.cpu:.1f} µs CPU per answer (rounds {', '.join(f'{us:.0f}' for us in variant.cpu_us)}),"
            f" {median_of_rounds(variant.per_second):.0f} answers/s as the load came"
        )
    report.remarks += [
        f"on: metrics, request log (JSON, to a file), traces sampled at {_SAMPLE} to an OTLP collector that got"
        f" {_Collector.batches} batches; off: metrics only, they have no switch",
        f"guard on core {GUARD_CORE}, backend (nginx), collector and load on core {LOAD_CORE}; full check, memory store",
        f"slowest of 20 scrapes: {max(scrapes) * 1000:.1f} ms",
    ]
    return report
