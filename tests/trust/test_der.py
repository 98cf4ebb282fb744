"""The DER reader takes what is well-formed and refuses everything else with ValueError."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeta_guard.simulators.ocsp_answer import encode
from zeta_guard.trust.der import elements, key_algorithm, sequence


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_elements_or_a_value_error(raw: bytes) -> None:
    try:
        found = list(elements(raw))
    except ValueError:
        return
    assert b"".join(element.encoded for element in found) == raw


@given(st.integers(0, 0x1E), st.binary(max_size=70_000))
def test_what_was_encoded_is_read_back(tag: int, content: bytes) -> None:
    (element,) = elements(encode(tag, content))
    assert (element.tag, element.content) == (tag, content)


@pytest.mark.parametrize(
    "raw",
    [
        b"\x30",
        b"\x30\x05\x01",
        b"\x30\x80\x00\x00",
        b"\x30\x81\x05\x00\x00\x00\x00\x00",
        b"\x30\x82\x00\x81" + bytes(129),
        b"\x30\x85\x00\x00\x00\x00\x01\x00",
        b"\x3f\x81\x01\x00",
        b"\x3f\x01\x00",
    ],
    ids=[
        "no length",
        "cut off",
        "indefinite",
        "not shortest",
        "leading zero",
        "too long a length",
        "long tag",
        "short long tag",
    ],
)
def test_forms_that_der_does_not_know_are_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match="DER"):
        list(elements(raw))


@pytest.mark.parametrize("raw", [b"", encode(0x31, b""), encode(0x04, b"\x05\x00")])
def test_what_is_no_sequence_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match="SEQUENCE"):
        sequence(raw)


def test_a_key_without_algorithm_is_refused() -> None:
    members = [encode(0x02, b"\x01")] * 5
    with pytest.raises(ValueError, match="empty"):
        key_algorithm(encode(0x30, *members, encode(0x30)))
    assert key_algorithm(encode(0x30, *members, encode(0x30, b"\x05\x00"))) == b"\x05\x00"


def test_a_sequence_with_something_behind_it_is_refused() -> None:
    with pytest.raises(ValueError, match="SEQUENCE"):
        sequence(encode(0x30, b"") + b"\x05\x00")


@given(st.binary(max_size=100))
def test_a_key_algorithm_is_found_or_a_value_error(raw: bytes) -> None:
    try:
        key_algorithm(encode(0x30, raw))
    except ValueError:
        return
