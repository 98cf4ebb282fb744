"""The client assertion that an SM(C)-B itself signs: client credentials of an unregistered client (``wire-contract`` 4.2)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from zeta_guard.authorization_server.client_assertion import (
    SLOT,
    AssertionTimes,
    UnverifiedAssertion,
    assertion_claim,
    unknown_client,
)
from zeta_guard.authorization_server.x5c import verify_with_leaf
from zeta_guard.config.authorization_server import Product
from zeta_guard.errors import JsonValue, ZetaError
from zeta_guard.jose.claims import integer, member, text
from zeta_guard.jose.encoding import b64url_encode
from zeta_guard.store.contract import Claim
from zeta_guard.trust.contract import SmcbCertificate

LONGEST_LIFE: Final = 300
"""Seconds between ``iat`` and ``exp``."""


@dataclass(frozen=True, slots=True)
class InstitutionAssertion:
    """An assertion by whoever holds the leaf's key, for a configured product. Nobody is proven before chain and revocation.

    ``jkt``: thumbprint of the DPoP key that it is bound to. ``nonce``: the claim, not judged yet. ``statement``: the member
    ``client_statement``, not judged yet.
    """

    product_id: str
    product: Product
    certificate: SmcbCertificate
    jti: str
    times: AssertionTimes
    jkt: str
    nonce: str
    statement: dict[str, JsonValue] | None

    def claim(self, *, now: float, dated: float) -> Claim:
        """What to claim: made of the card's key and ``jti``."""
        key = self.certificate.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return assertion_claim(b64url_encode(hashlib.sha256(key).digest()), self.jti, self.times, now=now, dated=dated)


def is_institution_assertion(assertion: UnverifiedAssertion) -> bool:
    """Whether a card signed it (it then carries its certificate) and not a registered client."""
    return "x5c" in assertion.jws.header


def verify_institution_assertion(
    assertion: UnverifiedAssertion, *, products: Mapping[str, Product]
) -> InstitutionAssertion:
    """Check what the card signed. Pure; audience and times were checked by ``read_assertion``.

    Raises ZetaError ``invalid_client``: 401 for an unknown product, else 400.
    """
    product = products.get(assertion.client_id)
    if product is None:
        raise unknown_client()
    claims = assertion.jws.claims
    if "client_key" in claims or "dpop_key" in claims:
        raise SLOT.refuse("holds 'client_key' or 'dpop_key'; a subject token is no client assertion")
    issued_at = integer(claims, "iat", SLOT)
    if assertion.times.expires_at - issued_at > LONGEST_LIFE or assertion.times.expires_at <= issued_at:
        raise SLOT.refuse(f"'exp' must lie after 'iat', at most {LONGEST_LIFE} s")
    jkt = text(member(claims, "cnf", SLOT), "jkt", SLOT)
    nonce = text(claims, "nonce", SLOT)
    certificate = verify_with_leaf(assertion.jws, SLOT)
    statement = member(claims, "client_statement", SLOT) if "client_statement" in claims else None
    return InstitutionAssertion(
        assertion.client_id, product, certificate, assertion.jti, assertion.times, jkt, nonce, statement
    )


def as_client_fault(error: ZetaError) -> ZetaError:
    """A fault of the card's certificate, here a fault of the client authentication. A 503 stays what it is."""
    return error.with_code("invalid_client", 400) if error.code == "invalid_grant" else error
