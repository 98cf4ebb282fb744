"""The registry of a process and its text exposition; merging the expositions of several workers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import CollectorRegistry, Gauge, GCCollector, Histogram, Info, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from zeta_guard import __version__

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST

_LAG_INTERVAL = 0.5
_LARGEST_COUNTS: Final = ("_info", "_seconds", "_ratio", "_max_fds", "_created", "_revision")
"""Gauges that are the same or independent in every worker: their sum would be meaningless, the largest value is not."""


class Metrics:
    """Owns the registry that every room's metrics class gets."""

    def __init__(self) -> None:
        self.registry: Final = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        Info("zeta_guard_build", "Version of the guard.", registry=self.registry).info({"version": __version__})
        self._lag = Histogram(
            "zeta_guard_event_loop_lag_seconds",
            "How late the event loop was for a timer.",
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0),
            registry=self.registry,
        )
        self._beat = Gauge(
            "zeta_guard_event_loop_beat_timestamp_seconds",
            "When the event loop last turned (Unix seconds).",
            registry=self.registry,
        )

    async def watch_loop(self, clock: Callable[[], float]) -> None:
        """Measure the loop's lag until cancelled; the owner runs it as a task."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _LAG_INTERVAL
            await asyncio.sleep(_LAG_INTERVAL)
            self._lag.observe(max(0.0, loop.time() - due))
            self._beat.set(clock())

    def render(self) -> bytes:
        """Prometheus text exposition of this process."""
        return self.render_registry(self.registry)

    @staticmethod
    def render_registry(registry: CollectorRegistry) -> bytes:
        """Prometheus text exposition of another registry."""
        return generate_latest(registry)


@dataclass(slots=True)
class _Family:
    help_line: str = ""
    type_line: str = ""
    samples: dict[str, float] = field(default_factory=dict)


def merge(expositions: Iterable[bytes]) -> bytes:
    """One exposition for several workers of the same guard.

    Counters, histograms and summaries are added. Gauges are added, too (connections, memory), except those whose sum has no
    meaning (``…_seconds``, ``…_ratio``, ``…_info``): of these the largest stands.
    """
    families: dict[str, _Family] = {}
    for exposition in expositions:
        family = families.setdefault("", _Family())
        for line in exposition.decode().splitlines():
            if line.startswith("#"):
                parts = line.split(" ", 3)
                if len(parts) < 3 or parts[1] not in ("HELP", "TYPE"):
                    continue
                family = families.setdefault(parts[2], _Family())
                if parts[1] == "HELP":
                    family.help_line = line
                else:
                    family.type_line = line
            elif line:
                _add(family, line)
    return b"".join(_render(family) for family in families.values())


def _add(family: _Family, line: str) -> None:
    key, _, text = line.rpartition(" ")
    try:
        value = float(text)
    except ValueError:
        return
    known = family.samples.get(key)
    if known is None:
        family.samples[key] = value
    elif family.type_line.endswith(" gauge") and key.partition("{")[0].endswith(_LARGEST_COUNTS):
        family.samples[key] = max(known, value)
    else:
        family.samples[key] = known + value


def _render(family: _Family) -> bytes:
    lines = [line for line in (family.help_line, family.type_line) if line]
    lines += [f"{key} {value!r}" for key, value in family.samples.items()]
    return ("\n".join(lines) + "\n").encode() if lines else b""
