"""The client statement: what a client says about itself, bound to its key and to this request (``wire-contract`` 4.1 step 5)."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from zeta_guard.authorization_server.nonce import Nonce
from zeta_guard.errors import JsonValue
from zeta_guard.jose.claims import integer, member, text
from zeta_guard.jose.encoding import b64url_decode, b64url_encode
from zeta_guard.jose.slot import Slot
from zeta_guard.recent import Recent

SLOT: Final = Slot("client statement", "invalid_client", 400)

PLATFORMS: Final = ("android", "apple", "linux", "other", "windows")
LONGEST_TEXT: Final = 256

_PRODUCT_ID: Final = re.compile(r"[0-9a-zA-Z\-]{1,20}")
_PRODUCT_VERSION: Final = re.compile(r"[0-9a-zA-Z\-.]{1,20}")
# Copying a hasher saves OpenSSL the search for the algorithm.
_HASHER: Final = hashlib.sha256()
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")

_PRODUCT_MEMBERS: Final = ("product_id", "product_version", "os", "os_version", "arch")
_recent_products: Final[Recent[tuple[object, ...], tuple[str, str, str, str, str]]] = Recent(1024)
"""What passed, by what was said: an installation says the same each time, and many say the same."""

_recent_keys: Final[Recent[str, str]] = Recent(4096)
"""Thumbprint → SubjectPublicKeyInfo in base64: clients come again with the key that they have."""


class ClientStatement(NamedTuple):
    """A statement that is fresh and bound to the client's key. The words in it remain the client's own (software posture).

    ``bound_to_nonce``: the challenge (or the member ``nonce``) was recomputed from this request's nonce, so the statement was
    made after that nonce was issued. ``attested_at`` in Unix seconds.
    """

    platform: str
    posture_type: str
    product_id: str
    product_version: str
    os: str
    os_version: str
    architecture: str
    attested_at: int
    bound_to_nonce: bool


def verify_statement(
    statement: Mapping[str, JsonValue],
    *,
    client_id: str,
    platform: str | None,
    key: ec.EllipticCurvePublicKey,
    jkt: str,
    nonce: Nonce,
    binding_required: bool,
    now: float,
    oldest: int,
    ahead: int,
) -> ClientStatement:
    """Check a statement. Pure.

    ``platform``: that of the client's first use, None before it. ``key``: what ``public_key`` must be (P-256), ``jkt`` its
    thumbprint. ``oldest`` and ``ahead`` bound ``attestation_timestamp``, in seconds. Without ``binding_required`` (client credentials, where the DPoP key
    is bound by ``cnf``) key and challenge may be absent, not wrong. Raises ZetaError ``invalid_client`` 400.
    """
    if text(statement, "sub", SLOT) != client_id:
        raise SLOT.refuse("'sub' is not the client id")
    seen = text(statement, "platform", SLOT)
    if seen not in PLATFORMS:
        raise SLOT.refuse(f"'platform' is not known; expected one of {', '.join(PLATFORMS)}")
    if platform is not None and seen != platform:
        raise SLOT.refuse(f"'platform' is {seen}; expected {platform}, as at the client's first use")
    if text(statement, "posture_type", SLOT) != "software":
        raise SLOT.refuse("'posture_type' is not supported; expected software")
    posture = member(statement, "posture", SLOT)
    _check_platform_product(posture, seen)
    attested_at = _attested_at(statement, now=now, oldest=oldest, ahead=ahead)
    _check_public_key(posture, key, jkt, binding_required)
    bound = _check_challenge(posture, jkt, nonce, binding_required)
    return ClientStatement(seen, "software", *_product(posture), attested_at, bound)


def _product(posture: Mapping[str, JsonValue]) -> tuple[str, str, str, str, str]:
    """Product, version, operating system, its version and architecture, each in its form."""
    said = tuple(map(posture.get, _PRODUCT_MEMBERS))
    try:
        known = _recent_products.get(said)
    except TypeError:
        # Something that is no text, and has no hash.
        known = None
    if known is None:
        known = (
            _matching(posture, "product_id", _PRODUCT_ID, "1 to 20 characters 0-9 a-z A-Z -"),
            _matching(posture, "product_version", _PRODUCT_VERSION, "1 to 20 characters 0-9 a-z A-Z - ."),
            _words(posture, "os"),
            _words(posture, "os_version"),
            _words(posture, "arch"),
        )
        _recent_products.put(known, known)
    return known


def _check_platform_product(posture: Mapping[str, JsonValue], platform: str) -> None:
    if "platform_product_id" not in posture:
        return
    product = member(posture, "platform_product_id", SLOT)
    # Its words are free text of the integrator and may be empty; only a contradiction is a fault.
    if "platform" in product and product["platform"] != platform:
        raise SLOT.refuse("'platform_product_id.platform' differs from 'platform'")


def _attested_at(statement: Mapping[str, JsonValue], *, now: float, oldest: int, ahead: int) -> int:
    attested_at = integer(statement, "attestation_timestamp", SLOT)
    here = math.floor(now)
    if attested_at < now - oldest:
        raise SLOT.refuse(
            f"'attestation_timestamp' is {here - attested_at} s old; at most {oldest} s allowed, server time is {here}"
        )
    if attested_at > now + ahead:
        raise SLOT.refuse(
            f"'attestation_timestamp' is {attested_at - here} s ahead; at most {ahead} s allowed, server time is {here}"
        )
    return attested_at


def _matching(posture: Mapping[str, JsonValue], name: str, pattern: re.Pattern[str], expected: str) -> str:
    value = text(posture, name, SLOT)
    if not pattern.fullmatch(value):
        raise SLOT.refuse(f"'{name}' does not have the expected form: {expected}")
    return value


def _words(posture: Mapping[str, JsonValue], name: str) -> str:
    value = posture.get(name)
    if not isinstance(value, str):
        raise SLOT.refuse(f"'{name}' must be text")
    if len(value) > LONGEST_TEXT or _CONTROL.search(value):
        raise SLOT.refuse(f"'{name}' must have at most {LONGEST_TEXT} characters, none of them a control character")
    return value


def _check_public_key(
    posture: Mapping[str, JsonValue], key: ec.EllipticCurvePublicKey, jkt: str, required: bool
) -> None:
    if "public_key" not in posture and not required:
        return
    stated, expected = text(posture, "public_key", SLOT), _key_info(key, jkt)
    if stated == expected:
        return
    # Both spellings of the same key are in use: base64 of the DER, and PEM.
    lines = stated.replace("\r", "").strip().split("\n")
    if lines[0] == "-----BEGIN PUBLIC KEY-----" and lines[-1] == "-----END PUBLIC KEY-----":
        lines = lines[1:-1]
    if "".join(lines) != expected:
        raise SLOT.refuse("'public_key' is not the client's key; expected its SubjectPublicKeyInfo in base64")


def _key_info(key: ec.EllipticCurvePublicKey, jkt: str) -> str:
    known = _recent_keys.get(jkt)
    if known is None:
        known = base64.b64encode(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()
        _recent_keys.put(jkt, known)
    return known


def challenge(jkt: str, nonce: bytes) -> str:
    """``attestation_challenge``: SHA-256 over the key's thumbprint (its 32 bytes) and the nonce, base64url."""
    digest = _HASHER.copy()
    digest.update(_thumbprint_bytes(jkt) + nonce)
    return b64url_encode(digest.digest())


@lru_cache(maxsize=4096)
def _thumbprint_bytes(jkt: str) -> bytes:
    return b64url_decode(jkt)


def _check_challenge(posture: Mapping[str, JsonValue], jkt: str, nonce: Nonce, required: bool) -> bool:
    bound = False
    if "attestation_challenge" in posture:
        # Both sides know all that it is made of: nothing can be learned from the time that comparing takes.
        if text(posture, "attestation_challenge", SLOT) != challenge(jkt, nonce.raw):
            raise SLOT.refuse("'attestation_challenge' is not the hash of the client's key and this request's nonce")
        bound = True
    if "nonce" in posture:
        if text(posture, "nonce", SLOT) != nonce.text:
            raise SLOT.refuse("'nonce' is not the nonce of this request")
        bound = True
    if required and not bound:
        raise SLOT.refuse("'attestation_challenge' is missing; expected the hash of the client's key and the nonce")
    return bound
