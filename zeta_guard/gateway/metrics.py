"""What the gateway counts. Labels are routes, statuses and stages; never addresses or names of anybody."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class RouteMetrics:
    """What one route counts. Per request it is plain integers, read when somebody scrapes: a library counter with its lock
    costs several microseconds, and these are changed from one event loop only."""

    __slots__ = ("_all", "_counts", "_statuses", "_sum", "name", "sockets", "stripped")

    def __init__(self, owner: GatewayMetrics, name: str) -> None:
        self._all: Final = owner
        self.name: Final = name
        self._statuses: Final[dict[int, int]] = {}
        self._counts: Final = [0] * (len(_SECONDS) + 1)
        self._sum = 0.0
        self.sockets: Final = owner.sockets.labels(name)
        self.stripped: Final = owner.stripped.labels(name)

    def count_request(self, status: int) -> None:
        """An answer of this status was given."""
        self._statuses[status] = self._statuses.get(status, 0) + 1

    def observe_answer(self, status: int, seconds: float) -> None:
        """Both at once: an answer of this status was given, and its backend took so long."""
        self._statuses[status] = self._statuses.get(status, 0) + 1
        self._counts[bisect_left(_SECONDS, seconds)] += 1
        self._sum += seconds

    def observe_upstream(self, seconds: float) -> None:
        """The backend took so long from the request being sent to the head of its answer."""
        self._counts[bisect_left(_SECONDS, seconds)] += 1
        self._sum += seconds

    def count_fault(self, fault: str) -> None:
        """An exchange with the backend failed."""
        self._all.faults.labels(self.name, fault).inc()

    def count_socket_end(self, reason: str) -> None:
        """A WebSocket ended."""
        self._all.socket_ends.labels(self.name, reason).inc()

    def statuses(self) -> Mapping[int, int]:
        """Answers by status."""
        return self._statuses

    def latencies(self) -> tuple[list[tuple[str, float]], float]:
        """Cumulated buckets (upper bound as text) and the sum in seconds, as the text exposition wants them."""
        bounds = [*map(repr, _SECONDS), "+Inf"]
        return list(zip(bounds, map(float, accumulate(self._counts)), strict=True)), self._sum


class GatewayMetrics(Collector):
    """All metrics of the gateway in one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._routes: Final[dict[str, RouteMetrics]] = {}
        registry.register(self)
        self.refusals: Final = Counter(
            "zeta_guard_gateway_refusals",
            "Refusals by route, stage and error code.",
            ["route", "stage", "error"],
            registry=registry,
        )
        self.faults: Final = Counter(
            "zeta_guard_gateway_upstream_faults",
            "Failed exchanges with a backend.",
            ["route", "fault"],
            registry=registry,
        )
        self.upstream_healthy: Final = Gauge(
            "zeta_guard_gateway_upstream_healthy",
            "1 while a server behind a route passes its health check.",
            ["route", "server"],
            registry=registry,
        )
        self.stripped: Final = Counter(
            "zeta_guard_gateway_stripped_headers",
            "Request headers removed because only the guard may send them.",
            ["route"],
            registry=registry,
        )
        self.replays: Final = Counter(
            "zeta_guard_gateway_replayed_proofs", "DPoP proofs that came a second time.", ["route"], registry=registry
        )
        self.resendable: Final = Counter(
            "zeta_guard_gateway_resendable_proofs",
            "DPoP proofs that may come again because the backend was never reached.",
            ["route"],
            registry=registry,
        )
        self.sockets: Final = Gauge("zeta_guard_gateway_websockets", "Open WebSockets.", ["route"], registry=registry)
        self.socket_ends: Final = Counter(
            "zeta_guard_gateway_websocket_ends", "Ended WebSockets by reason.", ["route", "reason"], registry=registry
        )
        self.block_checks_failed: Final = Counter(
            "zeta_guard_gateway_block_checks_failed",
            "Looks at the block list for open WebSockets that failed.",
            registry=registry,
        )

    def route(self, name: str) -> RouteMetrics:
        """The metrics of one route."""
        return self._routes.setdefault(name, RouteMetrics(self, name))

    def collect(self) -> Iterable[Metric]:
        """What the routes have counted (called by the registry)."""
        requests = CounterMetricFamily(
            "zeta_guard_gateway_requests", "Answers by route and status.", labels=["route", "status"]
        )
        seconds = HistogramMetricFamily(
            "zeta_guard_gateway_upstream_seconds",
            "From the request being sent to the head of the backend's answer.",
            labels=["route"],
        )
        for name, route in self._routes.items():
            for status, count in route.statuses().items():
                requests.add_metric([name, str(status)], count)
            buckets, total = route.latencies()
            seconds.add_metric([name], buckets=buckets, sum_value=total)
        return (requests, seconds)
