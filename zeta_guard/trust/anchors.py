"""The trust anchors at one moment: an immutable snapshot, whether it came from a trust list or from a folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from zeta_guard.trust.certificate import PARSER_ERRORS, CertificateFormError, extension
from zeta_guard.trust.demo_marker import bears_demo_marker
from zeta_guard.trust.signature import SIGNING_CURVES


class ServiceStatus(StrEnum):
    """Status of a trust service (ETSI TS 119 612, in the vocabulary of the TI)."""

    IN_ACCORD = "in accord"
    REVOKED = "revoked"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class StatusPeriod:
    """From ``since`` (Unix seconds) the service had ``status``."""

    status: ServiceStatus
    since: float


@dataclass(frozen=True, slots=True)
class CaService:
    """A CA that may issue SM(C)-B certificates. ``periods``: its status history, newest first, never empty."""

    certificate: x509.Certificate
    public_key: ec.EllipticCurvePublicKey
    provider: str
    key_identifier: bytes
    periods: tuple[StatusPeriod, ...]
    demo: bool

    @property
    def status(self) -> ServiceStatus:
        """The present status."""
        return self.periods[0].status

    def status_at(self, moment: float) -> ServiceStatus | None:
        """The status at an earlier moment; None before the history begins."""
        return next((period.status for period in self.periods if period.since <= moment), None)


@dataclass(frozen=True, slots=True)
class TrustAnchors:
    """Everything that the chain and revocation checks believe.

    ``authorities`` is keyed by the CA's subject (DER); ``responders`` (OCSP signers beside the CAs' own delegates) by
    provider; ``responder_hosts`` holds ``host:port``. ``usable_until`` (Unix seconds) is NextUpdate plus grace, None for
    anchors that do not age.
    """

    authorities: Mapping[bytes, tuple[CaService, ...]]
    responders: Mapping[str, tuple[x509.Certificate, ...]]
    responder_hosts: frozenset[str]
    usable_until: float | None

    @property
    def authority_count(self) -> int:
        """How many CAs are believed."""
        return sum(len(services) for services in self.authorities.values())

    @property
    def demo(self) -> bool:
        """True when any certificate was made by the demo PKI."""
        return any(ca.demo for services in self.authorities.values() for ca in services) or any(
            bears_demo_marker(certificate) for signers in self.responders.values() for certificate in signers
        )


def ca_service(certificate: x509.Certificate, provider: str, periods: tuple[StatusPeriod, ...]) -> CaService:
    """Read a CA certificate: CA by basic constraints, keyCertSign where key usage is given, EC key on a permitted curve.

    Raises CertificateFormError.
    """
    try:
        extensions = certificate.extensions
        key = certificate.public_key()
        constraints = extension(extensions, x509.BasicConstraints)
        usage = extension(extensions, x509.KeyUsage)
        identifier = extension(extensions, x509.SubjectKeyIdentifier)
        demo = bears_demo_marker(certificate)
    except PARSER_ERRORS as error:
        raise CertificateFormError("CA certificate cannot be read") from error
    if constraints is None or not constraints.ca:
        raise CertificateFormError("not a CA certificate (basic constraints)")
    if usage is not None and not usage.key_cert_sign:
        raise CertificateFormError("key usage of the CA lacks keyCertSign")
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in SIGNING_CURVES:
        raise CertificateFormError("key of the CA is not EC on a NIST or brainpool curve")
    if identifier is None:
        identifier = x509.SubjectKeyIdentifier.from_public_key(key)
    return CaService(certificate, key, provider, identifier.digest, periods, demo)


def make_anchors(
    authorities: Iterable[CaService],
    responders: Iterable[tuple[str, x509.Certificate]],
    *,
    responder_hosts: frozenset[str] = frozenset(),
    usable_until: float | None = None,
) -> TrustAnchors:
    """Index the anchors for look-up."""
    by_subject: dict[bytes, tuple[CaService, ...]] = {}
    for service in authorities:
        subject = service.certificate.subject.public_bytes()
        by_subject[subject] = (*by_subject.get(subject, ()), service)
    by_provider: dict[str, tuple[x509.Certificate, ...]] = {}
    for provider, certificate in responders:
        by_provider[provider] = (*by_provider.get(provider, ()), certificate)
    return TrustAnchors(MappingProxyType(by_subject), MappingProxyType(by_provider), responder_hosts, usable_until)
