"""The breaker: whom it lets through, and when again."""

from __future__ import annotations

from zeta_guard.policy.breaker import FAILURES, FIRST_PAUSE, LONGEST_PAUSE, CircuitBreaker


def opened() -> CircuitBreaker:
    breaker = CircuitBreaker()
    for _ in range(FAILURES):
        assert breaker.admit(0)
        breaker.failed(0)
    return breaker


def test_failures_in_a_row_open_it_and_a_success_between_does_not() -> None:
    breaker = CircuitBreaker()
    for _ in range(3 * FAILURES):
        breaker.failed(0)
        breaker.succeeded()
    assert not breaker.is_open
    assert opened().is_open


def test_one_caller_tries_after_the_pause() -> None:
    breaker = opened()
    assert not breaker.admit(FIRST_PAUSE - 0.001)
    assert breaker.admit(FIRST_PAUSE)
    assert not breaker.admit(FIRST_PAUSE)
    breaker.succeeded()
    assert breaker.admit(FIRST_PAUSE)
    assert not breaker.is_open


def test_the_pause_doubles_up_to_a_limit() -> None:
    breaker, now, pauses = opened(), 0.0, []
    for _ in range(8):
        now += breaker.seconds_left(now)
        assert breaker.admit(now)
        breaker.failed(now)
        pauses.append(breaker.seconds_left(now))
    assert pauses == [2, 4, 8, 15, 15, 15, 15, 15]
    assert max(pauses) == LONGEST_PAUSE


def test_a_cancelled_try_gives_its_turn_back() -> None:
    breaker = opened()
    assert breaker.admit(FIRST_PAUSE)
    breaker.give_back()
    assert breaker.admit(FIRST_PAUSE)
