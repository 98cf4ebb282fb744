"""Compact JWS (RFC 7515 §7.1) with ES256, the only algorithm here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

import orjson
from cryptography.hazmat.primitives.asymmetric import ec

from zeta_guard.errors import JsonValue
from zeta_guard.jose.encoding import b64url_decode, b64url_encode
from zeta_guard.jose.es256 import CARD_CURVES, P256_ONLY, MalformedSignature, order_of, sign_raw, verify_raw
from zeta_guard.jose.jwk import thumbprint
from zeta_guard.jose.slot import Slot
from zeta_guard.jose.strict_json import loads_object
from zeta_guard.recent import Recent

__all__ = [
    "CARD_CURVES",
    "P256_ONLY",
    "CompactJws",
    "KeySigner",
    "Signer",
    "parse_jws",
    "sign_es256",
    "sign_jws",
    "verify_es256",
]

MAX_JWS_BYTES: Final = 16_384
"""Longest JWT unless the caller says otherwise."""

# A client's header is the same in all its assertions, and this server's in all its tokens. Nobody changes one.
_LARGEST_KNOWN_HEADER: Final = 768
_made: Recent[tuple[str, str], str] = Recent(64)
_headers: Recent[tuple[bytes, tuple[str, ...]], dict[str, JsonValue]] = Recent(4096)


class CompactJws(NamedTuple):
    """A JWS taken apart. Nothing in it is verified before :func:`verify_es256` returned."""

    header: dict[str, JsonValue]
    claims: dict[str, JsonValue]
    signing_input: bytes
    signature: bytes
    new_header: tuple[bytes, tuple[str, ...]] | None = None
    """Segment and types of a header that was not known yet; remembered once the signature was verified."""

    def __repr__(self) -> str:
        return f"CompactJws(header={self.header!r}, claims={self.claims!r})"


def parse_jws(token: str, slot: Slot, *, typ: str | tuple[str, ...], max_bytes: int = MAX_JWS_BYTES) -> CompactJws:
    """Take a compact JWS apart: ``alg`` exactly ES256, ``typ`` exactly one of ``typ``, no ``crit`` and no ``b64``.

    Raises the refusal of ``slot``; the first check is the size in bytes.
    """
    header_segment, claims_segment, signature = split_jws(token, slot, max_bytes)
    types = (typ,) if isinstance(typ, str) else typ
    known = (header_segment, types)
    header = _headers.get(known)
    new_header = None
    if header is None:
        header = check_header(header_segment, slot, types)
        new_header = known if len(header_segment) <= _LARGEST_KNOWN_HEADER else None
    try:
        raw_claims = b64url_decode(claims_segment)
    except ValueError:
        raise slot.refuse("claims are not canonical base64url without padding") from None
    claims = loads_object(raw_claims, slot)
    return CompactJws(header, claims, header_segment + b"." + claims_segment, signature, new_header)


def split_jws(token: str, slot: Slot, max_bytes: int) -> tuple[bytes, bytes, bytes]:
    """Header segment, claims segment (both still encoded) and the 64 bytes of the signature."""
    # Characters are never more than bytes, so that this holds before anything is encoded.
    if len(token) > max_bytes:
        raise slot.refuse(f"is longer than {max_bytes} bytes")
    try:
        header, claims, signature = token.encode("ascii").split(b".")
    except ValueError:
        raise slot.refuse("is not a compact JWS (three base64url parts, joined by dots)") from None
    if len(signature) != 86:
        raise slot.refuse("signature must be 64 bytes (r and s, base64url), as ES256 makes it")
    try:
        return header, claims, b64url_decode(signature)
    except ValueError:
        raise slot.refuse("signature is not canonical base64url without padding") from None


def check_header(segment: bytes, slot: Slot, types: tuple[str, ...]) -> dict[str, JsonValue]:
    """The JOSE header behind ``segment``, once algorithm and type are what the slot wants."""
    try:
        raw = b64url_decode(segment)
    except ValueError:
        raise slot.refuse("header is not canonical base64url without padding") from None
    header = loads_object(raw, slot)
    if header.get("alg") != "ES256":
        raise slot.refuse("header 'alg' must be ES256")
    if header.get("typ") not in types:
        raise slot.refuse(f"header 'typ' must be {' or '.join(types)}")
    if "crit" in header or "b64" in header:
        raise slot.refuse("header names critical extensions ('crit', 'b64'); none is understood here")
    return header


def verify_es256(
    jws: CompactJws, key: ec.EllipticCurvePublicKey, slot: Slot, *, curves: frozenset[str] = P256_ONLY
) -> None:
    """Check the signature with ``key``, which must be on one of ``curves`` (named curves only).

    Raises the refusal of ``slot``; a high s is valid, r and s outside of 1 … order-1 are not.
    """
    order = order_of(key, curves)
    if order is None:
        raise slot.refuse("key is on a curve that is not accepted here")
    try:
        valid = verify_raw(key, jws.signature, jws.signing_input, order)
    except MalformedSignature as error:
        raise slot.refuse(str(error)) from None
    if not valid:
        raise slot.refuse("signature is not valid")
    # Remembered only now: garbage cannot push out the headers of real clients.
    if jws.new_header is not None:
        _headers.put(jws.new_header, jws.header)


class Signer(Protocol):
    """Whoever can sign: a key in memory, an HSM."""

    @property
    def kid(self) -> str:
        """Key id, as it stands in the JWKS."""

    def sign(self, signing_input: bytes) -> bytes:
        """Raw ES256 signature, 64 bytes."""


@dataclass(frozen=True, slots=True)
class KeySigner:
    """A signer with its P-256 key in memory; ``kid`` is the RFC 7638 thumbprint."""

    key: ec.EllipticCurvePrivateKey = field(repr=False)
    kid: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "kid", thumbprint(self.key.public_key()))

    def sign(self, signing_input: bytes) -> bytes:
        """Raw ES256 signature, 64 bytes."""
        return sign_raw(self.key, signing_input)


def sign_es256(
    header: Mapping[str, JsonValue], claims: Mapping[str, JsonValue], key: ec.EllipticCurvePrivateKey
) -> str:
    """A compact JWS signed with ``key`` (P-256 or brainpoolP256r1, the label is ES256 in both cases)."""
    signing_input = _signing_input({**header, "alg": "ES256"}, claims)
    return f"{signing_input.decode()}.{b64url_encode(sign_raw(key, signing_input))}"


def sign_jws(header: Mapping[str, JsonValue], claims: Mapping[str, JsonValue], signer: Signer) -> str:
    """A compact JWS made by ``signer``; ``alg`` and ``kid`` are added to the header."""
    kid, typ = signer.kid, header.get("typ")
    # A server's tokens have one header for each type; what holds more than a type is written anew.
    named = (kid, typ) if type(typ) is str and len(header) == 1 else None
    segment = _made.get(named) if named is not None else None
    if segment is None:
        segment = b64url_encode(orjson.dumps({**header, "alg": "ES256", "kid": kid}))
        if named is not None:
            _made.put(named, segment)
    signing_input = f"{segment}.{b64url_encode(orjson.dumps(dict(claims)))}"
    return f"{signing_input}.{b64url_encode(signer.sign(signing_input.encode('ascii')))}"


def _signing_input(header: Mapping[str, JsonValue], claims: Mapping[str, JsonValue]) -> bytes:
    return f"{b64url_encode(orjson.dumps(header))}.{b64url_encode(orjson.dumps(dict(claims)))}".encode("ascii")
