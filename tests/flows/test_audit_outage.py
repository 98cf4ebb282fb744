"""A disk that is full: nothing is granted without a record, what was granted goes on, and somebody hears of it."""

from __future__ import annotations

import json
import os
import re
from typing import Any

import aiohttp

from zeta_guard.cli.demo_story.configuration import OPEN_ROUTE
from zeta_guard.cli.demo_story.stage import write_private
from zeta_guard.client.keys import SoftwareKey
from zeta_guard.config.load import load_config
from zeta_guard.runtime.guard import Guard


async def _ops(world: Any, path: str) -> str:
    url = f"http://127.0.0.1:{world.guard.ops_port}{path}"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return await answer.text()


async def _failing(world: Any) -> float:
    page = await _ops(world, "/metrics")
    found = re.search(r"^zeta_guard_audit_failing ([0-9.]+)$", page, re.MULTILINE)
    assert found is not None
    return float(found[1])


async def test_a_full_disk_stops_logins_and_administration_not_requests(world: Any) -> None:
    await world.guard.stop(drain_seconds=0)
    write_private(world.stage.directory / "audit.key", SoftwareKey.generate().to_pem())
    world.change(audit={"directory": "audit", "signing_key_file": "audit.key"})
    world.stage.guard = Guard(load_config(world.config_file))
    await world.guard.start()
    try:
        async with world.client() as client:
            await client.login()
            assert await _failing(world) == 0
            audit = world.guard._audit
            kept = os.dup(audit._descriptor)
            full = os.open("/dev/full", os.O_WRONLY)
            os.dup2(full, audit._descriptor)
            os.close(full)
            try:
                refused = await client.exchange()
                assert (refused.status, json.loads(refused.body)["error"]) == (503, "temporarily_unavailable")
                assert (await client.send("GET", OPEN_ROUTE)).status == 200
                assert await _failing(world) == 1
                ready = json.loads(await _ops(world, "/readyz"))
                (line,) = [line for line in ready["dependencies"] if line["name"] == "audit"]
                assert (ready["status"], line["state"]) == ("degraded", "degraded")
            finally:
                os.dup2(kept, audit._descriptor)
                os.close(kept)
            assert (await client.exchange()).status == 200
            assert await _failing(world) == 0
    finally:
        await world.guard.stop(drain_seconds=0)
