"""The folder of signing keys: one file per key, named by the moment from which it signs (``architecture`` section 7).

``2026-11-22T120000Z.pem`` signs from 12:00 UTC on. Names order the keys without any further file, on every replica alike.
A file is PKCS#8 in PEM without password (``.pem``) or PKCS#12 under the password of the folder (``.p12``, ``.pfx``).
"""

from __future__ import annotations

import os
import re
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from zeta_guard.authorization_server.pkcs12_key import LARGEST_CONTAINER, read_container, write_container
from zeta_guard.errors import ConfigurationError
from zeta_guard.jose.jws import KeySigner

MOST_KEYS: Final = 32

_SETTING: Final = "authorization_server.signing_keys"
_CONTAINERS: Final = (".p12", ".pfx")
KEY_SUFFIXES: Final = (".pem", *_CONTAINERS)
"""Endings of key files; others are passed over."""

_NAME: Final = re.compile(r"(\d{4}-\d{2}-\d{2}T\d{6}Z)\.(?:pem|p12|pfx)")
_FORMAT: Final = "%Y-%m-%dT%H%M%SZ"
_REMEDY: Final = "Write one with: zeta-guard keys rotate --directory DIR"


@dataclass(frozen=True, slots=True)
class KeyFile:
    """One key of the folder. ``not_before``: Unix seconds from which it signs. ``kid``: RFC 7638 thumbprint."""

    path: Path
    not_before: int
    signer: KeySigner = field(repr=False)

    @property
    def kid(self) -> str:
        """Key id in the JWKS and in headers."""
        return self.signer.kid


def read_keys(directory: Path, password: bytes | None = None) -> tuple[KeyFile, ...]:
    """All keys of the folder, earliest first. ``password`` opens its PKCS#12 files.

    Files whose names begin with a dot are passed over (half-written ones, mounts of Kubernetes). Raises ConfigurationError for
    an empty folder, a name that is no time, a key that is not EC P-256 in PKCS#8 or PKCS#12, a wrong password, the same key twice.
    """
    try:
        names = sorted(entry for entry in os.listdir(directory) if not entry.startswith("."))
    except OSError as error:
        seen = f"{directory} cannot be read ({error.strerror})"
        raise ConfigurationError(_SETTING, seen, "a folder of PEM files", _REMEDY) from None
    if len(names) > MOST_KEYS:
        raise ConfigurationError(_SETTING, f"{len(names)} files", f"at most {MOST_KEYS}", "Remove keys that are over.")
    keys: list[KeyFile] = []
    for name in names:
        if not name.endswith(KEY_SUFFIXES):
            continue
        keys.append(_read_key(directory / name, password))
    if not keys:
        raise ConfigurationError(_SETTING, f"no key in {directory}", "at least one PEM or PKCS#12 file", _REMEDY)
    keys.sort(key=lambda key: key.not_before)
    kids = [key.kid for key in keys]
    if len(set(kids)) != len(kids):
        raise ConfigurationError(_SETTING, "the same key in two files", "a key of its own in each file", _REMEDY)
    return tuple(keys)


def _read_key(path: Path, password: bytes | None) -> KeyFile:
    setting = f"{_SETTING}/{path.name}"
    not_before = _moment(path.name)
    if not_before is None:
        raise ConfigurationError(setting, "a name that is no time", f"YYYY-MM-DDTHHMMSSZ{path.suffix} (UTC)", _REMEDY)
    try:
        with path.open("rb") as opened:
            raw = opened.read(LARGEST_CONTAINER + 1)
    except OSError as error:
        raise ConfigurationError(setting, f"unreadable ({error.strerror})", "a readable file", "") from None
    key = read_container(raw, password, setting) if path.name.endswith(_CONTAINERS) else _read_pem(raw, setting)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigurationError(setting, "another kind of key", "EC on P-256", _REMEDY)
    return KeyFile(path, not_before, KeySigner(key))


def _read_pem(raw: bytes, setting: str) -> PrivateKeyTypes:
    try:
        return load_pem_private_key(raw, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigurationError(setting, "no private key", "PKCS#8 PEM without password", _REMEDY) from None


def _moment(name: str) -> int | None:
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    try:
        return int(datetime.strptime(found[1], _FORMAT).replace(tzinfo=UTC).timestamp())
    except ValueError:
        return None


def rotate(directory: Path, now: float, *, lead: int = 660, password: bytes | None = None) -> KeyFile:
    """Write the next key and return it: as PKCS#12 under the ``password`` where there is one, else as PEM.

    It signs ``lead`` seconds from ``now`` on (default: twice the default max-age of the JWKS, and a minute for mounting), or at
    once when the folder has no key yet. The file has mode 0600, appears complete or not at all, and replaces nothing. Raises
    ConfigurationError when the folder cannot be written.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        first = not any(_NAME.fullmatch(entry) for entry in os.listdir(directory))
        key = ec.generate_private_key(ec.SECP256R1())
        not_before = int(now) if first else int(now) + lead
        name = datetime.fromtimestamp(not_before, UTC).strftime(_FORMAT)
        if password is None:
            path, content = (
                directory / f"{name}.pem",
                key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            )
        else:
            path, content = directory / f"{name}.p12", write_container(key, password)
        _write_once(path, content)
    except FileExistsError:
        raise ConfigurationError(
            _SETTING, "a key for the same second", "one rotation at a time", "Run it again."
        ) from None
    except OSError as error:
        seen = f"{directory} cannot be written ({error.strerror})"
        raise ConfigurationError(_SETTING, seen, "a folder that this user may write", "") from None
    return KeyFile(path, not_before, KeySigner(key))


def _write_once(path: Path, content: bytes) -> None:
    half = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        # A link fails where the name exists; a rename would replace a key that others already know.
        os.link(half, path)
    finally:
        half.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
