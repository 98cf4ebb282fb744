"""Whatever is read in one go, aiohttp's parser reads as the same request and the listener's check of heads lets pass.

The inputs begin as good requests and are then spoiled, since random bytes are no requests. What is declined is left to that
parser, so that the comparison goes one way only; that most good requests are not declined is shown apart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpRequestParser
from aiohttp.http_exceptions import HttpProcessingError
from hypothesis import example, given, settings
from hypothesis import strategies as st

from zeta_guard.config.limits import Limits
from zeta_guard.http import header_line, plain_request
from zeta_guard.http.plain_request import PlainHead, PlainRequest, read_plain_head, remember_head
from zeta_guard.runtime.request_head import check_request_head

LIMITS = Limits()
GOOD = (
    b"GET /vsd/x?y=1 HTTP/1.1\r\nHost: guard.example\r\nAuthorization: DPoP a.b.c\r\nDPoP: d.e.f\r\nAccept: */*\r\n\r\n"
)


@pytest.fixture(scope="module")
def loop() -> Any:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def parse(data: bytes, loop: asyncio.AbstractEventLoop, limits: Limits = LIMITS) -> list[Any]:
    """What the listener's parser makes of it (set up as in ``GuardServer``): messages with their bodies."""
    protocol = BaseProtocol(loop)
    parser = HttpRequestParser(
        protocol,
        loop,
        2**16,
        max_line_size=limits.request_line,
        max_field_size=limits.request_header,
        max_headers=limits.header_count + 1,
        auto_decompress=False,
    )
    messages, upgraded, tail = parser.feed_data(data)
    assert not upgraded
    assert tail == b""
    return list(messages)


def lowered(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    """aiohttp spells the names that it knows in its own way."""
    return [(name.lower(), value) for name, value in headers.items()]


def as_request(head: PlainHead, loop: asyncio.AbstractEventLoop) -> PlainRequest:
    protocol: Any = None
    return PlainRequest(head, protocol, loop, remote="192.0.2.1", secure=True)


def compare(head: PlainHead, data: bytes, loop: asyncio.AbstractEventLoop, limits: Limits = LIMITS) -> None:
    [(message, payload)] = parse(data, loop, limits)
    assert (message.method, message.path) == (head.method, head.target)
    assert message.version == (1, 1)
    assert not message.chunked
    assert not message.upgrade
    assert message.raw_headers == as_request(head, loop).raw_headers
    assert lowered(message.headers) == lowered(head.headers)
    assert message.should_close is not head.keep_alive
    assert payload.is_eof()
    assert payload.read_nowait() == (head.body or b"")
    # An announced body is told apart from none.
    assert ("Content-Length" in message.headers) is (head.body is not None)
    check_request_head(message.method, message.version, message.path, message.raw_headers, limits)


names = st.sampled_from(
    [
        "Accept",
        "accept",
        "X-A",
        "DPoP",
        "PoPP",
        "Content-Type",
        "User-Agent",
        "Forwarded",
        "Keep-Alive",
        "TE",
        "Cookie",
        "Via",
    ]
)
values = st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
lines = st.one_of(
    st.builds("{}: {}".format, names, values),
    st.builds("{}:{}".format, names, values),
    st.builds("{}:\t{} \t".format, names, values),
    st.sampled_from(["Connection: close", "Connection: keep-alive", "connection: Keep-Alive", "Authorization: DPoP x"]),
)
# What must never be read here, or may be only when the parser agrees.
spoilers = st.sampled_from(
    [
        *("Host: other.example", "host:other", "Content-Length: 3", "content-length: 0", "Content-Length: 03"),
        *("Content-Length: +3", "Content-Length: 3, 3", "Content-Length: 0x3", "Content-Length:", "Content-Length : 3"),
        *("Transfer-Encoding: chunked", "transfer-encoding: identity", "Transfer-Encoding : chunked"),
        *("Upgrade: websocket", "Upgrade: h2c", "Expect: 100-continue", "Connection: upgrade", "Connection: x, close"),
        *("Connection:", "Connection: close, keep-alive", "Proxy-Connection: close", "Authorization: DPoP y"),
        *("Content-Type: a", " folded", "\tfolded", "X-A : 1", "X A: 1", "X-A", ": 1", "", "X-\x00A: 1", "X-A: 1\x00"),
        *(
            "X-A: \x7f",
            "X-A: \x0b",
            "X-A: \x80",
            "X-Ä: 1",
            "X-A: ä",
            "X-A: 1\r",
            "\rX-A: 1",
            "X-A: 1\nX-B: 2",
            "X-A: 1\rX-B: 2",
        ),
        *("X-A: " + "a" * 200, "X-A: " + "a" * 40_000, "a" * 70 + ": 1"),
    ]
)
firsts = st.sampled_from(
    [
        *(
            "GET / HTTP/1.1",
            "GET /vsd/x HTTP/1.1",
            "POST /vsd/x?a=b%20c HTTP/1.1",
            "DELETE /x HTTP/1.1",
            "HEAD // HTTP/1.1",
        ),
        *(
            "GET / HTTP/1.0",
            "GET / HTTP/2.0",
            "GET /  HTTP/1.1",
            " GET / HTTP/1.1",
            "GET\t/ HTTP/1.1",
            "GET /\t HTTP/1.1",
        ),
        *(
            "GET /a\tb HTTP/1.1",
            "get / HTTP/1.1",
            "GET / http/1.1",
            "GET / HTTP/1.1 ",
            "GET http://a/ HTTP/1.1",
            "GET * HTTP/1.1",
        ),
        *(
            "CONNECT a:1 HTTP/1.1",
            "GET /#a HTTP/1.1",
            "GET /\x80 HTTP/1.1",
            "GET /ä HTTP/1.1",
            "GET /\x00 HTTP/1.1",
            "PRI * HTTP/2.0",
        ),
        *(
            "GET /" + "a" * 9_000 + " HTTP/1.1",
            'GET /"<>\\^`{|} HTTP/1.1',
            "TRACE / HTTP/1.1",
            "FOO / HTTP/1.1",
            "GET /\x7f HTTP/1.1",
        ),
    ]
)
ends = st.sampled_from(["\r\n"] * 12 + ["\n", "\r", "\r\r\n", "\n\r\n"])
bodies = st.sampled_from([b"", b"{}", b"abc", b"\r\n", b"\r\n\r\n", b"a\r\n\r\n", GOOD, b"x" * 1000])


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A request: good, or spoiled in one place or some."""
    first = draw(st.one_of(st.just("POST /vsd/x HTTP/1.1"), firsts))
    fields = ["Host: guard.example", *draw(st.lists(lines, max_size=5))]
    body = draw(bodies)
    if body or draw(st.booleans()):
        length = len(body) + draw(st.sampled_from([0] * 12 + [1, -1]))
        fields.append(f"Content-Length: {length}")
    for spoiler in draw(st.lists(spoilers, max_size=1)):
        fields.insert(draw(st.integers(0, len(fields))), spoiler)
    if draw(st.integers(0, 15)) == 0:
        fields += ["X-N: 1"] * draw(st.integers(90, 105))
    if draw(st.integers(0, 3)) == 0:
        ending = [draw(ends) for _ in range(len(fields) + 1)]
    else:
        ending = ["\r\n"] * (len(fields) + 1)
    text = "".join(line + end for line, end in zip([first, *fields], ending, strict=True))
    raw = text.encode("latin-1", "replace") + b"\r\n" + body
    if draw(st.integers(0, 7)) == 0:
        raw += draw(st.sampled_from([b"\r\n", b"\n", b"G", GOOD, b"\r\n\r\n"]))
    if draw(st.integers(0, 7)) == 0:
        place = draw(st.integers(0, len(raw)))
        raw = (
            raw[:place]
            + draw(st.sampled_from([b"\r", b"\n", b"\r\n", b"\x00", b" ", b"\t", b":", b"\xff", b""]))
            + raw[place + 1 :]
        )
    return raw


LF = b"GET / HTTP/1.1\nHost: a\n\r\n\r\n"


@settings(max_examples=1000, deadline=None)
@given(data=requests())
@example(data=GOOD)
@example(data=LF)
@example(data=b"GET / HTTP/1.1\nHost: a\nX-A: 1\r\n\r\n\r\n")
@example(data=b"GET / HTTP/1.1\r\nHost: a\nX-A: 1\n\r\n\r\n")
@example(data=b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n\r\n\r\n")
def test_what_is_read_in_one_go_the_parser_reads_in_the_same_way(data: bytes, loop: asyncio.AbstractEventLoop) -> None:
    head = read_plain_head(data, LIMITS)
    if head is not None:
        compare(head, data, loop)


proofs = st.one_of(
    st.text(alphabet="abcXYZ019-_.", max_size=40).map(str.encode),
    st.sampled_from(
        [b"", b" ", b"a b", b" a", b"a\t", b"a,b", b"a=", b"a\x00", b"a\n", b"a\r", b"\xc3\xa4", b"a" * 40_000]
    ),
    st.sampled_from(
        [b"a\r\nHost: b", b"a\r\nDPoP: b", b"a\r\n\r\nGET / HTTP/1.1", b"a\r\nContent-Length: 5", b"a\r\n b"]
    ),
)


@settings(max_examples=1000, deadline=None)
@given(
    data=requests(), spelled=st.sampled_from([b"DPoP: ", b"dpop: ", b"DPOP: ", b"dpop:"]), first=proofs, second=proofs
)
@example(data=GOOD, spelled=b"DPoP: ", first=b"a.b", second=b"c.d")
@example(data=GOOD, spelled=b"dpop: ", first=b"a.b", second=b"c.d")
@example(data=GOOD.replace(b"DPoP", b"dPoP"), spelled=b"DPoP: ", first=b"a.b", second=b"c.d")
def test_a_head_that_is_known_but_for_its_proof_reads_like_a_new_one(
    data: bytes, spelled: bytes, first: bytes, second: bytes, loop: asyncio.AbstractEventLoop
) -> None:
    plain_request._known.clear()
    line = b"\r\n" + spelled
    before = data.replace(b"\r\nDPoP: d.e.f", b"").replace(b"\r\n", line + first + b"\r\n", 1)
    after = data.replace(b"\r\nDPoP: d.e.f", b"").replace(b"\r\n", line + second + b"\r\n", 1)
    head = read_plain_head(before, LIMITS)
    if head is None:
        return
    request = as_request(head, loop)
    remember_head(request, LIMITS)
    head = read_plain_head(after, LIMITS)
    if head is not None:
        compare(head, after, loop)
        plain_request._known.clear()
        fresh = read_plain_head(after, LIMITS)
        assert fresh is not None
        assert fresh[:3] == head[:3]
        assert fresh[4:6] == head[4:6]


def test_a_known_head_is_found_and_told_apart(loop: asyncio.AbstractEventLoop) -> None:
    plain_request._known.clear()
    head = read_plain_head(GOOD, LIMITS)
    assert head is not None
    remember_head(as_request(head, loop), LIMITS)

    def known(data: bytes, limits: Limits = LIMITS) -> bool:
        found = read_plain_head(data, limits)
        assert found is not None
        return found.known is not None

    assert known(GOOD)
    assert known(GOOD.replace(b"d.e.f", b"g-h_i.j"))
    assert not known(GOOD.replace(b"d.e.f", b"g h"))
    assert not known(GOOD.replace(b"a.b.c", b"a.b.d"))
    # The first line is read by itself.
    assert known(GOOD.replace(b"/vsd/x", b"/vsd/y"))
    assert known(GOOD.replace(b"GET", b"HEAD"))
    for first in (
        b"GET /vsd/ x HTTP/1.1",
        b"GET /\x80 HTTP/1.1",
        b"GET / HTTP/1.0",
        b"get / HTTP/1.1",
        b"GET /\n HTTP/1.1",
    ):
        assert read_plain_head(GOOD.replace(b"GET /vsd/x?y=1 HTTP/1.1", first), LIMITS) is None
    long = GOOD.replace(b"/vsd/x", b"/" + b"x" * LIMITS.request_line)
    assert read_plain_head(long, LIMITS) is None
    assert not known(GOOD, Limits())
    assert not known(GOOD[:-2] + b"Content-Length: 0\r\n\r\n")
    # The proof elsewhere in the head is another head.
    assert not known(GOOD.replace(b"DPoP: d.e.f\r\n", b"").replace(b"Host", b"DPoP: d.e.f\r\nHost"))
    plain_request._known.clear()


def test_popp_tokens_are_cut_out_once_somebody_shows_them(loop: asyncio.AbstractEventLoop) -> None:
    plain_request._known.clear()
    plain_request._custom.popp = False
    shown = GOOD[:-2] + b"PoPP: sesame-4711\r\n\r\n"

    def play(data: bytes) -> PlainHead:
        head = read_plain_head(data, LIMITS)
        assert head is not None
        compare(head, data, loop)
        remember_head(as_request(head, loop), LIMITS)
        return head

    assert [play(shown).known is None for _ in range(4)] == [True, True, False, False]
    assert not any(b"sesame-4711" in rest for rest in plain_request._known.young)
    other = play(shown.replace(b"4711", b"4712"))
    assert other.known is not None
    assert other.headers["PoPP"] == "sesame-4712"
    # None, an empty one and one that cannot be cut are other heads.
    assert play(GOOD).known is None
    assert play(shown.replace(b"sesame-4711", b"")).known is None
    assert play(shown.replace(b"sesame-4711", b"sesame 4711")).known is None
    assert play(GOOD).known is not None
    plain_request._known.clear()
    plain_request._custom.popp = False


def test_no_more_heads_are_known_than_a_thousand(loop: asyncio.AbstractEventLoop) -> None:
    plain_request._known.clear()
    for number in range(3000):
        head = read_plain_head(GOOD.replace(b"a.b.c", b"%d" % number), LIMITS)
        assert head is not None
        remember_head(as_request(head, loop), LIMITS)
    assert 512 <= len(plain_request._known) <= 1024
    long = read_plain_head(GOOD.replace(b"a.b.c", b"a" * 3000), LIMITS)
    assert long is not None
    before = len(plain_request._known)
    remember_head(as_request(long, loop), LIMITS)
    assert len(plain_request._known) == before
    plain_request._known.clear()


@settings(max_examples=200, deadline=None)
@given(data=requests(), size=st.integers(1024, 1200), count=st.integers(10, 12))
def test_it_keeps_the_limits_of_the_parser(data: bytes, size: int, count: int, loop: asyncio.AbstractEventLoop) -> None:
    limits = Limits(request_line=1024, request_header=size, header_count=count)
    head = read_plain_head(data, limits)
    if head is not None:
        compare(head, data, loop, limits)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("body", [None, b"", b"{}", b"a" * 20_000, b"\r\n\r\n."])
def test_a_good_request_is_read(method: str, body: bytes | None, loop: asyncio.AbstractEventLoop) -> None:
    data = GOOD.replace(b"GET", method.encode())
    if body is not None:
        data = data[:-2] + b"Content-Length: %d\r\n\r\n" % len(body) + body
    head = read_plain_head(data, LIMITS)
    assert head is not None
    compare(head, data, loop)
    assert (head.method, head.target, head.body, head.keep_alive) == (method, "/vsd/x?y=1", body, True)


@pytest.mark.parametrize(("value", "keep_alive"), [(b"close", False), (b"Close", False), (b"keep-alive", True)])
def test_connection_decides_about_the_next_request(
    value: bytes, keep_alive: bool, loop: asyncio.AbstractEventLoop
) -> None:
    data = GOOD[:-2] + b"Connection: " + value + b"\r\n\r\n"
    head = read_plain_head(data, LIMITS)
    assert head is not None
    compare(head, data, loop)
    assert head.keep_alive is keep_alive


DECLINED = {
    "nothing": b"",
    "a piece": GOOD[:-1],
    "two requests": GOOD + GOOD,
    "bytes behind": GOOD + b"\r\n",
    "too little body": GOOD[:-2] + b"Content-Length: 3\r\n\r\nab",
    "too much body": GOOD[:-2] + b"Content-Length: 3\r\n\r\nabcd",
    "body unannounced": GOOD + b"abc",
    "length signed": GOOD[:-2] + b"Content-Length: +3\r\n\r\nabc",
    "length empty": GOOD[:-2] + b"Content-Length: \r\n\r\n",
    "length endless": GOOD[:-2] + b"Content-Length: " + b"0" * 19 + b"\r\n\r\n",
    "length twice": GOOD[:-2] + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "chunked": GOOD[:-2] + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "upgrade": GOOD[:-2] + b"Upgrade: websocket\r\n\r\n",
    "upgrade named": GOOD[:-2] + b"Connection: upgrade\r\n\r\n",
    "connection names a header": GOOD[:-2] + b"Connection: close, X-A\r\n\r\n",
    "connection twice": GOOD[:-2] + b"Connection: close\r\nConnection: close\r\n\r\n",
    "proxy connection": GOOD[:-2] + b"Proxy-Connection: close\r\n\r\n",
    "expectation": GOOD[:-2] + b"Expect: 100-continue\r\nContent-Length: 1\r\n\r\na",
    "no host": GOOD.replace(b"Host", b"Hast"),
    "two hosts": GOOD[:-2] + b"host: guard.example\r\n\r\n",
    "two authorizations": GOOD[:-2] + b"authorization: DPoP x\r\n\r\n",
    "two types": GOOD[:-2] + b"Content-Type: a\r\nContent-Type: a\r\n\r\n",
    "two user agents": GOOD[:-2] + b"User-Agent: a\r\nUser-Agent: b\r\n\r\n",
    "1.0": GOOD.replace(b"HTTP/1.1", b"HTTP/1.0"),
    "2.0": GOOD.replace(b"HTTP/1.1", b"HTTP/2.0"),
    "absolute form": GOOD.replace(b"/vsd", b"http://guard.example/vsd"),
    "asterisk": GOOD.replace(b"/vsd/x?y=1", b"*"),
    "two blanks": GOOD.replace(b" /vsd", b"  /vsd"),
    "tab for a blank": GOOD.replace(b" /vsd", b"\t/vsd"),
    "tab in the target": GOOD.replace(b"/vsd", b"/v\tsd"),
    "delete in the target": GOOD.replace(b"/vsd", b"/v\x7fsd"),
    "high byte in the target": GOOD.replace(b"/vsd", b"/v\xe4sd"),
    "unknown method": GOOD.replace(b"GET", b"BREW"),
    "method in small letters": GOOD.replace(b"GET", b"get"),
    "line feed alone": GOOD.replace(b"\r\nAccept", b"\nAccept"),
    "line feeds alone": LF,
    "carriage return alone": GOOD.replace(b"\r\nAccept", b"\rAccept"),
    "carriage return in a value": GOOD.replace(b"*/*", b"*\r/*"),
    "carriage return at the end": GOOD.replace(b"*/*", b"*/*\r"),
    "line feed at the end": GOOD.replace(b"*/*", b"*/*\n"),
    "NUL": GOOD.replace(b"*/*", b"*\x00*"),
    "vertical tab": GOOD.replace(b"*/*", b"*\x0b*"),
    "high byte": GOOD.replace(b"*/*", b"*\xff*"),
    "folded line": GOOD.replace(b"*/*", b"*\r\n /*"),
    "blank before the colon": GOOD.replace(b"Accept:", b"Accept :"),
    "no colon": GOOD.replace(b"Accept:", b"Accept"),
    "no colon behind a known name": GOOD.replace(b"Accept: */*", b"Accept"),
    "no name": GOOD.replace(b"Accept:", b":"),
    "bracket in a name": GOOD.replace(b"Accept:", b"Acc(ept:"),
    "empty line first": b"\r\n" + GOOD,
    "long line": GOOD.replace(b"/vsd", b"/" + b"a" * LIMITS.request_line),
    "long header": GOOD.replace(b"*/*", b"a" * LIMITS.request_header),
    "many lines": GOOD[:-2] + b"X-A: 1\r\n" * LIMITS.header_count + b"\r\n",
}


@pytest.mark.parametrize("case", DECLINED)
def test_anything_unusual_is_left_to_the_parser(case: str) -> None:
    read_plain_head(GOOD, LIMITS)
    assert read_plain_head(DECLINED[case], LIMITS) is None


@pytest.mark.parametrize(
    "name", ["Content-Location", "Content-Range", "ETag", "Max-Forwards", "Server", "User-Agent", "Content-Type"]
)
def test_what_the_parser_takes_once_is_read_once(name: str, loop: asyncio.AbstractEventLoop) -> None:
    line = f"{name}: a\r\n".encode()
    once = GOOD[:-2] + line + b"\r\n"
    head = read_plain_head(once, LIMITS)
    assert head is not None
    compare(head, once, loop)
    twice = GOOD[:-2] + line + line.lower() + b"\r\n"
    assert read_plain_head(twice, LIMITS) is None
    with pytest.raises(HttpProcessingError):
        parse(twice, loop)


def test_the_size_of_a_head_counts_blanks_that_are_not_there(loop: asyncio.AbstractEventLoop) -> None:
    """As the check of heads counts it."""
    data = b"GET / HTTP/1.1\r\nHost:a\r\n" + b"A:b\r\n" * 60 + b"\r\n"
    fill = b"X:" + b"x" * (1024 - len(data) + 4 - len(b"X:\r\n")) + b"\r\n"
    data = data[:-2] + fill + b"\r\n"
    assert len(data) - 4 == 1024
    assert read_plain_head(data, Limits(request_header=1024)) is None
    head = read_plain_head(data, Limits(request_header=2048))
    assert head is not None
    compare(head, data, loop)


def test_what_the_parser_refuses_is_among_the_cases(loop: asyncio.AbstractEventLoop) -> None:
    """The comparison above could not fail if the parser took everything."""
    refused = 0
    for data in DECLINED.values():
        try:
            parse(data, loop)
        except HttpProcessingError:
            refused += 1
        except AssertionError:
            pass
    assert refused > 10


# what is remembered


def heads(line: bytes) -> bytes:
    return b"GET / HTTP/1.1\r\nHost: a\r\n" + line + b"\r\n\r\n"


@pytest.mark.parametrize("name", [b"Authorization", b"DPoP", b"PoPP", b"popp", b"Cookie", b"Proxy-Authorization"])
def test_secrets_are_not_among_the_remembered_lines(name: bytes) -> None:
    assert read_plain_head(heads(name + b": sesame-4711"), LIMITS) is not None
    assert not any(b"sesame-4711" in line for line in header_line.known_lines)


def test_what_clients_invent_does_not_fill_the_memory() -> None:
    for number in range(3 * header_line._MOST_LINES):
        assert read_plain_head(heads(b"X-%d: %d" % (number, number)), LIMITS) is not None
        assert len(header_line.known_lines) <= header_line._MOST_LINES
        assert len(header_line._names) <= header_line._MOST_NAMES
    for line in (b"X-A: " + b"a" * 200, b"X-" + b"a" * 70 + b": 1"):
        assert read_plain_head(heads(line), LIMITS) is not None
    assert max(map(len, header_line.known_lines)) <= header_line._LONGEST_LINE
    assert max(map(len, header_line._names)) <= header_line._LONGEST_NAME


def test_remembered_lines_read_the_same_as_new_ones(loop: asyncio.AbstractEventLoop) -> None:
    for _ in range(2):
        for line in (b"Connection: close", b"Content-Length: 0", b"X-A:\t1 ", b"x-a: 1", b"X-A: 1"):
            data = heads(line)
            head = read_plain_head(data, LIMITS)
            assert head is not None
            compare(head, data, loop)
