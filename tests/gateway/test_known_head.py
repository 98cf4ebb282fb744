"""Requests that came before but for their proof: found instead of read, and judged as strictly as the first."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from zeta_guard.config.limits import Limits
from zeta_guard.gateway.access import Grant, Unproven
from zeta_guard.http import plain_request
from zeta_guard.http.plain_request import KnownHead, PlainRequest, read_plain_head
from zeta_guard.jose.dpop import prove
from zeta_guard.simulators.pki import DemoPki
from zeta_guard.simulators.popp_service import PoppService
from zeta_guard.simulators.popp_token import CareContext

if TYPE_CHECKING:
    from tests.gateway.conftest import Clock, MakeWorld, RawBackend, Reply, World

To = Callable[..., dict[str, Any]]

NOW = 1_800_000_000
pytestmark = pytest.mark.parametrize("lane", ["plain"], indirect=True)


@pytest.fixture(autouse=True)
def _nothing_known() -> Iterator[None]:
    plain_request._known.clear()
    plain_request._custom.popp = False
    yield
    plain_request._known.clear()
    plain_request._custom.popp = False


@pytest.fixture
async def world(make_world: MakeWorld, backend: RawBackend, to: To) -> World:
    return await make_world([to(backend, methods=["GET", "POST"])])


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[KnownHead | None]:
    """For each request what was known of its head."""
    seen: list[KnownHead | None] = []
    begin = PlainRequest.__init__

    def note(request: PlainRequest, *args: Any, **kwargs: Any) -> None:
        begin(request, *args, **kwargs)
        seen.append(request.known)

    monkeypatch.setattr(PlainRequest, "__init__", note)
    return seen


class Caller:
    """One client connection and one access token, the same in every request."""

    def __init__(self, world: World, **claims: Any) -> None:
        self.world = world
        self.token = world.issuer.token(world.client, **claims)
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def get(self, path: str = "/vsd/x", method: str = "GET", **more: Any) -> Reply:
        if self.streams is None:
            self.streams = await self.world.connect()
        reader, writer = self.streams
        more.setdefault("proof", self.world.client.proof(self.token, method, path, iat=int(self.world.clock.now)))
        writer.write(self.world.head(path, method, token=self.token, **more))
        return await self.world.reply(reader)


def error(reply: Reply) -> tuple[int, str]:
    return reply.status, json.loads(reply.body)["error"]


async def test_the_third_request_and_those_behind_it_are_found(
    world: World, backend: RawBackend, found: list[KnownHead | None]
) -> None:
    caller = Caller(world)
    for _ in range(4):
        assert (await caller.get(extra="X-A: b\r\n")).status == 200
    # The first was answered by the connection's task, which opened the way to the backend.
    assert [known is not None for known in found] == [False, True, True, True]
    assert found[1] is found[2] is found[3]
    heads = [b"\r\n".join(sorted(_untraced(head))) for head in backend.heads]
    assert heads[0].count(b"X-A: b") == heads[0].count(b"ZETA-User-Info: ") == heads[0].count(b"Forwarded: ") == 1
    assert len(set(heads)) == 1
    # A trace of its own for each.
    assert len({line for head in backend.heads for line in head.split(b"\r\n") if line.startswith(b"traceparent")}) == 4


def _untraced(head: bytes) -> list[bytes]:
    return [line for line in head.split(b"\r\n") if not line.startswith(b"traceparent")]


async def test_a_proof_passes_once_with_a_known_head(world: World, found: list[KnownHead | None]) -> None:
    caller = Caller(world)
    for _ in range(3):
        await caller.get()
    proof = world.client.proof(caller.token)
    assert (await caller.get(proof=proof)).status == 200
    assert error(await caller.get(proof=proof)) == (401, "invalid_dpop_proof")
    assert found[-1] is not None


@pytest.mark.parametrize(
    ("claims", "word"),
    [
        ({"htm": "POST"}, "'htm'"),
        ({"htu": "https://guard.example/vsd/y"}, "'htu'"),
        ({"iat": NOW - 1000}, "'iat'"),
        ({"ath": "x" * 43}, "'ath'"),
        ({"jti": ""}, "'jti'"),
    ],
)
async def test_the_proof_is_judged_like_the_first(
    world: World, found: list[KnownHead | None], claims: dict[str, Any], word: str
) -> None:
    caller = Caller(world)
    for _ in range(3):
        await caller.get()
    reply = await caller.get(proof=world.client.proof(caller.token, **claims))
    assert error(reply) == (401, "invalid_dpop_proof")
    assert word in json.loads(reply.body)["error_description"]
    assert found[-1] is not None


async def test_another_key_is_refused_with_a_known_head(
    world: World, make_world: MakeWorld, found: list[KnownHead | None]
) -> None:
    caller = Caller(world)
    for _ in range(3):
        await caller.get()
    thief = type(world.client)()
    assert error(await caller.get(proof=thief.proof(caller.token))) == (401, "invalid_dpop_proof")
    proof = world.client.proof(caller.token)
    forged = proof[:-5] + ("A" if proof[-5] != "A" else "B") + proof[-4:]
    assert error(await caller.get(proof=forged)) == (401, "invalid_dpop_proof")
    assert found[-1] is found[-2] is not None


async def test_a_token_that_expires_is_not_outlived(world: World, found: list[KnownHead | None]) -> None:
    caller = Caller(world, exp=NOW + 100)
    leeway = world.config.gateway.token_leeway
    for _ in range(3):
        assert (await caller.get()).status == 200
    world.clock.now = NOW + 100 + leeway - 0.5
    assert (await caller.get()).status == 200
    world.clock.now = NOW + 100 + leeway
    assert error(await caller.get()) == (401, "invalid_token")
    assert found[-1] is not None


async def test_a_key_that_its_issuer_withdrew_is_not_outlived(world: World, found: list[KnownHead | None]) -> None:
    caller = Caller(world)
    for _ in range(3):
        assert (await caller.get()).status == 200
    signer = world.issuer.signer
    world.issuer.signer = type(world.issuer)().signer
    assert error(await caller.get()) == (401, "invalid_token")
    assert found[-1] is not None
    world.issuer.signer = signer
    assert (await caller.get()).status == 200


async def test_a_token_is_bound_to_its_address_with_a_known_head(world: World, found: list[KnownHead | None]) -> None:
    caller = Caller(world)
    for _ in range(3):
        assert (await caller.get()).status == 200
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port, local_addr=("127.0.0.2", 0))
    world.writers.append(writer)
    elsewhere = Caller(world)
    elsewhere.token, elsewhere.streams = caller.token, (reader, writer)
    assert error(await elsewhere.get()) == (401, "invalid_token")
    assert found[-1] is not None
    assert (await caller.get()).status == 200
    assert error(await elsewhere.get()) == (401, "invalid_token")


async def test_another_configuration_judges_anew(make_world: MakeWorld, backend: RawBackend, to: To) -> None:
    first = await make_world([to(backend)])
    caller = Caller(first, scope="vsdservice")
    for _ in range(3):
        assert (await caller.get()).status == 200
    second = await make_world([to(backend, scopes=["popp"])], issuer=first.issuer)
    second.client = first.client
    again = Caller(second)
    again.token = caller.token
    assert error(await again.get()) == (401, "insufficient_scope")


@pytest.mark.parametrize("client", ["203.0.113.7", "127.0.0.1"])
async def test_what_a_trusted_proxy_may_say_nobody_else_may(
    make_world: MakeWorld, backend: RawBackend, to: To, found: list[KnownHead | None], client: str
) -> None:
    world = await make_world(
        [to(backend, bind_address=False)], gateway_trusted_proxies=["127.0.0.2"], gateway_client_address="forwarded"
    )
    caller = Caller(world)
    extra = f"X-Forwarded-Host: a.example\r\nForwarded: for={client}\r\n"

    async def send(source: str) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port, local_addr=(source, 0))
        world.writers.append(writer)
        proof = world.client.proof(caller.token)
        writer.write(world.head(token=caller.token, proof=proof, extra=extra))
        assert (await world.reply(reader)).status == 200
        return backend.heads[-1]

    for _ in range(3):
        head = await send("127.0.0.2")
        assert b"X-Forwarded-Host: a.example" in head
        assert b"by=_zetaguard;for=%b;" % client.encode() in head
    for _ in range(3):
        head = await send("127.0.0.1")
        assert b"X-Forwarded-Host" not in head
        assert b"by=_zetaguard;for=127.0.0.1;" in head
    assert b"by=_zetaguard;for=127.0.0.3;" in await send("127.0.0.3")
    head = await send("127.0.0.2")
    assert b"X-Forwarded-Host: a.example" in head
    assert found[-1] is not None


@pytest.mark.parametrize(
    "extra", ["Cookie: a=b\r\n", "POPP: a.b.c\r\n", "Proxy-Authorization: Basic x\r\n", "DPoP2: x\r\n"]
)
async def test_heads_with_other_secrets_are_not_remembered(
    world: World, found: list[KnownHead | None], extra: str
) -> None:
    caller = Caller(world)
    for _ in range(4):
        assert (await caller.get(extra=extra)).status == 200
    assert (found[-1] is not None) is extra.startswith("DPoP2")
    assert not any(b"a.b.c" in rest or b"a=b" in rest or b"Basic" in rest for rest in plain_request._known.young)


async def test_only_a_proof_that_held_is_worth_remembering(world: World) -> None:
    caller = Caller(world)
    thief = type(world.client)()
    for number in range(4):
        assert (await caller.get(proof=thief.proof(caller.token))).status == 401
        assert (await caller.get(f"/elsewhere/{number}")).status == 404
    assert len(plain_request._known) == 0


async def test_the_same_lines_serve_requests_to_different_places(
    make_world: MakeWorld, backend: RawBackend, to: To, found: list[KnownHead | None]
) -> None:
    world = await make_world(
        [
            to(backend, methods=["GET", "DELETE"]),
            to(backend, "/other", client_data=True, methods=["GET"]),
            to(backend, "/strict", scopes=["popp"]),
        ]
    )
    caller = Caller(world, scope="vsdservice")

    async def send(method: str, path: str) -> int:
        proof = world.client.proof(caller.token, method, path)
        return (await caller.get(path, method=method, proof=proof)).status

    for _ in range(3):
        assert await send("GET", "/vsd/x") == 200
    for _ in range(2):
        for path in ("/vsd/x", "/other/y", "/vsd/z?a=b"):
            proof = world.client.proof(caller.token, "GET", path.partition("?")[0])
            assert (await caller.get(path, proof=proof)).status == 200
            assert backend.heads[-1].startswith(b"GET %b HTTP/1.1\r\n" % path.encode())
            assert (b"\r\nZETA-Client-Data: " in backend.heads[-1]) is path.startswith("/other")
        assert await send("DELETE", "/vsd/x") == 200
        assert backend.heads[-1].startswith(b"DELETE /vsd/x HTTP/1.1\r\n")
        assert await send("DELETE", "/other/y") == 405
        assert await send("GET", "/nowhere") == 404
        assert await send("GET", "/strict/x") == 401
        # A proof is good for its own method and target only.
        proof = world.client.proof(caller.token, "GET", "/vsd/x")
        assert (await caller.get("/other/y", proof=proof)).status == 401
        assert (await caller.get("/vsd/x", method="DELETE", proof=proof)).status == 401
    assert len({id(known) for known in found[3:]}) == 1


async def test_a_grant_is_the_same_with_and_without_known_lines(
    make_world: MakeWorld, backend: RawBackend, to: To
) -> None:
    methods = ["GET", "POST"]
    world = await make_world([to(backend, methods=methods), to(backend, "/", methods=methods)])
    caller = Caller(world)
    for _ in range(3):
        assert (await caller.get()).status == 200
    access, limits = world.gateway.access, world.config.limits
    reader = world.dispatcher.generation.reader
    protocol: Any = None
    marks = set()
    for _ in range(2):
        # A text of one character is the same object whoever makes it.
        asked = [
            ("GET", "/vsd/x"),
            ("POST", "/vsd/x"),
            ("GET", "/vsd/y"),
            ("GET", "/vsd/y?z"),
            ("GET", "/"),
            ("POST", "/"),
        ]
        for method, path in asked * 2:
            proof = world.client.proof(caller.token, method, path.partition("?")[0])
            head = read_plain_head(world.head(path, method, token=caller.token, proof=proof), limits)
            assert head is not None
            assert head.known is not None
            request = PlainRequest(head, protocol, asyncio.get_running_loop(), remote="127.0.0.1", secure=False)
            facts = reader.read_plain(request, now=NOW, request_id="r")
            assert facts == reader.read(request, now=NOW, request_id="r")
            begun = access.begin(facts, head.known)
            assert type(begun) is Unproven
            grant = access.conclude(begun, prove(begun.proof), facts, head.known)
            assert grant == access.decide(facts)
            assert type(grant) is Grant
            marks.add(grant.fingerprint)
    assert len(marks) == 6


async def test_a_request_with_a_body_is_read_each_time(world: World, found: list[KnownHead | None]) -> None:
    caller = Caller(world)
    reader, writer = await world.connect()
    for _ in range(4):
        proof = world.client.proof(caller.token, "POST")
        head = world.head(method="POST", token=caller.token, proof=proof, extra="Content-Length: 2\r\n")
        writer.write(head + b"{}")
        assert (await world.reply(reader)).status == 200
    assert found == [None] * 4


async def test_stricter_limits_hold_for_known_heads(world: World) -> None:
    caller = Caller(world)
    for _ in range(3):
        assert (await caller.get()).status == 200
    data = world.head(token=caller.token)
    limits = world.config.limits
    head = read_plain_head(data, limits)
    assert head is not None
    assert head.known is not None
    # Another configuration, and a proof that makes the head too long.
    stricter = Limits(request_header=1024)
    assert read_plain_head(data, stricter) is None
    proof = "a" * (limits.request_header - len(data))
    long = read_plain_head(world.head(token=caller.token, proof=proof), limits)
    assert long is not None
    assert read_plain_head(world.head(token=caller.token, proof=proof + "a" * 1000), limits) is None


async def test_a_span_is_made_for_each(make_world: MakeWorld, backend: RawBackend, to: To) -> None:
    world = await make_world([to(backend)])
    caller = Caller(world)
    trace = "0af7651916cd43dd8448eb211c80319c"
    for _ in range(4):
        assert (await caller.get(extra=f"traceparent: 00-{trace}-b7ad6b7169203331-01\r\n")).status == 200
    parents = [line for head in backend.heads for line in head.split(b"\r\n") if line.startswith(b"traceparent")]
    assert len(set(parents)) == 4
    assert all(trace.encode() in line for line in parents)


async def test_each_popp_token_is_judged_and_told_and_none_is_kept(
    make_world: MakeWorld, backend: RawBackend, to: To, clock: Clock, found: list[KnownHead | None]
) -> None:
    pki = DemoPki()
    async with PoppService(pki.issue_popp_signer(), [], issuer="https://popp.example", clock=clock) as popp:
        issuer = {
            "issuer": "https://popp.example",
            "base_url": popp.url,
            "entity_key_thumbprint": popp.issuer.entity_key_thumbprint,
        }
        world = await make_world([to(backend, popp={})], gateway_popp_issuers=[issuer])
        caller = Caller(world)

        def shown(patient: str, actor: str = "1-2012345678") -> str:
            return popp.issuer.mint(CareContext(patient, "109500969", actor, "1.2.276.0.76.4.50"))

        tokens = {patient: shown(patient) for patient in ("X110639491", "X110639492")}
        for patient in ("X110639491", "X110639492") * 3:
            assert (await caller.get(extra=f"PoPP: {tokens[patient]}\r\n")).status == 200
            [line] = [
                line for line in backend.heads[-1].split(b"\r\n") if line.startswith(b"ZETA-PoPP-Token-Content: ")
            ]
            assert json.loads(base64.urlsafe_b64decode(line.split(b": ")[1]))["patientId"] == patient
            assert b"\r\nPoPP: " not in backend.heads[-1]
        assert found[-1] is not None
        # Neither the key nor what is found by it knows a token.
        for rest, known in plain_request._known.young.items():
            for token in tokens.values():
                assert token.encode() not in rest
                assert token.encode() not in known.prepared
        before = len(backend.heads)
        refused = [
            (f"PoPP: {shown('X110639493', '1-someone-else')}\r\n", (403, "popp_invalid_actor")),
            (f"PoPP: {tokens['X110639491'][:-6]}AAAAAA\r\n", (403, "popp_invalid")),
            ("PoPP: \r\n", (400, "popp_missing")),
            ("", (400, "popp_missing")),
        ]
        for extra, answer in refused:
            assert error(await caller.get(extra=extra)) == answer
        assert len(backend.heads) == before
        assert (await caller.get(extra=f"PoPP: {tokens['X110639491']}\r\n")).status == 200
        assert found[-1] is not None
