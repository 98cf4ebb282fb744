"""Grants and the URNs of their forms (RFC 6749, RFC 7523, RFC 8693)."""

from __future__ import annotations

from typing import Final

from zeta_guard.config.authorization_server import AuthorizationServer

TOKEN_EXCHANGE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"  # noqa: S105 - a name
REFRESH_TOKEN: Final = "refresh_token"  # noqa: S105 - a name
CLIENT_CREDENTIALS: Final = "client_credentials"

JWT_BEARER: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
JWT_TYPE: Final = "urn:ietf:params:oauth:token-type:jwt"
ACCESS_TOKEN_TYPE: Final = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - a name
REFRESH_TOKEN_TYPE: Final = "urn:ietf:params:oauth:token-type:refresh_token"  # noqa: S105 - a name


def offered_grants(server: AuthorizationServer) -> tuple[str, ...]:
    """Grants of the metadata; ``client_credentials`` only once a product is configured."""
    registered = (TOKEN_EXCHANGE, REFRESH_TOKEN)
    return (*registered, CLIENT_CREDENTIALS) if server.products else registered
