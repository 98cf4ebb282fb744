"""What ``cryptography`` cannot write into an OCSP answer: the CertHash extension, and a producedAt of our own clock.

``CertHash`` (Common PKI, 1.3.36.8.3.13) is a single extension that proves the responder holds the very certificate.
"""

from __future__ import annotations

import hashlib
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from zeta_guard.simulators.pki import moment
from zeta_guard.trust.der import SEQUENCE, Element, elements, sequence

_CERT_HASH_OID: Final = bytes.fromhex("06052b2408030d")
_SHA256: Final = bytes.fromhex("300b0609608648016503040201")
_ECDSA_SHA256: Final = bytes.fromhex("300a06082a8648ce3d040302")
_GENERALIZED_TIME: Final = 0x18
_EXPLICIT_0: Final = 0xA0
_EXPLICIT_1: Final = 0xA1


def encode(tag: int, *parts: bytes) -> bytes:
    """One DER element around the parts."""
    content = b"".join(parts)
    length = len(content)
    if length < 0x80:
        return bytes([tag, length]) + content
    size = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(size)]) + size + content


def cert_hash_extension(certificate: bytes) -> bytes:
    """The Extension element with the SHA-256 of a certificate."""
    value = encode(SEQUENCE, _SHA256, encode(0x04, hashlib.sha256(certificate).digest()))
    return encode(SEQUENCE, _CERT_HASH_OID, encode(0x04, value))


def rewrite(
    response: bytes,
    key: ec.EllipticCurvePrivateKey,
    *,
    produced_at: float,
    certificate: bytes | None = None,
    extension: bytes | None = None,
    copies: int = 1,
) -> bytes:
    """The same answer, dated ``produced_at`` and signed anew with ``key``.

    With ``certificate`` a CertHash over it is added to the (only) single response, with ``extension`` that element. The single
    response then stands there ``copies`` times.
    """
    if certificate is not None:
        extension = cert_hash_extension(certificate)
    status, wrapped = sequence(response)
    oid, octets = sequence(next(elements(wrapped.content)).encoded)
    basic = sequence(octets.content)
    certificates = b"".join(member.encoded for member in basic[3:])
    members = sequence(basic[0].encoded)
    data = encode(SEQUENCE, *(_member(member, produced_at, extension, copies) for member in members))
    signature = encode(0x03, b"\x00", key.sign(data, ec.ECDSA(hashes.SHA256())))
    signed = encode(SEQUENCE, data, _ECDSA_SHA256, signature, certificates)
    return encode(
        SEQUENCE,
        status.encoded,
        encode(_EXPLICIT_0, encode(SEQUENCE, oid.encoded, encode(0x04, signed))),
    )


def _member(member: Element, produced_at: float, extension: bytes | None, copies: int) -> bytes:
    if member.tag == _GENERALIZED_TIME:
        return encode(_GENERALIZED_TIME, f"{moment(produced_at):%Y%m%d%H%M%SZ}".encode())
    if member.tag == SEQUENCE:
        parts = [part.encoded for part in sequence(member.content)]
        if extension is not None:
            parts.append(encode(_EXPLICIT_1, encode(SEQUENCE, extension)))
        return encode(SEQUENCE, encode(SEQUENCE, *parts) * copies)
    return member.encoded
