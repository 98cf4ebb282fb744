"""Outcomes and durations that are counted as plain integers look like any other metric."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from zeta_guard.telemetry.tally import Counts, Tally


def tally(registry: CollectorRegistry) -> Tally:
    return Tally(
        registry,
        counter=("things", "Things that happened"),
        histogram=("thing_seconds", "How long they took"),
        labels=("kind", "outcome"),
        bounds=(0.5, 1, 2.5),
    )


def test_outcomes_and_durations_are_counted_by_kind() -> None:
    registry = CollectorRegistry()
    things = tally(registry)
    for kind, outcome, seconds in (("a", "good", 0.1), ("a", "good", 0.5), ("a", "bad", 0.6), ("b", "good", 9.0)):
        things.note(kind, outcome, seconds)

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, labels)

    assert value("things_total", kind="a", outcome="good") == 2
    assert value("things_total", kind="a", outcome="bad") == 1
    assert value("things_total", kind="b", outcome="good") == 1
    assert value("things_total", kind="b", outcome="bad") is None
    # A bound belongs to its bucket, and each bucket holds those before it.
    assert [value("thing_seconds_bucket", kind="a", le=le) for le in ("0.5", "1.0", "2.5", "+Inf")] == [2, 3, 3, 3]
    assert [value("thing_seconds_bucket", kind="b", le=le) for le in ("0.5", "1.0", "2.5", "+Inf")] == [0, 0, 0, 1]
    assert value("thing_seconds_count", kind="a") == 3
    assert abs((value("thing_seconds_sum", kind="a") or 0) - 1.2) < 1e-9


def test_names_and_descriptions_stand_there_before_anything_happened() -> None:
    registry = CollectorRegistry()
    tally(registry)
    text = generate_latest(registry).decode()
    assert "# HELP things_total Things that happened\n# TYPE things_total counter" in text
    assert "# HELP thing_seconds How long they took\n# TYPE thing_seconds histogram" in text


def test_counts_have_all_their_labels() -> None:
    registry = CollectorRegistry()
    counts = Counts("words", "Words", ["a", "b"], registry=registry)
    assert "# TYPE words_total counter" in generate_latest(registry).decode()
    for words in (("x", "y"), ("x", "y"), ("x", "")):
        counts.count(words)
    assert registry.get_sample_value("words_total", {"a": "x", "b": "y"}) == 2
    assert registry.get_sample_value("words_total", {"a": "x", "b": ""}) == 1
    assert registry.get_sample_value("words_total", {"a": "y", "b": ""}) is None
