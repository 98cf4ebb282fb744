"""Whatever of an answer is read in one go, httptools reads in the same way, as the connection to the backend uses it.

Both readings are made by the connection itself, fed the same bytes in the same pieces: once as it is, once without the short
way. What the short way declines is left to the parser, so that nothing is compared there; that it takes what backends say
is shown apart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from zeta_guard.gateway import plain_answer, upstream
from zeta_guard.gateway.deadline import DeadlineWatch
from zeta_guard.gateway.plain_answer import read_plain_answer
from zeta_guard.gateway.response import whole_answer
from zeta_guard.gateway.upstream import UpstreamConnection

GOOD = b"HTTP/1.1 200 OK\r\nDate: now\r\nContent-Type: text/plain\r\nX-A: b\r\nContent-Length: 5\r\n\r\nhello"


@pytest.fixture(scope="module")
def watch() -> Iterator[DeadlineWatch]:
    loop = asyncio.new_event_loop()
    yield DeadlineWatch(loop)
    loop.close()


class Reading(NamedTuple):
    """What a connection made of an answer."""

    status: int | None
    reason: bytes
    lines: bytes
    dated: bool
    length: int | None
    body: bytes
    complete: bool
    failed: bool
    keeps_alive: bool
    dirty: bool
    written: bytes = b""
    """What the client gets."""


def read(pieces: Sequence[bytes], watch: DeadlineWatch, *, short: bool, lost: bool = False) -> Reading:
    """Let a connection read an answer, which ends with the connection if ``lost``."""
    connection = UpstreamConnection(watch, watch._loop)
    connection.begin(head_only=False)
    with pytest.MonkeyPatch.context() as patch:
        if not short:
            patch.setattr(upstream, "read_plain_answer", lambda data: None)
        body = b""
        for piece in pieces:
            if connection._parser is None or connection.failed:
                break
            connection.get_buffer(len(piece))[: len(piece)] = piece
            connection.buffer_updated(len(piece))
            body += connection.take()
        if lost:
            connection.connection_lost(None)
    response = connection.response
    alive = connection.complete and connection._keep_alive
    if response is None or connection.failed:
        return Reading(
            None, b"", b"", False, None, b"", connection.complete, connection.failed, alive, connection.dirty
        )
    outgoing = response.outgoing
    assert not (outgoing.limited or outgoing.blames_proxy or outgoing.chunked) or not short or response.headers
    return Reading(
        response.status,
        response.reason,
        outgoing.lines,
        outgoing.dated,
        response.length,
        body,
        connection.complete,
        connection.failed,
        alive,
        connection.dirty,
        # Without a date of the backend's it is this moment's.
        whole_answer(response, body, b"X-Rate-Limit-Limit: 1\r\n", keep_alive=True)
        if outgoing.dated and connection.complete
        else b"",
    )


def compare(pieces: Sequence[bytes], watch: DeadlineWatch, *, lost: bool = False) -> Reading:
    one = read(pieces, watch, short=True, lost=lost)
    other = read(pieces, watch, short=False, lost=lost)
    # Behind an answer the parser forgives empty lines; whoever is stricter only gives a connection up.
    assert one._replace(dirty=False) == other._replace(dirty=False)
    assert one.dirty or not other.dirty
    return one


firsts = st.sampled_from(
    [
        *(
            "HTTP/1.1 200 OK",
            "HTTP/1.1 200 OK",
            "HTTP/1.1 404 Not Found",
            "HTTP/1.1 500 a\tb",
            "HTTP/1.1 299 ",
            "HTTP/1.1 200",
        ),
        *(
            "HTTP/1.1 200  two",
            "HTTP/1.1 204 No Content",
            "HTTP/1.1 205 Reset",
            "HTTP/1.1 304 Not Modified",
            "HTTP/1.1 600 x",
        ),
        *(
            "HTTP/1.1 100 Continue",
            "HTTP/1.1 101 x",
            "HTTP/1.1 199 x",
            "HTTP/1.0 200 OK",
            "HTTP/2 200 OK",
            "HTTP/1.1  200 OK",
        ),
        *(
            "http/1.1 200 OK",
            "HTTP/1.1 20 OK",
            "HTTP/1.1 2000 OK",
            "HTTP/1.1 200 \x80",
            "HTTP/1.1 200 \x00",
            "ICY 200 OK",
            "",
        ),
        *("HTTP/1.1\t200 OK", " HTTP/1.1 200 OK", "HTTP/1.1 200 " + "a" * 300, "HTTP/1.1 200 OK ", "HTTP/1.1 200OK"),
    ]
)
values = st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=12)
names = st.sampled_from(
    ["Date", "ETag", "X-A", "Set-Cookie", "Server", "content-type", "Keep-Alive", "Trailer", "Vary", "TE"]
)
lines = st.one_of(
    st.builds("{}: {}".format, names, values),
    st.builds("{}:{}".format, names, values),
    st.builds("{}:\t{}\t ".format, names, values),
    st.sampled_from(["Connection: close", "Connection: keep-alive", "connection: Close", "Connection: Keep-Alive "]),
)
spoilers = st.sampled_from(
    [
        *("Content-Length: 5", "Content-Length: 0", "content-length: 05", "Content-Length: +5", "Content-Length: 5, 5"),
        *("Content-Length:", "Content-Length : 5", "Content-Length: 99999999999999999999", "Content-Length: 5 "),
        *("Transfer-Encoding: chunked", "Transfer-Encoding: identity", "Transfer-Encoding : chunked", "TE: chunked"),
        *(
            "Connection: X-A",
            "Connection: close, X-A",
            "Connection:",
            "Connection: upgrade",
            "Upgrade: h2c",
            "Upgrade: websocket",
        ),
        *(
            "Proxy-Connection: close",
            "Proxy-Connection: keep-alive",
            "ZETA-Cause: Proxy",
            "ZETA-X: 1",
            "X-Rate-Limit-Limit: 1",
        ),
        *(
            " folded",
            "\tfolded",
            "X-A : 1",
            "X A: 1",
            "X-A",
            ": 1",
            "",
            "X-\x00A: 1",
            "X-A: \x00",
            "X-A: \x7f",
            "X-A: \x80",
        ),
        *(
            "X-A: 1\r",
            "\rX-A: 1",
            "X-A: 1\nX-B: 2",
            "X-A: 1\rX-B: 2",
            "X-A: " + "a" * 200,
            "X-A: " + "a" * 20_000,
            "X(A: 1",
        ),
    ]
)
ends = st.sampled_from(["\r\n"] * 12 + ["\n", "\r", "\r\r\n", "\n\r\n"])


@st.composite
def answers(draw: st.DrawFn) -> list[bytes]:
    """An answer in one to three pieces: good, or spoiled in one place or some."""
    fields = draw(st.lists(lines, max_size=4))
    body = draw(st.sampled_from([b"", b"hello", b"\r\n", b"\r\n\r\n", GOOD, b"x" * 3000]))
    if draw(st.integers(0, 9)):
        length = len(body) + draw(st.sampled_from([0] * 12 + [1, -1, 7]))
        fields.insert(draw(st.integers(0, len(fields))), f"Content-Length: {length}")
    for spoiler in draw(st.lists(spoilers, max_size=1)):
        fields.insert(draw(st.integers(0, len(fields))), spoiler)
    first = draw(st.one_of(st.just("HTTP/1.1 200 OK"), firsts))
    if draw(st.integers(0, 3)) == 0:
        ending = [draw(ends) for _ in range(len(fields) + 1)]
    else:
        ending = ["\r\n"] * (len(fields) + 1)
    text = "".join(line + end for line, end in zip([first, *fields], ending, strict=True))
    raw = text.encode("latin-1", "replace") + b"\r\n" + body
    if draw(st.integers(0, 7)) == 0:
        raw += draw(st.sampled_from([b"\r\n", b"\n", b"H", b"X", GOOD]))
    if draw(st.integers(0, 7)) == 0:
        place = draw(st.integers(0, len(raw)))
        spoiled = draw(st.sampled_from([b"\r", b"\n", b"\r\n", b"\x00", b" ", b"\t", b":", b"\xff", b""]))
        raw = raw[:place] + spoiled + raw[place + 1 :]
    cuts = sorted(draw(st.lists(st.integers(0, len(raw)), max_size=2)))
    pieces = [raw[start:end] for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    return [piece for piece in pieces if piece]


@settings(max_examples=800, deadline=None)
@given(pieces=answers(), lost=st.booleans())
@example(pieces=[GOOD], lost=False)
@example(pieces=[GOOD[:-3], GOOD[-3:]], lost=True)
@example(pieces=[GOOD[:-3], GOOD[-3:] + b"x"], lost=False)
@example(pieces=[b"HTTP/1.1 200 OK\nContent-Length: 0\n\r\n\r\n"], lost=False)
@example(pieces=[b"HTTP/1.1 200 OK\r\nContent-Length: 0\nX-A: 1\n\r\n\r\n"], lost=False)
def test_what_is_read_in_one_go_the_parser_reads_in_the_same_way(
    pieces: list[bytes], lost: bool, watch: DeadlineWatch
) -> None:
    compare(pieces, watch, lost=lost)


@pytest.mark.parametrize("status", ["200 OK", "201 ", "404 Not  Found", "503 Later", "599 Whatever (it is)"])
@pytest.mark.parametrize("body", [b"", b"hello", b"\r\n\r\n", b"x" * 60_000])
@pytest.mark.parametrize("connection", ["", "Connection: close\r\n", "Connection: keep-alive\r\n"])
def test_a_good_answer_is_read(status: str, body: bytes, connection: str, watch: DeadlineWatch) -> None:
    head = f"HTTP/1.1 {status}\r\nServer: x\r\n{connection}Content-Length: {len(body)}\r\nVary: *\r\n\r\n".encode()
    plain = read_plain_answer(head + body)
    assert plain is not None
    assert (plain.start, plain.length) == (len(head), len(body))
    reading = compare([head + body], watch)
    assert (reading.status, reading.reason) == (int(status[:3]), status[4:].encode())
    assert (reading.body, reading.complete, reading.dirty) == (body, True, False)
    assert reading.lines == b"Server: x\r\nVary: *\r\n"
    assert reading.keeps_alive is ("close" not in connection)


DECLINED = {
    "nothing": b"",
    "half a head": GOOD[:40],
    "no length": GOOD.replace(b"Content-Length: 5\r\n", b""),
    "length twice": GOOD.replace(b"X-A: b", b"Content-Length: 5"),
    "length signed": GOOD.replace(b"h: 5", b"h: +5"),
    "length list": GOOD.replace(b"h: 5", b"h: 5, 5"),
    "length empty": GOOD.replace(b"h: 5", b"h:"),
    "chunked": GOOD.replace(b"X-A: b", b"Transfer-Encoding: chunked"),
    "connection names a header": GOOD.replace(b"X-A: b", b"Connection: close, X-A"),
    "connection twice": GOOD.replace(b"X-A: b", b"Connection: close\r\nConnection: keep-alive"),
    "proxy connection": GOOD.replace(b"X-A: b", b"Proxy-Connection: close"),
    "cause": GOOD.replace(b"X-A: b", b"ZETA-Cause: Proxy"),
    "reserved": GOOD.replace(b"X-A: b", b"ZETA-User-Info: x"),
    "rate limit": GOOD.replace(b"X-A: b", b"X-Rate-Limit-Limit: 1"),
    "interim": GOOD.replace(b"200 OK", b"103 Early"),
    "switching": GOOD.replace(b"200 OK", b"101 x"),
    "204": GOOD.replace(b"200 OK", b"204 x"),
    "304": GOOD.replace(b"200 OK", b"304 x"),
    "600": GOOD.replace(b"200 OK", b"600 x"),
    "1.0": GOOD.replace(b"HTTP/1.1", b"HTTP/1.0"),
    "no blank behind the status": GOOD.replace(b"200 OK", b"200"),
    "line feeds alone": b"HTTP/1.1 200 OK\nContent-Length: 0\n\r\n\r\n",
    "line feed alone": GOOD.replace(b"\r\nX-A", b"\nX-A"),
    "carriage return alone": GOOD.replace(b"\r\nX-A", b"\rX-A"),
    "carriage return in a value": GOOD.replace(b"b\r\n", b"b\rSet-Cookie: x\r\n"),
    "NUL": GOOD.replace(b": b", b": b\x00"),
    "high byte": GOOD.replace(b": b", b": \xe4"),
    "high byte in the reason": GOOD.replace(b"OK", b"\xe4"),
    "folded line": GOOD.replace(b": b", b": b\r\n c"),
    "blank before the colon": GOOD.replace(b"X-A:", b"X-A :"),
    "no colon": GOOD.replace(b"X-A: b", b"X-A"),
    "no name": GOOD.replace(b"X-A: b", b": b"),
    "many lines": GOOD.replace(b"X-A: b", b"X-A: b\r\n" * 100 + b"X-B: c"),
    "long head": GOOD.replace(b"X-A: b", b"X-A: " + b"b" * 17_000),
}


@pytest.mark.parametrize("case", DECLINED)
def test_anything_unusual_is_left_to_the_parser(case: str) -> None:
    assert read_plain_answer(GOOD) is not None
    assert read_plain_answer(DECLINED[case]) is None


def test_what_the_parser_refuses_is_among_the_cases(watch: DeadlineWatch) -> None:
    """The comparison above could not fail if the parser took everything."""
    assert sum(read([data], watch, short=False).failed for data in DECLINED.values() if data) > 10


def test_what_backends_vary_does_not_fill_the_memory() -> None:
    for number in range(3 * plain_answer._MOST_LINES):
        answer = b"HTTP/1.1 200 %d\r\nX-%d: 1\r\nContent-Length: 0\r\n\r\n" % (number, number)
        assert read_plain_answer(answer) is not None
        assert len(plain_answer._lines) <= plain_answer._MOST_LINES
        assert len(plain_answer._statuses) <= plain_answer._MOST_STATUSES
        assert len(plain_answer._heads) <= plain_answer._MOST_HEADS
    assert read_plain_answer(GOOD.replace(b": b", b": " + b"b" * 500)) is not None
    assert max(map(len, plain_answer._lines)) <= plain_answer._LONGEST_LINE


def test_secrets_of_backends_are_not_among_the_remembered_lines() -> None:
    assert read_plain_answer(GOOD.replace(b"X-A: b", b"Set-Cookie: sesame-4711")) is not None
    assert not any(b"sesame-4711" in line for line in plain_answer._lines)
    assert not any(b"sesame-4711" in head for head in plain_answer._heads)


def test_a_head_is_read_once_and_found_then() -> None:
    plain_answer._heads.clear()
    first = read_plain_answer(GOOD)
    assert first is not None
    assert read_plain_answer(GOOD + b"more") is first
    assert read_plain_answer(GOOD.replace(b"X-A: b", b"X-A: c")) is not first
    long = GOOD.replace(b"X-A: b", b"X-A: " + b"b" * 1500)
    assert read_plain_answer(long) is not read_plain_answer(long)


def test_an_answer_that_is_ready_is_written_like_any_other(watch: DeadlineWatch) -> None:
    dated = GOOD.replace(b"now", b"Sat, 01 Jan 2028 00:00:00 GMT")
    answer = read_plain_answer(dated)
    assert answer is not None
    assert answer.head.ready
    assert compare([dated], watch).written.startswith(answer.head.ready)
    assert b"\r\nX-Rate-Limit-Limit: 1\r\n" in compare([dated], watch).written
    closing = whole_answer(answer.head, b"", b"", keep_alive=False)
    assert b"\r\nConnection: close\r\n" in closing
    undated = read_plain_answer(GOOD.replace(b"Date", b"X-D"))
    assert undated is not None
    assert b"\r\nDate: " in whole_answer(undated.head, b"", b"", keep_alive=True)
