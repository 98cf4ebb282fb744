"""Rules between sections: what no single key can know (``surface`` section 4, ``architecture`` section 8)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from zeta_guard.config.base import Section
from zeta_guard.config.explain import shown
from zeta_guard.config.guard import GuardConfig
from zeta_guard.config.unsafe import unsafe_settings
from zeta_guard.errors import ConfigurationError

LONGEST_ACCESS_TOKEN: Final = 86_400
"""Blocks of ended sessions are kept so long: an access token must not outlive them."""

ANY_HOST: Final = frozenset({"0.0.0.0", "::", ""})  # noqa: S104 - compared with, not bound to


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that works and deserves a look: ``text`` says what, ``remedy`` what to do about it."""

    path: str
    text: str
    remedy: str = ""


def mistakes(config: GuardConfig) -> list[ConfigurationError]:
    """Everything that cannot work, although each key alone is valid."""
    return [
        *_ports(config),
        *_issuer(config),
        *_lifetimes(config),
        *_userinfo(config, ""),
        *_proxies(config),
        *_products(config),
        *_repeated(config),
    ]


def notices(config: GuardConfig) -> list[Notice]:
    """What works and deserves a look."""
    found = [
        Notice(path, "an unsafe setting is in force", "Only for laboratories; remove it before real use.")
        for path in unsafe_settings(config)
    ]
    public = urlsplit(config.public_url)
    if public.scheme == "http" and not is_local(public.hostname or ""):
        found.append(
            Notice("public_url", "clients speak to the guard without TLS", "Use an https URL: tokens travel there.")
        )
    knows_client = config.listen.proxy_protocol or config.gateway.client_address != "peer"
    if public.scheme == "https" and config.tls is None and not knows_client:
        found.append(
            Notice(
                "tls",
                "public_url is https, but neither does the guard end TLS nor does it know a proxy that does: all clients "
                "seem to have the proxy's address",
                "Set tls, or gateway.client_address and gateway.trusted_proxies.",
            )
        )
    found += [
        Notice(
            f"gateway.trusted_proxies[{index}]",
            "is everybody: each caller may name its own address, and tokens are bound to nothing",
            "Name the addresses of the proxies only.",
        )
        for index, network in enumerate(config.gateway.trusted_proxies)
        if network.endswith("/0")
    ]
    known = set(audiences(config))
    for index, issuer in enumerate(config.gateway.issuers):
        for audience in issuer.audiences:
            if audience not in known:
                found.append(
                    Notice(f"gateway.issuers[{index}].audiences", f"{audience!r} is the audience of no route", "")
                )
    if not config.gateway.routes:
        found.append(Notice("gateway.routes", "empty: nothing is protected", "Add a route to your service."))
    return found


def audiences(config: GuardConfig) -> tuple[str, ...]:
    """All audiences that tokens of this guard may name."""
    routes = (route.audience for route in config.gateway.routes if route.audience is not None)
    return (config.resource, *routes, *config.authorization_server.audiences)


def is_local(host: str) -> bool:
    """The host is this machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _ports(config: GuardConfig) -> Iterator[ConfigurationError]:
    hosts = {config.listen.host, config.ops.host}
    if config.listen.port and config.listen.port == config.ops.port and (len(hosts) == 1 or hosts & ANY_HOST):
        yield ConfigurationError(
            "ops.port",
            f"{config.ops.port}, which is the public port too",
            "a port of its own",
            "The ops port must never be reachable from where clients are; the default is 9090.",
        )


def _issuer(config: GuardConfig) -> Iterator[ConfigurationError]:
    issuer, public = urlsplit(config.issuer), urlsplit(config.public_url)
    if issuer.scheme not in ("http", "https") or issuer.hostname != public.hostname:
        yield ConfigurationError(
            "authorization_server.issuer",
            shown("issuer", config.issuer),
            f"a URL on the host {public.hostname} of public_url",
            "Clients find their registration only when both hosts are the same; leave the issuer out to use public_url.",
        )


def _lifetimes(config: GuardConfig) -> Iterator[ConfigurationError]:
    lifetimes = config.authorization_server.lifetimes
    where = "authorization_server.lifetimes"
    for name in ("access_token", "refresh_token"):
        value, cap = getattr(lifetimes, name), getattr(lifetimes, f"{name}_cap")
        if value > cap:
            yield ConfigurationError(
                f"{where}.{name}",
                f"{value}, above {name}_cap ({cap})",
                f"at most {cap}",
                f"Raise {name}_cap or lower it.",
            )
    if lifetimes.access_token_cap > LONGEST_ACCESS_TOKEN:
        yield ConfigurationError(
            f"{where}.access_token_cap",
            str(lifetimes.access_token_cap),
            f"at most {LONGEST_ACCESS_TOKEN} (a day)",
            "Access tokens are meant to live for minutes: refresh tokens carry a session.",
        )


def _userinfo(section: object, path: str) -> Iterator[ConfigurationError]:
    """Users and passwords in URLs: they end up in logs and in the effective configuration."""
    if isinstance(section, Section):
        for name in type(section).model_fields:
            yield from _userinfo(getattr(section, name), f"{path}.{name}" if path else name)
    elif isinstance(section, tuple):
        for index, inner in enumerate(section):
            yield from _userinfo(inner, f"{path}[{index}]")
    elif isinstance(section, str) and "://" in section and path != "outbound.proxy":
        authority = section.partition("://")[2].split("/", 1)[0]
        if "@" in authority:
            yield ConfigurationError(
                path,
                shown(path, section),
                "a URL without user and password",
                "Secrets come from files: use the setting that ends in '_file'.",
            )


def _proxies(config: GuardConfig) -> Iterator[ConfigurationError]:
    gateway = config.gateway
    if gateway.client_address != "peer" and not gateway.trusted_proxies:
        yield ConfigurationError(
            "gateway.trusted_proxies",
            f"empty, while gateway.client_address is {gateway.client_address}",
            "the addresses or networks of the proxies that set this header",
            "Without them the header is never read; add them, or set client_address: peer.",
        )
    if config.listen.proxy_protocol and not gateway.trusted_proxies:
        yield ConfigurationError(
            "gateway.trusted_proxies",
            "empty, while listen.proxy_protocol is on",
            "the addresses or networks of the balancers that send the PROXY header",
            "Connections from anybody else are closed; add them, or turn listen.proxy_protocol off.",
        )
    if config.listen.proxy_protocol and gateway.client_address != "peer":
        yield ConfigurationError(
            "gateway.client_address",
            f"{gateway.client_address}, while listen.proxy_protocol names the client too",
            "peer",
            "The client's address has one source: the PROXY header makes the peer, so set client_address: peer.",
        )


def _products(config: GuardConfig) -> Iterator[ConfigurationError]:
    known = set(audiences(config))
    for name, product in config.authorization_server.products.items():
        where = f"authorization_server.products.{name}"
        for audience in product.audiences:
            if audience not in known:
                yield ConfigurationError(
                    f"{where}.audiences",
                    shown("", audience),
                    f"one of {', '.join(sorted(known))}",
                    "Correct it, or add it to authorization_server.audiences.",
                )
        for scope in product.scopes:
            if scope not in config.authorization_server.scopes:
                yield ConfigurationError(
                    f"{where}.scopes",
                    shown("", scope),
                    f"one of {', '.join(config.authorization_server.scopes)}",
                    "Correct it, or add it to authorization_server.scopes.",
                )


def _repeated(config: GuardConfig) -> Iterator[ConfigurationError]:
    gateway = config.gateway
    yield from _twice("gateway.issuers", "issuer", (issuer.issuer for issuer in gateway.issuers))
    yield from _twice("gateway.popp_issuers", "issuer", (issuer.issuer for issuer in gateway.popp_issuers))


def _twice(path: str, member: str, names: Iterable[str]) -> Iterator[ConfigurationError]:
    seen: set[str] = set()
    for index, name in enumerate(names):
        if name in seen:
            yield ConfigurationError(
                f"{path}[{index}].{member}",
                f"{shown('', name)} for the second time",
                "each one once",
                "Remove one of the two.",
            )
        seen.add(name)
