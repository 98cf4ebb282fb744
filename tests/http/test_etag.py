from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from zeta_guard.http.etag import conditional, entity_tag, matches

BODY = b'{"issuer":"https://guard.example.de"}'
TAG = entity_tag(BODY)
Serve = Callable[[Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]], Awaitable[int]]
Exchange = Callable[[int, bytes], Awaitable[bytes]]


async def _document(request: web.BaseRequest) -> web.StreamResponse:
    return conditional(request, BODY, "application/json", 3600)


async def test_document_carries_its_tag_and_may_be_cached(serve: Serve, exchange: Exchange) -> None:
    answer = await exchange(await serve(_document), b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert f"ETag: {TAG}".encode() in head
    assert b"Cache-Control: public, max-age=3600" in head
    assert b"Content-Type: application/json" in head
    assert body == BODY


async def test_caller_that_has_the_document_gets_304_without_body(serve: Serve, exchange: Exchange) -> None:
    request = f'GET / HTTP/1.1\r\nHost: a\r\nIf-None-Match: "x"\r\nIf-None-Match: W/{TAG}\r\nConnection: close\r\n\r\n'
    head, _, body = (await exchange(await serve(_document), request.encode())).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 304 ")
    assert f"ETag: {TAG}".encode() in head
    assert body == b""


async def test_head_has_the_length_and_no_body(serve: Serve, exchange: Exchange) -> None:
    answer = await exchange(await serve(_document), b"HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(BODY)}".encode() in head
    assert body == b""


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("*", True),
        (TAG, True),
        (f"W/{TAG}", True),
        (f'"a", {TAG}, "b"', True),
        ('"a"', False),
        (TAG.strip('"'), False),
        ("", False),
        (f'"{TAG}"', False),
        ("*, x", False),
    ],
)
def test_if_none_match_is_compared_weakly(value: str, expected: bool) -> None:
    assert matches(value, TAG) is expected


@given(st.binary(), st.binary())
def test_tags_differ_when_contents_do(first: bytes, second: bytes) -> None:
    assert (entity_tag(first) == entity_tag(second)) == (first == second)
