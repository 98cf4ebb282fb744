"""Verification of access tokens (RFC 9068 §4, ``wire-contract`` sections 4.3 and 7.1).

A token is verified once and then found by its hash: the memory is bounded, positive only, at most a minute old and void as
soon as the issuer's keys change. What depends on the request (times, audience, scope, binding, address, block) is never
remembered and never checked here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NamedTuple

from zeta_guard.errors import JsonValue
from zeta_guard.jose import claims as claim
from zeta_guard.jose.jws import parse_jws, verify_es256
from zeta_guard.jose.slot import Slot
from zeta_guard.jose.token_hash import token_hash
from zeta_guard.recent import Recent
from zeta_guard.tokens.access_token import AccessToken
from zeta_guard.tokens.key_sets import KeySet

ACCESS_TOKEN_TYPE: Final = "at+jwt"  # noqa: S105
"""``typ`` of access tokens (RFC 9068 §2.1)."""

SLOT: Final = Slot("access token", "invalid_token", 401)


@dataclass(frozen=True, slots=True)
class MissingKey:
    """The issuer is trusted, its key ``kid`` is not known yet: refresh the key set and verify again."""

    issuer: str
    kid: str


class _Verified(NamedTuple):
    token: AccessToken
    key_set: KeySet
    version: int
    verified_at: float


class AccessTokenVerifier:
    """Says whether a token was signed by a trusted issuer, and what it says.

    ``key_sets`` by exact issuer. ``max_bytes``: longest token. ``cache_entries``/``cache_seconds`` bound the memory of verified
    tokens. ``extra_types``: further ``typ`` values by foreign issuer; the configuration names them unsafe.
    """

    def __init__(
        self,
        key_sets: Mapping[str, KeySet],
        *,
        max_bytes: int,
        cache_entries: int = 10_000,
        cache_seconds: int = 60,
        extra_types: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        self._key_sets: Final = dict(key_sets)
        self._max_bytes: Final = max_bytes
        self._cache_seconds: Final = min(cache_seconds, 60)
        extra = dict(extra_types or {})
        self._types: Final = {issuer: (ACCESS_TOKEN_TYPE, *extra.get(issuer, ())) for issuer in self._key_sets}
        self._all_types: Final = tuple(dict.fromkeys(typ for types in self._types.values() for typ in types)) or (
            ACCESS_TOKEN_TYPE,
        )
        self._verified: Final[Recent[bytes, _Verified]] = Recent(cache_entries, seconds=self._cache_seconds)

    def verify(self, token: str, *, now: float, digest: bytes | None = None) -> AccessToken | MissingKey:
        """The token's content once signature, ``typ``, issuer and the types of its claims hold. Pure.

        Times, audience, scope, binding and address are NOT checked: the caller does, per request. Raises ZetaError
        ``invalid_token`` (401), and nothing else. ``digest`` is the SHA-256 of ``token``, where the caller has it.
        """
        # Longer tokens are refused before they are hashed.
        if len(token) > self._max_bytes:
            raise SLOT.refuse(f"is longer than {self._max_bytes} bytes")
        if digest is None:
            digest = token_hash(token).digest
        known = self._verified.young.get(digest) or self._verified.get(digest)
        if known is not None:
            if known.version == known.key_set.version and 0 <= now - known.verified_at < self._cache_seconds:
                return known.token
            self._verified.drop(digest)
        return self._verify(token, digest, now)

    def _verify(self, token: str, digest: bytes, now: float) -> AccessToken | MissingKey:
        jws = parse_jws(token, SLOT, typ=self._all_types, max_bytes=self._max_bytes)
        issuer = claim.text(jws.claims, "iss", SLOT)
        key_set = self._key_sets.get(issuer)
        if key_set is None:
            raise SLOT.refuse("'iss' is not an issuer that is trusted here")
        types = self._types[issuer]
        if jws.header["typ"] not in types:
            raise SLOT.refuse(f"header 'typ' must be {' or '.join(types)}")
        kid = claim.text(jws.header, "kid", SLOT)
        version = key_set.version
        key = key_set.key(kid)
        if key is None:
            return MissingKey(issuer, kid)
        verify_es256(jws, key, SLOT)
        access_token = _access_token(issuer, jws.claims)
        self._verified.put(digest, _Verified(access_token, key_set, version, now), now)
        return access_token

    def forget(self) -> None:
        """Empty the memory of verified tokens."""
        self._verified.clear()


def _access_token(issuer: str, claims: dict[str, JsonValue]) -> AccessToken:
    if claim.optional_integer(claims, "ver", SLOT) not in (None, 1, 2):
        raise SLOT.refuse("'ver' must be 1 or 2")
    return AccessToken(
        issuer=issuer,
        telematik_id=claim.text(claims, "sub", SLOT),
        audience=claim.audience(claims, SLOT),
        scopes=_scopes(claims),
        client_id=claim.text(claims, "client_id", SLOT),
        issued_at=claim.integer(claims, "iat", SLOT),
        expires_at=claim.integer(claims, "exp", SLOT),
        jti=claim.text(claims, "jti", SLOT),
        session_id=claim.text(claims, "sid", SLOT),
        jkt=claim.text(claim.member(claims, "cnf", SLOT), "jkt", SLOT),
        acr=claim.text(claims, "acr", SLOT),
        ip_address=claim.optional_text(claims, "ip_address", SLOT),
        profession_oid=claim.text(claims, "profession_oid", SLOT),
        common_name=claim.text(claims, "common_name", SLOT),
        organization_name=claim.optional_text(claims, "organization_name", SLOT),
        product_id=claim.text(claims, "product_id", SLOT),
        product_version=claim.text(claims, "product_version", SLOT),
        platform=claim.text(claims, "platform", SLOT),
        claims=MappingProxyType(claims),
    )


def _scopes(claims: dict[str, JsonValue]) -> frozenset[str]:
    value = claims.get("scope")
    if not isinstance(value, str):
        raise SLOT.refuse("'scope' must be text with scopes separated by spaces")
    return frozenset(scope for scope in value.split(" ") if scope)
