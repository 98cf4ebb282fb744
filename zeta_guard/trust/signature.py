"""Which keys and digests may vouch for something, and the check itself (certificates, OCSP answers, trust lists)."""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

SIGNING_CURVES: Final = frozenset(
    {"secp256r1", "secp384r1", "secp521r1", "brainpoolP256r1", "brainpoolP384r1", "brainpoolP512r1"}
)
MIN_RSA_BITS: Final = 2048
"""RSA only for OCSP answers and trust lists of older signers; certificates of institutions and their issuers are EC."""


def is_strong_digest(algorithm: hashes.HashAlgorithm | None) -> bool:
    """SHA-2 with 256 bits or more."""
    return isinstance(algorithm, hashes.SHA256 | hashes.SHA384 | hashes.SHA512)


def is_signing_key(key: PublicKeyTypes) -> bool:
    """EC on one of :data:`SIGNING_CURVES`, or RSA of at least 2048 bits."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        return key.curve.name in SIGNING_CURVES
    return isinstance(key, rsa.RSAPublicKey) and key.key_size >= MIN_RSA_BITS


def verifies(key: PublicKeyTypes, signature: bytes, signed: bytes, digest: hashes.HashAlgorithm | None) -> bool:
    """Whether ``signature`` (ECDSA in DER, or RSA PKCS#1 v1.5) over ``signed`` is ``key``'s, with key and digest permitted."""
    if digest is None or not is_strong_digest(digest) or not is_signing_key(key):
        return False
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, signed, ec.ECDSA(digest))
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, signed, padding.PKCS1v15(), digest)
        else:
            return False
    except (InvalidSignature, ValueError):
        return False
    return True
