"""Between two requests or within one: the answer yes is right for every way in which bytes can be cut up."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpRequestParser
from aiohttp.http_exceptions import HttpProcessingError
from hypothesis import given, settings
from hypothesis import strategies as st

from zeta_guard.runtime.boundary import Boundary

GET = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"
PROBE = b"GET /probe HTTP/1.1\r\nHost: a\r\n\r\n"


def post(body: bytes) -> bytes:
    return b"POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body


CHUNKED = b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
TRAILERS = CHUNKED[:-2] + b"X-A: 1\r\n\r\n"
REQUESTS = [
    GET,
    post(b"{}"),
    post(b""),
    post(b"\r\n\r\n"),
    post(b"a\r\n\r\n."),
    post(GET),
    post(b"x" * 70_000),
    CHUNKED,
    TRAILERS,
]


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def feed(pieces: Sequence[bytes], loop: asyncio.AbstractEventLoop, *, waiting: bool = False) -> tuple[bool, list[Any]]:
    """What is said behind the last piece, and what the parser makes of a request that follows.

    ``waiting``: nothing is answered meanwhile, so that all requests wait; else each is taken when it comes.
    """
    parser = HttpRequestParser(BaseProtocol(loop), loop, 2**20, auto_decompress=False)
    boundary = Boundary()
    messages: list[Any] = []
    said = True
    for piece in pieces:
        fresh = list(parser.feed_data(piece)[0])
        messages += fresh
        newest = messages if waiting else fresh
        said = boundary.reached(piece, newest[-1][1] if newest else None)
    if any(not payload.is_eof() for _, payload in messages):
        # The connection asks for no further request before this body is over.
        return False, []
    return said, list(parser.feed_data(PROBE)[0])


def check(pieces: Sequence[bytes], loop: asyncio.AbstractEventLoop, *, waiting: bool) -> bool:
    try:
        said, behind = feed(pieces, loop, waiting=waiting)
    except HttpProcessingError:
        return False
    if said:
        assert [message.path for message, _ in behind] == ["/probe"]
    return said


@settings(max_examples=600, deadline=None)
@given(
    requests=st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=4),
    cuts=st.lists(st.floats(0, 1), max_size=4),
    behind=st.sampled_from([0, 0, 0, 1, 5, 17, 24, 26, 27]),
    waiting=st.booleans(),
)
def test_yes_is_said_only_between_two_requests(
    requests: list[bytes], cuts: list[float], behind: int, waiting: bool, loop: asyncio.AbstractEventLoop
) -> None:
    raw = b"".join(requests) + b"GET / HTTP/1.1\r\nX: a\r\n\r\n\r\n"[:behind]
    places = sorted({int(cut * len(raw)) for cut in cuts} | {0, len(raw)})
    check([raw[start:end] for start, end in pairwise(places)], loop, waiting=waiting)


@pytest.mark.parametrize("request_", REQUESTS, ids=range(len(REQUESTS)))
def test_behind_a_whole_request_the_answer_is_yes(request_: bytes, loop: asyncio.AbstractEventLoop) -> None:
    assert check([request_], loop, waiting=False)
    assert check([GET, request_], loop, waiting=False)
    assert check([post(b"{}"), request_], loop, waiting=True)


@pytest.mark.parametrize("request_", REQUESTS, ids=range(len(REQUESTS)))
def test_behind_a_body_of_its_own_segments_the_answer_is_yes(request_: bytes, loop: asyncio.AbstractEventLoop) -> None:
    end = request_.index(b"\r\n\r\n") + 4
    pieces = [piece for piece in (request_[:end], request_[end : end + 40_000], request_[end + 40_000 :]) if piece]
    assert check(pieces, loop, waiting=False)
    assert check([GET, *pieces], loop, waiting=False)


@pytest.mark.parametrize("split", [1, 2, 3])
@pytest.mark.parametrize("behind", range(6))
def test_a_head_that_ends_in_another_segment_is_counted_rightly(
    split: int, behind: int, loop: asyncio.AbstractEventLoop
) -> None:
    raw = post(b"{}") + b"GET /x HTTP/1.1\r\n"[:behind]
    end = raw.index(b"{}") - split
    said = check([raw[:end], raw[end:]], loop, waiting=False)
    assert not (said and behind)


def test_within_a_head_the_answer_is_no(loop: asyncio.AbstractEventLoop) -> None:
    for before in (b"", GET, post(b"{}"), CHUNKED):
        for piece in (b"G", b"GET /x HTTP/1.1\r\n", b"GET /x HTTP/1.1\r\nX-A: "):
            assert not check([before + piece], loop, waiting=False)
            assert not check([one for one in (before, piece) if one], loop, waiting=False)
