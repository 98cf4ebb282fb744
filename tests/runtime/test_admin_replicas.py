"""What is administered at one process counts in another one that shares the Redis, a gateway without pseudonyms included."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from zeta_guard.cli.demo_story.configuration import OPEN_ROUTE
from zeta_guard.cli.demo_story.stage import Stage
from zeta_guard.client.session import ZetaClient
from zeta_guard.config.load import load_config
from zeta_guard.runtime.guard import Guard
from zeta_guard.simulators.redis_process import RedisProcess

pytestmark = pytest.mark.redis
TELEMATIK_ID = "1-2012345678"


@dataclass
class Replicas:
    """An authorization server with gateway, and a gateway of its own."""

    stage: Stage
    client: ZetaClient
    gateway: Guard

    async def at_gateway(self) -> int:
        """Status of the client's request at the other gateway."""
        url = self.client.url(OPEN_ROUTE)
        headers = [*self.client.resource_headers("GET", url), ("Host", self.stage.around.public_url.partition("//")[2])]
        other = f"https://127.0.0.1:{self.gateway.public_port}{OPEN_ROUTE}"
        return (await self.client.wire.send("GET", other, headers)).status

    async def ask(self, socket: str, method: str, path: str, body: object = None) -> tuple[int, dict[str, Any]]:
        connector = aiohttp.UnixConnector(str(self.stage.directory / socket))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(method, f"http://guard{path}", json=body) as answer,
        ):
            return answer.status, json.loads(await answer.read())


@pytest.fixture
async def replicas(tmp_path: Path) -> AsyncIterator[Replicas]:
    if not RedisProcess.installed():
        if "redis" in os.environ.get("ZETA_GUARD_REQUIRE", ""):
            pytest.fail("redis-server is required and not installed")
        pytest.skip("redis-server is not installed")
    async with AsyncExitStack() as exits:
        redis = RedisProcess(tmp_path)
        redis.start()
        exits.callback(redis.stop)
        stage = await exits.enter_async_context(Stage(tmp_path / "guard"))
        stage.directory.mkdir(mode=0o700)
        await stage.build_pki()
        await stage.start_services()
        await stage.start_guard()
        assert stage.guard is not None
        await stage.guard.stop(drain_seconds=0)
        document = yaml.safe_load((stage.directory / "guard.yaml").read_text())
        document["store"] = {"kind": "redis", "url": redis.url}
        (stage.directory / "first.yaml").write_text(yaml.safe_dump(document))
        url = stage.around.public_url
        document["listen"]["port"] = document["ops"]["port"] = 0
        document["ops"]["admin_socket"] = "gateway.sock"
        document["gateway"]["issuers"] = [{"issuer": url, "jwks_uri": f"{url}/jwks", "ca_file": "ca.pem"}]
        (stage.directory / "second.yaml").write_text(yaml.safe_dump(document))
        stage.guard = Guard(load_config(stage.directory / "first.yaml"))
        gateway = Guard(load_config(stage.directory / "second.yaml"), role="gateway")
        for guard in (stage.guard, gateway):
            await guard.start()
            exits.push_async_callback(guard.stop, drain_seconds=0)
        client = await exits.enter_async_context(ZetaClient(url, stage.card("good"), ca_file=stage.ca_file))
        await stage.first_proof_possible()
        await client.login()
        yield Replicas(stage, client, gateway)


async def _refused_soon(replicas: Replicas) -> float:
    began = time.monotonic()
    async with asyncio.timeout(5):
        while await replicas.at_gateway() != 401:  # noqa: ASYNC110 - nobody but the other replica knows
            await asyncio.sleep(0.02)
    return time.monotonic() - began


async def test_a_session_ended_at_one_replica_is_refused_by_the_other_within_a_second(replicas: Replicas) -> None:
    assert await replicas.at_gateway() == 200
    await replicas.ask("admin.sock", "POST", "/sessions/end", {"telematik_id": TELEMATIK_ID})
    assert await _refused_soon(replicas) < 1.0


async def test_a_gateway_without_pseudonyms_refuses_a_blocked_institution_too(replicas: Replicas) -> None:
    assert await replicas.at_gateway() == 200
    body = {"kind": "institution", "telematik_id": TELEMATIK_ID}
    status, answer = await replicas.ask("admin.sock", "POST", "/blocks/add", body)
    assert (status, answer["ended_sessions"]) == (200, 1)
    assert await _refused_soon(replicas) < 1.0


async def test_a_gateway_alone_shows_blocks_and_refusals_and_sends_the_rest_elsewhere(replicas: Replicas) -> None:
    await replicas.ask("admin.sock", "POST", "/blocks/add", {"kind": "product", "identifier": "p"})
    status, shown = await replicas.ask("gateway.sock", "GET", "/blocks")
    assert status == 200
    assert [block["identifier"] for block in shown["blocks"]] == ["p"]
    assert (await replicas.ask("gateway.sock", "GET", "/config"))[1]["role"] == "gateway"
    assert (await replicas.ask("gateway.sock", "GET", "/refusals"))[0] == 200
    for method, path, body in (
        ("GET", "/sessions", None),
        ("GET", "/keys", None),
        ("GET", "/clients?institution=x", None),
        ("POST", "/sessions/end", {"session_id": "x"}),
        ("POST", "/blocks/remove", {"kind": "product", "identifier": "p"}),
        ("POST", "/keys/rotate", {}),
    ):
        status, answer = await replicas.ask("gateway.sock", method, path, body)
        assert status == 404, path
        assert "gateway only" in answer["error_description"]
        assert "authorization-server" in answer["remedy"]
