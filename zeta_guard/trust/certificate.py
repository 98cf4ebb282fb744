"""The leaf of an SM(C)-B: bytes in, :class:`SmcbCertificate` out, nothing believed yet (``wire-contract`` section 5).

Form only: whoever holds the certificate's key is proven by the chain and the revocation check, not here. The certificate
policy is compared in :mod:`zeta_guard.trust.chain`, because which policies count is configuration.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from zeta_guard.jose.slot import Slot
from zeta_guard.trust.contract import SmcbCertificate
from zeta_guard.trust.der import key_algorithm

MAX_CERTIFICATE_BYTES: Final = 8192
"""Largest leaf; real ones have 900 to 2000 bytes."""

MAX_TELEMATIK_ID: Final = 128
MAX_PROFESSIONS: Final = 16
_CACHED_LEAVES: Final = 2048

LEAF_CURVES: Final[Mapping[bytes, str]] = {
    bytes.fromhex("301306072a8648ce3d020106082a8648ce3d030107"): "secp256r1",
    bytes.fromhex("301406072a8648ce3d020106092b2403030208010107"): "brainpoolP256r1",
}
"""AlgorithmIdentifier (DER) of the two permitted keys: id-ecPublicKey with a *named* curve. Explicit parameters encode otherwise."""

KNOWN_EXTENSIONS: Final = frozenset(
    {
        x509.BasicConstraints.oid,
        x509.KeyUsage.oid,
        x509.ExtendedKeyUsage.oid,
        x509.CertificatePolicies.oid,
        x509.Admissions.oid,
    }
)
"""Extensions that are understood here and may therefore be critical (RFC 5280 §4.2)."""

PARSER_ERRORS: Final = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    OverflowError,
    UnsupportedAlgorithm,
    Warning,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    x509.InvalidVersion,
)
"""What ``cryptography`` raises for malformed certificates; ``Warning`` when warnings are errors."""

_TELEMATIK_ID = re.compile(r"[!-~]([ -~]*[!-~])?")

ExtensionType = TypeVar("ExtensionType", bound=x509.ExtensionType)


class CertificateFormError(ValueError):
    """Why a certificate has not the form that is wanted; the text may reach a client."""


def parse_smcb_certificate(der: bytes, slot: Slot) -> SmcbCertificate:
    """Read a leaf and check its form, without I/O.

    Checked: at most 8192 bytes, X.509 v3, EC key on the named curve brainpoolP256r1 or P-256, no CA, key usage
    digitalSignature, extended key usage clientAuth where present, no unknown critical extension, exactly one admission with
    registration number and profession, a common name. Raises ZetaError with the slot's code.
    """
    try:
        return _parse(der)
    except CertificateFormError as error:
        raise slot.refuse(f"certificate: {error}") from error


@lru_cache(maxsize=_CACHED_LEAVES)
def _parse(der: bytes) -> SmcbCertificate:
    if len(der) > MAX_CERTIFICATE_BYTES:
        raise CertificateFormError(f"longer than {MAX_CERTIFICATE_BYTES} bytes")
    try:
        return _read(der, x509.load_der_x509_certificate(der))
    except CertificateFormError:
        raise
    except PARSER_ERRORS as error:
        # Parts of a certificate are decoded when they are first looked at: any step above can find them malformed.
        raise CertificateFormError("not a well-formed X.509 certificate") from error


def _read(der: bytes, certificate: x509.Certificate) -> SmcbCertificate:
    extensions = certificate.extensions
    public_key = leaf_key(certificate)
    _check_extensions(certificate, extensions)
    telematik_id, professions = _admission(extensions)
    common_name = _first(certificate.subject, NameOID.COMMON_NAME)
    if common_name is None:
        raise CertificateFormError("the subject has no common name")
    return SmcbCertificate(
        der=der,
        certificate=certificate,
        public_key=public_key,
        fingerprint=hashlib.sha256(der).digest(),
        telematik_id=telematik_id,
        profession_oids=professions,
        common_name=common_name,
        organization_name=_first(certificate.subject, NameOID.ORGANIZATION_NAME),
    )


def leaf_key(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    """The leaf's key. Raises CertificateFormError unless it is EC on one of the two named curves."""
    if key_algorithm(certificate.tbs_certificate_bytes) not in LEAF_CURVES:
        raise CertificateFormError("key is not EC on the named curve brainpoolP256r1 or P-256")
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise CertificateFormError("key is not EC on the named curve brainpoolP256r1 or P-256")
    return key


def extension(extensions: x509.Extensions, kind: type[ExtensionType]) -> ExtensionType | None:
    """The value of an extension, None when it is absent."""
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def refuse_unknown_critical(extensions: x509.Extensions, known: frozenset[x509.ObjectIdentifier]) -> None:
    """Raise CertificateFormError for a critical extension that nobody here understands (RFC 5280 §4.2)."""
    for item in extensions:
        if item.critical and item.oid not in known:
            raise CertificateFormError(f"unknown critical extension {item.oid.dotted_string}")


def _check_extensions(certificate: x509.Certificate, extensions: x509.Extensions) -> None:
    if certificate.version is not x509.Version.v3:
        raise CertificateFormError("not X.509 version 3")
    refuse_unknown_critical(extensions, KNOWN_EXTENSIONS)
    constraints = extension(extensions, x509.BasicConstraints)
    if constraints is not None and constraints.ca:
        raise CertificateFormError("a CA certificate, expected that of an SM(C)-B")
    usage = extension(extensions, x509.KeyUsage)
    if usage is None or not usage.digital_signature:
        raise CertificateFormError("key usage lacks digitalSignature")
    extended = extension(extensions, x509.ExtendedKeyUsage)
    if extended is not None and ExtendedKeyUsageOID.CLIENT_AUTH not in extended:
        raise CertificateFormError("extended key usage lacks clientAuth")


def _admission(extensions: x509.Extensions) -> tuple[str, tuple[str, ...]]:
    admissions = extension(extensions, x509.Admissions)
    if admissions is None:
        raise CertificateFormError("no admission extension")
    if len(admissions) != 1:
        raise CertificateFormError(f"{len(admissions)} admissions, expected exactly one")
    professions = admissions[0].profession_infos
    if not professions:
        raise CertificateFormError("the admission names no profession")
    first = professions[0]
    telematik_id = first.registration_number
    if not telematik_id:
        raise CertificateFormError("the admission has no registration number")
    if len(telematik_id) > MAX_TELEMATIK_ID or not _TELEMATIK_ID.fullmatch(telematik_id):
        raise CertificateFormError(
            f"the registration number is not 1 to {MAX_TELEMATIK_ID} printable ASCII characters without outer blanks"
        )
    oids = tuple(oid.dotted_string for oid in first.profession_oids or ())
    if not 1 <= len(oids) <= MAX_PROFESSIONS:
        raise CertificateFormError(f"the admission has {len(oids)} profession OIDs, expected 1 to {MAX_PROFESSIONS}")
    return telematik_id, oids


def _first(name: x509.Name, oid: x509.ObjectIdentifier) -> str | None:
    for attribute in name.get_attributes_for_oid(oid):
        value = attribute.value
        if isinstance(value, str) and value.strip():
            return value
    return None
