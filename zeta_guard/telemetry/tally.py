"""What happened and how long it took, as plain integers while it happens and as metrics when somebody scrapes.

A library counter with its lock costs several microseconds, a histogram more.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector


class Counts(Collector):
    """A counter with labels from few words. Changed from one event loop only."""

    __slots__ = ("_counts", "_description", "_labels", "_name")

    def __init__(self, name: str, description: str, labels: Sequence[str], *, registry: CollectorRegistry) -> None:
        self._name: Final = name
        self._description: Final = description
        self._labels: Final = tuple(labels)
        self._counts: Final[dict[tuple[str, ...], int]] = {}
        registry.register(self)

    def count(self, words: tuple[str, ...]) -> None:
        """One more with these labels."""
        counts = self._counts
        counts[words] = counts.get(words, 0) + 1

    def collect(self) -> Iterable[Metric]:
        """What was counted (called by the registry)."""
        counter = CounterMetricFamily(self._name, self._description, labels=self._labels)
        for words, count in list(self._counts.items()):
            counter.add_metric(words, count)
        return (counter,)


class _Kind:
    __slots__ = ("buckets", "outcomes", "sum")

    def __init__(self, bounds: int) -> None:
        self.outcomes: dict[str, int] = {}
        self.buckets = [0] * (bounds + 1)
        self.sum = 0.0


class Tally(Collector):
    """Outcomes and durations by kind: a counter with both labels, and a histogram with the kind. Changed from one event loop
    only; both labels come from few words."""

    __slots__ = ("_bounds", "_counter", "_histogram", "_kinds", "_labels")

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        counter: tuple[str, str],
        histogram: tuple[str, str],
        labels: tuple[str, str],
        bounds: Sequence[float],
    ) -> None:
        """``counter`` and ``histogram`` are name and description; ``bounds`` are seconds, ascending."""
        self._counter: Final = counter
        self._histogram: Final = histogram
        self._labels: Final = labels
        self._bounds: Final = tuple(bounds)
        self._kinds: Final[dict[str, _Kind]] = {}
        registry.register(self)

    def note(self, kind: str, outcome: str, seconds: float) -> None:
        """One of this kind ended so, after so long."""
        found = self._kinds.get(kind)
        if found is None:
            found = self._kinds[kind] = _Kind(len(self._bounds))
        found.outcomes[outcome] = found.outcomes.get(outcome, 0) + 1
        found.buckets[bisect_left(self._bounds, seconds)] += 1
        found.sum += seconds

    def collect(self) -> Iterable[Metric]:
        """What was noted (called by the registry)."""
        counter = CounterMetricFamily(*self._counter, labels=self._labels)
        histogram = HistogramMetricFamily(*self._histogram, labels=self._labels[:1])
        bounds = [*map(repr, map(float, self._bounds)), "+Inf"]
        for kind, found in list(self._kinds.items()):
            for outcome, count in list(found.outcomes.items()):
                counter.add_metric([kind, outcome], count)
            buckets = list(zip(bounds, map(float, accumulate(found.buckets)), strict=True))
            histogram.add_metric([kind], buckets=buckets, sum_value=found.sum)
        return (counter, histogram)
