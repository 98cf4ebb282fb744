"""``gateway``: what is protected, by which rules, and where it goes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from zeta_guard.config.base import Bytes, FilePath, Milliseconds, Seconds, Section


class Issuer(Section):
    """A trusted token issuer. Without any, only the guard's own authorization server is trusted."""

    issuer: str = Field(description="Exact value of 'iss'.")
    jwks_uri: str = Field(description="Where its keys are.", pattern=r"^https?://")
    ca_file: FilePath | None = Field(None, description="Trust anchors for jwks_uri.")
    audiences: tuple[str, ...] = Field((), description="Audiences it may issue for; default: all of the routes.")
    unsafe_token_types: tuple[str, ...] = Field((), description="UNSAFE: further 'typ' values accepted beside at+jwt.")


class PoppIssuer(Section):
    """A PoPP service whose tokens are believed."""

    issuer: str = Field(description="Exact value of 'iss' (URL without path).")
    entity_key_thumbprint: str | None = Field(None, description="RFC 7638 thumbprint of the pinned entity key.")
    unsafe_tls_anchor: bool = Field(False, description="UNSAFE: anchor the entity statement in TLS only.")
    base_url: str | None = Field(
        None, description="Where to fetch when it differs from the issuer.", pattern=r"^https?://"
    )
    jwks_hosts: tuple[str, ...] = Field((), description="Further hosts that signed_jwks_uri may name.")
    ca_file: FilePath | None = Field(None, description="Trust anchors for fetching.")
    refresh: Seconds = Field(300, description="How often the documents are fetched.")
    cooldown: Seconds = Field(10, description="An unknown kid makes at most one fetch in this time.")
    stale: int = Field(
        86_400, ge=1, le=86_400, description="Seconds after 'exp' that a set still serves when the issuer is away."
    )

    @model_validator(mode="after")
    def _anchored(self) -> PoppIssuer:
        if (self.entity_key_thumbprint is None) != self.unsafe_tls_anchor:
            raise ValueError("set entity_key_thumbprint, or unsafe_tls_anchor: true in a laboratory")
        return self


class PoppRule(Section):
    """What a route asks of the PoPP token."""

    max_age: Seconds | Literal["quarter"] = Field(
        "quarter", description="Seconds since 'iat', or the same quarter (German time, 5 min grace)."
    )
    issuers: tuple[str, ...] = Field((), description="Accepted issuers; default: all of popp_issuers.")
    require_key_binding: bool = Field(False, description="The PoPP token must carry cnf.jkt of the client's DPoP key.")
    proof_methods: tuple[str, ...] = Field((), description="Accepted proofMethod values; default: all.")


class Upstream(Section):
    """One server behind the guard."""

    url: str = Field(
        description="http://host:port or https://host:port, without path.", pattern=r"^https?://[^/?#@]+/?$"
    )
    ca_file: FilePath | None = Field(None, description="Trust anchors for https.")
    certificate_file: FilePath | None = Field(None, description="Client certificate (PEM).")
    private_key_file: FilePath | None = Field(None, description="Key of the client certificate (PEM).")
    server_name: str | None = Field(None, description="TLS server name when it differs from the host.")
    max_connections: int = Field(256, ge=1, le=65_535, description="Most connections to this server per process.")


class Timeouts(Section):
    """Times of one forwarded request."""

    connect_ms: Milliseconds = Field(3000, description="Opening a connection.")
    response_ms: Milliseconds = Field(30_000, description="From the complete request to the head of the answer.")
    idle_ms: Milliseconds = Field(60_000, description="Longest silence while a body flows.")


class Health(Section):
    """Active health checks of the upstreams; without this section only failures of real requests count."""

    path: str = Field("/health", pattern=r"^/", description="Path that must answer 2xx.")
    interval: Seconds = Field(10, description="Time between two checks.")
    unhealthy_after: int = Field(3, ge=1, description="Failures in a row that take a server out.")


class WebSocketRule(Section):
    """WebSockets on a route."""

    enabled: bool = Field(False, description="Accept upgrades.")
    end_with_token: bool = Field(
        True, description="Close with 1008 after the access token expired (see the contract 7.4)."
    )
    max_life: Seconds | None = Field(None, description="Longest life of a socket.")
    max_sockets: int = Field(2000, ge=1, description="Most open sockets per process.")
    idle: Seconds = Field(300, description="Longest silence in both directions (pings count).")


class Route(Section):
    """One protected path."""

    prefix: str = Field(pattern=r"^/", description="Path prefix; ends at a segment. The longest one wins.")
    upstreams: tuple[Upstream, ...] = Field(min_length=1, description="Servers behind this route.")
    methods: tuple[str, ...] = Field(("GET", "HEAD"), min_length=1, description="Allowed methods.")
    audience: str | None = Field(None, description="Audience the token must name; default: gateway.resource.")
    scopes: tuple[str, ...] = Field((), description="Scopes the token must carry, all of them.")
    acr: str | None = Field(None, description="Lowest level of assurance: gematik-ehealth-loa-substantial or -high.")
    public: bool = Field(False, description="No token is asked.")
    popp: PoppRule | None = Field(None, description="A PoPP token is required.")
    bind_address: bool = Field(True, description="The client address must be the one the token was issued to.")
    client_data: bool = Field(False, description="Set the header ZETA-Client-Data.")
    request_policy: bool = Field(False, description="Ask the request policy.")
    host: Literal["preserve", "upstream"] = Field("preserve", description="Host header sent to the upstream.")
    timeouts: Timeouts = Field(Timeouts())
    health: Health | None = Field(None)
    max_body: Bytes | None = Field(None, description="Largest request body; default: unlimited but streamed.")
    websocket: WebSocketRule = Field(WebSocketRule())
    insufficient_scope_status: Literal[401, 403] = Field(
        401, description="Status when audience or scope do not suffice."
    )
    traceparent: bool = Field(True, description="Send a traceparent to the upstream.")


class Gateway(Section):
    """The policy enforcement point."""

    resource: str | None = Field(
        None, description="Member 'resource' of the metadata; default: public_url with a slash."
    )
    host_aliases: tuple[str, ...] = Field((), description="Further authorities accepted in 'Host' (host or host:port).")
    issuers: tuple[Issuer, ...] = Field((), description="Trusted token issuers; default: the own one.")
    zeta_asl_use: Literal["not_supported"] = Field(
        "not_supported", description="The additional security layer comes later."
    )
    client_address: Literal["peer", "forwarded", "x-forwarded-for"] = Field(
        "peer", description="The one source of the client's address."
    )
    trusted_proxies: tuple[str, ...] = Field((), description="Addresses or networks whose forwarding headers are read.")
    popp_issuers: tuple[PoppIssuer, ...] = Field(())
    token_leeway: int = Field(0, ge=0, le=60, description="Seconds that an expired token is still accepted.")
    routes: tuple[Route, ...] = Field(())
