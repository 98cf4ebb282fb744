"""Administration of a running guard, over its real socket, with real clients beside it."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from zeta_guard.authorization_server.endpoint import JWKS
from zeta_guard.cli.demo_story.configuration import OPEN_ROUTE, POPP_ROUTE
from zeta_guard.cli.demo_story.stage import Stage, write_private
from zeta_guard.client.errors import Refused
from zeta_guard.client.session import ZetaClient
from zeta_guard.config.load import load_config
from zeta_guard.runtime.guard import Guard

BEARER = "b" * 64
TELEMATIK_ID = "1-2012345678"


@dataclass
class Reply:
    status: int
    body: dict[str, Any]
    headers: Any


@dataclass
class Operated:
    """A guard, and the two ways in which an operator reaches it."""

    stage: Stage
    guard: Guard
    socket: Path
    session: aiohttp.ClientSession
    exit: AsyncExitStack

    async def get(self, path: str, **options: Any) -> Reply:
        return await self.ask("GET", path, **options)

    async def post(self, path: str, body: object = None, **options: Any) -> Reply:
        return await self.ask("POST", path, json={} if body is None else body, **options)

    async def ask(self, method: str, path: str, *, base: str = "http://guard", **options: Any) -> Reply:
        async with self.session.request(method, base + path, **options) as answer:
            return Reply(answer.status, json.loads(await answer.read()), answer.headers)

    async def client(self, name: str = "good") -> ZetaClient:
        """A client with tokens."""
        client = ZetaClient(self.stage.around.public_url, self.stage.card(name), ca_file=self.stage.ca_file)
        await self.exit.enter_async_context(client)
        await self.stage.first_proof_possible()
        await client.login()
        return client

    @property
    def ops_url(self) -> str:
        return f"http://127.0.0.1:{self.guard.ops_port}"

    def audit(self) -> list[dict[str, Any]]:
        folder = self.stage.directory / "audit"
        lines = [line for path in sorted(folder.iterdir()) for line in path.read_text().splitlines()]
        return [json.loads(line) for line in lines]


Operate = Callable[..., Awaitable[Operated]]


@pytest.fixture
async def operate(tmp_path: Path) -> AsyncIterator[Operate]:
    """Start a guard with audit record, administration socket and bearer token."""
    async with AsyncExitStack() as exits:

        async def make(**ops: Any) -> Operated:
            directory = tmp_path / "guard"
            directory.mkdir(mode=0o700)
            stage = await exits.enter_async_context(Stage(directory))
            await stage.build_pki()
            await stage.start_services()
            await stage.start_guard()
            assert stage.guard is not None
            await stage.guard.stop(drain_seconds=0)
            key = ec.generate_private_key(ec.SECP256R1()).private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            write_private(directory / "audit.key", key)
            (directory / "audit").mkdir()
            write_private(directory / "bearer", f"{BEARER}\n".encode())
            document = yaml.safe_load((directory / "guard.yaml").read_text())
            document["ops"] |= {"bearer_token_file": "bearer", **ops}
            document["audit"] = {"directory": "audit", "signing_key_file": "audit.key"}
            (directory / "guard.yaml").write_text(yaml.safe_dump(document))
            guard = Guard(load_config(directory / "guard.yaml"))
            await guard.start()
            stage.guard = guard
            exits.push_async_callback(guard.stop, drain_seconds=0)
            socket = directory / "admin.sock"
            session = await exits.enter_async_context(
                aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket)))
            )
            return Operated(stage, guard, socket, session, exits)

        yield make


@pytest.fixture
async def operated(operate: Operate) -> Operated:
    return await operate()


async def test_the_socket_is_its_owners_alone_and_gone_after_the_guard(operated: Operated) -> None:
    mode = operated.socket.stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600
    await operated.guard.stop(drain_seconds=0)
    assert not operated.socket.exists()


async def test_an_ended_session_is_refused_everywhere_at_once(operated: Operated) -> None:
    client = await operated.client()
    other = await operated.client()
    assert (await client.send("GET", OPEN_ROUTE)).status == 200
    listed = (await operated.get("/sessions")).body
    assert listed["total"] == 2
    mine = next(one for one in listed["sessions"] if one["client_id"] == client.state.client_id)

    ended = await operated.post("/sessions/end", {"session_id": mine["session_id"]})

    assert (ended.status, ended.body) == (200, {"ended": 1, "known": True})
    refused = await client.send("GET", OPEN_ROUTE)
    assert (refused.status, refused.error) == (401, "invalid_token")
    with pytest.raises(Refused) as refresh:
        await client.refresh()
    assert (refresh.value.answer.status, refresh.value.answer.error) == (403, "session_terminated")
    assert (await other.send("GET", OPEN_ROUTE)).status == 200
    assert (await operated.get("/sessions")).body["total"] == 1
    acts = [line["fields"] for line in operated.audit() if line["event"] == "administration"]
    assert acts == [{"act": "end_session", "actor": f"socket:uid={os.geteuid()}", "session_id": mine["session_id"]}]


async def test_an_open_websocket_of_an_ended_session_is_closed_within_seconds(operated: Operated) -> None:
    client = await operated.client()
    socket = await client.websocket(POPP_ROUTE)
    began = time.monotonic()
    await operated.post("/sessions/end", {"telematik_id": TELEMATIK_ID})
    async with asyncio.timeout(5):
        message = await socket.receive()
    assert time.monotonic() - began < 2.5
    assert (message.type, socket.close_code) == (aiohttp.WSMsgType.CLOSE, 1008)
    await socket.close()


async def test_a_blocked_institution_gets_nothing_until_the_block_is_lifted(operated: Operated) -> None:
    client = await operated.client()
    neighbour = await operated.client("other_institution")

    added = await operated.post(
        "/blocks/add",
        {"kind": "institution", "telematik_id": TELEMATIK_ID, "seconds": 600, "note": f"card of {TELEMATIK_ID}"},
    )

    assert added.status == 200
    assert added.body["ended_sessions"] == 1
    assert (await client.send("GET", OPEN_ROUTE)).status == 401
    with pytest.raises(Refused):
        await client.login()
    assert (await neighbour.send("GET", OPEN_ROUTE)).status == 200
    (block,) = (await operated.get("/blocks?reason=emergency")).body["blocks"]
    assert block["until"] - block["since"] == 600
    assert block["kind"] == "institution"
    assert TELEMATIK_ID not in json.dumps(block)

    lifted = await operated.post("/blocks/remove", {"kind": "institution", "telematik_id": TELEMATIK_ID})

    assert lifted.body == {"removed": True}
    await client.login()
    assert (await client.send("GET", OPEN_ROUTE)).status == 200
    assert TELEMATIK_ID not in json.dumps(operated.audit())


@pytest.mark.parametrize("kind", ["client", "product"])
async def test_a_blocked_client_or_product_keeps_its_session_but_gets_nothing(operated: Operated, kind: str) -> None:
    client = await operated.client()
    (session,) = (await operated.get("/sessions")).body["sessions"]
    subject = {"kind": kind, "identifier": session[f"{kind}_id"]}
    added = await operated.post("/blocks/add", subject)
    assert added.body["blocks"][0]["until"] - added.body["blocks"][0]["since"] == 86_400, "the longest session"
    assert (await client.send("GET", OPEN_ROUTE)).status == 401
    with pytest.raises(Refused):
        await client.refresh()
    assert (await operated.post("/blocks/remove", subject)).body == {"removed": True}
    assert (await operated.post("/blocks/remove", subject)).body == {"removed": False}
    assert (await client.send("GET", OPEN_ROUTE)).status == 200


async def test_what_was_ended_is_not_brought_back_by_lifting_a_block(operated: Operated) -> None:
    client = await operated.client()
    (session,) = (await operated.get("/sessions")).body["sessions"]
    subject = {"kind": "session", "identifier": session["session_id"]}
    await operated.post("/sessions/end", {"session_id": session["session_id"]})
    for path in ("/blocks/remove", "/blocks/add"):
        assert (await operated.post(path, subject)).status == 400
    assert (await client.send("GET", OPEN_ROUTE)).status == 401


async def test_clients_and_sessions_of_an_institution_are_found_by_its_pseudonym(operated: Operated) -> None:
    client = await operated.client()
    await operated.client("other_institution")
    (name,) = (await operated.post("/pseudonyms", {"telematik_id": TELEMATIK_ID})).body["pseudonyms"]
    clients = (await operated.get(f"/clients?institution={name}")).body["clients"]
    assert [one["client_id"] for one in clients] == [client.state.client_id]
    sessions = (await operated.get(f"/sessions?institution={name}&limit=5")).body["sessions"]
    assert [one["client_id"] for one in sessions] == [client.state.client_id]
    mine = (await operated.get(f"/sessions?client_id={client.state.client_id}")).body
    assert mine["total"] == 1
    assert (await operated.get("/clients")).status == 400


async def test_a_new_signing_key_is_shown_before_it_signs(operated: Operated) -> None:
    written = (await operated.post("/keys/rotate")).body
    assert written["state"] == "next"
    assert written["signs_from"] > time.time() + 600
    keys = (await operated.get("/keys")).body["keys"]
    assert [key["state"] for key in keys] == ["current", "next"]
    client = await operated.client()
    shown = (await client.wire.send("GET", client.url(JWKS))).json()["keys"]
    assert isinstance(shown, list)
    assert written["kid"] in [key["kid"] for key in shown if isinstance(key, dict)]


async def test_nothing_is_done_when_the_audit_record_cannot_be_written(operated: Operated) -> None:
    client = await operated.client()
    audit = operated.guard._audit
    assert audit is not None
    kept, audit._descriptor = audit._descriptor, os.open("/dev/full", os.O_WRONLY)
    try:
        (session,) = (await operated.get("/sessions")).body["sessions"]
        for path, body in (
            ("/sessions/end", {"session_id": session["session_id"]}),
            ("/sessions/end", {"telematik_id": TELEMATIK_ID}),
            ("/blocks/add", {"kind": "client", "identifier": session["client_id"]}),
            ("/blocks/remove", {"kind": "client", "identifier": session["client_id"]}),
            ("/keys/rotate", {}),
        ):
            reply = await operated.post(path, body)
            assert (reply.status, reply.body["error"]) == (503, "temporarily_unavailable"), path
    finally:
        os.close(audit._descriptor)
        audit._descriptor = kept
    assert (await client.send("GET", OPEN_ROUTE)).status == 200
    assert (await operated.get("/blocks")).body["blocks"] == []
    assert len(list((operated.stage.directory / "signing-keys").iterdir())) == 1


async def test_a_request_id_leads_to_stage_and_reason(operated: Operated) -> None:
    client = await operated.client()
    answer = await client.send("GET", OPEN_ROUTE, access_token="not-a-token")
    request_id = answer.json()["request_id"]
    refusal = (await operated.get(f"/refusals/{request_id}")).body
    assert refusal["door"] == "gateway"
    assert refusal["code"] == "invalid_token"
    assert refusal["status"] == 401
    assert refusal["stage"] == "access_token"
    assert refusal["description"] == answer.error_description
    assert (await operated.get("/refusals?limit=1")).body["refusals"] == [refusal]
    assert (await operated.get("/refusals/01M828A3TQR5NR7FH71QHGGREY")).status == 404


async def test_a_denied_institution_is_explained_with_decision_and_reasons(operated: Operated) -> None:
    with pytest.raises(Refused) as denied:
        await operated.client("not_allowed")
    body = denied.value.answer.json()
    refusal = (await operated.get(f"/refusals/{body['request_id']}")).body
    assert refusal["decision_id"] == body["decision_id"]
    assert refusal["reasons"] == body["reasons"]
    assert (refusal["door"], refusal["stage"]) == ("authorization_server", "policy")


async def test_a_refusal_of_the_http_layer_is_explained_too(operated: Operated) -> None:
    client = await operated.client()
    port = operated.guard.public_port
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client.wire.session.connector._ssl)  # type: ignore[union-attr]
    writer.write(b"GET / HTTP/1.1\r\nbroken header\r\n\r\n")
    answer = await reader.read()
    writer.close()
    request_id = json.loads(answer.partition(b"\r\n\r\n")[2])["request_id"]
    refusal = (await operated.get(f"/refusals/{request_id}")).body
    assert (refusal["door"], refusal["status"]) == ("http", 400)


async def test_the_effective_configuration_is_shown(operated: Operated) -> None:
    shown = (await operated.get("/config")).body
    assert shown["role"] == "all"
    assert shown["config"]["public_url"] == operated.stage.around.public_url
    assert shown["config"]["limits"]["skew"] == operated.guard.config.limits.skew
    assert (await operated.get("/shadow")).body == {"shadow": None}


MISTAKES: list[tuple[str, str, dict[str, Any], int]] = [
    ("GET", "/nowhere", {}, 404),
    ("POST", "/sessions", {"json": {}}, 405),
    ("GET", "/sessions/end", {}, 405),
    ("GET", "/sessions?instituton=x", {}, 400),
    ("GET", "/sessions?limit=0", {}, 400),
    ("GET", "/sessions?limit=5&limit=6", {}, 400),
    ("POST", "/sessions/end", {"json": {}}, 400),
    ("POST", "/sessions/end", {"json": {"session_id": "x", "institution": "y"}}, 400),
    ("POST", "/sessions/end", {"data": b'{"session_id": "x", "session_id": "y"}'}, 415),
    ("POST", "/sessions/end", {"json": {"session_id": "x" * 300}}, 400),
    ("POST", "/sessions/end", {"json": {"session_id": "x\n"}}, 400),
    ("POST", "/sessions/end", {"json": {"session_id": "x" * 20_000}}, 413),
    ("POST", "/sessions/end", {"json": {"session_id": ["x"]}}, 400),
    ("POST", "/blocks/add", {"json": {"kind": "everybody", "identifier": "x"}}, 400),
    ("POST", "/blocks/add", {"json": {"kind": "client", "identifier": "x", "seconds": 0}}, 400),
    ("POST", "/blocks/add", {"json": {"kind": "client", "identifier": "x", "seconds": True}}, 400),
    ("POST", "/blocks/add", {"json": {"kind": "client", "identifier": "x", "note": "n" * 201}}, 400),
    ("POST", "/blocks/add", {"json": {"kind": "client", "telematik_id": TELEMATIK_ID}}, 400),
    ("POST", "/keys/rotate", {"json": {"force": True}}, 400),
    ("POST", "/keys/rotate", {"json": {}, "headers": {"Origin": "https://evil.example"}}, 403),
    ("POST", "/keys/rotate", {"json": {}, "headers": {"Origin": "null"}}, 403),
    ("POST", "/keys/rotate", {"json": {}, "headers": {"Sec-Fetch-Site": "cross-site"}}, 403),
]


async def test_a_question_with_a_mistake_does_nothing(operated: Operated) -> None:
    for method, path, options, status in MISTAKES:
        reply = await operated.ask(method, path, **options)
        assert reply.status == status, (method, path, options)
        assert reply.body["error_description"]
    assert (await operated.get("/blocks")).body["total"] == 0
    assert len((await operated.get("/keys")).body["keys"]) == 1
    assert not [line for line in operated.audit() if line["event"] == "administration"]


async def test_the_ops_port_administrates_for_the_bearer_only(operated: Operated) -> None:
    url = operated.ops_url
    right = {"Authorization": f"Bearer {BEARER}"}
    async with aiohttp.ClientSession() as session:

        async def ask(method: str, path: str, headers: dict[str, str], **options: Any) -> int:
            async with session.request(method, url + path, headers=headers, **options) as answer:
                await answer.read()
                return answer.status

        assert await ask("GET", "/sessions", {}) == 401
        assert await ask("GET", "/sessions", {"Authorization": f"Bearer {BEARER[:-1]}c"}) == 401
        assert await ask("GET", "/sessions", {"Authorization": f"Bearer {BEARER[:-1]}"}) == 401
        assert await ask("GET", "/sessions", {"Authorization": f"Basic {BEARER}"}) == 401
        assert await ask("GET", "/sessions", {**right, "Host": "evil.example"}) == 421
        assert await ask("GET", "/sessions", right) == 200
        assert await ask("GET", "/config", {}) == 401
        assert await ask("POST", "/keys/rotate", {}, json={}) == 401
        assert await ask("POST", "/keys/rotate", {**right, "Origin": "https://evil.example"}, json={}) == 403
        assert await ask("POST", "/keys/rotate", right, data=b"{}") == 415
        assert await ask("POST", "/keys/rotate", {**right, "Origin": url}, json={}) == 200
        assert await ask("GET", "/metrics", {}) == 200
        assert await ask("GET", "/livez", {"Host": "probe.example"}) == 200
        assert await ask("POST", "/livez", right, json={}) == 405
        (operated.stage.directory / "bearer").write_text("c" * 64)
        assert await ask("GET", "/sessions", right) == 401, "a new token counts at once"
        (operated.stage.directory / "bearer").unlink()
        assert await ask("GET", "/sessions", right) == 503
    assert [line["fields"]["actor"] for line in operated.audit() if line["event"] == "administration"] == ["bearer"] * 2


async def test_the_ops_port_accepts_the_hosts_that_are_configured(operate: Operate) -> None:
    operated = await operate(hosts=["ops.example.de"])
    headers = {"Authorization": f"Bearer {BEARER}"}
    async with aiohttp.ClientSession() as session:
        for host, status in (("ops.example.de", 200), ("OPS.example.de:9090", 200), ("127.0.0.1", 421)):
            async with session.get(f"{operated.ops_url}/keys", headers={**headers, "Host": host}) as answer:
                assert answer.status == status, host


async def test_without_a_bearer_token_the_ops_port_knows_no_administration(operate: Operate) -> None:
    operated = await operate(bearer_token_file=None)
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{operated.ops_url}/sessions") as answer:
            assert answer.status == 404
        async with session.post(f"{operated.ops_url}/keys/rotate", json={}) as answer:
            assert answer.status == 405


async def test_loop_lag_spans_and_administration_are_measured(operated: Operated) -> None:
    await operated.get("/keys")
    operated.guard._runtime_metrics.count_spans("exported", 3)
    metrics = operated.guard.render_metrics().decode()
    assert 'zeta_guard_spans_total{result="exported"} 3.0' in metrics
    assert 'zeta_guard_administration_requests_total{door="socket",status="200"} 1.0' in metrics
    watch = operated.guard._loop_watch
    assert watch is not None
    assert not watch.done()
    await operated.guard.stop(drain_seconds=0)
    assert watch.cancelled()
