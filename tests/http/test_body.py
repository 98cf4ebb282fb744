from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlencode

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from zeta_guard.config.limits import Limits
from zeta_guard.errors import ZetaError
from zeta_guard.http.body import _known_fields, parse_form, parse_json_body, read_body
from zeta_guard.http.plain_request import PlainRequest, read_plain_head

FORM = "application/x-www-form-urlencoded"
Serve = Callable[[Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]], Awaitable[int]]
Exchange = Callable[[int, bytes], Awaitable[bytes]]


def _status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


async def _echo(request: web.BaseRequest) -> web.StreamResponse:
    response = web.Response(body=await read_body(request, limit=10, idle_seconds=0.2))
    response.force_close()
    return response


@pytest.mark.parametrize(
    ("head", "body", "status"),
    [
        ("Content-Length: 10", b"0123456789", 200),
        ("Content-Length: 0", b"", 200),
        ("Content-Length: 11", b"0123456789a", 413),
        ("Content-Length: 99999999999", b"", 413),
        ("Transfer-Encoding: chunked", b"5\r\n01234\r\n5\r\n56789\r\n0\r\n\r\n", 200),
        ("Transfer-Encoding: chunked", b"5\r\n01234\r\n6\r\n56789a\r\n0\r\n\r\n", 413),
        ("Content-Length: 5\r\nContent-Encoding: gzip", b"01234", 415),
        ("Content-Length: 5\r\nContent-Encoding: identity", b"01234", 200),
        ("Content-Length: 10", b"01234", 408),
        ("Transfer-Encoding: chunked", b"5\r\n012", 408),
    ],
)
async def test_body_is_read_within_its_limits(
    head: str, body: bytes, status: int, serve: Serve, exchange: Exchange
) -> None:
    port = await serve(_echo)
    answer = await exchange(port, f"POST / HTTP/1.1\r\nHost: a\r\n{head}\r\n\r\n".encode() + body)
    assert _status(answer) == status
    assert status == 200 or b'"invalid_request"' in answer


@pytest.mark.parametrize(
    ("head", "body", "status"),
    [
        (b"Content-Length: 10\r\n", b"0123456789", 0),
        (b"Content-Length: 0\r\n", b"", 0),
        (b"", b"", 0),
        (b"Content-Length: 11\r\n", b"0123456789a", 413),
        (b"Content-Length: 5\r\nContent-Encoding: gzip\r\n", b"01234", 415),
        (b"Content-Length: 5\r\nContent-Encoding: Identity\r\n", b"01234", 0),
    ],
)
async def test_the_body_of_a_plain_request_has_the_same_limits(head: bytes, body: bytes, status: int) -> None:
    read = read_plain_head(b"POST /token HTTP/1.1\r\nHost: a\r\n" + head + b"\r\n" + body, Limits())
    assert read is not None
    protocol: Any = None
    request = PlainRequest(read, protocol, asyncio.get_running_loop(), remote=None, secure=False)
    if not status:
        assert await read_body(request, limit=10, idle_seconds=1) == body
        return
    with pytest.raises(ZetaError) as caught:
        await read_body(request, limit=10, idle_seconds=1)
    assert (caught.value.code, caught.value.status) == ("invalid_request", status)
    assert caught.value.headers["Connection"] == "close"


@pytest.mark.parametrize(
    ("rest", "status"),
    [
        (b"5\r\n56789\r\n0\r\n\r\n", 200),
        (b"6\r\n56789a\r\n0\r\n\r\n", 413),
        (b"6\r\n56789a\r\n", 413),
    ],
)
async def test_a_body_that_comes_in_pieces_has_the_same_limit(serve: Serve, rest: bytes, status: int) -> None:
    reading = asyncio.Event()

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        reading.set()
        return await _echo(request)

    reader, writer = await asyncio.open_connection("127.0.0.1", await serve(handler))
    writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n")
    # What follows cannot have come with the header.
    await asyncio.wait_for(reading.wait(), 5)
    writer.write(rest)
    assert _status(await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)) == status
    writer.close()


async def test_body_of_a_client_that_leaves_is_an_error_not_a_crash(serve: Serve) -> None:
    outcome: asyncio.Future[BaseException | bytes] = asyncio.get_running_loop().create_future()

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        try:
            outcome.set_result(await read_body(request, limit=100, idle_seconds=5))
        except BaseException as error:
            outcome.set_result(error)
            raise
        return web.Response()

    _, writer = await asyncio.open_connection("127.0.0.1", await serve(handler))
    writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n123")
    await writer.drain()
    writer.transport.abort()
    result = await asyncio.wait_for(outcome, 5)
    assert isinstance(result, ZetaError)
    assert result.status == 400


def test_form_is_read() -> None:
    assert parse_form(b"a=1&b=x+y%20z&c=%C3%A4&%64=%26%3D", FORM) == {"a": "1", "b": "x y z", "c": "ä", "d": "&="}
    assert parse_form(b"a=1=2", FORM + "; charset=UTF-8") == {"a": "1=2"}


def test_what_clients_repeat_is_read_the_same_each_time() -> None:
    raw = b"scope=a+b&audience=https%3A%2F%2Fguard.example%2F&client_id=&refresh_token=secret"
    for _ in range(2):
        assert parse_form(raw, FORM) == {
            "scope": "a b",
            "audience": "https://guard.example/",
            "refresh_token": "secret",
        }
        for twice in (b"&scope=a+b", b"&scope=c", b"&sc%6fpe=a+b", b"&client_id=", b"&client_id=x"):
            with pytest.raises(ZetaError, match="twice"):
                parse_form(raw + twice, FORM)
        for broken in (b"scope=%zz", b"scope=%ff", b"scope=%00", b"scope=a\x01b"):
            with pytest.raises(ZetaError):
                parse_form(broken, FORM)


def test_only_what_is_no_secret_is_remembered_and_not_without_end() -> None:
    parse_form(b"refresh_token=s1&client_assertion=s2&subject_token=s3&scope=" + b"x" * 300 + b"&unknown=s4", FORM)
    for number in range(10_000):
        parse_form(b"scope=s%d" % number, FORM)
        assert number % 1000 or len(_known_fields) <= 4096
    assert _known_fields.get(b"scope=s9999") == ("scope", "s9999")
    for secret in (b"refresh_token=s1", b"client_assertion=s2", b"subject_token=s3", b"unknown=s4"):
        parse_form(secret, FORM)
        assert _known_fields.get(secret) is None
    parse_form(b"scope=" + b"x" * 300, FORM)
    assert _known_fields.get(b"scope=" + b"x" * 300) is None


def test_field_without_value_counts_as_absent() -> None:
    assert parse_form(b"a=&b&c=1&", FORM) == {"c": "1"}
    assert parse_form(b"", FORM) == {}


@pytest.mark.parametrize(
    ("raw", "what"),
    [
        (b"a=1&a=2", "twice"),
        (b"a=1&a=", "twice"),
        (b"a=1&%61=2", "twice"),
        (b"=1", "without name"),
        (b"a=%zz", "escape"),
        (b"a=%", "escape"),
        (b"%f=1", "escape"),
        (b"a=%ff", "UTF-8"),
        (b"a=\xff", "UTF-8"),
        (b"a=%ed%a0%80", "UTF-8"),
        (b"a=%00", "control"),
        (b"a\x00=1", "control"),
        ("&".join(f"f{n}=1" for n in range(65)).encode(), "64"),
    ],
)
def test_form_that_is_ambiguous_or_broken_is_refused(raw: bytes, what: str) -> None:
    with pytest.raises(ZetaError, match=what) as caught:
        parse_form(raw, FORM)
    assert (caught.value.code, caught.value.status) == ("invalid_request", 400)


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "application/json",
        "text/plain",
        "multipart/form-data; boundary=x",
        FORM + "; charset=latin-1",
        "garbage",
    ],
)
def test_form_of_another_media_type_is_refused(content_type: str | None) -> None:
    with pytest.raises(ZetaError) as caught:
        parse_form(b"a=1", content_type)
    assert (caught.value.code, caught.value.status) == ("invalid_request", 415)


_TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20)


@given(st.dictionaries(_TEXT, _TEXT, max_size=20))
def test_every_form_that_a_client_can_write_is_read_back(fields: dict[str, str]) -> None:
    assert parse_form(urlencode(fields).encode(), FORM) == fields


@given(st.binary(max_size=100))
def test_any_bytes_are_a_form_or_a_refusal(raw: bytes) -> None:
    try:
        fields = parse_form(raw, FORM)
    except ZetaError:
        return
    assert all(fields.values())


def test_json_object_is_read_with_the_callers_error_code() -> None:
    assert parse_json_body(b'{"a": [1]}', "application/json; charset=utf-8") == {"a": [1]}
    with pytest.raises(ZetaError) as caught:
        parse_json_body(b'{"a":1,"a":2}', "application/json", code="invalid_client_metadata", name="registration")
    assert caught.value.code == "invalid_client_metadata"
    with pytest.raises(ZetaError) as caught:
        parse_json_body(b"{}", "text/json", code="invalid_client_metadata")
    assert (caught.value.code, caught.value.status) == ("invalid_request", 415)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_json_object_or_a_refusal(raw: bytes) -> None:
    try:
        assert isinstance(parse_json_body(raw, "application/json"), dict)
    except ZetaError:
        return


_SPELT = st.lists(st.binary(min_size=1, max_size=6), max_size=4).map(b"&".join) | st.lists(
    st.sampled_from(
        [b"a=1", b"a=1&b=2", b"b=\xc3\xa4", b"c=\xff", b"d=\x00", b"e=\x7f", b"f=1\t2", b"=", b"g=h=i", b"\xe2=1"]
    ),
    max_size=4,
).map(b"&".join)


@given(_SPELT)
def test_a_form_means_the_same_with_every_byte_escaped(raw: bytes) -> None:
    def outcome(form: bytes) -> object:
        try:
            return parse_form(form, FORM)
        except ZetaError as error:
            return error.code, error.status, error.description

    raw = raw.replace(b"%", b"").replace(b"+", b"")
    escaped = b"".join(bytes((byte,)) if byte in b"&=" else b"%%%02X" % byte for byte in raw)
    # A '=' inside a value means itself either way.
    assert outcome(raw) == outcome(escaped)
