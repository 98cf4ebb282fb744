"""Whose request it is: the client address from exactly one source (``security`` section 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Literal

from multidict import CIMultiDictProxy, MultiMapping

from zeta_guard.errors import ConfigurationError
from zeta_guard.http.forwarded import Hop, canonical_address, parse_forwarded, parse_forwarded_for

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network
Source = Literal["peer", "forwarded", "x-forwarded-for"]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request came from. ``client`` is None when nobody trustworthy says; ``scheme`` is None when not said."""

    client: IPAddress | None
    scheme: str | None


@lru_cache(maxsize=4096)
def parse_address(text: str) -> IPAddress | None:
    """A bare address (peer of a socket, claim of a token) in canonical form: no zone, no port, IPv4-mapped as IPv4."""
    return canonical_address(text)


def parse_network(text: str, where: str) -> IPNetwork:
    """A network or single address of the configuration; ``where`` is its path there. Raises ConfigurationError."""
    try:
        network = ip_network(text)
    except ValueError:
        raise ConfigurationError(where, repr(text), "an address or a network such as 10.0.0.0/8") from None
    if isinstance(network, IPv6Network):
        mapped = network.network_address.ipv4_mapped
        if mapped is not None and network.prefixlen >= 96:
            return IPv4Network((mapped, network.prefixlen - 96))
    return network


class TrustedProxies:
    """The proxies whose forwarding header is read."""

    def __init__(self, networks: Sequence[str], where: str = "gateway.trusted_proxies") -> None:
        self._networks = tuple(parse_network(text, f"{where}[{index}]") for index, text in enumerate(networks))
        self._known = lru_cache(maxsize=4096)(self._contains)

    def __contains__(self, address: IPAddress) -> bool:
        return bool(self._networks) and self._known(address)

    def _contains(self, address: IPAddress) -> bool:
        return any(address.version == network.version and address in network for network in self._networks)


class OriginReader:
    """Reads the configured source and no other."""

    def __init__(self, source: Source, proxies: TrustedProxies) -> None:
        self._source = source
        self._proxies = proxies

    def is_trusted(self, peer: IPAddress | None) -> bool:
        """Whether ``peer`` is a configured proxy."""
        return peer is not None and peer in self._proxies

    def read(self, peer: IPAddress | None, headers: MultiMapping[str] | CIMultiDictProxy[str]) -> Origin:
        """Walk from the right past trusted proxies; address and scheme come from the element where the walk ends.

        A peer that is no trusted proxy is itself the client, whatever its headers say. The address is unknown (None) when a
        trusted proxy says nothing, when the element holds no address, and when the header cannot be read. When all
        elements are trusted proxies, the leftmost one is the client.
        """
        if self._source == "peer" or peer is None or peer not in self._proxies:
            return Origin(peer, None)
        last: Hop | None = None
        for hop in self._from_the_right(headers):
            if hop is None or hop.address is None:
                return Origin(None, hop.scheme if hop else None)
            last = hop
            if hop.address not in self._proxies:
                break
        return Origin(last.address, last.scheme) if last else Origin(None, None)

    def _from_the_right(self, headers: MultiMapping[str] | CIMultiDictProxy[str]) -> Sequence[Hop | None]:
        if self._source == "x-forwarded-for":
            lines = headers.getall("X-Forwarded-For", [])
            hops = parse_forwarded_for(list(lines), list(headers.getall("X-Forwarded-Proto", [])))
            return (None,) if hops is None else hops[::-1]
        walk: list[Hop | None] = []
        # Line by line, so that an open quote in a line of the client cannot swallow the line of the proxy.
        for line in reversed(headers.getall("Forwarded", [])):
            parsed = parse_forwarded(line)
            if parsed is None:
                walk.append(None)
                break
            walk.extend(reversed(parsed))
        return walk


@lru_cache(maxsize=1024)
def _prefixes(address: IPAddress) -> tuple[str, ...]:
    value = int(address)
    bits = address.max_prefixlen
    kind = type(address)
    return tuple(f"{kind(value >> (bits - length) << (bits - length))}/{length}" for length in range(bits, -1, -1))


def ip_prefixes(address: IPAddress) -> list[str]:
    """All networks that contain ``address``, canonical, longest first: 33 for IPv4, 129 for IPv6."""
    return list(_prefixes(address))
