"""The folder that ``zeta-guard init`` writes."""

from __future__ import annotations

import datetime
import ipaddress
import os
import secrets
import time
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from zeta_guard.authorization_server.key_folder import rotate
from zeta_guard.cli.init_template import Purpose, configuration_text
from zeta_guard.errors import ConfigurationError

CERTIFICATE_DAYS: Final = 397
HOST: Final = "localhost"


def write_folder(directory: Path, purpose: Purpose) -> list[Path]:
    """Write what is missing and return it. Raises ConfigurationError when a configuration is there or nothing can be written."""
    config = directory / "guard.yaml"
    if config.exists():
        raise ConfigurationError(
            str(config),
            "exists already",
            "a folder without a configuration",
            f"Look at it with: zeta-guard check {config}",
        )
    try:
        return _write(directory, config, purpose)
    except OSError as error:
        raise ConfigurationError(
            str(directory), f"cannot be written ({error.strerror})", "a folder that this user may write", ""
        ) from None


def _write(directory: Path, config: Path, purpose: Purpose) -> list[Path]:
    written: list[Path] = []
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("keys", "tls"):
        (directory / name).mkdir(mode=0o700, exist_ok=True)
    (directory / "trust").mkdir(exist_ok=True)
    secret = directory / "keys" / "secret"
    if not secret.exists():
        written.append(_write_file(secret, (secrets.token_hex(32) + "\n").encode(), 0o600))
    signing = directory / "keys" / "signing"
    if not (signing.is_dir() and any(signing.glob("*.pem"))):
        written.append(rotate(signing, time.time()).path)
    certificate, key = directory / "tls" / "guard.pem", directory / "tls" / "guard.key"
    if not certificate.exists() and not key.exists():
        certificate_pem, key_pem = self_signed(HOST)
        written += [_write_file(certificate, certificate_pem, 0o644), _write_file(key, key_pem, 0o600)]
    # Last: whoever is interrupted can simply run it again.
    written.append(_write_file(config, configuration_text(purpose).encode(), 0o644))
    return written


def _write_file(path: Path, content: bytes, mode: int) -> Path:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as opened:
        opened.write(content)
    return path


def self_signed(host: str) -> tuple[bytes, bytes]:
    """Certificate and key (PEM, PKCS#8) on P-256 for a first start; valid a little more than a year."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    today = datetime.datetime.now(datetime.UTC)
    names: list[x509.GeneralName] = [x509.DNSName(host)]
    names += [x509.IPAddress(ipaddress.ip_address(address)) for address in ("127.0.0.1", "::1")]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - datetime.timedelta(minutes=5))
        .not_valid_after(today + datetime.timedelta(days=CERTIFICATE_DAYS))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )
