"""The whole configuration, as ``serve``, ``check`` and the chart see it (``surface`` section 4)."""

from __future__ import annotations

from pydantic import Field

from zeta_guard.config.authorization_server import AuthorizationServer
from zeta_guard.config.base import FilePath, Section
from zeta_guard.config.gateway import Gateway
from zeta_guard.config.limits import Limits, RateLimits
from zeta_guard.config.listen import Listen, Ops, Tls
from zeta_guard.config.outbound import Outbound
from zeta_guard.config.policy import Policy
from zeta_guard.config.store import MemoryStore, Store
from zeta_guard.config.telemetry import Audit, Telemetry
from zeta_guard.config.trust import Trust


class GuardConfig(Section):
    """One guard."""

    public_url: str = Field(
        description="The one public URL, e.g. https://guard.example.de; never guessed from a request.",
        pattern=r"^https?://[a-z0-9.\-]+(:[0-9]{1,5})?$|^https?://\[[0-9a-f:.]+\](:[0-9]{1,5})?$",
    )
    listen: Listen = Field(Listen())
    ops: Ops = Field(Ops())
    tls: Tls | None = Field(None, description="End TLS here; without it the guard speaks plain HTTP behind an ingress.")
    secret_files: tuple[FilePath, ...] = Field(
        min_length=1, max_length=2, description="[current, previous]: 32 random bytes each, the same on all replicas."
    )
    store: Store = Field(MemoryStore())
    authorization_server: AuthorizationServer
    trust: Trust
    policy: Policy
    gateway: Gateway
    outbound: Outbound = Field(Outbound())
    limits: Limits = Field(Limits())
    rate_limits: RateLimits = Field(RateLimits())
    telemetry: Telemetry = Field(Telemetry())
    audit: Audit = Field(Audit())

    @property
    def issuer(self) -> str:
        """Issuer of the own authorization server."""
        return self.authorization_server.issuer or self.public_url

    @property
    def resource(self) -> str:
        """Member ``resource`` of the protected-resource metadata; what clients send verbatim as ``audience``."""
        return self.gateway.resource or self.public_url + "/"
