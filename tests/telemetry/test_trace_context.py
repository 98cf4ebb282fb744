from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeta_guard.telemetry.trace_context import TraceContext, new_span_id, new_trace_id, parse_traceparent

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("value", "sampled"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-ff", True),
        (f" 00-{TRACE}-{SPAN}-01 ", True),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-holds", True),
    ],
)
def test_valid_context_is_continued(value: str, sampled: bool) -> None:
    assert parse_traceparent([value], ["a=1", "b=2"]) == TraceContext(TRACE, SPAN, sampled, "a=1,b=2")


@pytest.mark.parametrize(
    "values",
    [
        [],
        [""],
        [f"00-{TRACE}-{SPAN}-01"] * 2,
        [f"ff-{TRACE}-{SPAN}-01"],
        [f"00-{TRACE}-{SPAN}-01-more"],
        [f"cc-{TRACE}-{SPAN}-01more"],
        [f"00-{'0' * 32}-{SPAN}-01"],
        [f"00-{TRACE}-{'0' * 16}-01"],
        [f"00-{TRACE.upper()}-{SPAN}-01"],
        [f"00-{TRACE}-{SPAN}"],
        [f"00-{TRACE[:-1]}-{SPAN}-01"],
        ["garbage"],
    ],
)
def test_invalid_context_begins_a_new_trace(values: list[str]) -> None:
    assert parse_traceparent(values, []) is None


@pytest.mark.parametrize("state", ["a" * 513, "a=\r\nb", "a=\udce4", "ä=1"])
def test_state_that_cannot_be_passed_on_is_dropped(state: str) -> None:
    context = parse_traceparent([f"00-{TRACE}-{SPAN}-01"], [state])
    assert context is not None
    assert context.state == ""


@given(st.text(max_size=80))
def test_any_text_is_a_context_or_none(text: str) -> None:
    context = parse_traceparent([text], [])
    assert context is None or re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]", context.traceparent())


def test_new_ids_have_their_length_and_differ() -> None:
    assert re.fullmatch("[0-9a-f]{32}", new_trace_id())
    assert re.fullmatch("[0-9a-f]{16}", new_span_id())
    assert new_trace_id() != new_trace_id()
