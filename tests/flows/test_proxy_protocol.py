"""A whole guard behind a balancer that passes TLS on and says whose connection it is."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from collections.abc import AsyncIterator
from ipaddress import IPv4Address
from typing import Any

import aiohttp
import pytest

from zeta_guard.cli.demo_story.configuration import OPEN_ROUTE
from zeta_guard.cli.demo_story.stage import free_port
from zeta_guard.client.errors import ClientError
from zeta_guard.client.session import ZetaClient
from zeta_guard.config.load import load_config
from zeta_guard.runtime.guard import Guard


class Balancer:
    """Listens where clients come, passes bytes on, and puts a PROXY header before them."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.target = free_port()
        self.client = "192.0.2.7"
        self._running: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, towards = await asyncio.open_connection("127.0.0.1", self.target)
        addresses = IPv4Address(self.client).packed + IPv4Address("127.0.0.1").packed + struct.pack("!HH", 40_000, 443)
        towards.write(b"\r\n\r\n\x00\r\nQUIT\n\x21\x11" + struct.pack("!H", len(addresses)) + addresses)
        for source, sink in ((reader, towards), (behind, writer)):
            task = asyncio.create_task(self._pass(source, sink))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while piece := await source.read(65_536):
                sink.write(piece)
                await sink.drain()
        except ConnectionError:
            pass
        finally:
            sink.close()


async def _restart_behind_balancer(world: Any, port: int, proxies: list[str]) -> None:
    await world.guard.stop(drain_seconds=0)
    world.change(
        listen={"host": "127.0.0.1", "port": port, "proxy_protocol": True},
        gateway={**world.section("gateway"), "trusted_proxies": proxies},
    )
    world.stage.guard = Guard(load_config(world.config_file))
    await world.guard.start()


@pytest.fixture
async def balancer(world: Any) -> AsyncIterator[Balancer]:
    balancer = Balancer(world.port)
    await _restart_behind_balancer(world, balancer.target, ["127.0.0.1"])
    server = await asyncio.start_server(balancer.serve, "127.0.0.1", balancer.port)
    try:
        yield balancer
    finally:
        server.close()
        await world.guard.stop(drain_seconds=0)


async def _metrics(world: Any) -> str:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{world.guard.ops_port}/metrics") as answer,
    ):
        return await answer.text()


async def test_a_token_is_bound_to_the_client_that_the_balancer_names(world: Any, balancer: Balancer) -> None:
    async with world.client() as client:
        await client.login()
        assert (await client.send("GET", OPEN_ROUTE)).status == 200
        # The connection that is kept alive stays the first client's; a new one is another's.
        balancer.client = "192.0.2.8"
        assert (await client.send("GET", OPEN_ROUTE)).status == 200
        async with ZetaClient(
            world.stage.around.public_url, world.stage.card("good"), ca_file=world.stage.ca_file, state=client.state
        ) as thief:
            refused = await thief.send("GET", OPEN_ROUTE)
    assert (refused.status, json.loads(refused.body)["error"]) == (401, "invalid_token")
    assert 'zeta_guard_security_events_total{event="address_mismatch"} 1.0' in await _metrics(world)


async def test_what_a_client_says_about_itself_does_not_count(world: Any, balancer: Balancer) -> None:
    # Even when its own address is that of a trusted proxy: the headers are not the balancer's.
    balancer.client = "127.0.0.1"
    async with world.client() as client:
        await client.login()
        said = {"X-Forwarded-For": "203.0.113.9", "X-Real-IP": "203.0.113.9"}
        assert (await client.send("GET", OPEN_ROUTE, headers=list(said.items()))).status == 200
    seen = world.stage.vsdm.received[-1]
    assert (seen.header("X-Forwarded-For"), seen.header("X-Real-IP")) == ([], [])
    (forwarded,) = seen.header("Forwarded")
    assert "for=127.0.0.1;" in forwarded


async def test_a_direct_connection_is_closed_counted_and_an_event(world: Any, balancer: Balancer) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", balancer.target)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    with contextlib.suppress(ConnectionResetError):
        assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()
    page = await _metrics(world)
    assert 'zeta_guard_connections_refused_total{by="proxy_protocol",reason="signature"} 1.0' in page
    assert 'zeta_guard_security_events_total{event="proxy_header_refused"} 1.0' in page


async def test_a_reload_changes_whose_header_is_believed(world: Any, balancer: Balancer) -> None:
    world.change(gateway={**world.section("gateway"), "trusted_proxies": ["10.0.0.0/8"]})
    await world.reload()
    async with world.client() as client:
        with pytest.raises(ClientError):
            await client.discover()
    assert 'reason="untrusted"' in await _metrics(world)
