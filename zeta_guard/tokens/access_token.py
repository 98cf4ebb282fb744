"""The access token, once verified (``wire-contract`` section 4.3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from zeta_guard.errors import JsonValue

ACR_ORDER = ("gematik-ehealth-loa-substantial", "gematik-ehealth-loa-high")
"""Levels of assurance, lowest first."""


@dataclass(frozen=True, slots=True)
class AccessToken:
    """An access token whose signature, ``typ`` and issuer were verified. Only :mod:`zeta_guard.tokens.verifier` makes one.

    Times, audience, scope, binding and address are *not* checked by construction: the caller checks them per request,
    because they depend on the request. ``claims`` is the whole verified claim set.
    """

    issuer: str
    telematik_id: str
    audience: tuple[str, ...]
    scopes: frozenset[str]
    client_id: str
    issued_at: int
    expires_at: int
    jti: str
    session_id: str
    jkt: str
    acr: str
    ip_address: str | None
    profession_oid: str
    common_name: str
    organization_name: str | None
    product_id: str
    product_version: str
    platform: str
    claims: Mapping[str, JsonValue]
