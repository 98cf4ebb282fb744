"""Keys from secret files, sealed bytes and pseudonyms.

One purpose, one key: every key is HKDF-SHA256 (RFC 5869) of a secret, by label. Of two secrets the first makes what is new,
both open what is there, so that a secret can be replaced without losing anything.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from zeta_guard.errors import ConfigurationError, GuardError
from zeta_guard.recent import Recent

SECRET_BYTES: Final = 32
_VERSION: Final = b"\x01"
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_LARGEST_FILE: Final = 1024
_RECENT_NAMES: Final = 2048
_REMEDY: Final = "Make one with: openssl rand -hex 32"


class SealingError(GuardError):
    """Sealed bytes that were not made by this guard, for this place, with a secret that still counts."""

    remedy = "The value was written under another secret or changed; what it was for must be done anew."


class Secrets:
    """The secrets of all purposes, current one first. Nothing of them is shown by ``repr``."""

    __slots__ = ("_secrets",)

    def __init__(self, secrets: Sequence[bytes]) -> None:
        if not secrets or any(len(secret) != SECRET_BYTES for secret in secrets):
            raise ValueError("secrets must be 32 bytes each, at least one")
        self._secrets: Final = tuple(secrets)

    @classmethod
    def load(cls, files: Sequence[Path]) -> Secrets:
        """Read secret files: 32 raw bytes, or 32 bytes as hexadecimal or base64 text (one line).

        Raises ConfigurationError, with the position in ``secret_files``, for everything else.
        """
        secrets = [_read_secret(file, f"secret_files[{index}]") for index, file in enumerate(files)]
        if not secrets:
            raise ConfigurationError("secret_files", "no file", "one or two files of 32 random bytes", _REMEDY)
        if len(set(secrets)) != len(secrets):
            raise ConfigurationError(
                "secret_files", "the same secret twice", "[current, previous], two different ones", _REMEDY
            )
        return cls(secrets)

    def derive(self, label: str, context: bytes = b"") -> tuple[bytes, ...]:
        """A key of 32 bytes per secret, current first, for one purpose (``label``) and, within it, one ``context``."""
        # The label's length in front keeps ("ab", b"c") and ("a", b"bc") apart.
        name = label.encode()
        purpose = b"zeta-guard" + len(name).to_bytes(2, "big") + name + context
        return tuple(
            HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=purpose).derive(secret)
            for secret in self._secrets
        )

    def __repr__(self) -> str:
        return f"Secrets({len(self._secrets)})"


def _read_secret(file: Path, path: str) -> bytes:
    expected = "32 random bytes: raw, 64 hexadecimal digits, or base64"
    try:
        with file.open("rb") as opened:
            raw = opened.read(_LARGEST_FILE + 1)
    except OSError as error:
        reason = error.strerror or "unreadable"
        raise ConfigurationError(path, f"{file.name} cannot be read ({reason})", expected, _REMEDY) from None
    if len(raw) == SECRET_BYTES:
        secret: bytes | None = raw
    else:
        secret = _decode_secret(raw.strip())
    if secret is None or len(secret) != SECRET_BYTES:
        raise ConfigurationError(path, f"{file.name} with {len(raw)} bytes that are no secret", expected, _REMEDY)
    if len(set(secret)) < 8:
        raise ConfigurationError(path, f"{file.name} holds a pattern, not random bytes", expected, _REMEDY)
    return secret


def _decode_secret(content: bytes) -> bytes | None:
    try:
        if len(content) == 2 * SECRET_BYTES:
            return binascii.unhexlify(content)
        padded = content.rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
        return base64.b64decode(padded + b"=" * (-len(padded) % 4), validate=True)
    except ValueError:
        return None


class Sealer:
    """AES-256-GCM with random nonces (at most 2^32 seals per key). Seals with the first key, opens with any.

    ``associated`` names the place (key in the store, purpose): bytes sealed for one place do not open at another.
    Layout: version (1 byte), nonce (12), ciphertext, tag (16).
    """

    __slots__ = ("_ciphers",)

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys or any(len(key) != 32 for key in keys):
            raise ValueError("sealing needs keys of 32 bytes")
        self._ciphers: Final = tuple(AESGCM(key) for key in keys)

    def seal(self, plain: bytes, associated: bytes) -> bytes:
        """Sealed bytes, 29 longer than ``plain``."""
        nonce = os.urandom(_NONCE_BYTES)
        return _VERSION + nonce + self._ciphers[0].encrypt(nonce, plain, _VERSION + associated)

    def open(self, sealed: bytes, associated: bytes) -> bytes:
        """What was sealed. Raises SealingError when it was changed, sealed for another place or under another key."""
        if len(sealed) < 1 + _NONCE_BYTES + _TAG_BYTES or sealed[:1] != _VERSION:
            raise SealingError("sealed bytes have no known layout")
        nonce, encrypted = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        for cipher in self._ciphers:
            try:
                return cipher.decrypt(nonce, encrypted, _VERSION + associated)
            except InvalidTag:
                continue
        raise SealingError("sealed bytes do not open with any current key")


class Pseudonymizer:
    """Names institutions in the store and in logs without showing their Telematik-ID."""

    __slots__ = ("_keys", "_recent")

    def __init__(self, secrets: Secrets) -> None:
        self._keys: Final = secrets.derive("pseudonym")
        self._recent: Final[Recent[str, tuple[str, ...]]] = Recent(_RECENT_NAMES)

    def pseudonym(self, telematik_id: str) -> str:
        """Keyed hash (HMAC-SHA256, 64 hexadecimal digits) under the current secret.

        Hexadecimal, because people hand it to commands: base64url may begin with a hyphen, like an option.
        """
        return _keyed_hash(self._keys[0], telematik_id)

    def pseudonyms(self, telematik_id: str) -> tuple[str, ...]:
        """The names under all secrets, current first: records written before a rotation carry the second one."""
        known = self._recent.get(telematik_id)
        if known is None:
            known = tuple(_keyed_hash(key, telematik_id) for key in self._keys)
            self._recent.put(telematik_id, known)
        return known


def _keyed_hash(key: bytes, telematik_id: str) -> str:
    return hmac.digest(key, telematik_id.encode(), "sha256").hex()
