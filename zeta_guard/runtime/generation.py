"""One generation of the guard: everything that is made from one configuration and replaced as a whole by a reload.

The store, the listening sockets and the metrics of the listener outlive generations; open WebSockets stay with the
generation that authorised them until they end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from prometheus_client import CollectorRegistry

from zeta_guard.errors import ConfigurationError, GuardError
from zeta_guard.http.address import TrustedProxies
from zeta_guard.http.outbound import Outbound
from zeta_guard.http.read_facts import FactsReader
from zeta_guard.jose.sealing import Pseudonymizer, Secrets
from zeta_guard.policy.service import PolicyService
from zeta_guard.telemetry.audit import Audit
from zeta_guard.telemetry.security_events import SecurityEvents
from zeta_guard.telemetry.tracing import Tracing
from zeta_guard.tokens.key_sets import KeySet, LocalKeySet, RemoteKeySet
from zeta_guard.tokens.verifier import AccessTokenVerifier

if TYPE_CHECKING:
    from zeta_guard.authorization_server.app import AuthorizationServer
    from zeta_guard.authorization_server.signing_keys import SigningKeys
    from zeta_guard.config.guard import GuardConfig
    from zeta_guard.gateway.app import Gateway
    from zeta_guard.store.contract import Store
    from zeta_guard.trust.service import TrustService

Role = Literal["all", "gateway", "authorization-server"]


class Generation:
    """The rooms, wired. ``start`` raises ConfigurationError or ZetaError and leaves nothing running."""

    def __init__(
        self,
        config: GuardConfig,
        *,
        role: Role,
        store: Store,
        secrets: Secrets,
        audit: Audit,
        tracing: Tracing,
        clock: Callable[[], float],
    ) -> None:
        self.config = config
        self.running = 0
        """Requests that are answered with it now (:class:`zeta_guard.runtime.dispatch.Dispatcher` counts)."""
        self.role = role
        self.registry = CollectorRegistry()
        self.reader = FactsReader(config)
        self._clock = clock
        self._store = store
        self._outbound = Outbound(config.outbound)
        self.events = SecurityEvents(self.registry)
        self.proxies = TrustedProxies(config.gateway.trusted_proxies)
        self.policy = PolicyService(
            config.policy,
            outbound=self._outbound,
            clock=clock,
            registry=self.registry,
            pseudonym=Pseudonymizer(secrets).pseudonym,
            events=self.events,
        )
        self.trust: TrustService | None = None
        self.signing_keys: SigningKeys | None = None
        self.authorization_server: AuthorizationServer | None = None
        self.gateway: Gateway | None = None
        self._remote_key_sets: list[RemoteKeySet] = []
        self._tasks: list[asyncio.Task[None]] = []
        if role != "gateway":
            self._wire_authorization_server(secrets, audit, tracing)
        if role != "authorization-server":
            self._wire_gateway(secrets, tracing)

    def _wire_authorization_server(self, secrets: Secrets, audit: Audit, tracing: Tracing) -> None:
        from zeta_guard.authorization_server.app import AuthorizationServer
        from zeta_guard.authorization_server.signing_keys import SigningKeys
        from zeta_guard.trust.service import TrustService

        config = self.config
        self.trust = TrustService(
            config.trust, self._store, self._outbound, self._clock, self.registry, events=self.events
        )
        server = config.authorization_server
        self.signing_keys = SigningKeys(
            server.signing_keys, server.lifetimes, password_file=server.signing_key_password_file
        )
        self.authorization_server = AuthorizationServer(
            config,
            store=self._store,
            trust=self.trust,
            policy=self.policy.token,
            secrets=secrets,
            signing_keys=self.signing_keys,
            events=self.events,
            audit=audit,
            clock=self._clock,
            registry=self.registry,
            tracing=tracing,
        )

    def _wire_gateway(self, secrets: Secrets, tracing: Tracing) -> None:
        from zeta_guard.gateway.app import Gateway

        config = self.config
        key_sets: dict[str, KeySet] = {}
        for issuer in config.gateway.issuers:
            remote = RemoteKeySet(issuer.issuer, issuer.jwks_uri, self._outbound, ca_file=issuer.ca_file)
            self._remote_key_sets.append(remote)
            key_sets[issuer.issuer] = remote
        if self.signing_keys is not None and config.issuer not in key_sets:
            keys = self.signing_keys
            key_sets[config.issuer] = LocalKeySet(config.issuer, lambda: keys.public(self._clock()))
        if not key_sets:
            raise ConfigurationError(
                "gateway.issuers",
                "no issuer",
                "at least one trusted issuer when the role is 'gateway'",
                "Name the issuer and jwks_uri of the authorization server.",
            )
        verifier = AccessTokenVerifier(
            key_sets,
            max_bytes=config.limits.jwt,
            extra_types={issuer.issuer: issuer.unsafe_token_types for issuer in config.gateway.issuers},
        )
        self.gateway = Gateway(
            config,
            replay=self._store,
            verifier=verifier,
            key_sets=key_sets,
            policy=self.policy.request,
            outbound=self._outbound,
            events=self.events,
            tracing=tracing,
            clock=self._clock,
            registry=self.registry,
            pseudonymizer=Pseudonymizer(secrets) if self.role == "all" else None,
        )

    async def start(self) -> None:
        """Load what is needed to answer the first request."""
        try:
            await self.policy.start()
            if self.trust is not None:
                await self.trust.start()
            if self.signing_keys is not None:
                self.signing_keys.start(self._clock())
            if self.authorization_server is not None:
                await self.authorization_server.start()
            if self.gateway is not None:
                await self.gateway.start()
            loop = asyncio.get_running_loop()
            self._tasks = [loop.create_task(keys.keep_fresh(self._clock)) for keys in self._remote_key_sets]
        except GuardError:
            await self.close()
            raise

    async def readiness(self) -> dict[str, str | None]:
        """One line per dependency: None when fine, else what is wrong."""
        lines: dict[str, str | None] = {"policy": await self.policy.readiness()}
        if self.trust is not None:
            lines["trust"] = await self.trust.readiness()
        if self.gateway is not None:
            lines.update(self.gateway.readiness())
        return lines

    async def close(self) -> None:
        """Release everything; requests that still run with this generation must have ended."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for keys in self._remote_key_sets:
            await keys.close()
        if self.gateway is not None:
            await self.gateway.close()
        if self.authorization_server is not None:
            await self.authorization_server.close()
        if self.trust is not None:
            await self.trust.close()
        await self.policy.close()
        await self._outbound.close()
