"""ES256 signatures: raw ``r ‖ s`` of 64 bytes (RFC 7518 §3.4) on P-256 and, for cards, on brainpoolP256r1 (RFC 5639).

SM(C)-B cards label their brainpool signatures ``ES256``; that holds for objects verified by an SM(C)-B certificate only, so
every caller names the curves it allows.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

P256_ONLY: Final = frozenset({"secp256r1"})
"""Keys of clients, proofs, tokens."""

CARD_CURVES: Final = frozenset({"secp256r1", "brainpoolP256r1"})
"""Keys of SM(C)-B certificates."""

ES256: Final = ec.ECDSA(hashes.SHA256())

_ORDER_P256: Final = bytes.fromhex("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551")
_ORDER_BRAINPOOL: Final = bytes.fromhex("a9fb57dba1eea9bc3e660a909d838d718c397aa3b561a6f7901e0e82974856a7")
_ZERO: Final = bytes(32)
# Indexed by the length of an integer's content; the content of two such integers is at most 66 bytes, one length octet.
_INTEGER: Final = tuple(bytes((0x02, length)) for length in range(34))
# What stands before r, and before s, where both have 32 significant bytes: a zero goes before an integer whose first bit is set.
_BEFORE_R: Final = (b"\x30\x44\x02\x20", b"\x30\x45\x02\x20", b"\x30\x45\x02\x21\0", b"\x30\x46\x02\x21\0")
_BEFORE_S: Final = (b"\x02\x20", b"\x02\x21\0")


class MalformedSignature(ValueError):
    """Not a pair of integers that a signature can have."""


def order_of(key: ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey, curves: frozenset[str]) -> bytes | None:
    """Order of the key's group (32 bytes, big endian), None when its curve is not among ``curves``."""
    # Not isinstance: the curves are abstract classes, whose instance check is a Python function.
    curve = type(key.curve)
    if curve is ec.SECP256R1 and "secp256r1" in curves:
        return _ORDER_P256
    if curve is ec.BrainpoolP256R1 and "brainpoolP256r1" in curves:
        return _ORDER_BRAINPOOL
    return None


def der_signature(raw: bytes, order: bytes = _ORDER_P256) -> bytes:
    """DER form of a raw signature. Raises MalformedSignature unless it is 64 bytes and 0 < r, s < order."""
    if len(raw) != 64:
        raise MalformedSignature("signature must be 64 bytes (r and s)")
    r = raw[:32]
    s = raw[32:]
    # Strings of equal length compare like the integers they spell.
    if not _ZERO < r < order or not _ZERO < s < order:
        raise MalformedSignature("signature is out of range")
    first, second = raw[0], raw[32]
    if first and second:
        second >>= 7
        return _BEFORE_R[first >> 7 << 1 | second] + r + _BEFORE_S[second] + s
    if r[0] == 0:
        r = r.lstrip(b"\0")
    if r[0] & 0x80:
        r = b"\0" + r
    if s[0] == 0:
        s = s.lstrip(b"\0")
    if s[0] & 0x80:
        s = b"\0" + s
    body = _INTEGER[len(r)] + r + _INTEGER[len(s)] + s
    return bytes((0x30, len(body))) + body


def verify_raw(key: ec.EllipticCurvePublicKey, signature: bytes, signed: bytes, order: bytes = _ORDER_P256) -> bool:
    """Whether the raw signature over ``signed`` is the key's. Raises MalformedSignature for what is none.

    High-s signatures are valid: neither cards nor the SDK normalise them.
    """
    try:
        key.verify(der_signature(signature, order), signed, ES256)
    except InvalidSignature:
        return False
    return True


def sign_raw(key: ec.EllipticCurvePrivateKey, signed: bytes) -> bytes:
    """Raw signature (64 bytes). Raises ValueError for a key on another curve."""
    if order_of(key, CARD_CURVES) is None:
        raise ValueError(f"ES256 cannot be made with a key on {key.curve.name}")
    der = key.sign(signed, ES256)
    # 30 len 02 len r 02 len s, every length one octet; an integer has a zero in front when its first bit is set.
    end = 4 + der[3]
    return der[4:end][-32:].rjust(32, b"\0") + der[end + 2 :][-32:].rjust(32, b"\0")
