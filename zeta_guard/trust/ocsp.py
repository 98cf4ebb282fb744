"""One OCSP question and what an answer says (RFC 6960), bytes in, verified outcome out. No I/O, no clock.

An answer that is not proven to come from an authorised responder says nothing: it is :class:`Unavailable`, never *good* and
never *refused*.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID

from zeta_guard.trust.anchors import CaService
from zeta_guard.trust.certificate import PARSER_ERRORS, CertificateFormError, extension, refuse_unknown_critical
from zeta_guard.trust.chain import validity
from zeta_guard.trust.contract import SmcbCertificate
from zeta_guard.trust.der import OBJECT_IDENTIFIER, OCTET_STRING, sequence
from zeta_guard.trust.signature import verifies

REQUEST_TYPE: Final = "application/ocsp-request"
RESPONSE_TYPE: Final = "application/ocsp-response"
CERT_HASH_OID: Final = x509.ObjectIdentifier("1.3.36.8.3.13")
"""CertHash (Common PKI): the responder proves that it holds the very certificate."""

_NONCE_OID: Final = x509.OCSPNonce.oid
_CERT_HASHES: Final = {
    bytes.fromhex("0609608648016503040201"): hashlib.sha256,
    bytes.fromhex("0609608648016503040202"): hashlib.sha384,
    bytes.fromhex("0609608648016503040203"): hashlib.sha512,
}
_ID_HASHES: Final = ("sha1", "sha256")
_DELEGATE_EXTENSIONS: Final = frozenset(
    {
        x509.BasicConstraints.oid,
        x509.KeyUsage.oid,
        x509.ExtendedKeyUsage.oid,
        x509.CertificatePolicies.oid,
        x509.OCSPNoCheck.oid,
    }
)
_MAX_RESPONDER_CERTIFICATES: Final = 8
_MAX_URL: Final = 2048


@dataclass(frozen=True, slots=True)
class Good:
    """The responder knows the certificate and it is not revoked."""

    produced_at: float
    this_update: float
    next_update: float | None


@dataclass(frozen=True, slots=True)
class Refused:
    """The responder says no: *revoked*, *unknown*, or it holds another certificate under this number (``cert_hash``)."""

    reason: Literal["revoked", "unknown", "cert_hash"]
    produced_at: float
    this_update: float
    next_update: float | None


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Nobody authorised said anything usable. ``reason`` is a stable word for logs and metrics."""

    reason: str


Answered = Good | Refused
Outcome = Good | Refused | Unavailable


class AnswerError(ValueError):
    """Why an answer says nothing; the text is the reason of :class:`Unavailable`."""


def responder_url(certificate: x509.Certificate) -> str | None:
    """The first OCSP responder (http or https) that the authority information access names (RFC 5280 §4.2.2.1)."""
    try:
        access = extension(certificate.extensions, x509.AuthorityInformationAccess)
    except PARSER_ERRORS:
        return None
    for description in access or ():
        location = description.access_location
        if description.access_method == AuthorityInformationAccessOID.OCSP and isinstance(
            location, x509.UniformResourceIdentifier
        ):
            return location.value
    return None


def url_authority(url: str) -> tuple[str, str] | None:
    """``(host, host:port)`` of an http or https URL in lower case; None for anything else, also for one with a user name."""
    if len(url) > _MAX_URL or not url.isascii() or not url.isprintable() or " " in url:
        return None
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return host, f"{host}:{port or (443 if parts.scheme == 'https' else 80)}"


def build_question(certificate: x509.Certificate, issuer: x509.Certificate, nonce: bytes) -> bytes:
    """The DER of the question: CertID with SHA-1, as every responder understands it, and a nonce."""
    # The digest names the issuer, it protects nothing: RFC 6960 §4.3 makes SHA-1 the one that is always understood.
    builder = ocsp.OCSPRequestBuilder().add_certificate(certificate, issuer, hashes.SHA1())  # noqa: S303
    request = builder.add_extension(x509.OCSPNonce(nonce), False).build()
    return request.public_bytes(serialization.Encoding.DER)


def read_answer(
    raw: bytes,
    leaf: SmcbCertificate,
    issuer: CaService,
    responders: tuple[x509.Certificate, ...],
    *,
    now: float,
    nonce: bytes | None = None,
) -> Answered:
    """Verify an answer and say what it says about ``leaf``. Raises AnswerError with a stable word.

    Checked: success, exactly one single response about this certificate (SHA-1 or SHA-256 CertID), no unknown critical
    extension, signature by the issuing CA, its delegate (same CA key, OCSPSigning, valid at ``now``) or one of
    ``responders`` (OCSP services of the same provider), the nonce where the responder echoes one, CertHash where present.
    Times of the answer are judged apart (:func:`judge_times`), because a cached answer is read once and judged often.
    """
    try:
        return _read(raw, leaf, issuer, responders, now=now, nonce=nonce)
    except AnswerError:
        raise
    except PARSER_ERRORS as error:
        raise AnswerError("malformed") from error


def judge_times(answer: Answered, *, now: float, max_age: float, skew: float) -> str | None:
    """None while the answer may be used; otherwise a stable word.

    ``this_update`` and ``produced_at`` not ahead, ``next_update`` not past, ``this_update`` at most ``max_age`` seconds old;
    each with ``skew`` seconds tolerance (GS-A_5215: 37.5 s).
    """
    if answer.this_update > now + skew or answer.produced_at > now + skew:
        return "from_the_future"
    if answer.next_update is not None and answer.next_update < now - skew:
        return "expired"
    if answer.this_update < now - max_age - skew:
        return "too_old"
    return None


def _read(
    raw: bytes,
    leaf: SmcbCertificate,
    issuer: CaService,
    responders: tuple[x509.Certificate, ...],
    *,
    now: float,
    nonce: bytes | None,
) -> Answered:
    response = ocsp.load_der_ocsp_response(raw)
    if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
        raise AnswerError(response.response_status.name.lower())
    singles = list(response.responses)
    if len(singles) != 1:
        raise AnswerError("not_one_answer")
    single = singles[0]
    if not _is_about(single, leaf.certificate, issuer):
        raise AnswerError("about_another_certificate")
    _check_signature(response, issuer, responders, now)
    _check_extensions(response, nonce)
    produced_at = response.produced_at_utc.timestamp()
    this_update = single.this_update_utc.timestamp()
    next_update = None if single.next_update_utc is None else single.next_update_utc.timestamp()
    if single.certificate_status is ocsp.OCSPCertStatus.REVOKED:
        return Refused("revoked", produced_at, this_update, next_update)
    if single.certificate_status is ocsp.OCSPCertStatus.UNKNOWN:
        return Refused("unknown", produced_at, this_update, next_update)
    if not _cert_hash_matches(response, leaf.der):
        return Refused("cert_hash", produced_at, this_update, next_update)
    return Good(produced_at, this_update, next_update)


def _is_about(single: ocsp.OCSPSingleResponse, certificate: x509.Certificate, issuer: CaService) -> bool:
    algorithm = single.hash_algorithm.name
    if algorithm not in _ID_HASHES or single.serial_number != certificate.serial_number:
        return False
    name = hashlib.new(algorithm, certificate.issuer.public_bytes(), usedforsecurity=False).digest()
    key = hashlib.new(algorithm, _key_bits(issuer), usedforsecurity=False).digest()
    return hmac.compare_digest(single.issuer_name_hash, name) and hmac.compare_digest(single.issuer_key_hash, key)


def _key_bits(issuer: CaService) -> bytes:
    return issuer.public_key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)


def _check_signature(
    response: ocsp.OCSPResponse, issuer: CaService, responders: tuple[x509.Certificate, ...], now: float
) -> None:
    """Find who the responder says it is, among those who may answer; then its signature decides."""
    digest = response.signature_hash_algorithm
    named = [
        candidate
        for candidate in (issuer.certificate, *responders, *response.certificates[:_MAX_RESPONDER_CERTIFICATES])
        if _is_responder(response, candidate)
    ]
    if not named:
        raise AnswerError("responder_unknown")
    own = (issuer.certificate, *responders)
    authorised = [c for c in named if _is_valid(c, now) and (c in own or _is_delegate(c, issuer))]
    if not authorised:
        raise AnswerError("responder_not_authorised")
    signature, signed = response.signature, response.tbs_response_bytes
    if not any(verifies(c.public_key(), signature, signed, digest) for c in authorised):
        raise AnswerError("bad_signature")


def _is_valid(certificate: x509.Certificate, now: float) -> bool:
    begin, end = validity(certificate)
    return begin <= now <= end


def _is_responder(response: ocsp.OCSPResponse, certificate: x509.Certificate) -> bool:
    name = response.responder_name
    if name is not None:
        return name.public_bytes() == certificate.subject.public_bytes()
    key_hash = response.responder_key_hash
    digest = x509.SubjectKeyIdentifier.from_public_key(certificate.public_key()).digest
    return key_hash is not None and hmac.compare_digest(key_hash, digest)


def _is_delegate(certificate: x509.Certificate, issuer: CaService) -> bool:
    """RFC 6960 §4.2.2.2: issued directly by the key that issued the leaf, for OCSPSigning, and no CA."""
    try:
        extensions = certificate.extensions
        refuse_unknown_critical(extensions, _DELEGATE_EXTENSIONS)
    except CertificateFormError:
        return False
    purposes = extension(extensions, x509.ExtendedKeyUsage)
    usage = extension(extensions, x509.KeyUsage)
    constraints = extension(extensions, x509.BasicConstraints)
    if purposes is None or ExtendedKeyUsageOID.OCSP_SIGNING not in purposes:
        return False
    if usage is not None and not usage.digital_signature:
        return False
    if constraints is not None and constraints.ca:
        return False
    return certificate.issuer.public_bytes() == issuer.certificate.subject.public_bytes() and verifies(
        issuer.public_key,
        certificate.signature,
        certificate.tbs_certificate_bytes,
        certificate.signature_hash_algorithm,
    )


def _check_extensions(response: ocsp.OCSPResponse, nonce: bytes | None) -> None:
    for item in response.extensions:
        if item.oid == _NONCE_OID and isinstance(item.value, x509.OCSPNonce):
            if nonce is not None and not hmac.compare_digest(item.value.nonce, nonce):
                raise AnswerError("wrong_nonce")
        elif item.critical:
            raise AnswerError("unknown_critical_extension")
    for item in response.single_extensions:
        if item.critical and item.oid != CERT_HASH_OID:
            raise AnswerError("unknown_critical_extension")


def _cert_hash_matches(response: ocsp.OCSPResponse, der: bytes) -> bool:
    for item in response.single_extensions:
        if item.oid != CERT_HASH_OID:
            continue
        if not isinstance(item.value, x509.UnrecognizedExtension):
            raise AnswerError("malformed")
        members = sequence(item.value.value)
        if len(members) != 2 or members[1].tag != OCTET_STRING:
            raise AnswerError("malformed")
        algorithm = sequence(members[0].encoded)
        if not algorithm or algorithm[0].tag != OBJECT_IDENTIFIER:
            raise AnswerError("malformed")
        digest = _CERT_HASHES.get(algorithm[0].encoded)
        if digest is None:
            raise AnswerError("cert_hash_algorithm")
        if not hmac.compare_digest(digest(der).digest(), members[1].content):
            return False
    return True
