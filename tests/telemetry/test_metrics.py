from __future__ import annotations

import asyncio
import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.parser import text_string_to_metric_families

from zeta_guard.telemetry.metrics import CONTENT_TYPE, Metrics, merge


def _values(exposition: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(exposition.decode())
        for sample in family.samples
    }


def _worker(count: int, connections: float, age: float) -> bytes:
    registry = CollectorRegistry()
    counter = Counter("zeta_guard_things", 'Things with "quotes" and\nlines.', ["kind"], registry=registry)
    counter.labels('a "b" c\\d e').inc(count)
    Gauge("zeta_guard_connections", "Connections.", registry=registry).set(connections)
    Gauge("zeta_guard_list_age_seconds", "Age.", registry=registry).set(age)
    Histogram("zeta_guard_time_seconds", "Time.", buckets=(1, 2), registry=registry).observe(1.5)
    return Metrics.render_registry(registry)


def test_process_exposes_its_resources_and_version() -> None:
    rendered = Metrics().render().decode()
    for name in ("process_resident_memory_bytes", "python_gc_collections_total", "zeta_guard_build_info"):
        assert f"\n{name}" in rendered
    assert CONTENT_TYPE.startswith("text/plain")


def test_counters_and_histograms_of_workers_are_added() -> None:
    values = _values(merge([_worker(2, 1, 1), _worker(3, 1, 1)]))
    assert values["zeta_guard_things_total", frozenset({("kind", 'a "b" c\\d e')})] == 5
    assert values["zeta_guard_time_seconds_count", frozenset()] == 2
    assert values["zeta_guard_time_seconds_sum", frozenset()] == 3
    assert values["zeta_guard_time_seconds_bucket", frozenset({("le", "1.0")})] == 0
    assert values["zeta_guard_time_seconds_bucket", frozenset({("le", "2.0")})] == 2


def test_gauges_are_added_except_those_whose_sum_has_no_meaning() -> None:
    values = _values(merge([_worker(0, 3, 10), _worker(0, 4, 30)]))
    assert values["zeta_guard_connections", frozenset()] == 7
    assert values["zeta_guard_list_age_seconds", frozenset()] == 30


def test_series_of_one_worker_only_are_kept() -> None:
    registry = CollectorRegistry()
    Counter("zeta_guard_other", "Other.", registry=registry).inc()
    values = _values(merge([_worker(1, 1, 1), Metrics.render_registry(registry)]))
    assert values["zeta_guard_other_total", frozenset()] == 1
    assert values["zeta_guard_connections", frozenset()] == 1


def test_one_exposition_stays_what_it_is_and_none_is_empty() -> None:
    single = _worker(1, 2, 3)
    assert _values(merge([single])) == _values(single)
    assert merge([]) == b""


def test_broken_lines_are_left_out() -> None:
    assert merge([b"# nonsense\nno_value\na 1\nb x\n"]) == b"a 1.0\n"


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=5))
def test_merging_in_steps_is_merging_at_once(counts: list[int]) -> None:
    workers = [_worker(count, count, count) for count in counts]
    steps = workers[0]
    for worker in workers[1:]:
        steps = merge([steps, worker])
    created = "_created"
    once, stepwise = _values(merge(workers)), _values(steps)
    assert {key: value for key, value in once.items() if not key[0].endswith(created)} == {
        key: value for key, value in stepwise.items() if not key[0].endswith(created)
    }


async def test_loop_lag_is_seen_when_something_blocks_the_loop() -> None:
    metrics = Metrics()
    task = asyncio.create_task(metrics.watch_loop(lambda: 42.0))
    await asyncio.sleep(0.3)
    time.sleep(0.4)  # noqa: ASYNC251 - the test is about a blocked loop
    async with asyncio.timeout(5):
        while not _values(metrics.render())["zeta_guard_event_loop_lag_seconds_count", frozenset()]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    values = _values(metrics.render())
    assert values["zeta_guard_event_loop_lag_seconds_sum", frozenset()] > 0.1
    assert values["zeta_guard_event_loop_beat_timestamp_seconds", frozenset()] == 42.0


def test_merging_is_quick_enough_for_a_scrape() -> None:
    registry = CollectorRegistry()
    histogram = Histogram("zeta_guard_route_seconds", "Time.", ["route"], registry=registry)
    for route in range(100):
        histogram.labels(f"/route/{route}").observe(1)
    worker = Metrics.render_registry(registry)
    started = time.perf_counter()
    merge([worker] * 4)
    assert time.perf_counter() - started < 1.0


@pytest.mark.parametrize("value", [float("inf"), 1e300, 0.1])
def test_values_survive_rendering(value: float) -> None:
    registry = CollectorRegistry()
    Gauge("zeta_guard_x", "X.", registry=registry).set(value)
    assert _values(merge([Metrics.render_registry(registry)]))["zeta_guard_x", frozenset()] == value
