"""Heads that the compiled parser lets through and the guard does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeta_guard.config.limits import Limits
from zeta_guard.errors import ZetaError
from zeta_guard.runtime.request_head import RawHeaders, check_request_head

HOST = (b"Host", b"guard.example.de")


def check(
    *headers: tuple[bytes, bytes], method: str = "GET", version: tuple[int, int] = (1, 1), target: str = "/"
) -> None:
    check_request_head(method, version, target, headers, Limits())


def refused(
    *headers: tuple[bytes, bytes], method: str = "GET", version: tuple[int, int] = (1, 1), target: str = "/"
) -> ZetaError:
    with pytest.raises(ZetaError) as caught:
        check(*headers, method=method, version=version, target=target)
    assert caught.value.code == "invalid_request"
    return caught.value


def test_an_ordinary_head_passes() -> None:
    check(HOST, (b"Accept", b"*/*"), (b"Content-Length", b"12"), method="POST")
    check(HOST, (b"Transfer-Encoding", b"Chunked "), method="POST")
    check(HOST, (b"Upgrade", b"WebSocket"), (b"Connection", b"Upgrade"))
    check(HOST, (b"Expect", b"100-Continue"), method="POST")


@pytest.mark.parametrize(
    "coding", [b"gzip, chunked", b"chunked, chunked", b"identity", b"xchunked", b"", b"chunked;q=1"]
)
def test_only_exactly_chunked_is_a_transfer_encoding(coding: bytes) -> None:
    assert refused(HOST, (b"Transfer-Encoding", coding), method="POST").status == 400


def test_transfer_encoding_and_content_length_together_are_refused() -> None:
    refused(HOST, (b"Transfer-Encoding", b"chunked"), (b"Content-Length", b"3"), method="POST")


@pytest.mark.parametrize("length", [b"+5", b"-1", b"5,5", b"0x5", b"", b"5 5", b"9" * 19])
def test_a_content_length_is_digits_only(length: bytes) -> None:
    refused(HOST, (b"Content-Length", length), method="POST")


@pytest.mark.parametrize("name", [b"Host", b"content-length", b"Authorization", b"Expect", b"TRANSFER-ENCODING"])
def test_a_header_that_may_come_once_is_refused_twice(name: bytes) -> None:
    value = {b"content-length": b"1", b"Expect": b"100-continue", b"TRANSFER-ENCODING": b"chunked"}.get(name, b"x")
    headers = [(name, value), (name.swapcase(), value)]
    if name.lower() != b"host":
        headers.append(HOST)
    assert "twice" in refused(*headers).description


def test_a_missing_host_is_refused_also_for_http_1_0() -> None:
    assert "Host" in refused().description
    assert "Host" in refused(version=(1, 0)).description


@pytest.mark.parametrize("value", [b"caf\xc3\xa9", b"a\x00b", b"a\x0bb", b"\x7f", b"a\rb"])
def test_bytes_that_would_be_reencoded_on_the_way_are_refused(value: bytes) -> None:
    refused(HOST, (b"X-Name", value))


def test_an_upgrade_needs_get_http_1_1_and_websocket() -> None:
    refused(HOST, (b"Upgrade", b"websocket"), method="POST")
    refused(HOST, (b"Upgrade", b"websocket"), version=(1, 0))
    refused(HOST, (b"Upgrade", b"h2c"))
    refused(HOST, (b"Upgrade", b"websocket, h2c"))


def test_an_unknown_expectation_is_417() -> None:
    assert refused(HOST, (b"Expect", b"200-ok"), method="POST").status == 417


def test_an_unknown_version_is_refused() -> None:
    refused(HOST, version=(2, 0))
    refused(HOST, version=(0, 9))


def test_the_header_limits_hold_at_the_limit_and_one_above() -> None:
    limits = Limits(request_header=200, header_count=10)
    room = 200 - (len(b"Host") + len(HOST[1]) + 4) - (len(b"X") + 4)
    check_request_head("GET", (1, 1), "/", [HOST, (b"X", b"a" * room)], limits)
    with pytest.raises(ZetaError) as caught:
        check_request_head("GET", (1, 1), "/", [HOST, (b"X", b"a" * (room + 1))], limits)
    assert caught.value.status == 431
    check_request_head("GET", (1, 1), "/", [HOST] + [(b"X", b"1")] * 9, limits)
    with pytest.raises(ZetaError) as caught:
        check_request_head("GET", (1, 1), "/", [HOST] + [(b"X", b"1")] * 10, limits)
    assert caught.value.status == 431


@given(
    st.sampled_from(["GET", "POST", "PUT"]),
    st.lists(
        st.tuples(
            st.sampled_from(
                [b"Host", b"Transfer-Encoding", b"transfer-encoding", b"Content-Length", b"Upgrade", b"Expect", b"X"]
            ),
            st.one_of(st.sampled_from([b"chunked", b"5", b"websocket", b"100-continue"]), st.binary(max_size=12)),
        ),
        max_size=6,
    ),
)
def test_what_passes_has_exactly_one_meaning(method: str, headers: RawHeaders) -> None:
    try:
        check_request_head(method, (1, 1), "/", headers, Limits())
    except ZetaError:
        return
    names = [name.lower() for name, _ in headers]
    assert names.count(b"host") == 1
    assert names.count(b"content-length") + names.count(b"transfer-encoding") <= 1
    for name, value in headers:
        if name.lower() == b"transfer-encoding":
            assert value.strip().lower() == b"chunked"
        assert all(byte == 9 or 32 <= byte < 127 for byte in value)
