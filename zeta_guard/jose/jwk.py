"""Public keys as JWK (RFC 7517, RFC 7518 §6.2) and their thumbprints (RFC 7638): EC on P-256 only."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from zeta_guard.jose.encoding import b64url_decode, b64url_encode
from zeta_guard.jose.slot import Slot
from zeta_guard.recent import Recent

_P256: Final = ec.SECP256R1()
_KNOWN_KEYS: Final = 4096


@dataclass(frozen=True, slots=True)
class PublicJwk:
    """A public key on P-256 whose point was checked, and its RFC 7638 thumbprint (base64url, 43 characters)."""

    key: ec.EllipticCurvePublicKey
    thumbprint: str


_recent: Recent[tuple[str, str], PublicJwk] = Recent(_KNOWN_KEYS)


def parse_public_jwk(value: object, slot: Slot) -> PublicJwk:
    """The key of a JWK. Members beyond the required ones are tolerated and do not change the thumbprint.

    Raises the refusal of ``slot`` when a private member comes along, when the key is not EC on P-256, when a coordinate is not
    canonical base64url of 32 bytes, when the point is not on the curve, or when ``use``/``alg`` say that it is no ES256 key.
    """
    if not isinstance(value, dict):
        raise slot.refuse("'jwk' must be a JSON object")
    if "d" in value:
        raise slot.refuse(
            "'jwk' holds a private key; expected the public key only, and this key must not be used again"
        )
    if value.get("kty") != "EC" or value.get("crv") != "P-256":
        raise slot.refuse("'jwk' must be a key with kty EC and crv P-256")
    if value.get("use", "sig") != "sig" or value.get("alg", "ES256") != "ES256":
        raise slot.refuse("'jwk' names another use or algorithm; expected use sig and alg ES256, or neither")
    x, y = value.get("x"), value.get("y")
    if not isinstance(x, str) or not isinstance(y, str):
        raise slot.refuse("'jwk' must hold the coordinates x and y as strings")
    known = _recent.get((x, y))
    if known is not None:
        return known
    # 32 bytes are 43 characters; longer text is refused before it is looked at.
    if len(x) != 43 or len(y) != 43:
        raise slot.refuse("'jwk': x and y must be 32 bytes each, base64url without padding")
    try:
        point = b"\x04" + b64url_decode(x) + b64url_decode(y)
    except ValueError:
        raise slot.refuse("'jwk': x and y must be canonical base64url without padding") from None
    try:
        key = ec.EllipticCurvePublicKey.from_encoded_point(_P256, point)
    except ValueError:
        raise slot.refuse("'jwk' is not a point on P-256") from None
    parsed = PublicJwk(key, _thumbprint(x, y))
    _recent.put((x, y), parsed)
    return parsed


def public_jwk(key: ec.EllipticCurvePublicKey) -> dict[str, str]:
    """The JWK of a P-256 key, ``kid`` being its thumbprint. Raises ValueError for another curve."""
    x, y = _coordinates(key)
    return {
        "kid": _thumbprint(x, y),
        "kty": "EC",
        "alg": "ES256",
        "use": "sig",
        "crv": "P-256",
        "x": x,
        "y": y,
    }


def thumbprint(key: ec.EllipticCurvePublicKey) -> str:
    """RFC 7638 thumbprint (SHA-256, base64url) of a P-256 key. Raises ValueError for another curve."""
    return _thumbprint(*_coordinates(key))


def _coordinates(key: ec.EllipticCurvePublicKey) -> tuple[str, str]:
    if not isinstance(key.curve, ec.SECP256R1):
        raise ValueError(f"a JWK is made of P-256 keys only, not of {key.curve.name}")
    point = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return b64url_encode(point[1:33]), b64url_encode(point[33:])


def _thumbprint(x: str, y: str) -> str:
    members = f'{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}'
    return b64url_encode(hashlib.sha256(members.encode("ascii")).digest())
