"""Which header lines pass, in both directions."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeta_guard.gateway.headers import (
    Treatment,
    request_treatment,
    response_treatment,
    sort_request_headers,
    sort_response_headers,
    zeta_value,
)

if TYPE_CHECKING:
    from tests.gateway.conftest import MakeWorld, RawBackend

To = Callable[..., dict[str, Any]]

SPOOFS = [
    "ZETA-User-Info",
    "zeta-user-info",
    "Zeta_User_Info",
    "zeta.popp.token.content",
    "ZETA_PoPP_Token_Content",
    "zeta-client-data",
    "zeta-anything",
    "zeta!x",
    "ZETA~User~Info",
    "X-HTTP-Method-Override",
    "x_http_method_override",
    "X-HTTP-Method",
    "X-Method-Override",
    "X-Original-URL",
    "X_Original_URL",
    "X-Rewrite-URL",
]
PROXY_HEADERS = [
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "x_forwarded_host",
    "X-Forwarded-Anything",
    "X-Real-IP",
    "x_real_ip",
]

_TOKEN_CHARACTERS = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
names = st.text(alphabet=_TOKEN_CHARACTERS, min_size=1, max_size=80)


@pytest.mark.parametrize("name", SPOOFS)
def test_names_that_only_the_guard_may_use_are_stripped(name: str) -> None:
    for trusted in (True, False):
        sorted_ = sort_request_headers([(name.encode(), b"x")], peer_trusted=trusted)
        assert (sorted_.lines, sorted_.stripped) == (b"", 1)


@pytest.mark.parametrize("name", PROXY_HEADERS)
def test_forwarding_headers_pass_only_from_trusted_proxies(name: str) -> None:
    header = [(name.encode(), b"x")]
    assert sort_request_headers(header, peer_trusted=False).lines == b""
    assert sort_request_headers(header, peer_trusted=True).lines == name.encode() + b": x\r\n"


@pytest.mark.parametrize(
    "name", ["X-Zeta-User-Info", "zet-a", "zeta", "zetaguard", "my-zeta-x", "X-Original", "Accept"]
)
def test_names_that_only_look_alike_pass(name: str) -> None:
    assert request_treatment(name.encode()) is Treatment.KEEP


@given(names)
def test_no_spelling_that_folds_to_zeta_passes(name: str) -> None:
    folded = "".join(character if character.isalnum() else "-" for character in name.lower())
    treatment = request_treatment(name.encode())
    assert (treatment is Treatment.SPOOFED) >= folded.startswith("zeta-")
    if treatment is Treatment.KEEP:
        assert not folded.startswith(("zeta-", "x-forwarded-"))


@given(st.lists(st.tuples(names, st.text(alphabet=_TOKEN_CHARACTERS + " ,", max_size=20)), max_size=8))
def test_lines_pass_byte_for_byte_or_not_at_all(headers: list[tuple[str, str]]) -> None:
    raw = [(name.encode(), value.encode()) for name, value in headers]
    lines = sort_request_headers(raw, peer_trusted=False).lines
    assert set(lines.split(b"\r\n")) <= {name + b": " + value for name, value in raw} | {b""}
    assert set(sort_response_headers(raw).lines.split(b"\r\n")) <= {name + b": " + value for name, value in raw} | {b""}


@pytest.mark.parametrize(
    "name",
    [
        "Connection",
        "Keep-Alive",
        "TE",
        "Trailer",
        "Transfer-Encoding",
        "Upgrade",
        "Content-Length",
        "Expect",
        "DPoP",
        "PoPP",
        "Authorization",
        "Proxy-Authorization",
        "Proxy-Connection",
        "HTTP2-Settings",
    ],
)
def test_hop_by_hop_and_credentials_do_not_pass(name: str) -> None:
    assert sort_request_headers([(name.upper().encode(), b"x")], peer_trusted=True).lines == b""


def test_what_connection_names_goes_in_both_directions() -> None:
    headers = [
        (b"Connection", b"close, X-Secret"),
        (b"connection", b" x-other ,"),
        (b"X-SECRET", b"1"),
        (b"X-Other", b"2"),
        (b"X-Kept", b"3"),
    ]
    assert sort_request_headers(headers, peer_trusted=False).lines == b"X-Kept: 3\r\n"
    assert sort_response_headers(headers).lines == b"X-Kept: 3\r\n"


def test_connection_cannot_hide_what_is_stripped_or_decides_the_framing() -> None:
    headers = [(b"Connection", b"ZETA-X, Content-Length, Transfer-Encoding, zeta-cause"), (b"ZETA-X", b"1")]
    assert sort_request_headers(headers, peer_trusted=True).stripped == 1
    framing = [(b"Content-Length", b"1"), (b"Transfer-Encoding", b"chunked"), (b"zeta-cause", b"Proxy")]
    outgoing = sort_response_headers(headers + framing)
    assert not outgoing.framed
    assert outgoing.blames_proxy
    assert sort_response_headers([*headers, (b"Content-Length", b"7")]).length == 7


def test_answers_lose_zeta_headers_after_the_cause_was_read() -> None:
    outgoing = sort_response_headers([(b"ZETA-Cause", b" proxy "), (b"zeta_x", b"1"), (b"ETag", b"2")])
    assert outgoing.blames_proxy
    assert outgoing.lines == b"ETag: 2\r\n"
    assert not sort_response_headers([(b"zeta-cause", b"Backend")]).blames_proxy


def test_remembered_names_are_bounded() -> None:
    from zeta_guard.gateway import headers

    for number in range(5000):
        request_treatment(b"x-%d" % number)
        response_treatment(b"x-%d" % number)
        request_treatment(b"y" * 100 + b"%d" % number)
    assert len(headers._request_names) <= 2048
    assert len(headers._response_names) <= 2048
    assert all(len(name) <= 64 for name in headers._request_names)


@given(st.dictionaries(st.text(max_size=10), st.text(max_size=30), max_size=5))
def test_values_are_ascii_json_in_padded_base64url(content: dict[str, Any]) -> None:
    value = zeta_value(content)
    assert len(value) % 4 == 0
    raw = base64.urlsafe_b64decode(value)
    assert raw.isascii()
    assert json.loads(raw) == content


# over the wire


async def test_spoofed_headers_never_reach_the_backend_and_are_counted(
    make_world: MakeWorld, backend: RawBackend, to: To
) -> None:
    world = await make_world([to(backend), to(backend, "/open", public=True)])
    for path in ("/vsd/x", "/open/x"):
        backend.heads.clear()
        extra = "".join(f"{name}: spoofed-value\r\n" for name in SPOOFS + PROXY_HEADERS)
        assert (await world.get(path, extra=extra)).status == 200
        assert b"spoofed-value" not in backend.head
        lower = backend.head.lower()
        assert lower.count(b"zeta") == (2 if path == "/vsd/x" else 1)  # ZETA-User-Info and by=_zetaguard
        expected = len(SPOOFS + PROXY_HEADERS)
        assert world.metric("zeta_guard_gateway_stripped_headers_total", route=path[:-2]) == expected


async def test_connection_cannot_take_away_what_the_guard_sets(
    make_world: MakeWorld, backend: RawBackend, to: To
) -> None:
    world = await make_world([to(backend, client_data=True)])
    named = "ZETA-User-Info, ZETA-Client-Data, Forwarded, traceparent, Host, Content-Length, keep-alive"
    await world.get(extra=f"Connection: {named}\r\nForwarded: for=10.9.9.9\r\n")
    assert len(backend.seen("ZETA-User-Info")) == 1
    assert len(backend.seen("ZETA-Client-Data")) == 1
    assert backend.seen("Host") == ["guard.example"]
    assert backend.seen("Forwarded") == ["by=_zetaguard;for=127.0.0.1;host=guard.example;proto=http"]
    assert backend.seen("Connection") == []


async def test_client_data_is_sent_where_the_route_says_so(make_world: MakeWorld, backend: RawBackend, to: To) -> None:
    world = await make_world([to(backend, client_data=True)])
    await world.get()
    content = json.loads(base64.urlsafe_b64decode(backend.seen("ZETA-Client-Data")[0]))
    assert content == {
        "client_id": "client-1",
        "product_id": "product",
        "product_version": "1.0.0",
        "platform": "linux",
    }


async def test_forwarded_gets_one_element_appended(make_world: MakeWorld, backend: RawBackend, to: To) -> None:
    world = await make_world([to(backend)])
    await world.get(extra="Forwarded: for=192.0.2.1;proto=https\r\nForwarded: for=192.0.2.2\r\n")
    assert backend.seen("Forwarded") == [
        "for=192.0.2.1;proto=https, for=192.0.2.2, by=_zetaguard;for=127.0.0.1;host=guard.example;proto=http"
    ]


async def test_trusted_proxy_names_the_client_and_others_do_not(
    make_world: MakeWorld, backend: RawBackend, to: To
) -> None:
    rules = {"gateway_client_address": "forwarded"}
    spoof = "Forwarded: for=203.0.113.7;proto=https\r\n"
    world = await make_world([to(backend)], gateway_trusted_proxies=["127.0.0.0/8"], **rules)
    assert (await world.get(extra=spoof, ip_address="203.0.113.7")).status == 200
    assert backend.seen("Forwarded")[0].endswith("by=_zetaguard;for=203.0.113.7;host=guard.example;proto=https")
    assert (await world.get(extra=spoof)).status == 401
    world = await make_world([to(backend)], gateway_trusted_proxies=["10.0.0.0/8"], **rules)
    assert (await world.get(extra=spoof, ip_address="203.0.113.7")).status == 401
    assert (await world.get(extra=spoof)).status == 200


async def test_trace_is_continued_or_left_away(make_world: MakeWorld, backend: RawBackend, to: To) -> None:
    world = await make_world([to(backend), to(backend, "/quiet", traceparent=False)])
    trace = "0af7651916cd43dd8448eb211c80319c"
    extra = f"traceparent: 00-{trace}-b7ad6b7169203331-01\r\ntracestate: a=1\r\n"
    await world.get(extra=extra)
    assert backend.seen("traceparent")[0].split("-")[1] == trace
    assert "b7ad6b7169203331" not in backend.seen("traceparent")[0]
    assert backend.seen("tracestate") == ["a=1"]
    backend.heads.clear()
    await world.get("/quiet/x", extra=extra)
    assert backend.seen("traceparent") == []


async def test_host_of_the_upstream_is_sent_where_the_route_says_so(
    make_world: MakeWorld, backend: RawBackend, to: To
) -> None:
    world = await make_world([to(backend, host="upstream")])
    await world.get()
    assert backend.seen("Host") == [f"127.0.0.1:{backend.port}"]


async def test_answer_headers_pass_but_for_hop_by_hop_and_zeta(
    make_world: MakeWorld, backend: RawBackend, to: To
) -> None:
    world = await make_world([to(backend)])
    backend.answer = lambda head: (
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-Own: \xe4\r\n"
        b"ZETA-API-Version: 9\r\nZETA_User_Info: x\r\nKeep-Alive: timeout=5\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\n"
        b"Server: backend\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n\r\n"
    )
    reply = await world.get()
    assert reply.values("Set-Cookie") == ["a=1", "b=2"]
    assert reply.values("X-Own") == ["ä"]
    assert reply.values("ZETA-API-Version") == ["1.0.0"]
    assert reply.values("Date") == ["Thu, 01 Jan 2026 00:00:00 GMT"]
    for gone in ("ZETA_User_Info", "Keep-Alive", "X-Hop", "Connection"):
        assert reply.values(gone) == []


async def test_date_is_added_where_the_backend_sends_none(make_world: MakeWorld, backend: RawBackend, to: To) -> None:
    world = await make_world([to(backend)])
    assert len((await world.get()).values("Date")) == 1
