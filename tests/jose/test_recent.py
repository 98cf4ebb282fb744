from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from zeta_guard.jose.recent import Recent


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
