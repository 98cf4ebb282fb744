"""What the store counts: plain integers while it works, read when somebody scrapes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Final, NamedTuple, Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

_SECONDS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class CommandCounts:
    """The commands to a server, of all connections one after the other. Changed from one event loop only."""

    __slots__ = ("_buckets", "_sum", "lost", "refused", "unreachable")

    def __init__(self) -> None:
        self._buckets: Final = [0] * (len(_SECONDS) + 1)
        self._sum = 0.0
        self.refused = 0
        """Commands that the server answered with an error."""
        self.lost = 0
        """Commands whose connection ended, or whose deadline passed, before the answer."""
        self.unreachable = 0
        """Attempts to connect that failed."""

    def observe(self, seconds: float) -> None:
        """A command was answered so long after it was queued."""
        self._buckets[bisect_left(_SECONDS, seconds)] += 1
        self._sum += seconds

    def latencies(self) -> tuple[list[tuple[str, float]], float]:
        """Cumulated buckets (upper bound as text) and the sum in seconds, as the text exposition wants them."""
        bounds = [*map(repr, _SECONDS), "+Inf"]
        return list(zip(bounds, map(float, accumulate(self._buckets)), strict=True)), self._sum

    def errors(self) -> Mapping[str, int]:
        """Failures by kind."""
        return {"refused": self.refused, "lost": self.lost, "unreachable": self.unreachable}


class Fill(NamedTuple):
    """How full a table is: ``entries`` of at most ``limit``."""

    entries: int
    limit: int


class Measured(Protocol):
    """A store that can be looked at. Everything here is cheap and needs no server."""

    @property
    def connected(self) -> bool:
        """Commands can be sent now."""

    @property
    def reconnects(self) -> int:
        """Connections made after the first one."""

    @property
    def counts(self) -> CommandCounts | None:
        """Commands to the server; None without one."""

    def fills(self) -> Mapping[str, Fill]:
        """The tables in this process, by what they hold; none when a server holds them."""


class StoreMetrics(Collector):
    """The metrics of one store in one registry."""

    def __init__(self, store: Measured, registry: CollectorRegistry) -> None:
        self._store: Final = store
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """What the store has counted (called by the registry)."""
        seconds = HistogramMetricFamily(
            "zeta_guard_store_command_seconds", "From a command being queued to its answer (Redis)."
        )
        errors = CounterMetricFamily(
            "zeta_guard_store_errors", "Commands and connections that failed.", labels=["kind"]
        )
        reconnects = CounterMetricFamily("zeta_guard_store_reconnects", "Connections made after the first one.")
        connected = GaugeMetricFamily("zeta_guard_store_connected", "1 while the store can be asked.")
        entries = GaugeMetricFamily("zeta_guard_store_entries", "Entries held in this process.", labels=["kind"])
        limit = GaugeMetricFamily(
            "zeta_guard_store_entries_limit", "Most entries held in this process.", labels=["kind"]
        )
        reconnects.add_metric([], self._store.reconnects)
        connected.add_metric([], float(self._store.connected))
        counts = self._store.counts
        if counts is not None:
            buckets, total = counts.latencies()
            seconds.add_metric([], buckets=buckets, sum_value=total)
            for kind, count in counts.errors().items():
                errors.add_metric([kind], count)
        for kind, fill in self._store.fills().items():
            entries.add_metric([kind], fill.entries)
            limit.add_metric([kind], fill.limit)
        return (seconds, errors, reconnects, connected, entries, limit)
