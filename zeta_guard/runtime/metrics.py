"""What the listener measures about every request, whichever room answers it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class _Door:
    """What was answered behind one door: plain integers, changed from one event loop only and read by who scrapes. A
    library counter with its lock costs several microseconds."""

    __slots__ = ("counts", "statuses", "sum")

    def __init__(self) -> None:
        self.statuses: dict[int, int] = {}
        self.counts = [0] * (len(_SECONDS) + 1)
        self.sum = 0.0


class RuntimeMetrics(Collector):
    """Requests by door and status, refusals by stage and code, connections, unsafe settings in force."""

    def count(self, door: str, status: int) -> None:
        """Count one answer whose time says nothing."""
        statuses = self._door(door).statuses
        statuses[status] = statuses.get(status, 0) + 1

    def answered(self, door: str, status: int, seconds: float) -> None:
        """Count one answer."""
        behind = self._doors.get(door) or self._door(door)
        behind.statuses[status] = behind.statuses.get(status, 0) + 1
        behind.counts[bisect_left(_SECONDS, seconds)] += 1
        behind.sum += seconds

    def _door(self, door: str) -> _Door:
        return self._doors.setdefault(door, _Door())

    def collect(self) -> Iterable[Metric]:
        """What was counted (called by the registry)."""
        requests = CounterMetricFamily(
            "zeta_guard_requests",
            "Answered requests by door (authorization_server, gateway, http) and status.",
            labels=["door", "status"],
        )
        seconds = HistogramMetricFamily(
            "zeta_guard_request_seconds",
            "Time from a complete request header to the end of the answer.",
            labels=["door"],
        )
        bounds = [*map(repr, _SECONDS), "+Inf"]
        for name, door in self._doors.items():
            for status, count in door.statuses.items():
                requests.add_metric([name, str(status)], count)
            buckets = list(zip(bounds, map(float, accumulate(door.counts)), strict=True))
            seconds.add_metric([name], buckets=buckets, sum_value=door.sum)
        return (requests, seconds)

    def __init__(self, registry: CollectorRegistry) -> None:
        self._doors: dict[str, _Door] = {}
        registry.register(self)
        self.refusals = Counter(
            "zeta_guard_refusals",
            "Refused requests by the stage that refused and the error code.",
            ("stage", "code"),
            registry=registry,
        )
        self.refused_connections = Counter(
            "zeta_guard_connections_refused",
            "Connections closed before their first request, by what refused them (proxy_protocol, tls) and why.",
            ("by", "reason"),
            registry=registry,
        )
        self.dropped_lines = Counter(
            "zeta_guard_request_log_dropped_lines",
            "Request log lines lost because their reader was slow.",
            registry=registry,
        )
        self.unexpected = Counter(
            "zeta_guard_unexpected_errors", "Errors nobody foresaw, answered with 500.", registry=registry
        )
        self._spans = Counter(
            "zeta_guard_spans", "Trace spans by what became of them (exported, failed).", ("result",), registry=registry
        )
        self.reloads = Counter("zeta_guard_reloads", "Configuration reloads by result.", ("result",), registry=registry)
        self.unsafe = Gauge(
            "zeta_guard_unsafe_setting",
            "1 while a setting named unsafe_… is in force.",
            ("setting",),
            registry=registry,
        )
        self.info = Gauge(
            "zeta_guard_info", "Version and role of this process.", ("version", "role"), registry=registry
        )

    def count_spans(self, result: str, spans: int) -> None:
        """Count spans that left for the collector, or did not; called from the exporter's thread."""
        self._spans.labels(result).inc(spans)
