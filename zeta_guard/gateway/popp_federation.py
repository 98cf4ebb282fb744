"""The two documents of a PoPP service: entity statement and signed key set (OpenID Federation 1.0; ``security`` section 5).

Pure: bytes and the configured anchor in, keys out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urljoin, urlsplit

from cryptography.hazmat.primitives.asymmetric import ec

from zeta_guard.config.gateway import PoppIssuer
from zeta_guard.errors import GuardError, JsonValue, ZetaError
from zeta_guard.jose import claims as claim
from zeta_guard.jose.jwk import PublicJwk, parse_public_jwk
from zeta_guard.jose.jws import CompactJws, parse_jws, verify_es256
from zeta_guard.jose.slot import Slot

MAX_DOCUMENT_BYTES: Final = 262_144
"""Longest of either document."""

MAX_KEYS: Final = 100
"""Most members of a key set."""

STATEMENT_TYPE: Final = "entity-statement+jwt"
KEY_SET_TYPE: Final = "jwk-set+jwt"

_STATEMENT: Final = Slot("entity statement", "popp_invalid")
_KEY_SET: Final = Slot("signed key set", "popp_invalid")
_KEY: Final = Slot("key", "popp_invalid")
_SKEW: Final = 60

PublicKeys = Mapping[str, ec.EllipticCurvePublicKey]


class FederationError(GuardError):
    """A document that is not believed. The text names the fault and quotes nothing that is secret."""

    remedy = "Compare what the PoPP service publishes with its entry under gateway.popp_issuers."


@dataclass(frozen=True, slots=True)
class EntityStatement:
    """A verified entity statement. ``keys_url`` is where the signed key set is fetched from."""

    keys: PublicKeys
    keys_url: str
    expires_at: int


@dataclass(frozen=True, slots=True)
class SignedKeySet:
    """The verified token keys."""

    keys: PublicKeys
    expires_at: int


def base_url(issuer: PoppIssuer) -> str:
    """Where the documents of an issuer are fetched, without a trailing slash."""
    return (issuer.base_url or issuer.issuer).rstrip("/")


def read_entity_statement(document: bytes, issuer: PoppIssuer, *, now: float) -> EntityStatement:
    """Verify the self-signed statement against the pinned key (or TLS alone, where that was configured).

    Raises FederationError.
    """
    try:
        jws = _parse(document, _STATEMENT, STATEMENT_TYPE)
        _check_names_and_times(jws, issuer.issuer, _STATEMENT, now)
        if claim.text(jws.claims, "sub", _STATEMENT) != issuer.issuer:
            raise _STATEMENT.refuse("'sub' is not the configured issuer")
        keys = _keys(claim.member(jws.claims, "jwks", _STATEMENT), _STATEMENT)
        signer = keys.get(claim.text(jws.header, "kid", _STATEMENT))
        if signer is None:
            raise _STATEMENT.refuse("'kid' is not a key of the statement's own 'jwks'")
        # The anchor: whoever answers under the issuer's name may sign with a key of their own, but not with the pinned one.
        if not issuer.unsafe_tls_anchor and signer.thumbprint != issuer.entity_key_thumbprint:
            raise _STATEMENT.refuse("was not signed with the key of entity_key_thumbprint")
        verify_es256(jws, signer.key, _STATEMENT)
        metadata = claim.member(claim.member(jws.claims, "metadata", _STATEMENT), "oauth_resource", _STATEMENT)
        keys_url = _keys_url(claim.text(metadata, "signed_jwks_uri", _STATEMENT), issuer)
        return EntityStatement(
            {kid: key.key for kid, key in keys.items()}, keys_url, claim.integer(jws.claims, "exp", _STATEMENT)
        )
    except ZetaError as error:
        raise FederationError(error.description) from None


def read_signed_key_set(document: bytes, statement: EntityStatement, issuer: PoppIssuer, *, now: float) -> SignedKeySet:
    """Verify the key set with a key of the statement. Raises FederationError, also for a set without usable keys."""
    try:
        jws = _parse(document, _KEY_SET, KEY_SET_TYPE)
        _check_names_and_times(jws, issuer.issuer, _KEY_SET, now)
        signer = statement.keys.get(claim.text(jws.header, "kid", _KEY_SET))
        if signer is None:
            raise _KEY_SET.refuse("'kid' is not a key of the entity statement")
        verify_es256(jws, signer, _KEY_SET)
        keys = {kid: key.key for kid, key in _keys(jws.claims, _KEY_SET).items()}
        if not keys:
            raise _KEY_SET.refuse("holds no EC P-256 signing key with a 'kid'")
        return SignedKeySet(keys, claim.integer(jws.claims, "exp", _KEY_SET))
    except ZetaError as error:
        raise FederationError(error.description) from None


def _parse(document: bytes, slot: Slot, typ: str) -> CompactJws:
    try:
        text = document.strip().decode("ascii")
    except UnicodeDecodeError:
        raise slot.refuse("is not a compact JWS") from None
    return parse_jws(text, slot, typ=typ, max_bytes=MAX_DOCUMENT_BYTES)


def _check_names_and_times(jws: CompactJws, issuer: str, slot: Slot, now: float) -> None:
    if claim.text(jws.claims, "iss", slot) != issuer:
        raise slot.refuse("'iss' is not the configured issuer")
    if claim.integer(jws.claims, "exp", slot) <= now:
        raise slot.refuse("has expired")
    for name in ("iat", "nbf"):
        moment = claim.optional_integer(jws.claims, name, slot)
        if moment is not None and moment > now + _SKEW:
            raise slot.refuse(f"'{name}' lies in the future")


def _keys(members: Mapping[str, JsonValue], slot: Slot) -> dict[str, PublicJwk]:
    """The EC P-256 signing keys that have a ``kid``; others are not ours to use (RFC 7517 §5)."""
    values = members.get("keys")
    if not isinstance(values, list) or len(values) > MAX_KEYS:
        raise slot.refuse(f"'keys' must be an array of at most {MAX_KEYS} keys")
    keys: dict[str, PublicJwk] = {}
    for value in values:
        kid = value.get("kid") if isinstance(value, dict) else None
        if not isinstance(kid, str) or not kid:
            continue
        try:
            key = parse_public_jwk(value, _KEY)
        except ZetaError:
            continue
        if kid in keys:
            raise slot.refuse("one 'kid' names two keys")
        keys[kid] = key
    return keys


def _keys_url(uri: str, issuer: PoppIssuer) -> str:
    """Where to fetch the key set: at the issuer itself (also under its configured base_url), or at a listed host by https."""
    base = base_url(issuer)
    try:
        parts = urlsplit(urljoin(issuer.issuer.rstrip("/") + "/", uri))
        at_issuer = _origin(parts.geturl()) in (_origin(issuer.issuer), _origin(base))
    except ValueError:
        raise _STATEMENT.refuse("'signed_jwks_uri' is no URL") from None
    if parts.username is not None or parts.password is not None:
        raise _STATEMENT.refuse("'signed_jwks_uri' carries user information")
    if at_issuer:
        origin = urlsplit(base)
        return f"{origin.scheme}://{origin.netloc}{parts.path or '/'}" + (f"?{parts.query}" if parts.query else "")
    if parts.scheme == "https" and parts.netloc.lower() in {host.lower() for host in issuer.jwks_hosts}:
        return parts.geturl()
    raise _STATEMENT.refuse("'signed_jwks_uri' is neither at the issuer nor an https URL at one of jwks_hosts")


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    port = parts.port or {"https": 443, "http": 80}.get(parts.scheme)
    return parts.scheme, (parts.hostname or "").lower(), port
