"""What reaches the backend and what comes back, byte by byte."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.gateway.conftest import MakeWorld, RawBackend, Reply, World

To = Callable[..., dict[str, Any]]


@pytest.fixture
async def world(make_world: MakeWorld, backend: RawBackend, to: To) -> World:
    return await make_world([to(backend, methods=["GET", "HEAD", "POST", "PUT", "DELETE"])])


def decoded(value: str) -> dict[str, Any]:
    assert len(value) % 4 == 0, "padding is expected"
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(value))
    return found


async def test_request_reaches_the_backend_and_its_answer_the_client(world: World, backend: RawBackend) -> None:
    backend.answer = lambda head: b'HTTP/1.1 200 Fine\r\nContent-Length: 2\r\nETag: "x"\r\n\r\nok'
    reply = await world.get("/vsd/x%7C$,?a=1&b=%20")
    assert (reply.status, reply.body) == (200, b"ok")
    assert reply.raw.startswith(b"HTTP/1.1 200 Fine\r\n")
    assert reply.header("ETag") == '"x"'
    assert reply.header("ZETA-API-Version") == "1.0.0"
    assert backend.head.startswith(b"GET /vsd/x%7C$,?a=1&b=%20 HTTP/1.1\r\nHost: guard.example\r\n")


async def test_backend_hears_who_asks_and_gets_no_credentials(world: World, backend: RawBackend) -> None:
    await world.get(extra="X-Own: 1\r\nPoPP: something\r\n")
    assert decoded(backend.seen("ZETA-User-Info")[0]) == {
        "identifier": "1-2012345678",
        "professionOID": "1.2.276.0.76.4.50",
        "commonName": "Praxis Dr. Müller",
        "organizationName": "Praxis am Deich",
    }
    for name in ("Authorization", "DPoP", "PoPP", "ZETA-Client-Data", "ZETA-PoPP-Token-Content"):
        assert backend.seen(name) == []
    assert backend.seen("X-Own") == ["1"]
    assert backend.seen("Forwarded") == ["by=_zetaguard;for=127.0.0.1;host=guard.example;proto=http"]
    assert len(backend.seen("traceparent")) == 1


async def test_connections_are_kept_and_used_again(world: World, backend: RawBackend) -> None:
    reader, writer = await world.connect()
    for _ in range(3):
        writer.write(world.head())
        assert (await world.reply(reader)).status == 200
    assert backend.connections == 1
    assert len(backend.heads) == 3
