from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeta_guard.errors import ZetaError
from zeta_guard.jose.slot import Slot
from zeta_guard.jose.strict_json import loads_object

SLOT = Slot("client assertion", "invalid_client")

_NUMBERS = st.integers(-(2**53), 2**53) | st.floats(-1e15, 1e15, allow_nan=False)
_VALUES = st.recursive(
    st.none() | st.booleans() | _NUMBERS | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
_OBJECTS = st.dictionaries(st.text(max_size=4), _VALUES, max_size=5)


@given(_OBJECTS, st.booleans())
def test_every_unambiguous_object_is_read(value: dict[str, Any], ascii_only: bool) -> None:
    assert loads_object(json.dumps(value, ensure_ascii=ascii_only).encode(), SLOT) == value


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":1,"a":1}',
        b'{"a":"x","b":"a","a":"x"}',
        b'{"a":1,"\\u0061":2}',
        b'{"b":{"a":1,"a":{}}}',
        b'{"b":[{"a":[],"a":"\\""}]}',
        b'{"a":"\\"","a":1}',
        b'{"":1,"":2}',
        b'{"a":{"b":"c"},"a":1}',
    ],
)
def test_a_repeated_member_is_refused_wherever_it_is_and_however_it_is_spelled(raw: bytes) -> None:
    with pytest.raises(ZetaError, match="twice"):
        loads_object(raw, SLOT)


def _pairs_json(pairs: list[tuple[str, Any]], escape: bool) -> str:
    return "{" + ",".join(f"{json.dumps(name, ensure_ascii=escape)}:{json.dumps(value)}" for name, value in pairs) + "}"


@given(st.lists(st.tuples(st.sampled_from(["a", "b", '"', "\\", "é", ""]), _VALUES), max_size=4), st.booleans())
def test_members_are_refused_exactly_when_one_is_repeated(pairs: list[tuple[str, Any]], escape: bool) -> None:
    raw = _pairs_json(pairs, escape).encode()
    if len({name for name, _ in pairs}) == len(pairs):
        assert loads_object(raw, SLOT) == dict(pairs)
    else:
        with pytest.raises(ZetaError):
            loads_object(raw, SLOT)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"null",
        b'"a"',
        b"{",
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":-Infinity}',
        b'{"a":1e400}',
        b'{"a":9007199254740993}',
        b'{"a":-9007199254740993}',
        b'{"a":123456789012345678901234567890}',
        b'{"a":[1e300]}',
        b'{"a":{"b":9007199254740993}}',
        b'{"a":"\\ud800"}',
        b'{"a":"\xff"}',
        b'{"a":"\xed\xa0\x80"}',
        b'\xef\xbb\xbf{"a":1}',
        b'{"a":1}{"b":2}',
        b'{"a":1}\x00',
        b"{'a':1}",
        b'{"a":1,}',
        b'{"a":"\n"}',
        b'{"a":' + b"[" * 16 + b"]" * 16 + b"}",
        b'{"a":' * 17 + b"1" + b"}" * 17,
        b'{"a":' * 5000 + b"1" + b"}" * 5000,
        b"[" * 100_000,
    ],
)
def test_what_has_no_single_reading_is_refused_in_the_words_of_the_slot(raw: bytes) -> None:
    with pytest.raises(ZetaError) as caught:
        loads_object(raw, SLOT)
    assert caught.value.code == "invalid_client"
    assert caught.value.description.startswith("client assertion: ")


def test_the_largest_numbers_and_the_deepest_nesting_are_read() -> None:
    assert loads_object(b'{"a":9007199254740992,"b":-9007199254740992}', SLOT)["a"] == 2**53
    assert loads_object(b'{"a":' * 16 + b"1" + b"}" * 16, SLOT)


@given(st.binary(max_size=60))
def test_garbage_raises_nothing_but_the_refusal(raw: bytes) -> None:
    with contextlib.suppress(ZetaError):
        assert type(loads_object(raw, SLOT)) is dict
