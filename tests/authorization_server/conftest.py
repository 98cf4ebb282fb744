"""An authorization server behind a real listener on loopback, with real trust, policy and store, and a practice to use it."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from zeta_guard.authorization_server.administration import Administration
from zeta_guard.authorization_server.app import AuthorizationServer
from zeta_guard.authorization_server.signing_keys import SigningKeys, rotate
from zeta_guard.client import assertions
from zeta_guard.client.assertions import Product, UnsignedJwt
from zeta_guard.client.keys import SoftwareKey
from zeta_guard.config.guard import GuardConfig
from zeta_guard.config.outbound import Outbound as OutboundConfig
from zeta_guard.config.policy import Policy
from zeta_guard.errors import JsonValue, ZetaError
from zeta_guard.http.outbound import Outbound
from zeta_guard.http.read_facts import FactsReader
from zeta_guard.http.refusal import error_response
from zeta_guard.jose.encoding import b64url_decode, b64url_encode
from zeta_guard.jose.jws import CompactJws, parse_jws, verify_es256
from zeta_guard.jose.sealing import Secrets
from zeta_guard.jose.slot import Slot
from zeta_guard.policy.contract import Decision, PolicyEngine, Question
from zeta_guard.policy.service import PolicyService
from zeta_guard.simulators.card import Card
from zeta_guard.simulators.ocsp_responder import OcspResponder
from zeta_guard.simulators.pki import DemoPki
from zeta_guard.store import open_store
from zeta_guard.telemetry.audit import Audit
from zeta_guard.telemetry.security_events import SecurityEvents
from zeta_guard.trust.service import TrustService

TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
JWT_TYPE = "urn:ietf:params:oauth:token-type:jwt"
REFRESH_TYPE = "urn:ietf:params:oauth:token-type:refresh_token"

SECRETS = Secrets((bytes(range(32)),))


class Clock:
    """The time of guard and clients; it moves only when a test moves it."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, read completely."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        value = json.loads(self.body)
        assert isinstance(value, dict)
        return value

    @property
    def refusal(self) -> tuple[int, str]:
        return self.status, str(self.json.get("error"))

    @property
    def words(self) -> str:
        return str(self.json["error_description"])


Change = Mapping[str, Mapping[str, Any]]
"""What is different from what the SDK sends: ``claims``, ``header``, ``statement``, ``posture``; ``...`` takes a member away."""

Fold = Callable[[str], str]

SAME: Change = {}


def changed(unsigned: UnsignedJwt, change: Change) -> UnsignedJwt:
    claims: dict[str, Any] = json.loads(json.dumps(unsigned.claims))
    header = dict(unsigned.header)
    statement: dict[str, Any] = claims.get("client_statement", {})
    places = {"claims": claims, "header": header, "statement": statement, "posture": statement.get("posture", {})}
    for place in ("posture", "statement", "header", "claims"):
        for name, value in change.get(place, {}).items():
            if value is ...:
                places[place].pop(name, None)
            else:
                places[place][name] = value
    return UnsignedJwt(header, claims)


def as_it_is(text: str) -> str:
    return text


class Practice:
    """One client installation of an institution: keys, card, and requests that a test may change anywhere."""

    def __init__(self, server: Server, card: Card) -> None:
        self.server = server
        self.card = card
        self.instance_key = SoftwareKey.generate()
        self.dpop_key = SoftwareKey.generate()
        self.product = Product()
        self.client_id = ""

    async def register(self, **changes: Any) -> Reply:
        body = {
            "token_endpoint_auth_method": "private_key_jwt",
            "grant_types": [TOKEN_EXCHANGE, "refresh_token"],
            "response_types": ["token"],
            "client_name": "sdk-client",
            "jwks": {"keys": [self.instance_key.jwk]},
            **changes,
        }
        reply = await self.server.post("/register", json.dumps(body).encode(), {"Content-Type": "application/json"})
        if reply.status == 201:
            self.client_id = reply.json["client_id"]
        return reply

    async def nonce(self) -> bytes:
        reply = await self.server.get("/nonce")
        assert reply.status == 200
        return b64url_decode(reply.body)

    def assertion(self, nonce: bytes, *, audience: str | None = None, statement: bool = True) -> UnsignedJwt:
        made = None
        if statement:
            made = assertions.client_statement(
                client_id=self.client_id,
                client_key=self.instance_key,
                product=self.product,
                nonce=nonce,
                now=self.server.clock.now,
            )
        return assertions.client_assertion(
            client_id=self.client_id,
            audience=audience or self.server.url + "/token",
            client_key=self.instance_key,
            statement=made,
            now=self.server.clock.now,
        )

    def subject(self, nonce: bytes) -> UnsignedJwt:
        return assertions.subject_token(
            client_id=self.client_id,
            telematik_id=self.card.telematik_id,
            certificate_der=self.card.der,
            audience=self.server.url + "/token",
            nonce=nonce,
            client_jkt=self.instance_key.thumbprint,
            dpop_jkt=self.dpop_key.thumbprint,
            now=self.server.clock.now,
        )

    def proof(self, nonce: bytes | None, *, path: str = "/token") -> UnsignedJwt:
        return assertions.dpop_proof(
            key=self.dpop_key, method="POST", url=self.server.url + path, now=self.server.clock.now, nonce=nonce
        )

    def institution_assertion(self, product_id: str, nonce: bytes) -> UnsignedJwt:
        return assertions.institution_assertion(
            product_id=product_id,
            audience=self.server.url + "/token",
            certificate_der=self.card.der,
            nonce=nonce,
            dpop_jkt=self.dpop_key.thumbprint,
            statement=assertions.client_statement(
                client_id=product_id,
                client_key=self.dpop_key,
                product=self.product,
                nonce=nonce,
                now=self.server.clock.now,
            ),
            now=self.server.clock.now,
        )

    async def exchange(
        self,
        *,
        nonce: bytes | None = None,
        assertion: Change = SAME,
        subject: Change = SAME,
        proof: Change = SAME,
        signed_assertion: Fold = as_it_is,
        signed_subject: Fold = as_it_is,
        signed_proof: Fold = as_it_is,
        proofs: Iterable[str] | None = None,
        form: Mapping[str, str | None] | None = None,
        extra: Iterable[tuple[str, str]] = (),
    ) -> Reply:
        """A token exchange; everything signed can be changed before (``Change``) and after (``Fold``) its signature."""
        if not self.client_id:
            assert (await self.register()).status == 201
        nonce = await self.nonce() if nonce is None else nonce
        fields: dict[str, str | None] = {
            "grant_type": TOKEN_EXCHANGE,
            "client_id": self.client_id,
            "subject_token": signed_subject(changed(self.subject(nonce), subject).signed(self.card.sign)),
            "subject_token_type": JWT_TYPE,
            "requested_token_type": REFRESH_TYPE,
            "client_assertion_type": JWT_BEARER,
            "client_assertion": signed_assertion(
                changed(self.assertion(nonce), assertion).signed(self.instance_key.sign)
            ),
            "scope": "popp vsdservice",
            "audience": self.server.config.resource,
            **(form or {}),
        }
        if proofs is None:
            proofs = [signed_proof(changed(self.proof(nonce), proof).signed(self.dpop_key.sign))]
        return await self.server.post_form("/token", fields, proofs, extra)

    async def refresh(
        self,
        refresh_token: str,
        *,
        nonce: bytes | None = None,
        assertion: Change = SAME,
        proof: Change = SAME,
        statement: bool = True,
        proofs: Iterable[str] | None = None,
        form: Mapping[str, str | None] | None = None,
    ) -> Reply:
        nonce = await self.nonce() if nonce is None else nonce
        made = changed(self.assertion(nonce, statement=statement), assertion)
        fields: dict[str, str | None] = {
            "grant_type": "refresh_token",
            "client_id": self.client_id,
            "requested_token_type": REFRESH_TYPE,
            "client_assertion_type": JWT_BEARER,
            "client_assertion": made.signed(self.instance_key.sign),
            "scope": "popp vsdservice",
            "audience": self.server.config.resource,
            "refresh_token": refresh_token,
            **(form or {}),
        }
        if proofs is None:
            proofs = [changed(self.proof(nonce), proof).signed(self.dpop_key.sign)]
        return await self.server.post_form("/token", fields, proofs)

    async def client_credentials(
        self,
        product_id: str = "popp-client",
        *,
        nonce: bytes | None = None,
        assertion: Change = SAME,
        proof: Change = SAME,
        form: Mapping[str, str | None] | None = None,
    ) -> Reply:
        nonce = await self.nonce() if nonce is None else nonce
        made = changed(self.institution_assertion(product_id, nonce), assertion)
        fields: dict[str, str | None] = {
            "grant_type": "client_credentials",
            "client_assertion_type": JWT_BEARER,
            "client_assertion": made.signed(self.card.sign),
            "scope": "popp",
            **(form or {}),
        }
        return await self.server.post_form(
            "/token", fields, [changed(self.proof(nonce), proof).signed(self.dpop_key.sign)]
        )

    async def revoke(
        self,
        token: str,
        *,
        assertion: Change = SAME,
        proofs: Iterable[str] = (),
        form: Mapping[str, str | None] | None = None,
    ) -> Reply:
        made = changed(self.assertion(bytes(16), audience=self.server.url + "/revoke"), assertion)
        fields: dict[str, str | None] = {
            "token": token,
            "client_assertion_type": JWT_BEARER,
            "client_assertion": made.signed(self.instance_key.sign),
            **(form or {}),
        }
        return await self.server.post_form("/revoke", fields, proofs)


@dataclass
class Server:
    """The server under test and everything around it."""

    config: GuardConfig
    clock: Clock
    pki: DemoPki
    ocsp: OcspResponder
    app: AuthorizationServer
    store: Any
    keys: SigningKeys
    registry: CollectorRegistry
    session: aiohttp.ClientSession
    audit_directory: Path | None
    headers: Sequence[tuple[str, str]] = ()
    """Headers of every request of the clients."""

    encoded = staticmethod(b64url_encode)
    decoded = staticmethod(b64url_decode)

    @staticmethod
    def tampered(token: str, part: int, position: int = 5) -> str:
        """``token`` with one character of a part exchanged."""
        parts = token.split(".")
        text = parts[part]
        parts[part] = text[:position] + ("A" if text[position] != "A" else "B") + text[position + 1 :]
        return ".".join(parts)

    @staticmethod
    def raw_jws(header: bytes, claims: bytes, sign: Callable[[bytes], bytes]) -> str:
        """A JWS over exactly these bytes."""
        signing_input = f"{b64url_encode(header)}.{b64url_encode(claims)}"
        return f"{signing_input}.{b64url_encode(sign(signing_input.encode()))}"

    @property
    def url(self) -> str:
        return self.config.public_url

    @property
    def admin(self) -> Administration:
        return Administration(self.app.dependencies)

    def card(self, telematik_id: str = "1-2013-praxis-beispiel", **options: Any) -> Card:
        return self.pki.issue_smcb(telematik_id, **options)

    def practice(self, card: Card | None = None) -> Practice:
        return Practice(self, card or self.card())

    async def get(self, path: str, headers: Mapping[str, str] | None = None, method: str = "GET") -> Reply:
        async with self.session.request(method, self.url + path, headers=headers, allow_redirects=False) as answer:
            return Reply(answer.status, answer.headers, await answer.read())

    async def post(self, path: str, body: bytes, headers: Mapping[str, str] | Iterable[tuple[str, str]] = ()) -> Reply:
        pairs = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
        async with self.session.post(self.url + path, data=body, headers=pairs) as answer:
            return Reply(answer.status, answer.headers, await answer.read())

    async def post_form(
        self,
        path: str,
        fields: Mapping[str, str | None],
        proofs: Iterable[str] = (),
        extra: Iterable[tuple[str, str]] = (),
    ) -> Reply:
        pairs = [(name, value) for name, value in fields.items() if value is not None]
        headers = [*self.headers, ("Content-Type", "application/x-www-form-urlencoded; charset=UTF-8")]
        headers += [("dpop", proof) for proof in proofs]
        return await self.post(path, urlencode([*pairs, *extra]).encode(), headers)

    def claims(self, token: str, typ: str = "at+jwt") -> CompactJws:
        """The verified token."""
        slot = Slot("token", "invalid_token")
        jws = parse_jws(token, slot, typ=typ)
        verify_es256(jws, self.keys.public(self.clock.now)[str(jws.header["kid"])], slot)
        return jws

    def count(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0

    def audit_lines(self) -> list[dict[str, Any]]:
        assert self.audit_directory is not None
        lines = [line for path in sorted(self.audit_directory.iterdir()) for line in path.read_text().splitlines()]
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="session")
def pki() -> DemoPki:
    return DemoPki(now=time.time())


@pytest.fixture(scope="session")
def demo_policy() -> Iterator[PolicyEngine]:
    """The demo bundle in the embedded engine, loaded once: it keeps nothing of a question."""
    service = PolicyService(
        Policy.model_validate({"token": {"engine": "embedded", "bundle": "package:demo"}}),
        Outbound(OutboundConfig()),
        time.time,
        CollectorRegistry(),
    )
    asyncio.run(service.start())
    yield service.token
    asyncio.run(service.close())


class Scripted(PolicyEngine):
    """A policy engine that answers what the test wants, ``meanwhile`` something else happens; the contract is the real one."""

    def __init__(self) -> None:
        self.allow = True
        self.members: dict[str, Any] = {}
        self.asked: list[Mapping[str, JsonValue]] = []
        self.meanwhile: Callable[[], Awaitable[Any]] | None = None

    @property
    def revision(self) -> str:
        return "scripted"

    async def start(self) -> None:
        """Nothing to load."""

    async def decide(self, question: Question, document: Mapping[str, JsonValue], *, now: float) -> Decision:
        self.asked.append(document)
        if self.meanwhile is not None:
            await self.meanwhile()
        return Decision(self.allow, f"d{len(self.asked)}", self.revision, **self.members)

    async def readiness(self) -> str | None:
        return None

    async def close(self) -> None:
        """Nothing to release."""


@pytest.fixture
def engine() -> Scripted:
    """A policy engine at the test's command."""
    return Scripted()


MakeServer = Callable[..., Awaitable[Server]]


def _merged(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in changes.items():
        if isinstance(value, dict) and isinstance(base.get(name), dict):
            _merged(base[name], value)
        else:
            base[name] = value
    return base


@pytest.fixture
async def make_server(tmp_path: Path, pki: DemoPki, demo_policy: PolicyEngine) -> AsyncIterator[MakeServer]:
    """``await make_server(authorization_server={…}, …)``: a running server with a changed configuration. All share time and responder."""
    closing: list[Callable[[], Awaitable[Any]]] = []
    numbers = itertools.count()
    clock = Clock(pki.now)
    ocsp = OcspResponder(pki, clock=clock)
    await ocsp.start()
    closing.append(ocsp.close)

    async def make(
        *,
        shared_store: Any = None,
        audit: bool = False,
        policy: PolicyEngine | None = None,
        secrets: Secrets = SECRETS,
        **changes: Any,
    ) -> Server:
        folder = tmp_path / str(next(numbers))
        door = socket.create_server(("127.0.0.1", 0))

        async def shut() -> None:
            door.close()

        closing.append(shut)
        registry = CollectorRegistry()
        pki.write_trust_directory(folder / "trust")
        rotate(folder / "keys", clock.now - 1000)
        members: dict[str, Any] = {
            "public_url": f"http://127.0.0.1:{door.getsockname()[1]}",
            "secret_files": ["/nowhere"],
            "authorization_server": {
                "signing_keys": str(folder / "keys"),
                "scopes": ["popp", "vsdservice"],
            },
            "trust": {
                "directory": str(folder / "trust"),
                "unsafe_demo_trust": True,
                "ocsp": {"hosts": [ocsp.authority], "private_addresses": True, "timeout_ms": 500},
            },
            "policy": {"token": {"engine": "embedded", "bundle": "package:demo"}},
            "gateway": {
                "routes": [
                    {"prefix": "/vsdservice", "upstreams": [{"url": "http://127.0.0.1:9"}]},
                    {"prefix": "/popp", "upstreams": [{"url": "http://127.0.0.1:9"}]},
                ]
            },
        }
        if audit:
            members["audit"] = _audit(folder)
        config = GuardConfig.model_validate(_merged(members, changes))
        outbound = Outbound(config.outbound)
        shared = shared_store or open_store(config.store, secrets=secrets, clock=clock)
        await shared.start()
        clock.advance(2)
        trust = TrustService(config.trust, shared, outbound, clock, registry)
        await trust.start()
        keys = SigningKeys(config.authorization_server.signing_keys, config.authorization_server.lifetimes)
        keys.start(clock.now)
        record = Audit(config.audit, secrets, clock=clock)
        app = AuthorizationServer(
            config,
            shared,
            trust,
            policy or demo_policy,
            secrets,
            keys,
            SecurityEvents(registry, clock),
            record,
            clock,
            registry,
        )
        await app.start()
        reader = FactsReader(config)
        requests = itertools.count(1)

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            request_id = f"request-{next(requests)}"
            try:
                facts = reader.read(request, now=clock.now, request_id=request_id)
                return await app.handle(request, facts)
            except ZetaError as error:
                return error_response(error, public_url=config.public_url, request_id=request_id)

        listener = web.Server(handle)
        running = await asyncio.get_running_loop().create_server(listener, sock=door)
        session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

        async def close() -> None:
            await session.close()
            running.close()
            await listener.shutdown(1)
            await app.close()
            record.close()
            await trust.close()
            await outbound.close()
            if shared_store is None:
                await shared.close()

        closing.append(close)
        return Server(
            config, clock, pki, ocsp, app, shared, keys, registry, session, config.audit.directory if audit else None
        )

    yield make
    for close in reversed(closing):
        await close()


def _audit(folder: Path) -> dict[str, Any]:
    (folder / "audit").mkdir(parents=True)
    signer = SoftwareKey.generate()
    (folder / "audit.pem").write_bytes(signer.to_pem())
    return {"directory": str(folder / "audit"), "signing_key_file": str(folder / "audit.pem")}


@pytest.fixture
async def server(make_server: MakeServer) -> Server:
    """A server with the default configuration."""
    return await make_server()
