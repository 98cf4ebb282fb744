from __future__ import annotations

import os
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeta_guard.http import request_id as module
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


def test_ids_of_a_forked_process_are_its_own() -> None:
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 and later warn where threads of other tests are left.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        os.write(writer, new_request_id(1.0).encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(reader, 26).decode()
    os.close(reader)
    os.close(writer)
    assert theirs[:10] == new_request_id(1.0)[:10]
    assert theirs[10:20] != new_request_id(1.0)[10:20]


def test_when_all_counts_are_used_others_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    before = new_request_id(1.0)
    monkeypatch.setattr(module._state, "count", (1 << 30) - 2)
    last = new_request_id(1.0)
    assert last[10:20] == before[10:20]
    assert last.endswith("ZZZZZZ")
    assert new_request_id(1.0)[10:20] != before[10:20]
