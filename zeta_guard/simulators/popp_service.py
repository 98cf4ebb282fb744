"""A PoPP service: card scenarios over a WebSocket, then a signed PoPP token (``wss …/token-generation-ehc``)."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Literal, Self

from aiohttp import WSMsgType, web
from cryptography import x509

from zeta_guard.errors import JsonValue
from zeta_guard.simulators.card import Card
from zeta_guard.simulators.injected_header import MalformedHeader, read_injected
from zeta_guard.simulators.popp_scenario import ERROR_NAMES, CardFault, Run, Scenario, contact, contactless
from zeta_guard.simulators.popp_token import CareContext, PoppIssuer

TOKEN_GENERATION: Final = "/popp/practitioner/api/v1/token-generation-ehc"
GENERATOR: Final = "/popp/test/api/v1/token-generator"
FEDERATION: Final = "/.well-known/openid-federation"
SIGNED_JWKS: Final = "/.well-known/signed-jwks"

Message = dict[str, JsonValue]
Fault = Literal["", "abrupt_close", "oversize", "no_token", "proxy"]
_STEPS: Final = 64
_HEX: Final = frozenset("0123456789abcdefABCDEF")


@dataclass(frozen=True, slots=True)
class Actor:
    """The institution, as the guard named it at the upgrade."""

    telematik_id: str
    profession_oid: str


@dataclass
class Conversation:
    """One card session, without sockets: messages in, messages out. ``done`` after a token or an error."""

    actor: Actor
    issuer: PoppIssuer
    card_issuers: Sequence[x509.Certificate]
    now: float
    done: bool = False
    _run: Run | None = field(default=None, init=False)
    _open: Scenario | None = field(default=None, init=False)
    _session_id: str = field(default="", init=False)
    _counter: int = field(default=0, init=False)
    _proof_method: str = field(default="", init=False)

    def receive(self, text: str) -> Message:
        """The answer to one text frame."""
        try:
            return self._step(_parse(text))
        except CardFault as fault:
            self.done = True
            return error_message(fault.code)

    def _step(self, message: Message) -> Message:
        kind = message.get("type")
        if kind in ("Start", "StartMessage") and self._run is None:
            return self._start(message)
        if kind in ("ScenarioResponse", "ScenarioResponseMessage") and self._run is not None:
            return self._continue(message)
        raise CardFault(79511, "message not expected here")

    def _start(self, message: Message) -> Message:
        session_id, connection = message.get("clientSessionId"), message.get("cardConnectionType")
        if message.get("version") != "1.0.0" or not isinstance(session_id, str) or not session_id:
            raise CardFault(79511, "version or clientSessionId")
        if connection == "contact-standard":
            self._run, self._proof_method = (
                contact(self.card_issuers, self.now),
                "ehc-practitioner-trustedchannel",
            )
        elif connection == "contactless-standard":
            self._run, self._proof_method = (
                contactless(self.card_issuers, self.now),
                "ehc-practitioner-cvc-authenticated",
            )
        else:
            # Konnektor workflows need signed scenarios and a Konnektor; this service speaks to card readers only.
            raise CardFault(79513 if connection in ("contact-connector", "contactless-connector") else 79511)
        self._session_id = session_id
        return self._scenario(next(self._run))

    def _continue(self, message: Message) -> Message:
        assert self._run is not None
        assert self._open is not None
        responses = _responses(message.get("steps"), self._open)
        try:
            return self._scenario(self._run.send(responses))
        except StopIteration as finished:
            holder = finished.value
        self.done = True
        context = CareContext(
            holder.kvnr, holder.insurer_id, self.actor.telematik_id, self.actor.profession_oid, self._proof_method
        )
        return {"type": "Token", "token": self.issuer.mint(context)}

    def _scenario(self, scenario: Scenario) -> Message:
        self._open = scenario
        message: Message = {
            "type": "StandardScenario",
            "version": "1.0.0",
            "clientSessionId": self._session_id,
            "sequenceCounter": self._counter,
            "timeSpan": scenario.time_span,
            "steps": [
                {"commandApdu": command.apdu.hex(), "expectedStatusWords": list(command.expected)}
                for command in scenario.commands
            ],
        }
        self._counter += 1
        return message


class PoppService:
    """The service on a port of its own. Use as an asynchronous context manager.

    The issuer's URL defaults to the address that is listened on. ``fault`` makes it misbehave: ``abrupt_close`` after the
    first scenario response, ``oversize`` answers 2 MiB, ``no_token`` never sends the token, ``proxy`` refuses the upgrade with
    ``zeta-cause: Proxy``. ``document_status`` other than 200 takes the published documents away.
    """

    def __init__(
        self,
        signer: Card,
        card_issuers: Sequence[x509.Certificate],
        *,
        issuer: str = "",
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.issuer: Final = PoppIssuer(issuer, signer, clock)
        self.card_issuers = tuple(card_issuers)
        self.fault: Fault = ""
        self.document_status = 200
        self.document_changes: Mapping[str, Mapping[str, JsonValue]] = {}
        """Claims to change in ``statement`` or ``jwks``, for tests of relying parties."""
        self.fetched: list[str] = []
        """Paths of the documents that were fetched."""
        self.upgrades: list[Mapping[str, str]] = []
        """Headers of the upgrade requests."""
        self._clock = clock
        self._host = host
        self._port = port
        self._runner: web.AppRunner | None = None
        self._sockets: set[web.WebSocketResponse] = set()
        self._published: dict[str, tuple[object, str]] = {}

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{self._host}:{self._port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Listen."""
        application = web.Application()
        for path in (TOKEN_GENERATION, "/ws"):
            application.router.add_get(path, self._socket)
        application.router.add_get(FEDERATION, self._entity_statement)
        application.router.add_get(SIGNED_JWKS, self._signed_jwks)
        application.router.add_get("/jwks.json", self._plain_jwks)
        application.router.add_get("/health", self._health)
        application.router.add_post(GENERATOR, self._generate)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port).start()
        self._port = self._runner.addresses[0][1]
        self.issuer.issuer = self.issuer.issuer or self.url

    async def close(self) -> None:
        """Stop; open sockets are closed with 1001."""
        await asyncio.gather(*(socket.close(code=1001) for socket in list(self._sockets)))
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        self.upgrades.append(dict(request.headers))
        if self.fault == "proxy":
            return web.Response(status=400, headers={"zeta-cause": "Proxy"}, text="for the proxy's eyes only")
        socket = web.WebSocketResponse(max_msg_size=1 << 20, heartbeat=30)
        await socket.prepare(request)
        self._sockets.add(socket)
        try:
            await self._converse(request, socket)
        finally:
            self._sockets.discard(socket)
        return socket

    async def _converse(self, request: web.Request, socket: web.WebSocketResponse) -> None:
        try:
            actor = read_actor(request.headers.get("zeta-user-info"))
        except CardFault as fault:
            await socket.send_json(error_message(fault.code))
            await socket.close()
            return
        conversation = Conversation(actor, self.issuer, self.card_issuers, self._clock())
        async for frame in socket:
            if frame.type is not WSMsgType.TEXT:
                await socket.send_json(error_message(79511))
                break
            answer = conversation.receive(frame.data)
            if self.fault == "abrupt_close" and answer.get("sequenceCounter") != 0:
                assert request.transport is not None
                request.transport.abort()
                return
            if self.fault == "no_token" and conversation.done:
                continue
            if self.fault == "oversize":
                answer["padding"] = "x" * (2 << 20)
            await socket.send_json(answer)
            if conversation.done:
                break
        await socket.close()

    async def _entity_statement(self, request: web.Request) -> web.Response:
        changes = self.document_changes.get("statement", {})
        text = self._stable(
            FEDERATION, changes, lambda: self.issuer.entity_statement(self.url + SIGNED_JWKS, **changes)
        )
        return self._document(request, text, "application/entity-statement+jwt")

    async def _signed_jwks(self, request: web.Request) -> web.Response:
        changes = self.document_changes.get("jwks", {})
        text = self._stable(SIGNED_JWKS, changes, lambda: self.issuer.signed_jwks(**changes))
        return self._document(request, text, "application/jwk-set+jwt")

    def _stable(self, path: str, changes: Mapping[str, JsonValue], make: Callable[[], str]) -> str:
        """The document as it was signed before, for an hour and while its content is the same: else no ETag would hold."""
        content = (
            int(self._clock() // 3600),
            self.issuer.issuer,
            self.issuer.kid,
            self.issuer.entity_key_thumbprint,
            changes,
        )
        if path not in self._published or self._published[path][0] != content:
            self._published[path] = (content, make())
        return self._published[path][1]

    async def _plain_jwks(self, request: web.Request) -> web.Response:
        return self._document(request, json.dumps({"keys": self.issuer.keys()}), "application/json")

    def _document(self, request: web.Request, text: str, content_type: str) -> web.Response:
        self.fetched.append(request.path)
        if self.document_status != 200:
            return web.Response(status=self.document_status)
        tag = f'"{hashlib.sha256(text.encode()).hexdigest()}"'
        headers = {"Cache-Control": "public, max-age=300", "ETag": tag}
        if request.headers.get("If-None-Match") == tag:
            return web.Response(status=304, headers=headers)
        return web.Response(text=text, content_type=content_type, headers=headers)

    async def _health(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "UP"})

    async def _generate(self, request: web.Request) -> web.Response:
        """The token generator of the public test environments: a list of contexts in, a list of tokens out."""
        try:
            body = await request.json()
            tokens: list[JsonValue] = [self._generated(wanted) for wanted in body["tokenParamsList"]]
        except (ValueError, KeyError, TypeError, AttributeError):
            return web.json_response({"error": "patientId, insurerId, actorId, actorProfessionOid wanted"}, status=400)
        return web.json_response({"tokenResults": tokens})

    def _generated(self, wanted: Mapping[str, JsonValue]) -> str:
        context = CareContext(
            patient_id=str(wanted["patientId"]),
            insurer_id=str(wanted["insurerId"]),
            actor_id=str(wanted["actorId"]),
            actor_profession_oid=str(wanted["actorProfessionOid"]),
            proof_method=str(wanted.get("proofMethod", "ehc-practitioner-trustedchannel")),
        )
        return self.issuer.mint(
            context, issued_at=_seconds(wanted, "iat"), patient_proof_time=_seconds(wanted, "patientProofTime")
        )


def read_actor(header: str | None) -> Actor:
    """The institution in ``ZETA-User-Info``. Never a default actor: what stands here becomes signed truth."""
    if header is None:
        raise CardFault(79206)
    try:
        members = read_injected(header, "identifier", "professionOID")
    except MalformedHeader:
        raise CardFault(79401) from None
    return Actor(str(members["identifier"]), str(members["professionOID"]))


def error_message(code: int) -> Message:
    """An ``Error`` message as the real service sends it: a public name and an empty detail."""
    return {"type": "Error", "errorCode": ERROR_NAMES.get(code, str(code)), "errorDetail": ""}


def _parse(text: str) -> Message:
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise CardFault(79511, "not JSON") from None
    if not isinstance(message, dict):
        raise CardFault(79511, "not an object")
    return message


def _responses(steps: JsonValue, scenario: Scenario) -> list[bytes]:
    if not isinstance(steps, list) or not steps or len(steps) > _STEPS:
        raise CardFault(79511, "steps")
    answers: list[bytes] = []
    for step in steps:
        if not isinstance(step, str) or len(step) < 4 or len(step) % 2 or not _HEX.issuperset(step):
            raise CardFault(79511, "response APDU")
        answers.append(bytes.fromhex(step))
    for answer, command in zip(answers, scenario.commands, strict=False):
        if answer[-2:].hex() not in command.expected:
            raise CardFault(scenario.fault, "unexpected status word")
    if len(answers) != len(scenario.commands):
        raise CardFault(79100, "number of responses")
    return answers


def _seconds(wanted: Mapping[str, JsonValue], name: str) -> int | None:
    value = wanted.get(name)
    return int(value) if isinstance(value, (int, float)) else None
