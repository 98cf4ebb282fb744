"""What the gateway counts. Labels are routes, statuses and stages; never addresses or names of anybody."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class RouteMetrics:
    """The children of one route, looked up once."""

    __slots__ = ("_all", "_name", "_requests", "sockets", "stripped", "upstream_seconds")

    def __init__(self, owner: GatewayMetrics, name: str) -> None:
        self._all: Final = owner
        self._name: Final = name
        self._requests: Final[dict[int, Counter]] = {}
        self.upstream_seconds: Final = owner.upstream_seconds.labels(name)
        self.sockets: Final = owner.sockets.labels(name)
        self.stripped: Final = owner.stripped.labels(name)

    def count_request(self, status: int) -> None:
        """An answer of this status was given."""
        child = self._requests.get(status)
        if child is None:
            child = self._requests[status] = self._all.requests.labels(self._name, str(status))
        child.inc()

    def count_fault(self, fault: str) -> None:
        """An exchange with the backend failed."""
        self._all.faults.labels(self._name, fault).inc()

    def count_socket_end(self, reason: str) -> None:
        """A WebSocket ended."""
        self._all.socket_ends.labels(self._name, reason).inc()


class GatewayMetrics:
    """All metrics of the gateway in one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests: Final = Counter(
            "zeta_guard_gateway_requests", "Answers by route and status.", ["route", "status"], registry=registry
        )
        self.refusals: Final = Counter(
            "zeta_guard_gateway_refusals",
            "Refusals by route, stage and error code.",
            ["route", "stage", "error"],
            registry=registry,
        )
        self.upstream_seconds: Final = Histogram(
            "zeta_guard_gateway_upstream_seconds",
            "From the request being sent to the head of the backend's answer.",
            ["route"],
            buckets=_SECONDS,
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
        return RouteMetrics(self, name)
