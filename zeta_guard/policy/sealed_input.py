"""The whole question, encrypted to one public key, so that only its owner can replay or explain what the log masks.

A JWE in compact form (RFC 7516) with ``ECDH-ES`` on P-256 and ``A256GCM`` (RFC 7518 §4.6, §5.3): any JOSE library opens it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import orjson
from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from zeta_guard.errors import ConfigurationError, GuardError, JsonValue
from zeta_guard.jose.encoding import b64url_decode, b64url_encode

_ENCRYPTION: Final = "A256GCM"
_KEY_BYTES: Final = 32
_TAG_BYTES: Final = 16


class SealedInputError(GuardError):
    """A sealed input that this key does not open."""


def load_sealing_key(file: Path, where: str) -> ec.EllipticCurvePublicKey:
    """The PEM public key (P-256) that inputs are sealed to. Raises ConfigurationError."""
    try:
        key = load_pem_public_key(file.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigurationError(
            where, file.name, "a PEM public key on P-256", "openssl ec -in KEY.pem -pubout -out PUB.pem"
        )
    return key


def load_opening_key(file: Path) -> ec.EllipticCurvePrivateKey:
    """The PEM private key that opens them. Raises ConfigurationError."""
    try:
        key = load_pem_private_key(file.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigurationError("--open-with", file.name, "a PEM private key on P-256 without password")
    return key


def seal_input(document: dict[str, JsonValue], key: ec.EllipticCurvePublicKey) -> str:
    """The JWE of ``document``."""
    ephemeral = ec.generate_private_key(ec.SECP256R1())
    point = ephemeral.public_key().public_numbers()
    header = {
        "alg": "ECDH-ES",
        "enc": _ENCRYPTION,
        "epk": {"kty": "EC", "crv": "P-256", "x": _coordinate(point.x), "y": _coordinate(point.y)},
    }
    protected = b64url_encode(orjson.dumps(header))
    nonce = os.urandom(12)
    sealed = AESGCM(_agreed(ephemeral, key)).encrypt(nonce, orjson.dumps(document), protected.encode())
    parts = (
        protected,
        "",
        b64url_encode(nonce),
        b64url_encode(sealed[:-_TAG_BYTES]),
        b64url_encode(sealed[-_TAG_BYTES:]),
    )
    return ".".join(parts)


def open_input(sealed: str, key: ec.EllipticCurvePrivateKey) -> dict[str, JsonValue]:
    """The document. Raises SealedInputError."""
    try:
        protected, wrapped, nonce, encrypted, tag = sealed.split(".")
        header: Any = orjson.loads(b64url_decode(protected))
        if wrapped or header["alg"] != "ECDH-ES" or header["enc"] != _ENCRYPTION or header["epk"]["crv"] != "P-256":
            raise SealedInputError("sealed input: ECDH-ES on P-256 with A256GCM expected")
        x, y = (int.from_bytes(b64url_decode(header["epk"][name]), "big") for name in ("x", "y"))
        ephemeral = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
        plain = AESGCM(_agreed(key, ephemeral)).decrypt(
            b64url_decode(nonce), b64url_decode(encrypted) + b64url_decode(tag), protected.encode()
        )
        document = orjson.loads(plain)
    except InvalidTag:
        raise SealedInputError("sealed input: this key does not open it") from None
    except (ValueError, KeyError, TypeError):
        raise SealedInputError("sealed input: no compact JWE") from None
    if not isinstance(document, dict):
        raise SealedInputError("sealed input: holds no document")
    return document


def _agreed(own: ec.EllipticCurvePrivateKey, other: ec.EllipticCurvePublicKey) -> bytes:
    name = _ENCRYPTION.encode()
    empty = bytes(4)
    # AlgorithmID ‖ PartyUInfo ‖ PartyVInfo ‖ SuppPubInfo (RFC 7518 §4.6.2), both parties unnamed.
    information = len(name).to_bytes(4, "big") + name + empty + empty + (_KEY_BYTES * 8).to_bytes(4, "big")
    return ConcatKDFHash(SHA256(), _KEY_BYTES, information).derive(own.exchange(ec.ECDH(), other))


def _coordinate(number: int) -> str:
    return b64url_encode(number.to_bytes(32, "big"))
