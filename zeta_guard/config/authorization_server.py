"""``authorization_server``: who gets tokens, for how long, signed by what."""

from __future__ import annotations

from pydantic import Field

from zeta_guard.config.base import FilePath, Seconds, Section


class Lifetimes(Section):
    """All lifetimes of the authorization server, in seconds. The policy chooses within the caps."""

    access_token: Seconds = Field(300, description="Access token, when the policy names no lifetime.")
    access_token_cap: Seconds = Field(900, description="Longest access token, whatever the policy says.")
    refresh_token: Seconds = Field(43_200, description="Refresh token and session, when the policy names no lifetime.")
    refresh_token_cap: Seconds = Field(86_400, description="Longest session, whatever the policy says.")
    nonce: int = Field(300, ge=1, le=900, description="How long a nonce may be used, in seconds.")
    pending_client: Seconds = Field(
        300, description="A registration without a successful token request vanishes after it."
    )
    idle_client: Seconds = Field(31_536_000, description="A client without use vanishes after it.")
    refresh_grace: int = Field(
        10, ge=0, le=60, description="A used refresh token gets the same answer again within it."
    )
    attestation_age: Seconds = Field(300, description="Oldest attestation_timestamp of a client statement.")
    metadata_max_age: Seconds = Field(3600, description="max-age of the metadata documents.")
    jwks_max_age: Seconds = Field(
        300, description="max-age of the JWKS; a new key is shown twice that long before use."
    )


class Product(Section):
    """A client product that authenticates with client credentials signed by the SM(C)-B."""

    audiences: tuple[str, ...] = Field(min_length=1, description="Audiences that its tokens may name.")
    scopes: tuple[str, ...] = Field(min_length=1, description="Scopes that it may ask for.")


class AuthorizationServer(Section):
    """The OAuth 2 authorization server."""

    issuer: str | None = Field(None, description="Issuer; default: public_url. Clients keep it for ever.")
    signing_keys: FilePath = Field(
        description="Folder of EC P-256 keys named by not-before: PKCS#8 PEM (.pem) or PKCS#12 (.p12, .pfx)."
    )
    signing_key_password_file: FilePath | None = Field(
        None, description="Password of the PKCS#12 files, in the first line; with it new keys are PKCS#12 too."
    )
    scopes: tuple[str, ...] = Field(min_length=1, description="scopes_supported of the metadata.")
    audiences: tuple[str, ...] = Field(
        (), description="Further audiences beside gateway.resource and those of the routes."
    )
    lifetimes: Lifetimes = Field(Lifetimes())
    products: dict[str, Product] = Field(
        default_factory=dict,
        description="Products for grant client_credentials; none: the grant is off and not advertised.",
    )
    dpop_key_max_age: Seconds | None = Field(
        None, description="Oldest DPoP key of client_credentials; default: no limit."
    )
    clients_per_institution: int = Field(256, ge=1, le=100_000, description="More: the least recently used one goes.")
    clients_of: dict[str, int] = Field(default_factory=dict, description="Other limits by Telematik-ID.")
    new_bindings_per_hour: int = Field(64, ge=1, description="New clients per Telematik-ID and hour.")
    pending_clients: int = Field(100_000, ge=1, description="Most pending registrations in total.")
    service_documentation: str | None = Field(None, description="URL shown in the metadata.")
    show_reasons: bool = Field(True, description="Tell the client the reasons of a policy denial.")
