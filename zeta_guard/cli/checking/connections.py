"""``check --connect``: whether everything that the configuration points at can be reached from here."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from zeta_guard.cli.checking.finding import Connection
from zeta_guard.config.policy import OpaServer
from zeta_guard.config.store import RedisStore as RedisStoreConfig
from zeta_guard.errors import GuardError

if TYPE_CHECKING:
    from pathlib import Path

    from zeta_guard.config.gateway import Upstream
    from zeta_guard.config.guard import GuardConfig
    from zeta_guard.http.outbound import Outbound

Attempt = Callable[[], Awaitable[object]]

SECONDS: Final = 5.0
"""Longest attempt."""


async def try_connections(config: GuardConfig) -> list[Connection]:
    """All attempts at once, in the order of the configuration. Bundles and trust lists are fetched by the rooms' own check."""
    from zeta_guard.http.outbound import Outbound

    outbound = Outbound(config.outbound)
    attempts = [
        *_store(config),
        *_policy(config, outbound),
        *_ocsp(config),
        *_issuers(config, outbound),
        *_upstreams(config),
        *_collectors(config),
    ]
    try:
        return list(await asyncio.gather(*(_try(name, attempt) for name, attempt in attempts)))
    finally:
        await outbound.close()


async def _try(name: str, attempt: Attempt) -> Connection:
    try:
        async with asyncio.timeout(SECONDS):
            await attempt()
    except TimeoutError:
        return Connection(name, False, f"no answer within {SECONDS:.0f} s")
    except GuardError as error:
        return Connection(name, False, str(error))
    except ssl.SSLCertVerificationError as error:
        return Connection(name, False, f"TLS: {error.verify_message}")
    except ssl.SSLError as error:
        return Connection(name, False, f"TLS: {error.reason or 'handshake failed'}")
    except OSError as error:
        return Connection(name, False, error.strerror or type(error).__name__)
    return Connection(name, True)


def _store(config: GuardConfig) -> Iterator[tuple[str, Attempt]]:
    settings = config.store
    if not isinstance(settings, RedisStoreConfig):
        return

    async def attempt() -> None:
        from zeta_guard.jose.sealing import Secrets
        from zeta_guard.store import open_store

        store = open_store(settings, secrets=Secrets.load(config.secret_files), clock=time.time)
        try:
            await store.start()
            await store.ping()
        finally:
            await store.close()

    yield "store", attempt


def _policy(config: GuardConfig, outbound: Outbound) -> Iterator[tuple[str, Attempt]]:
    for name in ("token", "request", "shadow"):
        engine = getattr(config.policy, name)
        if isinstance(engine, OpaServer):
            yield f"policy.{name}", _get(outbound, f"{engine.url.rstrip('/')}/health?bundles", engine.ca_file)


def _ocsp(config: GuardConfig) -> Iterator[tuple[str, Attempt]]:
    if config.trust.ocsp.mode == "ignore":
        return
    for host in config.trust.ocsp.hosts:
        parts = urlsplit(f"http://{host}")
        yield f"trust.ocsp {host}", _open(parts.hostname or "", parts.port or 80)


def _issuers(config: GuardConfig, outbound: Outbound) -> Iterator[tuple[str, Attempt]]:
    for issuer in config.gateway.issuers:
        yield f"keys of {issuer.issuer}", _get(outbound, issuer.jwks_uri, issuer.ca_file)
    for popp in config.gateway.popp_issuers:
        url = f"{(popp.base_url or popp.issuer).rstrip('/')}/.well-known/openid-federation"
        yield f"PoPP keys of {popp.issuer}", _get(outbound, url, popp.ca_file)


def _upstreams(config: GuardConfig) -> Iterator[tuple[str, Attempt]]:
    seen: set[str] = set()
    for index, route in enumerate(config.gateway.routes):
        for number, upstream in enumerate(route.upstreams):
            if upstream.url not in seen:
                seen.add(upstream.url)
                yield (
                    f"{route.prefix} → {upstream.url}",
                    _upstream(upstream, f"gateway.routes[{index}].upstreams[{number}]"),
                )


def _upstream(upstream: Upstream, where: str) -> Attempt:
    from zeta_guard.gateway.upstream_pool import client_context

    parts = urlsplit(upstream.url)
    host = parts.hostname or ""
    if parts.scheme == "http":
        return _open(host, parts.port or 80)

    async def attempt() -> None:
        name = upstream.server_name or host
        await _open(host, parts.port or 443, client_context(upstream, where), name)()

    return attempt


def _collectors(config: GuardConfig) -> Iterator[tuple[str, Attempt]]:
    urls = {"telemetry.traces": config.telemetry.traces.otlp_url, "policy.log": config.policy.log.url}
    for name, url in urls.items():
        if url is not None:
            parts = urlsplit(url)
            yield name, _open(parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))


def _get(outbound: Outbound, url: str, ca_file: Path | None) -> Attempt:
    async def attempt() -> None:
        (await outbound.get(url, ca_file=ca_file, timeout=SECONDS)).expect(200)

    return attempt


def _open(host: str, port: int, tls: ssl.SSLContext | None = None, server_name: str | None = None) -> Attempt:
    async def attempt() -> None:
        _, writer = await asyncio.open_connection(host, port, ssl=tls, server_hostname=server_name)
        writer.transport.abort()

    return attempt
