from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from zeta_guard.config.telemetry import Telemetry
from zeta_guard.telemetry.logging import bind_request, configure, log_event, time_text

LOGGER = logging.getLogger("zeta_guard.test")


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    own, root = logging.getLogger("zeta_guard"), logging.getLogger()
    before = (own.level, own.propagate, list(own.handlers), root.level, list(root.handlers))
    yield io.StringIO()
    bind_request("", "")
    own.setLevel(before[0])
    own.propagate = before[1]
    own.handlers[:] = before[2]
    root.setLevel(before[3])
    root.handlers[:] = before[4]


def _lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_event_is_one_json_object_per_line(stream: io.StringIO) -> None:
    configure(Telemetry(), stream)
    log_event(LOGGER, logging.INFO, "tsl_loaded", sequence=12, provider="a\nb")
    log_event(LOGGER, logging.WARNING, "second")
    first, second = _lines(stream)
    assert first["time"].endswith("Z")
    assert {key: first[key] for key in ("level", "logger", "event", "sequence", "provider")} == {
        "level": "info",
        "logger": "zeta_guard.test",
        "event": "tsl_loaded",
        "sequence": 12,
        "provider": "a\nb",
    }
    assert (second["level"], second["event"]) == ("warning", "second")


def test_text_lines_are_for_people_and_stay_on_one_line(stream: io.StringIO) -> None:
    configure(Telemetry(log_format="text"), stream)
    log_event(LOGGER, logging.INFO, "route_added", prefix="/a", note="two words\nand a line", count=2)
    (line,) = stream.getvalue().splitlines()
    assert line.endswith('INFO    route_added prefix=/a note="two words\\nand a line" count=2')


def test_level_is_obeyed(stream: io.StringIO) -> None:
    configure(Telemetry(log_level="warning"), stream)
    log_event(LOGGER, logging.INFO, "quiet")
    log_event(LOGGER, logging.WARNING, "loud")
    assert [line["event"] for line in _lines(stream)] == ["loud"]


def test_running_request_is_named_by_every_line(stream: io.StringIO) -> None:
    configure(Telemetry(), stream)
    bind_request("01J", "ab" * 16)
    log_event(LOGGER, logging.INFO, "one")
    log_event(LOGGER, logging.INFO, "two", request_id="other")
    one, two = _lines(stream)
    assert (one["request_id"], one["trace_id"]) == ("01J", "ab" * 16)
    assert two["request_id"] == "other"


@pytest.mark.parametrize("name", ["authorization", "DPoP", "token", "telematik_id", "kvnr", "password", "sub"])
def test_fields_named_like_secrets_are_masked_whatever_they_hold(name: str, stream: io.StringIO) -> None:
    configure(Telemetry(), stream)
    fields: dict[str, Any] = {name: "opaque"}
    log_event(LOGGER, logging.INFO, "x", **fields)
    assert _lines(stream)[0][name] == "[masked]"


def test_fields_cannot_replace_time_level_or_event(stream: io.StringIO) -> None:
    configure(Telemetry(), stream)
    fields: dict[str, Any] = {"time": 1, "level": 2, "logger": 3}
    LOGGER.handle(LOGGER.makeRecord("zeta_guard.test", 20, "", 0, "real", (), None, extra={"event_fields": fields}))
    (line,) = _lines(stream)
    assert (line["event"], line["level"], line["level_"]) == ("real", "info", 2)


def test_exception_shows_its_type_and_place_but_not_its_message(stream: io.StringIO) -> None:
    configure(Telemetry(), stream)
    try:
        raise ValueError("opaque-secret")
    except ValueError as error:
        log_event(LOGGER, logging.ERROR, "unexpected_error", exc_info=error)
    (line,) = _lines(stream)
    assert line["exception"] == "ValueError"
    assert "test_logging.py" in line["traceback"]
    assert "opaque-secret" not in stream.getvalue().replace('raise ValueError("opaque-secret")', "").replace(
        'raise ValueError(\\"opaque-secret\\")', ""
    )


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_lines_of_libraries_are_masked_too(log_format: str, stream: io.StringIO) -> None:
    configure(Telemetry.model_validate({"log_format": log_format}), stream)
    logging.getLogger("some.library").warning("sent %s", "eyJhbGciOiJFUzI1NiJ9.eyJhIjoxfQ.c2ln")
    assert "eyJ" not in stream.getvalue()
    assert "[masked]" in stream.getvalue()


def test_configuring_again_replaces_the_handler(stream: io.StringIO) -> None:
    configure(Telemetry(), io.StringIO())
    configure(Telemetry(log_format="text"), stream)
    log_event(LOGGER, logging.INFO, "once")
    assert len(stream.getvalue().splitlines()) == 1


def test_value_that_is_no_json_is_written_as_text(stream: io.StringIO) -> None:
    configure(Telemetry(), stream)
    log_event(LOGGER, logging.INFO, "x", value={1, 2}, nested={3: object})
    assert "1" in _lines(stream)[0]["value"]


def test_time_is_utc_with_milliseconds() -> None:
    assert time_text(1_700_000_000.1234) == "2023-11-14T22:13:20.123Z"
