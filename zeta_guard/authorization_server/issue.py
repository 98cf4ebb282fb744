"""Access and refresh tokens (``wire-contract`` section 4.3; A_26944, A_25663, RFC 9068)."""

from __future__ import annotations

from typing import Final, NamedTuple

import orjson

from zeta_guard.authorization_server.client_statement import ClientStatement
from zeta_guard.authorization_server.grant_type import ACCESS_TOKEN_TYPE
from zeta_guard.authorization_server.own_token import ACCESS_TOKEN_TYP, REFRESH_TOKEN_TYP, OwnToken
from zeta_guard.authorization_server.recent_token import RecentRefreshTokens
from zeta_guard.authorization_server.session import new_jti
from zeta_guard.errors import JsonValue
from zeta_guard.jose.jws import Signer, sign_jws
from zeta_guard.trust.contract import SmcbCertificate

ACR: Final = "gematik-ehealth-loa-substantial"
"""Level of an institution that proved itself with its SM(C)-B."""

AMR: Final = ("urn:telematik:auth:sc",)
"""How it proved itself, as verified here: with a smart card."""


class Grant(NamedTuple):
    """What was granted, to whom, bound to what. Times are Unix seconds, ``*_ttl`` seconds.

    ``session_expires_at`` None: no refresh token (client credentials).
    """

    certificate: SmcbCertificate
    client_id: str
    statement: ClientStatement
    session_id: str
    jkt: str
    audience: tuple[str, ...]
    version: int
    scopes: tuple[str, ...]
    client_address: str
    access_ttl: int
    session_expires_at: int | None


class TokenSet(NamedTuple):
    """An answer of the token endpoint: its body, and the ids of what is in it (never the tokens) for store and audit."""

    body: bytes
    access_jti: str
    refresh_jti: str | None


def issue(grant: Grant, *, issuer: str, signer: Signer, recent: RecentRefreshTokens, now: float) -> TokenSet:
    """Sign the tokens of a grant and make the answer. The refresh token is noted in ``recent``."""
    issued_at = int(now)
    access_jti = new_jti()
    access_token = sign_jws({"typ": ACCESS_TOKEN_TYP}, _access_claims(grant, issuer, issued_at, access_jti), signer)
    body: dict[str, JsonValue] = {
        "access_token": access_token,
        "token_type": "DPoP",
        "expires_in": grant.access_ttl,
        "scope": " ".join(grant.scopes),
        "issued_token_type": ACCESS_TOKEN_TYPE,
    }
    refresh_jti = None
    if grant.session_expires_at is not None:
        refresh_jti = new_jti()
        expires_at = grant.session_expires_at
        token = sign_jws({"typ": REFRESH_TOKEN_TYP}, _refresh_claims(grant, issuer, issued_at, refresh_jti), signer)
        recent.note(token, OwnToken(grant.client_id, grant.session_id, refresh_jti, grant.jkt, expires_at, signer.kid))
        body["refresh_token"] = token
        body["refresh_expires_in"] = expires_at - issued_at
    return TokenSet(orjson.dumps(body), access_jti, refresh_jti)


def _access_claims(grant: Grant, issuer: str, issued_at: int, jti: str) -> dict[str, JsonValue]:
    certificate, statement = grant.certificate, grant.statement
    claims: dict[str, JsonValue] = {
        "iss": issuer,
        "sub": certificate.telematik_id,
        "aud": grant.audience[0] if len(grant.audience) == 1 else list(grant.audience),
        "scope": " ".join(grant.scopes),
        "client_id": grant.client_id,
        "iat": issued_at,
        "exp": issued_at + grant.access_ttl,
        "jti": jti,
        "sid": grant.session_id,
        "ver": grant.version,
        "cnf": {"jkt": grant.jkt},
        "acr": ACR,
        "ip_address": grant.client_address,
        "profession_oid": certificate.profession_oid,
        "common_name": certificate.common_name,
        "product_id": statement.product_id,
        "product_version": statement.product_version,
        "platform": statement.platform,
    }
    if certificate.organization_name is not None:
        claims["organization_name"] = certificate.organization_name
    return claims


def _refresh_claims(grant: Grant, issuer: str, issued_at: int, jti: str) -> dict[str, JsonValue]:
    return {
        "iss": issuer,
        "aud": issuer,
        "sub": grant.certificate.telematik_id,
        "client_id": grant.client_id,
        "sid": grant.session_id,
        "jti": jti,
        "iat": issued_at,
        "exp": grant.session_expires_at,
        "cnf": {"jkt": grant.jkt},
    }
