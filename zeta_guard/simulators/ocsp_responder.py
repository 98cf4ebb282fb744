"""An OCSP responder on loopback that really answers, and misbehaves on request (RFC 6960)."""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from types import TracebackType
from typing import Final, Literal

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509 import ocsp

from zeta_guard.simulators.card import Card
from zeta_guard.simulators.ocsp_answer import rewrite
from zeta_guard.simulators.pki import Authority, DemoPki, moment, new_key

OCSP_RESPONSE: Final = "application/ocsp-response"


class CardState(StrEnum):
    """What the responder does when it is asked about a certificate."""

    GOOD = "good"
    REVOKED = "revoked"
    UNKNOWN = "unknown"
    SILENT = "silent"
    """Accepts the question and never answers."""
    SLOW = "slow"
    """Good, after ``slow_seconds``."""
    GARBAGE = "garbage"
    EMPTY = "empty"
    HUGE = "huge"
    """A megabyte of zeros."""
    HTTP_ERROR = "http_error"
    """Good, with status 500."""
    REDIRECT = "redirect"
    """Sends the asker elsewhere; whoever follows is counted in ``followed``."""
    TRY_LATER = "try_later"
    WRONG_SERIAL = "wrong_serial"
    """Good, but about another certificate."""
    WRONG_CERT_HASH = "wrong_cert_hash"
    NO_CERT_HASH = "no_cert_hash"
    EXPIRED = "expired"
    """Good, with a nextUpdate an hour ago."""
    FUTURE = "future"
    """Good, with a thisUpdate in an hour."""
    FOREIGN_SIGNER = "foreign_signer"
    """Good, signed by a delegate of a CA that nobody trusts."""
    BAD_SIGNATURE = "bad_signature"
    WRONG_NONCE = "wrong_nonce"


SignerKind = Literal["delegate", "issuer", "service"]
"""Who signs: the CA's delegate, the CA itself, or a responder that only the trust list authorises."""


class OcspResponder:
    """Answers for the SM(C)-B CA of a :class:`DemoPki` (or for ``issuer``) and serves the component CA's CRL.

    Certificates that the PKI issued are *good* until :meth:`set_state` says otherwise; all others are *unknown*. ``requests``
    counts questions by serial number. ``clock`` dates the answers. Use as an asynchronous context manager.
    """

    def __init__(
        self,
        pki: DemoPki,
        *,
        issuer: Authority | None = None,
        signer: SignerKind = "delegate",
        clock: Callable[[], float] = time.time,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.pki = pki
        self.signer: SignerKind = signer
        self.signing_authority: Authority | None = None
        self.valid_seconds: int | None = 3600
        """nextUpdate after thisUpdate; None leaves it out."""
        self.slow_seconds = 1.0
        self.lag = 0.0
        """Answers are dated so many seconds back."""
        self.requests: Counter[int] = Counter()
        self.followed = 0
        self.revoked_components: set[int] = set()
        self._issuer = issuer
        self._clock = clock
        self._host = host
        self._port = port
        self._states: dict[int, CardState] = {}
        self._runner: web.AppRunner | None = None
        self._closing = asyncio.Event()
        self._arrival = asyncio.Condition()

    async def start(self) -> None:
        """Listen, and tell the PKI the addresses that go into certificates issued from now on."""
        self._closing.clear()
        application = web.Application()
        application.router.add_post("/ocsp", self._post)
        application.router.add_get("/ocsp/{question:.+}", self._get)
        application.router.add_get("/crl/component.crl", self._crl)
        application.router.add_route("*", "/elsewhere", self._elsewhere)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port)
        await site.start()
        self._port = self._runner.addresses[0][1]
        self.pki.ocsp_url = self.url
        self.pki.crl_url = f"{self.origin}/crl/component.crl"

    async def close(self) -> None:
        """Stop; questions that hang are dropped."""
        self._closing.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> OcspResponder:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return f"http://{self.authority}"

    @property
    def authority(self) -> str:
        """``host:port``, the form in which a guard's configuration lists responders."""
        return f"{self._host}:{self._port}"

    @property
    def url(self) -> str:
        """Where questions go."""
        return f"{self.origin}/ocsp"

    @property
    def asked(self) -> int:
        """Questions altogether."""
        return self.requests.total()

    async def wait_for(self, questions: int) -> None:
        """Return when so many questions have arrived altogether."""
        async with self._arrival:
            await self._arrival.wait_for(lambda: self.asked >= questions)

    def set_state(self, certificate: Card | x509.Certificate | int, state: CardState | str) -> None:
        """What to do from now on when asked about this certificate (or serial number)."""
        if isinstance(certificate, Card):
            certificate = certificate.certificate
        serial = certificate if isinstance(certificate, int) else certificate.serial_number
        self._states[serial] = CardState(state)

    def answer(self, request: ocsp.OCSPRequest, state: CardState) -> bytes:
        """The DER of the answer to a question, for a state in which there is one."""
        now = self._clock() - self.lag
        if state is CardState.TRY_LATER:
            unsuccessful = ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus.TRY_LATER)
            return unsuccessful.public_bytes(_DER)
        signer = self._signer(state)
        this_update = now + 3600 if state is CardState.FUTURE else now
        next_update: float | None = None if self.valid_seconds is None else this_update + self.valid_seconds
        if state is CardState.EXPIRED:
            this_update, next_update = now - 7200, now - 3600
        revoked = state is CardState.REVOKED
        builder = (
            ocsp.OCSPResponseBuilder()
            .add_response_by_hash(
                issuer_name_hash=request.issuer_name_hash,
                issuer_key_hash=request.issuer_key_hash,
                serial_number=request.serial_number + (1 if state is CardState.WRONG_SERIAL else 0),
                algorithm=request.hash_algorithm,
                cert_status=_STATUS.get(state, ocsp.OCSPCertStatus.GOOD),
                this_update=moment(this_update),
                next_update=None if next_update is None else moment(next_update),
                revocation_time=moment(now - 3600) if revoked else None,
                revocation_reason=x509.ReasonFlags.key_compromise if revoked else None,
            )
            .responder_id(ocsp.OCSPResponderEncoding.HASH, signer.certificate)
            .certificates([signer.certificate])
        )
        nonce = _nonce(request)
        if nonce is not None:
            echoed = bytes(len(nonce)) if state is CardState.WRONG_NONCE else nonce
            builder = builder.add_extension(x509.OCSPNonce(echoed), False)
        der = builder.sign(signer.private_key, hashes.SHA256()).public_bytes(_DER)
        hashed: bytes | None = None
        certificate = self.pki.issued.get(request.serial_number)
        if certificate is not None and state not in _WITHOUT_CERT_HASH:
            hashed = b"another" if state is CardState.WRONG_CERT_HASH else certificate.public_bytes(_DER)
        key = new_key() if state is CardState.BAD_SIGNATURE else signer.private_key
        return rewrite(der, key, produced_at=this_update, certificate=hashed)

    def _signer(self, state: CardState) -> Authority:
        if state is CardState.FOREIGN_SIGNER:
            return self.pki.foreign_ocsp_signer
        if self.signing_authority is not None:
            return self.signing_authority
        if self.signer == "issuer":
            return self._issuer or self.pki.smcb_ca
        return self.pki.ocsp_service if self.signer == "service" else self.pki.ocsp_signer

    async def _post(self, request: web.Request) -> web.StreamResponse:
        return await self._serve(await request.read())

    async def _get(self, request: web.Request) -> web.StreamResponse:
        try:
            raw = base64.b64decode(request.match_info["question"], validate=True)
        except binascii.Error:
            return web.Response(status=400)
        return await self._serve(raw)

    async def _serve(self, raw: bytes) -> web.StreamResponse:
        try:
            question = ocsp.load_der_ocsp_request(raw)
            serial = question.serial_number
        except ValueError:
            malformed = ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus.MALFORMED_REQUEST)
            return web.Response(body=malformed.public_bytes(_DER), content_type=OCSP_RESPONSE)
        async with self._arrival:
            self.requests[serial] += 1
            self._arrival.notify_all()
        known = serial in self.pki.issued
        state = self._states.get(serial, CardState.GOOD if known else CardState.UNKNOWN)
        match state:
            case CardState.SILENT:
                await self._closing.wait()
                return web.Response(status=503)
            case CardState.SLOW:
                await asyncio.sleep(self.slow_seconds)
            case CardState.GARBAGE:
                return web.Response(body=b"\x30\x82garbage" * 40, content_type=OCSP_RESPONSE)
            case CardState.EMPTY:
                return web.Response(body=b"", content_type=OCSP_RESPONSE)
            case CardState.HUGE:
                return web.Response(body=bytes(1 << 20), content_type=OCSP_RESPONSE)
            case CardState.HTTP_ERROR:
                return web.Response(status=500, body=self.answer(question, state), content_type=OCSP_RESPONSE)
            case CardState.REDIRECT:
                return web.Response(status=307, headers={"Location": f"{self.origin}/elsewhere"})
        return web.Response(body=self.answer(question, state), content_type=OCSP_RESPONSE)

    async def _elsewhere(self, request: web.Request) -> web.StreamResponse:
        self.followed += 1
        return web.Response(body=self.answer(ocsp.load_der_ocsp_request(await request.read()), CardState.GOOD))

    async def _crl(self, request: web.Request) -> web.StreamResponse:
        return web.Response(
            body=self.pki.crl(self.revoked_components, now=self._clock()), content_type="application/pkix-crl"
        )


_DER: Final = serialization.Encoding.DER
_STATUS: Final = {CardState.REVOKED: ocsp.OCSPCertStatus.REVOKED, CardState.UNKNOWN: ocsp.OCSPCertStatus.UNKNOWN}
_WITHOUT_CERT_HASH: Final = frozenset({CardState.UNKNOWN, CardState.NO_CERT_HASH})


def _nonce(request: ocsp.OCSPRequest) -> bytes | None:
    try:
        return request.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce
    except x509.ExtensionNotFound:
        return None
