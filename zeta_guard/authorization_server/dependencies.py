"""What every grant works with, and the request it works on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from zeta_guard.authorization_server.audience import Audiences
from zeta_guard.authorization_server.endpoint import Endpoints
from zeta_guard.authorization_server.metrics import AuthorizationServerMetrics
from zeta_guard.authorization_server.nonce import NonceMint
from zeta_guard.authorization_server.recent_token import RecentRefreshTokens
from zeta_guard.authorization_server.session import SessionSealer
from zeta_guard.authorization_server.signing_keys import SigningKeys
from zeta_guard.config.guard import GuardConfig
from zeta_guard.errors import ZetaError
from zeta_guard.http.facts import IPAddress, RequestFacts
from zeta_guard.jose.sealing import Pseudonymizer
from zeta_guard.policy.contract import PolicyEngine
from zeta_guard.recent import Recent
from zeta_guard.store.contract import Store
from zeta_guard.telemetry.audit import Audit
from zeta_guard.telemetry.security_events import SecurityEvents
from zeta_guard.trust.contract import Trust


@dataclass(frozen=True, slots=True)
class Dependencies:
    """Configuration, engines, keys. Holds nothing of any request but a hint."""

    config: GuardConfig
    endpoints: Endpoints
    store: Store
    trust: Trust
    policy: PolicyEngine
    signing_keys: SigningKeys
    mint: NonceMint
    pseudonymizer: Pseudonymizer
    sealer: SessionSealer
    audiences: Audiences
    events: SecurityEvents
    audit: Audit
    metrics: AuthorizationServerMetrics
    leaves: Recent[str, bytes]
    """Client → fingerprint of the certificate that it came with last: whose answers to read ahead, never whom to believe."""
    recent: RecentRefreshTokens


class FormRequest(NamedTuple):
    """A request with a form. ``proofs`` are all values of the header DPoP."""

    form: Mapping[str, str]
    proofs: tuple[str, ...]
    facts: RequestFacts
    now: float
    """The one clock reading of this request, Unix seconds."""

    @property
    def client_address(self) -> IPAddress:
        """The client's address. Unknown: ZetaError 400, since a token is bound to it (``security`` section 1)."""
        if self.facts.client_address is None:
            raise ZetaError(
                "invalid_request",
                "the client's address cannot be determined; no token is issued",
                stage="address_unknown",
            )
        return self.facts.client_address
