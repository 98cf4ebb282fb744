from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from zeta_guard.recent import Recent


def test_what_was_put_is_found_until_it_is_dropped() -> None:
    recent: Recent[str, int] = Recent(10)
    recent.put("a", 1)
    assert recent.get("a") == 1
    assert recent.get("b") is None
    recent.drop("a")
    recent.drop("b")
    assert recent.get("a") is None
    recent.put("c", 3)
    recent.clear()
    assert len(recent) == 0


def test_what_is_in_use_outlives_what_is_not() -> None:
    recent: Recent[int, int] = Recent(10)
    recent.put(-1, -1)
    recent.put(-2, -2)
    for number in range(100):
        recent.put(number, number)
        assert recent.get(-1) == -1
    assert recent.get(-2) is None


def test_putting_the_same_again_pushes_nothing_out() -> None:
    recent: Recent[str, int] = Recent(4)
    recent.put("a", 1)
    recent.put("b", 1)
    for number in range(10):
        recent.put("b", number)
    assert recent.get("a") == 1
    assert recent.get("b") == 9


def test_what_is_worthless_after_some_seconds_leaves_after_twice_as_many() -> None:
    recent: Recent[int, int] = Recent(1000, seconds=60)
    for second in range(600):
        recent.put(second, second, 5000.0 + second)
        # Whatever may still be of use is there, and at most as much again.
        assert all(recent.get(known) == known for known in range(max(0, second - 59), second + 1, 7))
        assert len(recent) <= 180
    assert recent.get(100) is None


def test_without_seconds_what_was_put_stays_however_old() -> None:
    recent: Recent[int, int] = Recent(10)
    recent.put(1, 1)
    recent.put(2, 2, 1e9)
    recent.put(3, 3, 2e9)
    assert len(recent) == 3


def test_a_clock_that_was_set_back_makes_nothing_stay_for_ever() -> None:
    recent: Recent[int, int] = Recent(1000, seconds=60)
    recent.put(1, 1, 9_000.0)
    recent.put(2, 2, 100.0)
    assert recent.get(2) == 2
    recent.put(3, 3, 161.0)
    recent.put(4, 4, 222.0)
    assert recent.get(1) is None
    assert recent.get(4) == 4


@given(st.integers(1, 9), st.lists(st.tuples(st.booleans(), st.integers(0, 20)), max_size=200))
def test_it_never_grows_beyond_its_size(size: int, steps: list[tuple[bool, int]]) -> None:
    recent: Recent[int, int] = Recent(size)
    for put, number in steps:
        if put:
            recent.put(number, number)
            assert recent.get(number) == number
        else:
            assert recent.get(number) in (None, number)
        assert len(recent) <= max(2, size)
