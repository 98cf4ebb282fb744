from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from zeta_guard.http.request_id import new_request_id

ALPHABET = set("0123456789ABCDEFGHJKMNPQRSTVWXYZ")


def test_request_ids_are_ulids() -> None:
    request_id = new_request_id(1469918176.385)
    assert request_id.startswith("01ARYZ6S41")
    assert len(request_id) == 26
    assert set(request_id) <= ALPHABET


@given(st.floats(0, 4e9), st.floats(0, 4e9))
def test_request_ids_sort_by_time(first: float, second: float) -> None:
    if int(first * 1000) < int(second * 1000):
        assert new_request_id(first) < new_request_id(second)


def test_request_ids_of_the_same_millisecond_differ() -> None:
    assert len({new_request_id(1.0) for _ in range(1000)}) == 1000


def test_request_id_without_a_time_is_of_now() -> None:
    assert new_request_id() > new_request_id(1_700_000_000)
