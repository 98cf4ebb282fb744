"""The one client for what the guard fetches itself: trust list, OCSP, key sets, bundles (``security`` section 5)."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from pathlib import Path
from typing import Final, Literal

import aiohttp
from aiohttp import hdrs
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from zeta_guard.config import outbound as outbound_config
from zeta_guard.errors import ConfigurationError, GuardError
from zeta_guard.http.address import IPAddress, parse_address

Reason = Literal["timeout", "refused", "tls", "too_large", "status", "dns", "private_address", "malformed"]

_NAT64: Final = IPv6Network("64:ff9b::/96")
_ACCEPTED_SCHEMES: Final = ("http", "https")

_REMEDIES: Final[Mapping[str, str]] = {
    "timeout": "Check that the server answers in time and that no firewall drops the packets.",
    "refused": "Check host, port and firewall; nothing accepted the connection or it was cut.",
    "tls": "Check the server's certificate against ca_file.",
    "too_large": "The answer is larger than this document may be.",
    "status": "The server answered, but not with success; look into its log.",
    "dns": "Check the host name and the resolver.",
    "private_address": "The host is on a private or loopback address; allow that in the configuration if it is meant so.",
    "malformed": "The server did not answer with valid HTTP, or the URL is none.",
}


class OutboundError(GuardError):
    """A fetch that failed. ``reason`` is stable; ``status`` is set with reason ``status``."""

    def __init__(self, reason: Reason, host: str, *, status: int | None = None) -> None:
        super().__init__(f"{host}: {reason}" + (f" {status}" if status is not None else ""))
        self.reason: Final = reason
        self.host: Final = host
        self.status: Final = status
        self.remedy = _REMEDIES[reason]


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer of any status. ``headers`` has lower-case names; of repeated ones the last."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    etag: str | None
    host: str = ""

    def expect(self, *statuses: int) -> Answer:
        """This answer, if its status is one of ``statuses`` (default 200); otherwise :class:`OutboundError` ``status``."""
        if self.status not in (statuses or (200,)):
            raise OutboundError("status", self.host, status=self.status)
        return self


def is_public(address: IPAddress) -> bool:
    """Whether an address is a global unicast one, also behind IPv4-mapped, 6to4 and NAT64 forms."""
    if isinstance(address, IPv6Address):
        embedded: IPv4Address | None = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            embedded = IPv4Address(int(address) & 0xFFFFFFFF)
        if embedded is not None:
            return is_public(embedded)
    return address.is_global and not address.is_multicast


class _PrivateAddress(OSError):
    pass


class _PublicResolver(AbstractResolver):
    """Resolves and hands on public addresses only: what is checked is what is connected to."""

    def __init__(self, resolver: AbstractResolver) -> None:
        self._resolver = resolver

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        answers = await self._resolver.resolve(host, port, family)
        for answer in answers:
            address = parse_address(answer["host"])
            if address is None or not is_public(address):
                raise _PrivateAddress(host)
        return answers

    async def close(self) -> None:
        await self._resolver.close()


ResolverFactory = Callable[[], AbstractResolver]


class Outbound:
    """HTTP client without redirects, cookies, environment proxies and content codings; every answer is capped.

    Used from one event loop; sessions are made at the first fetch.
    """

    def __init__(
        self, config: outbound_config.Outbound, *, resolver: ResolverFactory = aiohttp.ThreadedResolver
    ) -> None:
        self._config = config
        self._resolver = resolver
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        self._contexts: dict[Path | None, tuple[float, ssl.SSLContext]] = {}

    async def get(
        self,
        url: str,
        *,
        accept: str = "",
        max_bytes: int = 1 << 20,
        timeout: float | None = None,  # noqa: ASYNC109
        etag: str | None = None,
        ca_file: Path | None = None,
        allow_private: bool = True,
        extra_headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Fetch a document of at most ``max_bytes`` within ``timeout`` seconds (default: ``outbound.timeout_ms``).

        ``etag`` is sent as ``If-None-Match``; the answer may then be 304. Redirects are answers like others, never followed.
        Raises :class:`OutboundError`.
        """
        headers = dict(extra_headers or {})
        if accept:
            headers["Accept"] = accept
        if etag is not None:
            headers["If-None-Match"] = etag
        return await self._fetch("GET", url, None, headers, max_bytes, timeout, ca_file, allow_private)

    async def post(
        self,
        url: str,
        body: bytes,
        *,
        content_type: str,
        accept: str = "",
        max_bytes: int = 1 << 20,
        timeout: float | None = None,  # noqa: ASYNC109
        ca_file: Path | None = None,
        allow_private: bool = True,
        extra_headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send ``body``; everything else as in :meth:`get`."""
        headers = dict(extra_headers or {}) | {"Content-Type": content_type}
        if accept:
            headers["Accept"] = accept
        return await self._fetch("POST", url, body, headers, max_bytes, timeout, ca_file, allow_private)

    async def close(self) -> None:
        """Close all connections. The object can be used again afterwards."""
        sessions = list(self._sessions.values())
        self._sessions.clear()
        for session in sessions:
            await session.close()

    async def _fetch(
        self,
        method: str,
        url: str,
        body: bytes | None,
        headers: dict[str, str],
        max_bytes: int,
        timeout: float | None,  # noqa: ASYNC109
        ca_file: Path | None,
        allow_private: bool,
    ) -> Answer:
        target = _parse(url)
        host = target.host or ""
        headers[hdrs.ACCEPT_ENCODING] = "identity"
        try:
            async with asyncio.timeout(self._config.timeout_ms / 1000 if timeout is None else timeout):
                if not allow_private:
                    await self._refuse_private(host)
                # Only http and https URLs pass; a plain one never looks at the context.
                context = self._context(ca_file) if target.scheme == "https" else True
                async with self._session(allow_private).request(
                    method,
                    target,
                    data=body,
                    headers=headers,
                    allow_redirects=False,
                    proxy=self._config.proxy,
                    ssl=context,
                ) as response:
                    return await self._read(response, host, max_bytes)
        except TimeoutError:
            raise OutboundError("timeout", host) from None
        except aiohttp.ClientConnectorDNSError as error:
            private = isinstance(error.__cause__, _PrivateAddress) or isinstance(error.os_error, _PrivateAddress)
            raise OutboundError("private_address" if private else "dns", host) from None
        except (aiohttp.ClientSSLError, ssl.SSLError):
            raise OutboundError("tls", host) from None
        except (aiohttp.ClientConnectorError, aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            raise OutboundError("refused", host) from None
        except _PrivateAddress:
            raise OutboundError("private_address", host) from None
        except (aiohttp.ClientError, ValueError):
            raise OutboundError("malformed", host) from None
        except OSError:
            raise OutboundError("refused", host) from None

    async def _read(self, response: aiohttp.ClientResponse, host: str, max_bytes: int) -> Answer:
        if response.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
            raise OutboundError("malformed", host)
        if response.content_length is not None and response.content_length > max_bytes:
            response.close()
            raise OutboundError("too_large", host)
        pieces: list[bytes] = []
        size = 0
        async for piece in response.content.iter_any():
            size += len(piece)
            if size > max_bytes:
                response.close()
                raise OutboundError("too_large", host)
            pieces.append(piece)
        found = {name.lower(): value for name, value in response.headers.items()}
        return Answer(response.status, found, b"".join(pieces), found.get("etag"), host)

    async def _refuse_private(self, host: str) -> None:
        literal = parse_address(host)
        if literal is not None:
            if not is_public(literal):
                raise OutboundError("private_address", host)
            return
        if self._config.proxy is not None:
            # The proxy resolves for itself; what this machine can see of the name is still looked at.
            resolver = _PublicResolver(self._resolver())
            try:
                await resolver.resolve(host, 0, socket.AF_UNSPEC)
            except _PrivateAddress:
                raise OutboundError("private_address", host) from None
            except OSError:
                return
            finally:
                await resolver.close()

    def _session(self, allow_private: bool) -> aiohttp.ClientSession:
        # A connection to the proxy is never a connection to the checked address.
        guarded = not allow_private and self._config.proxy is None
        session = self._sessions.get(guarded)
        if session is None:
            resolver = self._resolver()
            connector = aiohttp.TCPConnector(
                resolver=_PublicResolver(resolver) if guarded else resolver,
                use_dns_cache=not guarded,
                ttl_dns_cache=10,
                limit=256,
                limit_per_host=16,
            )
            session = self._sessions[guarded] = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(total=None),
                headers={hdrs.USER_AGENT: "zeta-guard"},
            )
        return session

    def _context(self, ca_file: Path | None) -> ssl.SSLContext:
        path = ca_file or self._config.ca_file
        try:
            changed = path.stat().st_mtime if path else 0.0
            known = self._contexts.get(path)
            if known is not None and known[0] == changed:
                return known[1]
            context = ssl.create_default_context(cafile=path)
        except (OSError, ssl.SSLError):
            raise ConfigurationError(
                str(path), "trust anchors cannot be read", "a PEM file with at least one certificate"
            ) from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._contexts[path] = (changed, context)
        return context


def _parse(url: str) -> URL:
    try:
        target = URL(url, encoded=True)
        host, scheme, user = target.host, target.scheme, target.user
        explicit_port = target.port
    except ValueError:
        raise OutboundError("malformed", "") from None
    if scheme not in _ACCEPTED_SCHEMES or not host or user is not None or not explicit_port:
        raise OutboundError("malformed", host or "")
    return target
