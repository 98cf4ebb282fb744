"""The SM(C)-B identity of an institution, from PKCS#12 or PEM files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs12

from zeta_guard.client.errors import IdentityError
from zeta_guard.client.keys import sign_raw

CARD_CURVES = (ec.BrainpoolP256R1, ec.SECP256R1)


class SmcbSigner(Protocol):
    """What signs for the institution: a file, a simulated card, a connector."""

    @property
    def der(self) -> bytes:
        """C.HCI.AUT, DER."""

    def sign(self, signing_input: bytes) -> bytes:
        """ECDSA with SHA-256 by the card's key: 64 bytes ``r || s``."""


@dataclass(frozen=True, slots=True)
class SmcbFile:
    """An SM(C)-B whose key lies in a file (test identities, SM-B in software)."""

    der: bytes
    private_key: ec.EllipticCurvePrivateKey

    def sign(self, signing_input: bytes) -> bytes:
        """See :class:`SmcbSigner`."""
        return sign_raw(self.private_key, signing_input)


def admission(certificate_der: bytes) -> tuple[str, tuple[str, ...]]:
    """Telematik-ID and profession OIDs of the first profession info (``1.3.36.8.3.3``). Raises IdentityError."""
    try:
        certificate = x509.load_der_x509_certificate(certificate_der)
        extension = certificate.extensions.get_extension_for_class(x509.Admissions).value
    except x509.ExtensionNotFound:
        raise IdentityError(
            "the certificate has no admission extension",
            "Take the AUT certificate of an SM(C)-B; TLS and HBA certificates do not name an institution.",
        ) from None
    except ValueError as error:
        raise IdentityError("the certificate cannot be read", "A DER encoded X.509 certificate is expected.") from error
    for entry in extension:
        for profession in entry.profession_infos:
            if profession.registration_number:
                oids = tuple(oid.dotted_string for oid in profession.profession_oids or ())
                return profession.registration_number, oids
    raise IdentityError(
        "the admission extension names no registration number (Telematik-ID)", "Take the AUT certificate of an SM(C)-B."
    )


def load_pkcs12(path: Path, password: bytes | None, alias: str | None = None) -> SmcbFile:
    """The identity in a PKCS#12 file; ``alias`` is the friendly name it must have. Raises IdentityError."""
    raw = _read(path)
    try:
        store = pkcs12.load_pkcs12(raw, password)
    except ValueError as error:
        raise IdentityError(
            f"{path} cannot be opened", "Check the password; the file must be PKCS#12 with an EC key."
        ) from error
    if store.key is None or store.cert is None:
        raise IdentityError(f"{path} holds no key with its certificate", "Export key and AUT certificate together.")
    found = (store.cert.friendly_name or b"").decode("utf-8", "replace")
    if alias is not None and alias.casefold() != found.casefold():
        raise IdentityError(f"{path} holds the alias '{found}', not '{alias}'", "Leave --alias out or correct it.")
    return _identity(store.cert.certificate, store.key, str(path))


def load_pem(certificate: Path, key: Path, password: bytes | None = None) -> SmcbFile:
    """The identity in two files, PEM or DER. Raises IdentityError."""
    raw_certificate, raw_key = _read(certificate), _read(key)
    try:
        leaf = (
            x509.load_pem_x509_certificate(raw_certificate)
            if b"-----BEGIN" in raw_certificate
            else x509.load_der_x509_certificate(raw_certificate)
        )
    except ValueError as error:
        raise IdentityError(f"{certificate} is no certificate", "PEM or DER is expected.") from error
    try:
        private_key = (
            serialization.load_pem_private_key(raw_key, password)
            if b"-----BEGIN" in raw_key
            else serialization.load_der_private_key(raw_key, password)
        )
    except (ValueError, TypeError) as error:
        raise IdentityError(f"{key} is no private key, or its password is wrong", "PKCS#8 is expected.") from error
    return _identity(leaf, private_key, str(key))


def _identity(certificate: x509.Certificate, key: object, where: str) -> SmcbFile:
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, CARD_CURVES):
        raise IdentityError(
            f"the key in {where} is not EC on brainpoolP256r1 or P-256", "RSA identities are no longer accepted."
        )
    if certificate.public_key() != key.public_key():
        raise IdentityError(f"key and certificate in {where} do not belong together", "Export them together.")
    return SmcbFile(certificate.public_bytes(serialization.Encoding.DER), key)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise IdentityError(f"{path} cannot be read: {error.strerror}", "Check path and permissions.") from error
