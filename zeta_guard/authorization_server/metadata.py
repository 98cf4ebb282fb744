"""The metadata of the authorization server (RFC 8414, ``wire-contract`` section 1.2).

Installed clients fetch it once and keep it for ever: what stands here is a promise, and changing it is a migration.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from zeta_guard.authorization_server.endpoint import Endpoints
from zeta_guard.authorization_server.grant_type import offered_grants
from zeta_guard.config.guard import GuardConfig
from zeta_guard.errors import ConfigurationError, JsonValue

API_VERSIONS: Final[tuple[tuple[int, str], ...]] = ((1, "1.0.0"), (2, "2.0.0"))
"""Contracts of the token endpoint: 1 takes ``audience``, 2 takes ``resource`` and lets the policy choose ``aud`` (A_29691)."""


def server_metadata(config: GuardConfig) -> dict[str, JsonValue]:
    """The document. No member is null: the ZETA SDK refuses such a document."""
    server = config.authorization_server
    endpoints = Endpoints.of(config)
    document: dict[str, JsonValue] = {
        "issuer": endpoints.issuer,
        # The SDK wants both URIs though the code flow is not offered; they answer with an error.
        "authorization_endpoint": endpoints.authorization,
        "redirection_endpoint": endpoints.redirection,
        "token_endpoint": endpoints.token,
        "nonce_endpoint": endpoints.nonce,
        "registration_endpoint": endpoints.registration,
        "revocation_endpoint": endpoints.revocation,
        "jwks_uri": endpoints.jwks,
        "scopes_supported": list(server.scopes),
        "response_types_supported": ["token"],
        "grant_types_supported": list(offered_grants(server)),
        "token_endpoint_auth_methods_supported": ["private_key_jwt"],
        "token_endpoint_auth_signing_alg_values_supported": ["ES256"],
        "revocation_endpoint_auth_methods_supported": ["private_key_jwt"],
        "revocation_endpoint_auth_signing_alg_values_supported": ["ES256"],
        "code_challenge_methods_supported": ["S256"],
        "dpop_signing_alg_values_supported": ["ES256"],
        "api_versions_supported": [
            {"major_version": major, "version": version, "status": "stable"} for major, version in API_VERSIONS
        ],
    }
    if server.service_documentation is not None:
        document["service_documentation"] = server.service_documentation
    return document


def check_issuer(config: GuardConfig) -> None:
    """Raise ConfigurationError unless issuer and registration endpoint share their host.

    The SDK files a registration under the one and looks it up under the other: with two hosts no client ever gets a token.
    """
    issuer, public = urlsplit(config.issuer), urlsplit(config.public_url)
    if issuer.scheme not in ("http", "https") or issuer.hostname != public.hostname:
        raise ConfigurationError(
            "authorization_server.issuer",
            config.issuer,
            f"a URL on the host {public.hostname} of public_url",
            "Clients find their registration only when both hosts are the same; leave the issuer out to use public_url.",
        )
    if issuer.query or issuer.fragment:
        raise ConfigurationError(
            "authorization_server.issuer", config.issuer, "a URL without query and fragment (RFC 8414 §2)"
        )
