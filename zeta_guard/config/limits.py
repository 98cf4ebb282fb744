"""``limits`` and ``rate_limits``: every maximum in one place (``wire-contract`` section 9)."""

from __future__ import annotations

from pydantic import Field

from zeta_guard.config.base import Bytes, Milliseconds, Seconds, Section


class Limits(Section):
    """Sizes in bytes, times in seconds unless the name says milliseconds."""

    request_line: Bytes = Field(8190, description="Longest request line.")
    request_header: Bytes = Field(32_768, description="Whole request header.")
    header_count: int = Field(100, ge=10, le=1000, description="Most header lines.")
    token_form: Bytes = Field(65_536, description="Body of /token and /revoke.")
    registration: Bytes = Field(65_536, description="Body of /register.")
    jwt: Bytes = Field(16_384, description="One JWT.")
    popp_token: Bytes = Field(8192, description="One PoPP token.")
    skew: int = Field(15, ge=0, le=120, description="How far ahead a client's clock may be.")
    proof_age: int = Field(60, ge=5, le=600, description="Oldest DPoP proof.")
    assertion_life: Seconds = Field(300, description="How far ahead 'exp' of a client assertion may lie.")
    header_timeout_ms: Milliseconds = Field(10_000, description="Time for a complete request header.")
    body_timeout_ms: Milliseconds = Field(30_000, description="Longest silence inside a request body.")
    keepalive: Seconds = Field(75, description="Idle time of a client connection.")
    connections: int = Field(20_000, ge=1, description="Most client connections per process.")


class Rate(Section):
    """A token bucket."""

    per_minute: int = Field(ge=1, description="Refill per minute.")
    burst: int = Field(ge=1, description="Size of the bucket.")


class RateLimits(Section):
    """Buckets per client address (in the process) and per client or institution (in the store)."""

    enabled: bool = Field(True)
    metadata: Rate = Field(Rate(per_minute=600, burst=100))
    nonce: Rate = Field(Rate(per_minute=600, burst=100))
    register_: Rate = Field(Rate(per_minute=60, burst=30), alias="register")
    token: Rate = Field(Rate(per_minute=600, burst=100))
    routes: Rate = Field(Rate(per_minute=60_000, burst=10_000))
    token_per_client: Rate = Field(Rate(per_minute=120, burst=60))
    token_per_institution: Rate = Field(Rate(per_minute=1200, burst=600))
    networks: dict[str, Rate] = Field(
        default_factory=dict, description="Other limits for named networks (CIDR → rate)."
    )
    table: int = Field(100_000, ge=100, description="Most addresses remembered; the least recently seen one goes.")
