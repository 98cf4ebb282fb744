"""Tokens that this authorization server made and that come back to it: at refresh and at revocation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec

from zeta_guard.jose.claims import integer, member, single_audience, text
from zeta_guard.jose.jws import CompactJws, parse_jws, verify_es256
from zeta_guard.jose.slot import Slot

ACCESS_TOKEN_TYP: Final = "at+jwt"  # noqa: S105 - a header value
REFRESH_TOKEN_TYP: Final = "refresh+jwt"  # noqa: S105 - a header value

REFRESH_SLOT: Final = Slot("refresh token", "invalid_grant", 400)
LONGEST_SESSION_ID: Final = 64
_REVOKED_SLOT: Final = Slot("token", "invalid_grant", 400)


class OwnToken(NamedTuple):
    """A token with a valid signature of this server that has not expired. Whether its session lives, the store knows."""

    client_id: str
    session_id: str
    jti: str
    jkt: str
    expires_at: int
    kid: str
    """Which key signed it."""


def parse_refresh_token(token: str, *, max_bytes: int) -> CompactJws:
    """A refresh token taken apart. Nothing in it is verified. Raises ZetaError ``invalid_grant`` 400."""
    return parse_jws(token, REFRESH_SLOT, typ=REFRESH_TOKEN_TYP, max_bytes=max_bytes)


def named_session(jws: CompactJws) -> str | None:
    """Which session a refresh token that nobody has verified names: good for reading ahead, and for nothing else."""
    session_id = jws.claims.get("sid")
    return session_id if isinstance(session_id, str) and 0 < len(session_id) <= LONGEST_SESSION_ID else None


def verify_refresh_token(
    jws: CompactJws, *, issuer: str, keys: Mapping[str, ec.EllipticCurvePublicKey], now: float
) -> OwnToken:
    """A refresh token of this server. Raises ZetaError ``invalid_grant`` 400."""
    if single_audience(jws.claims, REFRESH_SLOT) != issuer:
        raise REFRESH_SLOT.refuse("'aud' is not this server")
    return _verify(jws, REFRESH_SLOT, issuer, keys, now)


def verify_revocable_token(
    token: str, *, issuer: str, keys: Mapping[str, ec.EllipticCurvePublicKey], now: float, max_bytes: int
) -> OwnToken:
    """A refresh or access token of this server. Raises ZetaError, which at revocation means: nothing to do."""
    jws = parse_jws(token, _REVOKED_SLOT, typ=(REFRESH_TOKEN_TYP, ACCESS_TOKEN_TYP), max_bytes=max_bytes)
    return _verify(jws, _REVOKED_SLOT, issuer, keys, now)


def _verify(
    jws: CompactJws, slot: Slot, issuer: str, keys: Mapping[str, ec.EllipticCurvePublicKey], now: float
) -> OwnToken:
    claims = jws.claims
    kid = text(jws.header, "kid", slot)
    key = keys.get(kid)
    if key is None:
        raise slot.refuse("was not made here, or by a key that is over")
    verify_es256(jws, key, slot)
    if text(claims, "iss", slot) != issuer:
        raise slot.refuse("'iss' is not this server")
    expires_at = integer(claims, "exp", slot)
    if expires_at <= now:
        raise slot.refuse(f"expired {math.floor(now) - expires_at} s ago; make a complete token exchange")
    return OwnToken(
        client_id=text(claims, "client_id", slot),
        session_id=text(claims, "sid", slot),
        jti=text(claims, "jti", slot),
        jkt=text(member(claims, "cnf", slot), "jkt", slot),
        expires_at=expires_at,
        kid=kid,
    )
