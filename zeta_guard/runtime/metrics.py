"""What the listener measures about every request, whichever room answers it."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class RuntimeMetrics:
    """Requests by door and status, refusals by stage and code, connections, unsafe settings in force."""

    def answered(self, door: str, status: int, seconds: float) -> None:
        """Count one answer. The labelled children are kept: looking them up costs more than counting."""
        children = self._children.get((door, status))
        if children is None:
            children = (self.requests.labels(door, str(status)), self.seconds.labels(door))
            self._children[(door, status)] = children
        children[0].inc()
        children[1].observe(seconds)

    def __init__(self, registry: CollectorRegistry) -> None:
        self._children: dict[tuple[str, int], tuple[Counter, Histogram]] = {}
        self.requests = Counter(
            "zeta_guard_requests",
            "Answered requests by door (authorization_server, gateway, http) and status.",
            ("door", "status"),
            registry=registry,
        )
        self.seconds = Histogram(
            "zeta_guard_request_seconds",
            "Time from a complete request header to the end of the answer.",
            ("door",),
            buckets=_SECONDS,
            registry=registry,
        )
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
