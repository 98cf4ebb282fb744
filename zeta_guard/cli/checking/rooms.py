"""Every room reads its part of the configuration as it would at start, without serving and without the network."""

from __future__ import annotations

import ssl
import time
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry

from zeta_guard.cli.checking.finding import Findings
from zeta_guard.config.policy import DecisionLog, EmbeddedEngine, Engine
from zeta_guard.config.store import RedisStore as RedisStoreConfig
from zeta_guard.errors import ConfigurationError, ConfigurationErrors, JsonValue, ZetaError

if TYPE_CHECKING:
    from zeta_guard.config.guard import GuardConfig
    from zeta_guard.http.outbound import Outbound
    from zeta_guard.policy.service import PolicyService

REQUEST_QUESTION: Final[dict[str, JsonValue]] = {"request": {"method": "GET", "path": []}}


async def check_rooms(config: GuardConfig, findings: Findings, *, connect: bool) -> None:
    """Fill ``findings``. With ``connect`` also what has to be fetched (bundles, trust list) is read."""
    from zeta_guard.http.outbound import Outbound

    _check_pure(config, findings)
    outbound = Outbound(config.outbound)
    try:
        await _check_policy(config, findings, outbound, connect=connect)
        await _check_trust(config, findings, outbound, connect=connect)
    finally:
        await outbound.close()


def _check_pure(config: GuardConfig, findings: Findings) -> None:
    from zeta_guard.authorization_server.key_folder import read_keys
    from zeta_guard.authorization_server.metadata import check_issuer
    from zeta_guard.authorization_server.pkcs12_key import read_key_password
    from zeta_guard.authorization_server.registration import check_product_ids
    from zeta_guard.gateway.route import build_routes
    from zeta_guard.gateway.upstream_pool import client_context
    from zeta_guard.http.limits import AddressBuckets
    from zeta_guard.http.read_facts import FactsReader
    from zeta_guard.jose.sealing import Secrets
    from zeta_guard.runtime.tls_context import server_context
    from zeta_guard.store.redis_server import parse_address, read_password

    findings.attempt(lambda: Secrets.load(config.secret_files))
    findings.attempt(lambda: check_issuer(config))
    findings.attempt(lambda: check_product_ids(config.authorization_server))
    server = config.authorization_server
    findings.attempt(lambda: read_keys(server.signing_keys, read_key_password(server.signing_key_password_file)))
    findings.attempt(lambda: build_routes(config))
    findings.attempt(lambda: FactsReader(config))
    findings.attempt(lambda: AddressBuckets(config.rate_limits))
    tls = config.tls
    if tls is not None:
        findings.attempt(lambda: server_context(tls))
    for index, route in enumerate(config.gateway.routes):
        for number, upstream in enumerate(route.upstreams):
            if upstream.url.startswith("https:"):
                where = f"gateway.routes[{index}].upstreams[{number}]"
                findings.attempt(lambda upstream=upstream, where=where: client_context(upstream, where))  # type: ignore[misc]
    store = config.store
    if isinstance(store, RedisStoreConfig):
        findings.attempt(lambda: parse_address(store.url))
        findings.attempt(lambda: read_password(store.password_file))
        if store.ca_file is not None:
            findings.attempt(lambda: _read_anchors("store.ca_file", str(store.ca_file)))


def _read_anchors(path: str, file: str) -> None:
    try:
        ssl.create_default_context(cafile=file)
    except (OSError, ssl.SSLError):
        raise ConfigurationError(path, "holds no certificates", "a PEM file with CA certificates") from None


async def _check_policy(config: GuardConfig, findings: Findings, outbound: Outbound, *, connect: bool) -> None:
    from zeta_guard.policy.service import PolicyService

    engines = (config.policy.token, config.policy.request, config.policy.shadow)
    if not connect and any(engine is not None and _is_remote(engine) for engine in engines):
        return
    # Nothing is written by a check: neither the last good bundle nor a decision.
    kept = {
        name: engine.model_copy(update={"state_file": None})
        for name in ("token", "request", "shadow")
        if isinstance(engine := getattr(config.policy, name), EmbeddedEngine)
    }
    policy = config.policy.model_copy(update={**kept, "log": DecisionLog()})
    try:
        service = PolicyService(policy, outbound=outbound, clock=time.time, registry=CollectorRegistry())
        await service.start()
    except ConfigurationError as error:
        findings.add([error])
    except ConfigurationErrors as errors:
        findings.add(errors.errors)
    else:
        await _check_request_question(config, findings, service)
        await service.close()


async def _check_request_question(config: GuardConfig, findings: Findings, service: PolicyService) -> None:
    asking = [index for index, route in enumerate(config.gateway.routes) if route.request_policy]
    if not asking:
        return
    try:
        await service.request.decide("request", REQUEST_QUESTION, now=time.time())
    except ZetaError:
        findings.add(
            ConfigurationError(
                f"gateway.routes[{index}].request_policy",
                "true, but the policy gives no answer to the request question",
                "a bundle with the entry point policies/zeta/request/decision",
                "Name an engine under policy.request, or build the bundle with that rule.",
            )
            for index in asking
        )


def _is_remote(engine: Engine) -> bool:
    return not isinstance(engine, EmbeddedEngine) or "://" in engine.bundle


class _NoCache:
    """A check asks no responder, so there is nothing to remember."""

    async def get_cached(self, key: str, *, now: float) -> bytes | None:
        return None

    async def put_cached(self, key: str, value: bytes, *, ttl: int, now: float) -> None:
        return None


async def _check_trust(config: GuardConfig, findings: Findings, outbound: Outbound, *, connect: bool) -> None:
    from zeta_guard.trust.service import TrustService

    trust = config.trust
    if trust.tsl is not None and trust.tsl.url is not None and not connect:
        return
    if trust.tsl is not None:
        trust = trust.model_copy(update={"tsl": trust.tsl.model_copy(update={"state_file": None})})
    service = TrustService(trust, _NoCache(), outbound, time.time, CollectorRegistry())
    try:
        await service.start()
    except ConfigurationError as error:
        findings.add([error])
    except ConfigurationErrors as errors:
        findings.add(errors.errors)
    finally:
        await service.close()
