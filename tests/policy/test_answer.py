"""Answers of a policy: strictly a decision, or none."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeta_guard.policy.answer import MAX_REASONS, MalformedAnswerError, read_decision
from zeta_guard.policy.contract import Decision, Reason


def read(value: Any, **options: Any) -> Decision:
    return read_decision(value, decision_id="id", revision="r", milliseconds=0.0, **options)


def test_an_allow_with_lifetimes_is_read() -> None:
    decision = read({"allow": True, "ttl": {"access_token": 300, "refresh_token": 86400}, "unknown": 1})
    assert (decision.allow, decision.access_token_ttl, decision.refresh_token_ttl) == (True, 300, 86400)


def test_an_allow_without_lifetimes_leaves_them_to_the_configuration() -> None:
    assert read({"allow": True}).access_token_ttl is None


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        "allow",
        [],
        {},
        {"allow": 1},
        {"allow": "true"},
        {"allow": None},
        {"allow": True, "ttl": 300},
        {"allow": True, "ttl": {"access_token": True}},
        {"allow": True, "ttl": {"access_token": 0}},
        {"allow": True, "ttl": {"access_token": 1.5}},
        {"allow": True, "ttl": {"refresh_token": "300"}},
        {"allow": True, "ttl": {"refresh_token": 10**12}},
        {"allow": True, "aud": 1},
        {"allow": True, "aud": []},
        {"allow": True, "aud": [""]},
        {"allow": True, "aud": ["a", None]},
        {"allow": True, "cache_seconds": True},
        {"allow": True, "cache_seconds": -1},
        {"allow": False, "reasons": 1},
        {"allow": False, "reasons": {"text": 1}},
        {"allow": False, "reasons": [1]},
        {"allow": False, "reasons": [{}]},
        {"allow": False, "reasons": [{"code": 1, "message": "m"}]},
        {"allow": False, "reasons": [""]},
        {"allow": False, "reasons": ["x" * 1025]},
        {"allow": False, "reasons": [f"reason {number}" for number in range(MAX_REASONS + 1)]},
    ],
)
def test_anything_else_is_no_answer(value: Any) -> None:
    with pytest.raises(MalformedAnswerError):
        read(value)


@pytest.mark.parametrize(
    ("reasons", "expected"),
    [
        ({"one": True, "two": True, "three": False}, (Reason("one"), Reason("two"))),
        (["one"], (Reason("one"),)),
        ("one", (Reason("one"),)),
        ([{"code": "c", "message": "m", "spec": "A_1"}], (Reason("m", "c", "A_1"),)),
        ([{"code": "c"}], (Reason("c", "c"),)),
        (None, ()),
    ],
)
def test_reasons_come_in_every_published_form(reasons: Any, expected: tuple[Reason, ...]) -> None:
    assert read({"allow": False, "reasons": reasons}).reasons == expected


def test_the_audience_is_a_text_or_a_list() -> None:
    assert read({"allow": True, "aud": "a"}).audience == ("a",)
    assert read({"allow": True, "aud": ["a", "b"]}).audience == ("a", "b")


def test_a_deny_carries_neither_lifetimes_nor_audience() -> None:
    decision = read({"allow": False, "ttl": {"access_token": 300}, "aud": "a"})
    assert (decision.access_token_ttl, decision.audience) == (None, ())


def test_a_decision_is_remembered_for_a_minute_at_most_and_only_if_it_may() -> None:
    assert read({"allow": True, "cache_seconds": 5}).cache_seconds == 5
    assert read({"allow": True, "cache_seconds": 3600}).cache_seconds == 60
    assert read({"allow": True, "cache_seconds": 5}, may_cache=False).cache_seconds == 0


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["allow", "ttl", "aud", "reasons", "code", "message", "access_token"]), inner)
    ),
    max_leaves=12,
)


@given(json_values)
def test_no_value_raises_anything_but_the_one_error(value: Any) -> None:
    try:
        decision = read(value)
    except MalformedAnswerError:
        return
    assert isinstance(value, dict)
    assert decision.allow is value["allow"]
