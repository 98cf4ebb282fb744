from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeta_guard.config.limits import RateLimits
from zeta_guard.errors import ConfigurationError
from zeta_guard.http.limits import AddressBuckets, rate_headers, rate_limited

A = ip_address("192.0.2.1")
B = ip_address("192.0.2.2")
NOW = 1_800_000_000.0


def _buckets(workers: int = 1, **values: Any) -> AddressBuckets:
    rate = {"per_minute": 60, "burst": 3}
    return AddressBuckets(RateLimits.model_validate({"token": rate, **values}), workers)


def test_burst_passes_and_the_next_request_waits_for_a_token() -> None:
    buckets = _buckets()
    taken = [buckets.take("token", A, NOW) for _ in range(4)]
    assert [bucket.allowed for bucket in taken] == [True, True, True, False]
    assert [bucket.remaining for bucket in taken] == [2, 1, 0, 0]
    assert [bucket.reset for bucket in taken] == [1, 2, 3, 3]
    assert [bucket.retry_after for bucket in taken] == [0, 0, 0, 1]
    assert not buckets.take("token", A, NOW + 0.9).allowed
    assert buckets.take("token", A, NOW + 1.0).allowed


def test_addresses_and_kinds_have_buckets_of_their_own() -> None:
    buckets = _buckets()
    for _ in range(4):
        buckets.take("token", A, NOW)
    assert buckets.take("token", B, NOW).allowed
    assert buckets.take("nonce", A, NOW).allowed


def test_ipv6_addresses_of_one_64_share_a_bucket_and_never_with_ipv4() -> None:
    buckets = _buckets()
    for host in range(3):
        assert buckets.take("token", ip_address(f"2001:db8::{host}"), NOW).allowed
    assert not buckets.take("token", ip_address("2001:db8::ffff"), NOW).allowed
    assert buckets.take("token", ip_address("2001:db8:0:1::1"), NOW).allowed
    for _ in range(3):
        buckets.take("token", ip_address("::"), NOW)
    assert buckets.take("token", ip_address("0.0.0.0"), NOW).allowed


def test_unknown_addresses_share_a_bucket() -> None:
    buckets = _buckets()
    assert [buckets.take("token", None, NOW).allowed for _ in range(4)] == [True, True, True, False]


def test_named_network_is_one_bucket_with_its_own_limit() -> None:
    networks = {"192.0.2.0/24": {"per_minute": 60, "burst": 5}, "192.0.2.2/32": {"per_minute": 60, "burst": 1}}
    buckets = _buckets(networks=networks)
    hosts = [ip_address(f"192.0.2.{host}") for host in range(10, 16)]
    assert [buckets.take("token", host, NOW).allowed for host in hosts] == [True] * 5 + [False]
    assert [buckets.take("token", B, NOW).allowed for _ in range(2)] == [True, False]
    assert buckets.take("token", ip_address("198.51.100.1"), NOW).limit == 3


def test_network_that_is_none_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError):
        _buckets(networks={"lan": {"per_minute": 1, "burst": 1}})


def test_workers_share_the_rate() -> None:
    one, four = (
        _buckets(routes={"per_minute": 600, "burst": 400}),
        _buckets(4, routes={"per_minute": 600, "burst": 400}),
    )
    assert one.take("routes", A, NOW).limit == 400
    assert four.take("routes", A, NOW).limit == 100
    for _ in range(100):
        four.take("routes", A, NOW)
    assert not four.take("routes", A, NOW + 0.3).allowed
    assert four.take("routes", A, NOW + 0.45).allowed


def test_a_cold_client_with_retries_passes_at_a_single_worker_of_many() -> None:
    buckets = AddressBuckets(RateLimits(), workers=64)
    assert all(buckets.take("register", A, NOW).allowed for _ in range(5))
    assert all(buckets.take("nonce", A, NOW).allowed for _ in range(10))


def test_table_is_bounded_and_the_least_recently_seen_address_goes() -> None:
    buckets = _buckets(table=100)
    for _ in range(4):
        buckets.take("token", A, NOW)
    for host in range(99):
        buckets.take("token", ip_address(f"10.0.0.{host}"), NOW)
    assert not buckets.take("token", A, NOW).allowed
    for host in range(200):
        buckets.take("token", ip_address(f"10.0.1.{host}"), NOW)
    assert len(buckets) == 100
    assert buckets.take("token", A, NOW).allowed


def test_clock_that_goes_back_never_refills() -> None:
    buckets = _buckets()
    for _ in range(3):
        buckets.take("token", A, NOW)
    assert not buckets.take("token", A, NOW - 1000).allowed


def test_disabled_limits_let_everything_pass() -> None:
    buckets = _buckets(enabled=False)
    assert all(buckets.take("token", A, NOW).allowed for _ in range(100))


def test_answers_carry_the_three_headers_and_the_refusal_retry_after() -> None:
    buckets = _buckets()
    bucket = [buckets.take("token", A, NOW) for _ in range(4)][-1]
    assert rate_headers(bucket) == {
        "X-Rate-Limit-Limit": "3",
        "X-Rate-Limit-Remaining": "0",
        "X-Rate-Limit-Reset": "3",
    }
    refusal = rate_limited(bucket)
    assert (refusal.status, refusal.code, refusal.headers["Retry-After"]) == (429, "rate_limit_exceeded", "1")


@given(st.lists(st.floats(0, 5), max_size=200))
def test_never_more_than_burst_plus_rate_times_time(steps: list[float]) -> None:
    buckets = _buckets()
    now, allowed = NOW, 0
    for step in steps:
        now += step
        allowed += buckets.take("token", A, now).allowed
    assert allowed <= 3 + (now - NOW) * 1.0 + 1e-3
