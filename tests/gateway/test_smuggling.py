"""Requests that two parsers could read differently: what the client hears, and that the backend sees at most one request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.gateway.conftest import MakeWorld, RawBackend, World

To = Callable[..., dict[str, Any]]

EVIL = b"GET /vsd/evil HTTP/1.1\r\nHost: guard.example\r\n\r\n"


@pytest.fixture
async def world(make_world: MakeWorld, backend: RawBackend, to: To) -> World:
    return await make_world([to(backend, methods=["GET", "HEAD", "POST", "OPTIONS"])])


async def everything(world: World, raw: bytes) -> bytes:
    """All bytes that come back until the guard closes or is silent."""
    reader, writer = await world.connect()
    writer.write(raw)
    seen = b""
    try:
        async with asyncio.timeout(0.4):
            while piece := await reader.read(65_536):
                seen += piece
    except (TimeoutError, ConnectionError):
        pass
    writer.close()
    return seen


def post(world: World, framing: str, body: bytes) -> bytes:
    return world.head(method="POST", extra=framing) + body


AMBIGUOUS = {
    "CL and TE": ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n" + EVIL),
    "TE and CL": ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", b"0\r\n\r\n" + EVIL),
    "two CL": ("Content-Length: 0\r\nContent-Length: 47\r\n", EVIL),
    "two equal CL": ("Content-Length: 3\r\nContent-Length: 3\r\n", b"abc"),
    "CL list": ("Content-Length: 3, 3\r\n", b"abc"),
    "CL sign": ("Content-Length: +3\r\n", b"abc"),
    "CL minus": ("Content-Length: -3\r\n", b"abc"),
    "CL hex": ("Content-Length: 0x3\r\n", b"abc"),
    "CL underscore": ("Content-Length: 1_0\r\n", b"0123456789"),
    "CL huge": ("Content-Length: 99999999999999999999999\r\n", b"abc"),
    "CL empty": ("Content-Length: \r\n", b""),
    "CL with a blank inside": ("Content-Length: 1 0\r\n", b"0123456789"),
    "TE gzip, chunked": ("Transfer-Encoding: gzip, chunked\r\n", b"0\r\n\r\n"),
    "TE chunked, identity": ("Transfer-Encoding: chunked, identity\r\n", b"0\r\n\r\n"),
    "TE identity": ("Transfer-Encoding: identity\r\n", b"0\r\n\r\n" + EVIL),
    "TE chunked twice": ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
    "TE quoted": ('Transfer-Encoding: "chunked"\r\n', b"0\r\n\r\n" + EVIL),
    "TE x": ("Transfer-Encoding: xchunked\r\n", b"0\r\n\r\n" + EVIL),
    "TE vertical tab": ("Transfer-Encoding: \x0bchunked\r\n", b"0\r\n\r\n" + EVIL),
    "TE semicolon": ("Transfer-Encoding: chunked;q=1\r\n", b"0\r\n\r\n" + EVIL),
    "TE space before colon": ("Transfer-Encoding : chunked\r\n", b"0\r\n\r\n" + EVIL),
    "TE with leading blank": (" Transfer-Encoding: chunked\r\n", b"0\r\n\r\n" + EVIL),
    "TE folded": ("Transfer-Encoding:\r\n chunked\r\n", b"0\r\n\r\n" + EVIL),
    "obs-fold": ("X-A: 1\r\n 2\r\n", EVIL),
    "bare LF": ("X-A: 1\nX-B: 2\r\n", b""),
    "bare CR": ("X-A: 1\rX-B: 2\r\n", b""),
    "NUL": ("X-A: 1\x002\r\n", b""),
    "NUL in a name": ("X-\x00A: 1\r\n", b""),
    "no colon": ("X-A\r\n", b""),
    "empty name": (": x\r\n", b""),
    "second Host": ("Host: evil.example\r\n", b""),
    "second equal Host": ("Host: guard.example\r\n", b""),
    "chunk size sign": ("Transfer-Encoding: chunked\r\n", b"+3\r\nabc\r\n0\r\n\r\n"),
    "chunk size 0x": ("Transfer-Encoding: chunked\r\n", b"0x3\r\nabc\r\n0\r\n\r\n"),
    "chunk size overflow": ("Transfer-Encoding: chunked\r\n", b"fffffffffffffffff\r\nabc\r\n0\r\n\r\n"),
    "chunk without CRLF": ("Transfer-Encoding: chunked\r\n", b"3\r\nabcX\r\n0\r\n\r\n"),
    "chunk bare LF": ("Transfer-Encoding: chunked\r\n", b"3\nabc\n0\n\n" + EVIL),
    "second Authorization": ("Authorization: DPoP x\r\n", b""),
    "Latin-1": ("X-A: \xe4\r\n", b""),
    "Expect twice": ("Expect: 100-continue\r\nExpect: 100-continue\r\nContent-Length: 1\r\n", b"a"),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
async def test_ambiguous_request_is_refused_and_nothing_reaches_the_backend(
    make_world: MakeWorld, backend: RawBackend, to: To, name: str
) -> None:
    world = await make_world([to(backend, methods=["POST"])], limits={"body_timeout_ms": 150})
    framing, body = AMBIGUOUS[name]
    seen = await everything(world, post(world, framing, body))
    assert seen.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 408 ")), seen
    assert json.loads(seen.split(b"\r\n\r\n")[1].split(b"}")[0] + b"}")["error"] == "invalid_request"
    assert seen.count(b"HTTP/1.1 ") == 1
    assert backend.bodies == []
    assert not any(b"evil" in head for head in backend.heads)


TARGETS = {
    "dot segments": "/vsd/../admin",
    "encoded dots": "/vsd/%2e%2e/admin",
    "half encoded dots": "/vsd/.%2E/admin",
    "dots with parameter": "/vsd/..;x/admin",
    "single dot": "/vsd/./x",
    "encoded slash": "/vsd/a%2Fb",
    "backslash": "/vsd\\x",
    "encoded backslash": "/vsd/a%5cb",
    "NUL": "/vsd/a%00b",
    "newline": "/vsd/a%0d%0aSet-Cookie:x",
    "broken escape": "/vsd/a%zz",
    "doubled escape": "/vsd/%252e%252e/admin",
    "fragment": "/vsd/x#y",
    "absolute form": "http://evil.example/vsd/x",
    "absolute form of ours": "https://guard.example/vsd/x",
    "authority form": "guard.example:443",
    "asterisk": "*",
    "no slash": "vsd/x",
}


@pytest.mark.parametrize("name", TARGETS)
async def test_target_that_needs_repair_is_refused(world: World, backend: RawBackend, name: str) -> None:
    method = "OPTIONS" if name == "asterisk" else "GET"
    raw = world.head(TARGETS[name], method)
    seen = await everything(world, raw)
    assert seen.startswith(b"HTTP/1.1 400 "), seen
    assert b"application/json" in seen
    assert backend.heads == []


@pytest.mark.parametrize(
    "target", ["/vsd/x%7Cy", "/vsd/a,b$c;d=e//f/", "/vsd/%C3%A4?x=%00&y=a/../b", "/vsd/x?", "/vsd/a%20b", "/vsd/..."]
)
async def test_everything_else_reaches_the_backend_byte_for_byte(
    world: World, backend: RawBackend, target: str
) -> None:
    assert (await world.get(target)).status == 200
    assert backend.head.split(b"\r\n")[0] == f"GET {target} HTTP/1.1".encode()


@pytest.mark.parametrize(
    ("old", "new", "status"),
    [
        (b"Host: guard.example\r\n", b"", 400),
        (b"Host: guard.example", b"Host: evil.example", 421),
        (b"Host: guard.example", b"Host: guard.example:444", 421),
        (b"Host: guard.example", b"Host: guard.example, evil.example", 421),
        (b"Host: guard.example", b"Host: user@guard.example", 421),
        (b"Host: guard.example", b"Host: GUARD.example:443", 200),
        (b" HTTP/1.1", b" HTTP/2.0", 400),
        (b" HTTP/1.1", b" HTTP/1.2", 400),
        (b" HTTP/1.1", b"", 400),
        (b"GET /vsd", b"G\x00ET /vsd", 400),
        (b"GET /vsd", b"get /vsd", 400),
        (b"GET /vsd", b"GET\t/vsd", 400),
    ],
)
async def test_request_line_and_host(world: World, backend: RawBackend, old: bytes, new: bytes, status: int) -> None:
    seen = await everything(world, world.head().replace(old, new, 1))
    assert seen.split(b" ")[1] == b"%d" % status, seen
    assert len(backend.heads) == (status == 200)


async def test_oversized_heads_are_431(world: World, backend: RawBackend) -> None:
    for extra in (
        "X-A: " + "a" * 33_000 + "\r\n",
        "X-A: 1\r\n" * 97 + "X-B: 1\r\n",
        ("X-A: " + "a" * 7000 + "\r\n") * 5,
    ):
        seen = await everything(world, world.head(extra=extra))
        assert seen.startswith(b"HTTP/1.1 431 "), seen[:200]
    assert backend.heads == []


async def test_pipelined_requests_are_answered_in_order(world: World, backend: RawBackend) -> None:
    backend.answer = lambda head: b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + head.split(b" ")[1][-1:]
    reader, writer = await world.connect()
    writer.write(world.head("/vsd/1") + world.head("/vsd/2") + world.head("/vsd/3"))
    assert [(await world.reply(reader)).body for _ in range(3)] == [b"1", b"2", b"3"]


async def test_body_of_one_request_is_never_the_next_one(world: World, backend: RawBackend) -> None:
    reader, writer = await world.connect()
    raw = post(world, f"Content-Length: {len(EVIL)}\r\n", EVIL)
    writer.write(raw + world.head())
    assert [(await world.reply(reader)).status for _ in range(2)] == [200, 200]
    assert backend.bodies == [EVIL, b""]
    # A refused request's body is not read as a request either.
    reader, writer = await world.connect()
    writer.write(world.head(method="POST", extra=f"Content-Length: {len(EVIL)}\r\n", exp=0) + EVIL + world.head())
    assert [(await world.reply(reader)).status for _ in range(2)] == [401, 200]
    assert not any(b"evil" in head for head in backend.heads)


async def test_replayed_proof_is_refused_also_at_the_same_moment(world: World, backend: RawBackend) -> None:
    request = world.head()
    replies = await asyncio.gather(*(world.send(request) for _ in range(8)))
    assert sorted(reply.status for reply in replies) == [200] + [401] * 7
    assert len(backend.heads) == 1
    refused = next(reply for reply in replies if reply.status == 401)
    assert json.loads(refused.body)["error"] == "invalid_dpop_proof"
    assert (refused.header("WWW-Authenticate") or "").startswith('DPoP error="invalid_dpop_proof"')
