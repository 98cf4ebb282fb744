"""Address lists in bundle data: objects keyed by canonical prefix, so that membership is a look-up."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import Final

from zeta_guard.errors import JsonValue
from zeta_guard.policy.bundle import BundleError

_SHOWN: Final = 20
_IPV4_HOST_BITS: Final = {str(length): (1 << 32 - length) - 1 for length in range(33)}
_IPV6_HOST_BITS: Final = {str(length): (1 << 128 - length) - 1 for length in range(129)}


def canonical_prefix(text: str) -> str | None:
    """``text`` as the engine is asked for it: lower case, host bits zero, IPv4-mapped as IPv4; None when it is no network."""
    try:
        network: IPv4Network | IPv6Network = ip_network(text, strict=False)
    except ValueError:
        return None
    if isinstance(network, IPv6Network):
        mapped = network.network_address.ipv4_mapped
        if mapped is not None and network.prefixlen >= 96:
            network = ip_network(f"{mapped}/{network.prefixlen - 96}", strict=False)
    return str(network)


def _is_canonical(text: str) -> bool:
    """Fast yes for canonical networks, of which lists have hundreds of thousands; the full look for everything else."""
    address, _, length = text.partition("/")
    six = ":" in address
    family, host_bits = (AF_INET6, _IPV6_HOST_BITS.get(length)) if six else (AF_INET, _IPV4_HOST_BITS.get(length))
    # What holds an IPv4 address inside is written in more ways than one.
    if host_bits is not None and not (six and "." in address):
        try:
            raw = inet_pton(family, address)
        except (OSError, ValueError):
            return False
        if inet_ntop(family, raw) == address and int.from_bytes(raw, "big") & host_bits == 0:
            return True
    return canonical_prefix(text) == text


def check_prefix_lists(document: Mapping[str, JsonValue]) -> None:
    """Refuse a key of ``data.addresses.*`` that no look-up will ever find, naming the key that it should be."""
    wrong: list[str] = []
    lists = document.get("addresses")
    if lists is None:
        return
    if not isinstance(lists, dict):
        raise BundleError("data.addresses is no object of lists")
    for name, entries in lists.items():
        if isinstance(entries, list):
            raise BundleError(
                f"data.addresses.{name} is an array, which no rule finds anything in",
                'Write an object: {"192.0.2.0/24": "why", …}.',
            )
        if not isinstance(entries, dict):
            continue
        for key in entries:
            if not _is_canonical(key):
                canonical = canonical_prefix(key)
                wrong.append(
                    f"data.addresses.{name}: {key!r} should be {canonical!r}"
                    if canonical
                    else f"data.addresses.{name}: {key!r} is no network"
                )
    if wrong:
        more = f"\n… and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise BundleError("\n".join(wrong[:_SHOWN]) + more, "Correct the keys; a wrong key would block nobody.")
