"""Trust anchors from a folder: CA certificates, and OCSP signers in its sub-folder ``ocsp`` (PEM or DER)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from zeta_guard.errors import ConfigurationError
from zeta_guard.trust.anchors import CaService, ServiceStatus, StatusPeriod, TrustAnchors, ca_service, make_anchors
from zeta_guard.trust.certificate import PARSER_ERRORS, CertificateFormError

SUFFIXES: Final = frozenset({".pem", ".crt", ".cer", ".der"})
MAX_FILE_BYTES: Final = 1 << 20
MAX_FILES: Final = 1000
_PATH: Final = "trust.directory"
_ALWAYS: Final = (StatusPeriod(ServiceStatus.IN_ACCORD, 0.0),)

Signature = tuple[tuple[str, int, int], ...]
"""Names, sizes and times of all files: when it moves, the folder is read again."""


def directory_signature(directory: Path) -> Signature:
    """What the folder looks like, without reading it. Raises ConfigurationError when it cannot be listed."""
    found: list[tuple[str, int, int]] = []
    for path in _files(directory) + _files(directory / "ocsp", optional=True):
        try:
            status = path.stat()
        except OSError:
            continue
        found.append((str(path), status.st_size, status.st_mtime_ns))
    return tuple(found)


def load_directory(directory: Path) -> TrustAnchors:
    """Read all anchors; none in an empty folder. Raises ConfigurationError for a file that holds anything but such certificates.

    The provider of a CA, and of a responder that may answer for it, is the organisation (O) of the certificate's subject.
    """
    authorities: list[CaService] = []
    for path in _files(directory):
        for certificate in load_certificates(path, _PATH):
            try:
                authorities.append(ca_service(certificate, provider_of(certificate), _ALWAYS))
            except CertificateFormError as error:
                raise ConfigurationError(
                    _PATH, f"{path.name}: {error}", "certificates of CAs that issue SM(C)-B certificates"
                ) from error
    responders = [
        (provider_of(certificate), certificate)
        for path in _files(directory / "ocsp", optional=True)
        for certificate in load_certificates(path, _PATH)
    ]
    return make_anchors(authorities, responders)


def load_certificates(path: Path, setting: str) -> list[x509.Certificate]:
    """The certificates of one PEM or DER file. Raises ConfigurationError naming ``setting``."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigurationError(
                setting, f"{path.name} is larger than {MAX_FILE_BYTES} bytes", "a certificate file"
            )
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(setting, f"{path}: {error.strerror}", "a readable PEM or DER file") from error
    try:
        if b"-----BEGIN" in raw:
            return x509.load_pem_x509_certificates(raw)
        return [x509.load_der_x509_certificate(raw)]
    except PARSER_ERRORS as error:
        raise ConfigurationError(
            setting, f"{path.name} is not a certificate", "X.509 certificates in PEM or DER"
        ) from error


def provider_of(certificate: x509.Certificate) -> str:
    """The organisation in the subject, empty when there is none."""
    try:
        attributes = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    except PARSER_ERRORS:
        return ""
    return next((attribute.value for attribute in attributes if isinstance(attribute.value, str)), "")


def _files(directory: Path, *, optional: bool = False) -> list[Path]:
    try:
        found = sorted(path for path in directory.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    except OSError as error:
        if optional:
            return []
        raise ConfigurationError(_PATH, f"{directory}: {error.strerror}", "a readable folder") from error
    if len(found) > MAX_FILES:
        raise ConfigurationError(_PATH, f"{len(found)} files", f"at most {MAX_FILES}")
    return found
