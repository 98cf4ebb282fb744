"""A reload drops nothing, and a configuration that cannot be used changes nothing."""

from __future__ import annotations

import asyncio
import gc
import json
import time
import weakref
from typing import Any

import pytest

from zeta_guard.authorization_server.key_folder import rotate
from zeta_guard.cli.demo_story.configuration import OPEN_ROUTE, POPP_ROUTE
from zeta_guard.errors import ConfigurationError, ConfigurationErrors
from zeta_guard.http import plain_request


async def readiness(world: Any) -> tuple[bool, dict[str, Any]]:
    answer = await world.guard.readiness()
    return answer.ready, answer.document()


async def test_a_new_route_is_there_after_a_reload_and_a_token_stays_good(world: Any) -> None:
    async with world.client() as client:
        await client.login()
        before = await client.send("GET", "/added")
        assert (before.status, json.loads(before.body)["error"]) == (404, "resource_not_found")
        gateway = world.section("gateway")
        gateway["routes"].append({**gateway["routes"][-1], "prefix": "/added", "public": True})
        world.change(gateway=gateway)
        await world.reload()
        # Now it is the service that has nothing there, and it says so in its own words.
        assert (await client.send("GET", "/added")).body == b"404: Not Found"
        assert (await client.send("GET", OPEN_ROUTE)).status == 200


async def test_an_open_websocket_survives_a_reload_and_ends_with_1001_at_the_drain(world: Any) -> None:
    async with world.client() as client:
        await client.login()
        socket = await client.websocket(POPP_ROUTE)
        await world.reload()
        await socket.ping()
        await socket.send_str(json.dumps({"type": "NoSuchMessage"}))
        assert (await asyncio.wait_for(socket.receive(), 5)).data
        stopping = asyncio.create_task(world.guard.stop(drain_seconds=5))
        while not socket.closed:
            await asyncio.wait_for(socket.receive(), 5)
        assert socket.close_code in (1000, 1001)
        await stopping
        world.stage.guard = None


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"public_url": "https://elsewhere.example"}, "public_url"),
        ({"store": {"kind": "memory", "max_entries": 5000}}, "store"),
        ({"secret_files": ["absent"]}, "absent"),
        ({"policy": {"token": {"engine": "embedded", "bundle": "package:nonesuch"}}}, "bundle"),
        ({"tls": {"certificate_file": "tls/guard.key", "private_key_file": "tls/guard.key"}}, "tls"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
async def test_what_cannot_be_used_is_refused_by_name_and_the_old_stays(
    world: Any, change: dict[str, Any], named: str
) -> None:
    async with world.client() as client:
        await client.login()
        world.change(**change)
        with pytest.raises((ConfigurationError, ConfigurationErrors)) as caught:
            await world.reload()
        assert named in str(caught.value)
        assert (await client.send("GET", OPEN_ROUTE)).status == 200
        assert (await readiness(world))[0]


async def test_a_running_request_ends_while_the_guard_drains_and_new_connections_are_refused(world: Any) -> None:
    reader, writer = await world.connect()
    authority = world.stage.around.public_url.removeprefix("https://")
    writer.write(
        f"POST /register HTTP/1.1\r\nHost: {authority}\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n".encode()
    )
    await asyncio.sleep(0.05)
    stopping = asyncio.create_task(world.guard.drain(5))
    await asyncio.sleep(0.05)
    ready, document = await readiness(world)
    assert (ready, document["status"]) == (False, "draining")
    with pytest.raises(OSError):
        await world.connect()
    writer.write(b"{}")
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    assert head.startswith(b"HTTP/1.1 400")
    writer.close()
    await asyncio.wait_for(stopping, 6)


async def test_counters_of_an_ended_generation_are_kept(world: Any) -> None:
    async with world.client() as client:
        await client.login()
        await client.send("GET", OPEN_ROUTE)

    def total(name: str) -> float:
        lines = world.guard.render_metrics().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name) and "_created" not in line)

    before = total("zeta_guard_gateway_requests_total")
    assert before > 0
    await world.reload()
    for _ in range(40):
        if not world.guard._retired:
            break
        await asyncio.sleep(0.1)
    assert not world.guard._retired
    assert total("zeta_guard_gateway_requests_total") == before


@pytest.mark.parametrize(
    "change",
    [{"audit": {"directory": "audit"}}, {"telemetry": {"log_format": "text"}}, {"limits": {"request_header": 1024}}],
)
async def test_what_only_a_restart_changes_is_named(world: Any, change: dict[str, Any]) -> None:
    world.change(**change)
    with pytest.raises(ConfigurationError) as caught:
        await world.reload()
    assert caught.value.path.startswith(next(iter(change)))
    assert "Restart" in caught.value.remedy


async def test_a_missing_route_server_and_missing_popp_keys_are_lines_of_the_readiness(world: Any) -> None:
    names = [line["name"] for line in (await readiness(world))[1]["dependencies"]]
    assert {"store", "policy", "trust"} <= set(names)
    assert any(name.startswith("popp keys ") for name in names)


@pytest.mark.parametrize("change", ["other content", "another file", "a second file"])
async def test_secrets_are_not_changed_by_a_reload_because_bound_clients_would_be_foreign(
    world: Any, change: str
) -> None:
    secret = world.config_file.parent / world.section("secret_files")[0]
    async with world.client() as client:
        await client.login()
        if change == "other content":
            secret.write_bytes(bytes(range(32)))
        else:
            (secret.parent / "second").write_bytes(bytes(range(32)))
            (secret.parent / "second").chmod(0o600)
            world.change(
                secret_files=["second"] if change == "another file" else ["second", *world.section("secret_files")]
            )
        with pytest.raises(ConfigurationError, match=r"secret_files.*[Rr]estart"):
            await world.reload()
        await client.login()
        assert (await client.send("GET", OPEN_ROUTE)).status == 200


async def test_the_same_secret_in_another_file_is_no_change(world: Any) -> None:
    secret = world.config_file.parent / world.section("secret_files")[0]
    (secret.parent / "copy").write_bytes(secret.read_bytes())
    (secret.parent / "copy").chmod(0o600)
    world.change(secret_files=["copy"])
    await world.reload()


async def test_a_folder_of_pkcs12_keys_is_taken_by_a_reload_and_signs(world: Any) -> None:
    folder = world.config_file.parent
    (folder / "signing-password").write_text("correct horse\n")
    (folder / "signing-password").chmod(0o600)
    written = rotate(folder / "pkcs12", time.time() - 10_000, password=b"correct horse")
    place = {"signing_keys": "pkcs12", "signing_key_password_file": "signing-password"}
    world.change(authorization_server={**world.section("authorization_server"), **place})
    await world.reload()
    async with world.client() as client:
        await client.login()
        assert (await client.send("GET", OPEN_ROUTE)).status == 200
    shown = await world.raw(b"GET /jwks HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % world.port)
    assert [key["kid"] for key in json.loads(shown.partition(b"\r\n\r\n")[2])["keys"]] == [written.kid]
    (folder / "signing-password").write_text("wrong horse\n")
    with pytest.raises(ConfigurationError, match="another password"):
        await world.reload()


async def test_an_ended_generation_is_freed_though_its_requests_are_remembered(world: Any) -> None:
    async with world.client() as client:
        await client.login()
        for _ in range(4):
            assert (await client.send("GET", OPEN_ROUTE)).status == 200
        assert any(head.standing is not None for head in plain_request._known.young.values())
        ended = weakref.ref(world.guard._generation.gateway)
        await world.reload()
        for _ in range(40):
            gc.collect()
            if ended() is None:
                break
            await asyncio.sleep(0.1)
        assert ended() is None
        assert (await client.send("GET", OPEN_ROUTE)).status == 200
