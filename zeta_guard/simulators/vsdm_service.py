"""A VSDM 2.0 service: insured data as a FHIR bundle, for the person in the PoPP token content that the guard injects."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, Self

from aiohttp import web

from zeta_guard.errors import JsonValue
from zeta_guard.simulators import fhir
from zeta_guard.simulators.injected_header import MalformedHeader, read_injected
from zeta_guard.simulators.insured import PERSONAS, Insured

BUNDLE: Final = "/vsdservice/v1/vsdmbundle"
WHOAMI: Final = "/whoami"
FHIR_JSON: Final = "application/fhir+json"
FHIR_XML: Final = "application/fhir+xml"
PROFILE_VERSIONS: Final = frozenset({"1.0"})

_KVNR: Final = re.compile(r"[A-Z][0-9]{8}[A-Z0-9]")
_IK: Final = re.compile(r"[0-9]{9}")
_VERSION: Final = re.compile(r"[0-9]{1,3}\.[0-9]{1,3}")
_REMEMBERED: Final = 200


class Refusal(Exception):
    """An operation outcome for the client."""

    def __init__(
        self, status: int, code: str, text: str, *, severity: str = "error", kind: str = "value", expression: str = ""
    ) -> None:
        super().__init__(code)
        self.status: Final = status
        self.outcome: Final = fhir.operation_outcome(
            code, text, severity=severity, kind=kind, expression=expression or None
        )


class ProxyFault(Exception):
    """What only the proxy can have done wrong: 400 with ``zeta-cause: Proxy``, no outcome for the client."""

    def __init__(self, code: int) -> None:
        super().__init__(str(code))
        self.code: Final = code


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it arrived here."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]

    def header(self, name: str) -> list[str]:
        """All values of a header."""
        return [value for found, value in self.headers if found.lower() == name.lower()]


class VsdmService:
    """The service on a port of its own. Use as an asynchronous context manager.

    Beside the bundle: ``/whoami`` tells what the guard said about the caller, ``/health``, ``/service/status``. ``received``
    keeps the last requests. ``fault_status`` answers everything with that status. ``default_profile_version`` is taken
    where the query names none: A_28047-01 demands it, the published OpenAPI file does not know it.
    """

    def __init__(
        self,
        insured: Sequence[Insured] = PERSONAS,
        *,
        default_profile_version: str | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.insured: dict[str, Insured] = {person.kvnr: person for person in insured}
        self.insurers = {person.insurer_id for person in insured}
        self.received: deque[Received] = deque(maxlen=_REMEMBERED)
        self.fault_status = 0
        self._default_profile_version = default_profile_version
        self._changed: dict[str, float] = {}
        self._proof_key = os.urandom(32)
        self._host = host
        self._port = port
        self._clock = clock
        self._started = clock()
        self._runner: web.AppRunner | None = None

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
        application = web.Application(middlewares=[self._remember])
        application.router.add_route("*", BUNDLE, self._bundle)
        application.router.add_route("*", WHOAMI, self._whoami)
        application.router.add_get("/health", self._health)
        application.router.add_get("/service/status", self._health)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port).start()
        self._port = self._runner.addresses[0][1]

    async def close(self) -> None:
        """Stop."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def change(self, kvnr: str) -> None:
        """New insured data: the next bundle has another ETag."""
        self._changed[kvnr] = self._clock()

    def bundle(self, kvnr: str) -> fhir.Resource:
        """The bundle of an insured person. Raises KeyError."""
        changed = self._changed.get(kvnr, 1_735_689_600.0)
        return fhir.insured_bundle(self.insured[kvnr], changed_at=_instant(changed), created_at=_instant(self._clock()))

    @web.middleware
    async def _remember(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        headers = tuple((name, value) for name, value in request.headers.items())
        self.received.append(Received(request.method, request.path_qs, headers))
        if self.fault_status:
            return web.Response(status=self.fault_status, text="fault")
        return await handler(request)

    async def _bundle(self, request: web.Request) -> web.Response:
        as_xml = _form(request.headers.get("Accept")) == "xml"
        try:
            return self._read(request, as_xml)
        except Refusal as refusal:
            body = fhir.to_xml(refusal.outcome) if as_xml else fhir.to_json(refusal.outcome)
            return _fhir_answer(refusal.status, body, as_xml)
        except ProxyFault as fault:
            return web.Response(status=400, headers={"zeta-cause": "Proxy"}, text=f"{fault.code}: the proxy's header")

    def _read(self, request: web.Request, as_xml: bool) -> web.Response:
        if request.method != "GET":
            raise Refusal(405, "SERVICE_INVALID_HTTP_OPERATION", "only GET is offered", severity="fatal")
        context = _injected(request.headers, "zeta-popp-token-content", 79207, 79402, "patientId", "insurerId")
        _injected(request.headers, "zeta-user-info", 79206, 79401, "identifier", "professionOID", "commonName")
        if not _form(request.headers.get("Accept")):
            raise Refusal(
                406,
                "SERVICE_UNSUPPORTED_MEDIATYPE",
                f"Accept names neither {FHIR_JSON} nor {FHIR_XML}",
                expression="http.Accept",
            )
        known_tag = request.headers.get("If-None-Match")
        if not known_tag:
            raise Refusal(
                428,
                "VSDSERVICE_MISSING_PATIENT_RECORD_VERSION",
                'If-None-Match is missing; send the last ETag, or "0" the first time',
                expression="http.If-None-Match",
            )
        default = [self._default_profile_version] if self._default_profile_version else []
        _check_profile_version(request.query.getall("profileVersion", default))
        kvnr = self._person(context)
        bundle = self.bundle(kvnr)
        tag = fhir.entity_tag(bundle)
        headers = {"ETag": tag, "VSDM-Pz": self._proof(kvnr)}
        if _same_tag(known_tag, tag):
            return web.Response(status=304, headers=headers)
        return _fhir_answer(200, fhir.to_xml(bundle) if as_xml else fhir.to_json(bundle), as_xml, headers)

    def _person(self, context: Mapping[str, JsonValue]) -> str:
        kvnr, insurer = str(context["patientId"]), str(context["insurerId"])
        where = "http.ZETA-PoPP-Token-Content"
        if not _IK.fullmatch(insurer):
            raise Refusal(
                400, "VSDSERVICE_INVALID_IK", "no valid IK", severity="fatal", expression=f"{where}.insurerId"
            )
        if not _KVNR.fullmatch(kvnr):
            raise Refusal(
                400, "VSDSERVICE_INVALID_KVNR", "no valid KVNR", severity="fatal", expression=f"{where}.patientId"
            )
        if insurer not in self.insurers:
            raise Refusal(
                400, "VSDSERVICE_UNKNOWN_IK", "IK not served here", kind="not-found", expression=f"{where}.insurerId"
            )
        if kvnr not in self.insured or self.insured[kvnr].insurer_id != insurer:
            raise Refusal(
                404, "VSDSERVICE_UNKNOWN_KVNR", "KVNR not known here", kind="not-found", expression=f"{where}.patientId"
            )
        return kvnr

    def _proof(self, kvnr: str) -> str:
        """``VSDM-Pz``: 48 opaque bytes, new at each read."""
        text = f"{kvnr}|{self._clock():.6f}".encode()
        return base64.urlsafe_b64encode(hmac.new(self._proof_key, text, hashlib.sha512).digest()[:48]).decode()

    async def _whoami(self, request: web.Request) -> web.Response:
        """What the guard said about the caller, as this backend understands it."""
        told: dict[str, JsonValue] = {}
        for name in ("ZETA-User-Info", "ZETA-Client-Data", "ZETA-PoPP-Token-Content"):
            values = request.headers.getall(name, [])
            try:
                told[name] = [read_injected(value) for value in values] if len(values) > 1 else read_injected(*values)
            except (MalformedHeader, TypeError):
                told[name] = None
        body = await request.read()
        return web.json_response(
            {
                "method": request.method,
                "path": request.path_qs,
                "told_by_the_guard": {name: value for name, value in told.items() if value is not None},
                "header_names": sorted(set(request.headers)),
                "body_bytes": len(body),
            }
        )

    async def _health(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "UP"})


def _injected(
    headers: Mapping[str, str], name: str, missing: int, malformed: int, *required: str
) -> dict[str, JsonValue]:
    value = headers.get(name)
    if value is None:
        raise ProxyFault(missing)
    try:
        return read_injected(value, *required)
    except MalformedHeader:
        raise ProxyFault(malformed) from None


def _check_profile_version(values: Sequence[str]) -> None:
    if not values:
        raise Refusal(
            400,
            "VSDSERVICE_MISSING_PROFILE_VERSION",
            "the query parameter profileVersion is missing; 1.0 is offered",
            expression="http.profileVersion",
        )
    if len(values) > 1 or not _VERSION.fullmatch(values[0]) or values[0] not in PROFILE_VERSIONS:
        raise Refusal(
            400,
            "VSDSERVICE_INVALID_PROFILE_VERSION",
            "profileVersion is not offered; 1.0 is",
            expression="http.profileVersion",
        )


def _fhir_answer(status: int, body: bytes, as_xml: bool, headers: Mapping[str, str] | None = None) -> web.Response:
    content_type = FHIR_XML if as_xml else FHIR_JSON
    return web.Response(status=status, body=body, headers=headers, content_type=content_type, charset="utf-8")


def _form(accept: str | None) -> str:
    """``xml`` or ``json`` by preference, empty when neither is accepted.

    ``application/json`` counts as FHIR JSON: the ZETA SDK always adds it.
    """
    best, chosen = 0.0, ""
    for entry in (accept or "*/*").split(","):
        media_type, *parameters = (part.strip().lower() for part in entry.split(";"))
        quality = next((_quality(part[2:]) for part in parameters if part.startswith("q=")), 1.0)
        form = {FHIR_XML: "xml", FHIR_JSON: "json", "application/json": "json"}.get(media_type, "")
        if media_type in ("*/*", "application/*"):
            form = "json"
        if form and quality > best:
            best, chosen = quality, form
    return chosen


def _quality(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _same_tag(presented: str, tag: str) -> bool:
    """Weak comparison (RFC 9110 §8.8.3.2), quotes optional."""

    def bare(value: str) -> str:
        return value.strip().removeprefix("W/").strip('"')

    return any(bare(value) == bare(tag) for value in presented.split(","))


def _instant(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
