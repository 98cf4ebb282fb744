"""The subject token: the institution's word, signed by its SM(C)-B (A_25645-01, ``wire-contract`` section 4.1 step 4)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, NamedTuple

from zeta_guard.authorization_server.grant_type import JWT_TYPE
from zeta_guard.authorization_server.x5c import verify_with_leaf
from zeta_guard.errors import ZetaError
from zeta_guard.jose.claims import Claims, integer, member, optional_integer, single_audience, text
from zeta_guard.jose.jws import parse_jws
from zeta_guard.jose.slot import Slot
from zeta_guard.trust.contract import SmcbCertificate

SLOT: Final = Slot("subject token", "invalid_grant", 400)


class SubjectToken(NamedTuple):
    """A subject token made for this client, this DPoP key and this nonce, by whoever holds the leaf's key.

    Who that is, and whether it still counts, only the chain and the revocation check say.
    """

    certificate: SmcbCertificate


def verify_subject_token(
    form: Mapping[str, str],
    *,
    client_id: str,
    client_jkt: str,
    dpop_jkt: str,
    nonce: str | None,
    audience: str,
    now: float,
    skew: int,
    max_bytes: int,
) -> SubjectToken:
    """Check a subject token. Pure. ``audience``: URL of the token endpoint. ``skew``: how many seconds ahead ``iat`` may lie.

    Raises ZetaError ``invalid_request`` when parameters are missing or of another type, ``invalid_grant`` 400 otherwise.
    """
    if form.get("subject_token_type") != JWT_TYPE:
        raise ZetaError("invalid_request", f"'subject_token_type' must be {JWT_TYPE}", stage="subject_token")
    token = form.get("subject_token")
    if token is None:
        raise ZetaError("invalid_request", "'subject_token' is missing", stage="subject_token")
    jws = parse_jws(token, SLOT, typ="JWT", max_bytes=max_bytes)
    claims = jws.claims
    if text(claims, "iss", SLOT) != client_id:
        raise SLOT.refuse("'iss' is not the client id")
    if single_audience(claims, SLOT) != audience:
        raise SLOT.refuse(f"'aud' is not the token endpoint; expected {audience}")
    _check_times(claims, now, skew)
    if text(member(claims, "client_key", SLOT), "jkt", SLOT) != client_jkt:
        raise SLOT.refuse("'client_key.jkt' is not the thumbprint of the registered key")
    if text(member(claims, "dpop_key", SLOT), "jkt", SLOT) != dpop_jkt:
        raise SLOT.refuse("'dpop_key.jkt' is not the thumbprint of the DPoP proof's key")
    if text(claims, "nonce", SLOT) != nonce:
        raise SLOT.refuse("'nonce' is not that of the DPoP proof")
    certificate = verify_with_leaf(jws, SLOT)
    if text(claims, "sub", SLOT) != certificate.telematik_id:
        raise SLOT.refuse("'sub' is not the registration number (Telematik-ID) of the certificate")
    return SubjectToken(certificate)


def _check_times(claims: Claims, now: float, skew: int) -> None:
    here = math.floor(now)
    issued_at, expires_at = integer(claims, "iat", SLOT), integer(claims, "exp", SLOT)
    if issued_at > now + skew:
        raise SLOT.refuse(f"'iat' is {issued_at - here} s ahead; at most {skew} s allowed, server time is {here}")
    if expires_at <= now:
        raise SLOT.refuse(f"expired {here - expires_at} s ago; server time is {here}")
    if expires_at <= issued_at:
        raise SLOT.refuse("'exp' is not after 'iat'")
    not_before = optional_integer(claims, "nbf", SLOT)
    if not_before is not None and not_before > now + skew:
        raise SLOT.refuse(f"'nbf' is {not_before - here} s ahead; at most {skew} s allowed, server time is {here}")
