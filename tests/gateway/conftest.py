"""A guard with routes of the test's choice, a real listener before it, raw servers behind it, and a clock that obeys."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import itertools
import os
import secrets
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from prometheus_client import CollectorRegistry

from zeta_guard.config.guard import GuardConfig
from zeta_guard.config.store import MemoryStore as MemoryStoreConfig
from zeta_guard.errors import JsonValue, ZetaError
from zeta_guard.gateway.app import Gateway
from zeta_guard.http.outbound import Outbound
from zeta_guard.http.read_facts import FactsReader
from zeta_guard.jose.jwk import public_jwk
from zeta_guard.jose.jws import KeySigner, sign_es256, sign_jws
from zeta_guard.jose.sealing import Pseudonymizer, Secrets
from zeta_guard.policy.contract import Decision, Question, Reason
from zeta_guard.runtime.dispatch import Dispatcher
from zeta_guard.runtime.listener import GuardServer
from zeta_guard.runtime.metrics import RuntimeMetrics
from zeta_guard.store.contract import ReplayStore
from zeta_guard.store.memory import MemoryStore
from zeta_guard.telemetry.request_log import RequestLog
from zeta_guard.telemetry.security_events import SecurityEvents
from zeta_guard.telemetry.tracing import Tracing
from zeta_guard.tokens.key_sets import KeySet, LocalKeySet
from zeta_guard.tokens.verifier import AccessTokenVerifier

if TYPE_CHECKING:
    from zeta_guard import runtime

NOW = 1_800_000_000.0
PUBLIC_URL = "https://guard.example"
TELEMATIK_ID = "1-2012345678"

Routes = Sequence[Mapping[str, Any]]


class Clock:
    """Stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


class RulingEngine:
    """A policy engine that rules as told; counts how often it is asked."""

    def __init__(self) -> None:
        self.revision = "r1"
        self.allow = True
        self.cache_seconds = 0
        self.away = False
        self.asked: list[Mapping[str, JsonValue]] = []

    async def start(self) -> None: ...

    async def decide(self, question: Question, document: Mapping[str, JsonValue], *, now: float) -> Decision:
        self.asked.append(document)
        if self.away:
            raise ZetaError("temporarily_unavailable", "The policy engine gave no answer.")
        reasons = () if self.allow else (Reason("profession is not allowed", code="profession"),)
        return Decision(self.allow, f"d{len(self.asked)}", self.revision, reasons, cache_seconds=self.cache_seconds)

    async def readiness(self) -> str | None:
        return None

    async def close(self) -> None: ...


class Issuer:
    """Signs access tokens and knows the client that they are bound to."""

    def __init__(self, name: str = PUBLIC_URL) -> None:
        self.name = name
        self.signer = KeySigner(ec.generate_private_key(ec.SECP256R1()))
        self._ids = itertools.count()

    @property
    def keys(self) -> dict[str, ec.EllipticCurvePublicKey]:
        return {self.signer.kid: self.signer.key.public_key()}

    def token(
        self, client: Client, *, without: Sequence[str] = (), header: Mapping[str, Any] | None = None, **claims: Any
    ) -> str:
        whole: dict[str, Any] = {
            "iss": self.name,
            "sub": TELEMATIK_ID,
            "aud": [PUBLIC_URL + "/"],
            "scope": "vsdservice popp",
            "client_id": "client-1",
            "iat": int(NOW),
            "exp": int(NOW) + 300,
            "jti": f"at-{next(self._ids)}",
            "sid": "session-1",
            "ver": 1,
            "cnf": {"jkt": client.jkt},
            "acr": "gematik-ehealth-loa-high",
            "ip_address": "127.0.0.1",
            "profession_oid": "1.2.276.0.76.4.50",
            "common_name": "Praxis Dr. Müller",
            "organization_name": "Praxis am Deich",
            "product_id": "product",
            "product_version": "1.0.0",
            "platform": "linux",
            **claims,
        }
        whole = {name: value for name, value in whole.items() if name not in without}
        return sign_jws({"typ": "at+jwt", **(header or {})}, whole, self.signer)


class Client:
    """A DPoP key and the proofs made with it."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.jwk = public_jwk(self.key.public_key())
        self.jkt = self.jwk["kid"]

    def proof(
        self, token: str, method: str = "GET", path: str = "/vsd/x", *, without: Sequence[str] = (), **claims: Any
    ) -> str:
        ath = base64.urlsafe_b64encode(hashlib.sha256(token.encode()).digest()).rstrip(b"=").decode()
        whole = {
            "jti": secrets.token_urlsafe(12),
            "htm": method,
            "htu": PUBLIC_URL + path,
            "iat": int(NOW),
            "ath": ath,
            **claims,
        }
        whole = {name: value for name, value in whole.items() if name not in without}
        return sign_es256({"typ": "dpop+jwt", "jwk": {**self.jwk}}, whole, self.key)


class PoppService:
    """Issues PoPP tokens; also the key set that the verifier asks."""

    def __init__(self, issuer: str = "https://popp.example") -> None:
        self.issuer = issuer
        self.signing_key = ec.generate_private_key(ec.SECP256R1())
        self.kid = "popp-1"
        self.keys = {self.kid: self.signing_key.public_key()}
        self.version = 1

    def key(self, kid: str, *, now: float) -> ec.EllipticCurvePublicKey | None:
        return self.keys.get(kid)

    def usable(self, now: float) -> bool:
        return True

    def token(
        self,
        *,
        without: Sequence[str] = (),
        header: Mapping[str, Any] | None = None,
        key: ec.EllipticCurvePrivateKey | None = None,
        **claims: Any,
    ) -> str:
        whole: dict[str, Any] = {
            "version": "1.0.0",
            "iss": self.issuer,
            "iat": int(NOW),
            "proofMethod": "ehc-practitioner-trustedchannel",
            "patientProofTime": int(NOW),
            "patientId": "X110639491",
            "insurerId": "109500969",
            "actorId": TELEMATIK_ID,
            "actorProfessionOid": "1.2.276.0.76.4.50",
            **claims,
        }
        whole = {name: value for name, value in whole.items() if name not in without}
        return sign_es256(
            {"typ": "vnd.telematik.popp+jwt", "kid": self.kid, **(header or {})}, whole, key or self.signing_key
        )


@dataclass
class Reply:
    """An answer as it came over the wire."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    raw: bytes

    def values(self, name: str) -> list[str]:
        return [value for seen, value in self.headers if seen.lower() == name.lower()]

    def header(self, name: str) -> str | None:
        found = self.values(name)
        return found[0] if found else None


async def read_reply(reader: asyncio.StreamReader, *, head_only: bool = False) -> Reply:
    """Read one answer, framed as it says."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    status = int(lines[0].split(" ")[1])
    headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines[1:] if line)]
    found = {name.lower(): value for name, value in headers}
    body = b""
    if head_only or status in (101, 204, 304) or 100 <= status < 200:
        pass
    elif "content-length" in found:
        body = await reader.readexactly(int(found["content-length"]))
    elif found.get("transfer-encoding") == "chunked":
        while True:
            size = int(await reader.readline(), 16)
            body += await reader.readexactly(size)
            await reader.readexactly(2)
            if size == 0:
                break
    else:
        body = await reader.read()
    return Reply(status, headers, body, head)


Answer = Callable[[bytes], bytes]


class RawBackend:
    """A server that records every byte and answers with bytes. One script for all connections."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.connections = 0
        self.open = 0
        self.port = 0
        self.answer: Answer = lambda head: b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        self.script: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]] | None = None
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def head(self) -> bytes:
        """The only head that came."""
        assert len(self.heads) == 1
        return self.heads[0]

    def seen(self, name: str) -> list[str]:
        """Values of a header of the only head."""
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        return [line.partition(":")[2].strip() for line in lines if line.partition(":")[0].lower() == name.lower()]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        self.open += 1
        try:
            if self.script is not None:
                await self.script(reader, writer)
            else:
                await self._exchange(reader, writer)
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError, ValueError):
            pass  # the gateway hung up, or the test is over
        finally:
            self.open -= 1
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head, body = await self.read_request(reader)
            self.heads.append(head)
            self.bodies.append(body)
            writer.write(self.answer(head))
            await writer.drain()

    async def read_request(self, reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
        head = await reader.readuntil(b"\r\n\r\n")
        lower = head.lower()
        body = b""
        if b"\r\ncontent-length:" in lower:
            size = int(lower.split(b"\r\ncontent-length:")[1].split(b"\r\n")[0])
            body = await reader.readexactly(size)
        elif b"\r\ntransfer-encoding: chunked" in lower:
            while True:
                size = int(await reader.readline(), 16)
                body += await reader.readexactly(size)
                await reader.readexactly(2)
                if size == 0:
                    break
        return head, body


@dataclass
class World:
    """A running guard."""

    config: GuardConfig
    gateway: Gateway
    clock: Clock
    store: MemoryStore
    policy: RulingEngine
    issuer: Issuer
    client: Client
    registry: CollectorRegistry
    port: int
    dispatcher: Dispatcher
    server: GuardServer
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    def head(
        self,
        path: str = "/vsd/x",
        method: str = "GET",
        *,
        extra: str = "",
        token: str | None = None,
        proof: str | None = None,
        **claims: Any,
    ) -> bytes:
        """A complete head with token and fresh proof; ``extra`` are further header lines."""
        token = self.issuer.token(self.client, **claims) if token is None else token
        proof = self.client.proof(token, method, path.partition("?")[0]) if proof is None else proof
        return (
            f"{method} {path} HTTP/1.1\r\nHost: guard.example\r\nAuthorization: DPoP {token}\r\nDPoP: {proof}\r\n{extra}\r\n"
        ).encode("latin-1")

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writers.append(writer)
        return reader, writer

    async def reply(self, reader: asyncio.StreamReader, *, head_only: bool = False) -> Reply:
        """The next answer on a connection."""
        return await read_reply(reader, head_only=head_only)

    async def send(self, raw: bytes, *, head_only: bool = False) -> Reply:
        """One request on a connection of its own, one answer."""
        reader, writer = await self.connect()
        writer.write(raw)
        return await read_reply(reader, head_only=head_only)

    async def get(self, path: str = "/vsd/x", method: str = "GET", *, extra: str = "", **claims: Any) -> Reply:
        """An authorised request."""
        return await self.send(self.head(path, method, extra=extra, **claims), head_only=method == "HEAD")

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until something has happened; three seconds at most."""
        async with asyncio.timeout(3):
            while not condition():  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.01)

    def pause(self, writer: asyncio.StreamWriter) -> asyncio.Transport:
        """Stop reading from a connection; ``resume_reading`` of what comes back goes on."""
        transport = writer.transport
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()
        return transport

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


def config_in(directory: Path, routes: Routes, **changes: Any) -> GuardConfig:
    """A configuration; ``gateway_…`` changes go below ``gateway``, others to the top."""
    secret = directory / "secret"
    secret.write_bytes(bytes(range(32)))
    gateway: dict[str, Any] = {"routes": list(routes)}
    top: dict[str, Any] = {}
    for name, value in changes.items():
        if name.startswith("gateway_"):
            gateway[name.removeprefix("gateway_")] = value
        else:
            top[name] = value
    return GuardConfig.model_validate(
        {
            "public_url": PUBLIC_URL,
            "secret_files": [str(secret)],
            "authorization_server": {"signing_keys": str(directory), "scopes": ["vsdservice", "popp"]},
            "trust": {"directory": str(directory)},
            "policy": {"token": {"engine": "embedded", "bundle": "package:demo"}},
            "gateway": gateway,
            **top,
        }
    )


@dataclass
class Generation:
    """What the dispatcher needs of a generation, without an authorization server."""

    config: GuardConfig
    gateway: Gateway
    reader: FactsReader
    events: SecurityEvents
    authorization_server: None = None
    running: int = 0


MakeWorld = Callable[..., Awaitable[World]]
MakeConfig = Callable[..., GuardConfig]


@pytest.fixture
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
def other_issuer() -> Issuer:
    return Issuer()


@pytest.fixture
def dpop_client() -> Client:
    return Client()


@pytest.fixture
def other_client() -> Client:
    return Client()


@pytest.fixture
def popp_service() -> PoppService:
    return PoppService()


@pytest.fixture
def make_config(tmp_path: Path) -> MakeConfig:
    """``make_config(routes, **changes)``."""
    return lambda routes, **changes: config_in(tmp_path, routes, **changes)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["plain", "parser"])
def lane(request: pytest.FixtureRequest) -> str:
    """How requests without surprises come in: in callbacks, or all of them through aiohttp's parser and the task."""
    return str(request.param)


@pytest.fixture
async def make_world(tmp_path: Path, clock: Clock, lane: str) -> AsyncIterator[MakeWorld]:
    """``make_world(routes, **changes)``: a running guard; everything is stopped at the end, and nothing is left over."""
    closing: list[Callable[[], Awaitable[object]]] = []
    nowhere = os.open(os.devnull, os.O_WRONLY)

    async def make(
        routes: Routes,
        *,
        key_sets: Mapping[str, KeySet] | None = None,
        issuer: Issuer | None = None,
        tls: ssl.SSLContext | None = None,
        replay: ReplayStore | None = None,
        **changes: Any,
    ) -> World:
        config = config_in(tmp_path, routes, **changes)
        issuer = issuer or Issuer()
        registry = CollectorRegistry()
        clock.now -= 100  # the store begins before everything that the test dates
        store = MemoryStore(MemoryStoreConfig(), clock=clock)
        clock.now += 100
        sets: Mapping[str, KeySet] = (
            {issuer.name: LocalKeySet(issuer.name, lambda: issuer.keys)} if key_sets is None else key_sets
        )
        policy = RulingEngine()
        outbound = Outbound(config.outbound)
        events = SecurityEvents(registry)
        gateway = Gateway(
            config,
            replay=replay or store,
            verifier=AccessTokenVerifier(sets, max_bytes=config.limits.jwt),
            key_sets=sets,
            policy=policy,
            outbound=outbound,
            events=events,
            tracing=Tracing(config.telemetry),
            clock=clock,
            registry=registry,
            pseudonymizer=Pseudonymizer(Secrets.load(config.secret_files)),
        )
        await gateway.start()
        log = RequestLog(descriptor=nowhere)
        generation = Generation(config, gateway, FactsReader(config), events)
        dispatcher = Dispatcher(
            cast("runtime.generation.Generation", generation),
            metrics=RuntimeMetrics(CollectorRegistry()),
            request_log=log,
            clock=clock,
        )
        server = GuardServer(
            dispatcher.handle,
            limits=config.limits,
            public_url=config.public_url,
            plain=dispatcher if lane == "plain" else None,
        )
        listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0, ssl=tls)
        port = listener.sockets[0].getsockname()[1]
        world = World(config, gateway, clock, store, policy, issuer, Client(), registry, port, dispatcher, server)

        async def close() -> None:
            for writer in world.writers:
                writer.close()
            listener.close()
            await gateway.close()
            await server.shutdown(0.1)
            await outbound.close()
            await store.close()
            await log.close()
            # Each request was counted in and out once, whichever way it went and however it ended.
            await world.until(lambda: not dispatcher.in_flight)
            assert generation.running == 0

        closing.append(close)
        return world

    yield make
    for close in closing:
        await close()
    os.close(nowhere)


@pytest.fixture
async def backend() -> AsyncIterator[RawBackend]:
    server = RawBackend()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture(scope="session")
def tls_contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext, Path]:
    """Server context, client context that trusts it, and the trust file; the certificate is for localhost and 127.0.0.1."""
    directory = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    begin = datetime.now(UTC) - timedelta(days=1)
    names: list[x509.GeneralName] = [x509.DNSName("localhost"), x509.IPAddress(IPv4Address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = directory / "cert.pem", directory / "key.pem"
    certificate_file.write_bytes(certificate.public_bytes(Encoding.PEM))
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate_file, key_file)
    return server, ssl.create_default_context(cafile=certificate_file), certificate_file


def route_to(backend: RawBackend, prefix: str = "/vsd", **rules: Any) -> dict[str, Any]:
    """A route to a raw backend."""
    return {"prefix": prefix, "upstreams": [{"url": f"http://127.0.0.1:{backend.port}"}], **rules}


@pytest.fixture
def to() -> Callable[..., dict[str, Any]]:
    """``to(backend, prefix, **rules)``: a route."""
    return route_to
