"""Reads the facts of one request, once (``architecture`` section 3)."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from zeta_guard.config.guard import GuardConfig
from zeta_guard.errors import ZetaError
from zeta_guard.http.address import OriginReader, TrustedProxies, parse_address
from zeta_guard.http.facts import RequestFacts
from zeta_guard.http.path import canonical_target
from zeta_guard.http.plain_request import PlainRequest

# What the constructor of a named tuple does, without its call of Python code.
_new: Final = tuple.__new__
# What stands before them follows from the head and from who sent it.
_CONSTANT: Final = RequestFacts._fields.index("headers")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def authorities(url: str) -> frozenset[str]:
    """``Host`` values that mean this URL: its authority, and where its port is the default one, both with and without it."""
    parts = urlsplit(url)
    authority = parts.netloc.lower()
    default = _DEFAULT_PORTS.get(parts.scheme, "")
    if default and authority.endswith(default):
        return frozenset((authority, authority.removesuffix(default)))
    if default and parts.port is None:
        return frozenset((authority, authority + default))
    return frozenset((authority,))


class FactsReader:
    """Makes :class:`RequestFacts`. One per process; holds nothing of any request."""

    def __init__(self, config: GuardConfig) -> None:
        gateway = config.gateway
        self._public_url = config.public_url
        hosts = set(authorities(config.public_url)) | set(authorities(config.issuer))
        hosts.update(alias.lower() for alias in gateway.host_aliases)
        self._hosts = frozenset(hosts)
        self._from_peer = gateway.client_address == "peer"
        # Behind a PROXY header the peer is the client: nobody whose headers count, wherever its address lies.
        proxies = () if config.listen.proxy_protocol else gateway.trusted_proxies
        self._proxies = bool(proxies)
        self._origins = OriginReader(gateway.client_address, TrustedProxies(proxies))

    def read(self, request: web.BaseRequest, *, now: float, request_id: str) -> RequestFacts:
        """The facts. ``now`` is the clock reading of this request in Unix seconds.

        Raises :class:`ZetaError`: 400 ``invalid_request`` for a target that is refused and for a missing or repeated ``Host``
        (RFC 9112 §3.2), 421 ``misdirected_request`` for a ``Host`` that is not this guard's.
        """
        headers = request.headers
        hosts = headers.getall("Host", ())
        if len(hosts) != 1 or hosts[0] not in self._hosts:
            self._check_host(hosts)
        target = request.raw_path
        path, query = canonical_target(target)
        remote = request.remote
        peer = parse_address(remote) if remote else None
        scheme = "https" if request.secure else "http"
        trusted = False
        client = peer
        if peer is not None and self._proxies:
            trusted = self._origins.is_trusted(peer)
            if trusted and not self._from_peer:
                origin = self._origins.read(peer, headers)
                client = origin.client
                scheme = origin.scheme or scheme
        url = self._public_url + path.raw
        return _new(
            RequestFacts,
            (request.method, target, path, query, url, peer, trusted, client, scheme, headers, request_id, now),
        )

    def read_plain(self, request: PlainRequest, *, now: float, request_id: str) -> RequestFacts:
        """As :meth:`read`; what was found out about the same request of the same client is not found out again."""
        known = request.known
        if known is None:
            return self.read(request, now=now, request_id=request_id)
        whose = (self, request.remote, request.secure, request.method, request.raw_path)
        if known.facts_of == whose:
            return _new(RequestFacts, (*known.facts, request.headers, request_id, now))
        facts = self.read(request, now=now, request_id=request_id)
        known.facts = facts[:_CONSTANT]
        known.facts_of = whose
        return facts

    def _check_host(self, hosts: list[str] | tuple[()]) -> None:
        if len(hosts) != 1:
            raise ZetaError(
                "invalid_request",
                "The request has no Host header; exactly one is expected."
                if not hosts
                else "The request has several Host headers; exactly one is expected.",
                stage="host",
            )
        if hosts[0] not in self._hosts and hosts[0].lower() not in self._hosts:
            raise ZetaError(
                "misdirected_request",
                f"The Host header names another authority; expected {urlsplit(self._public_url).netloc}.",
                stage="host",
            )
