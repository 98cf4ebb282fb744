from __future__ import annotations

import logging

import pytest
from prometheus_client import CollectorRegistry

from zeta_guard.telemetry.security_events import EVENTS, SecurityEvents


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def _value(registry: CollectorRegistry, name: str, event: str) -> float:
    return registry.get_sample_value(f"zeta_guard_security_{name}_total", {"event": event}) or 0.0


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture(autouse=True)
def _propagate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("zeta_guard"), "propagate", True)


def test_event_is_counted_and_logged(registry: CollectorRegistry, caplog: pytest.LogCaptureFixture) -> None:
    events = SecurityEvents(registry, Clock())
    events.emit("proof_replayed", request_id="01J", name="a field of that name")
    assert _value(registry, "events", "proof_replayed") == 1
    (record,) = caplog.records
    assert (record.name, record.getMessage()) == ("zeta_guard.security", "security_event")
    assert getattr(record, "event_fields") == {"request_id": "01J", "name": "proof_replayed"}


def test_unknown_name_is_counted_as_other_and_logged_by_its_name(
    registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    SecurityEvents(registry, Clock()).emit("brand_new")
    assert _value(registry, "events", "other") == 1
    assert getattr(caplog.records[0], "event_fields")["name"] == "brand_new"


def test_flood_is_counted_but_not_written_line_by_line(
    registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    events = SecurityEvents(registry, clock)
    for _ in range(1000):
        events.emit("spoofed_header")
    assert _value(registry, "events", "spoofed_header") == 1000
    assert len(caplog.records) == 200
    assert _value(registry, "event_lines_suppressed", "spoofed_header") == 800
    events.emit("proof_replayed")
    assert len(caplog.records) == 201
    clock.now += 1
    for _ in range(100):
        events.emit("spoofed_header")
    assert len(caplog.records) == 221


def test_lines_of_administration_are_never_left_out(
    registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    events = SecurityEvents(registry, Clock())
    for _ in range(300):
        events.emit("block_added")
    assert len(caplog.records) == 300


def test_names_are_stable_words() -> None:
    assert all(name.replace("_", "").isalpha() and name.islower() for name in EVENTS)
