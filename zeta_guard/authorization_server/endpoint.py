"""Where the endpoints are: paths, and the URLs that clients sign over (``wire-contract`` section 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from zeta_guard.config.guard import GuardConfig

METADATA: Final = "/.well-known/oauth-authorization-server"
NONCE: Final = "/nonce"
REGISTER: Final = "/register"
TOKEN: Final = "/token"  # noqa: S105 - a path
REVOKE: Final = "/revoke"
JWKS: Final = "/jwks"
AUTHORIZE: Final = "/authorize"
REDIRECT: Final = "/redirect"

PATHS: Final = frozenset({METADATA, NONCE, REGISTER, TOKEN, REVOKE, JWKS, AUTHORIZE, REDIRECT})
"""Exact paths; the pages below ``/errors/`` belong to the authorization server too."""


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Absolute URLs. They are what ``aud`` and ``htu`` are compared with, so they come from the configuration only."""

    issuer: str
    token: str
    nonce: str
    registration: str
    revocation: str
    jwks: str
    authorization: str
    redirection: str

    @classmethod
    def of(cls, config: GuardConfig) -> Endpoints:
        """The endpoints below ``public_url``."""
        base = config.public_url
        return cls(
            issuer=config.issuer,
            token=base + TOKEN,
            nonce=base + NONCE,
            registration=base + REGISTER,
            revocation=base + REVOKE,
            jwks=base + JWKS,
            authorization=base + AUTHORIZE,
            redirection=base + REDIRECT,
        )
