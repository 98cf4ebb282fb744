"""Address lists in bundle data: objects keyed by canonical prefix, so that membership is a look-up."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from socket import AF_INET, inet_ntop, inet_pton
from typing import Final

from zeta_guard.errors import JsonValue
from zeta_guard.policy.bundle import BundleError

_SHOWN: Final = 20
_IPV4_LENGTHS: Final = frozenset(str(length) for length in range(33))


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
    """Fast yes for canonical IPv4 networks, of which lists have hundreds of thousands; the full look for everything else."""
    address, slash, length = text.partition("/")
    try:
        raw = inet_pton(AF_INET, address)
    except (OSError, ValueError):
        return canonical_prefix(text) == text
    if not slash or length not in _IPV4_LENGTHS or inet_ntop(AF_INET, raw) != address:
        return canonical_prefix(text) == text
    return int.from_bytes(raw, "big") & (0xFFFFFFFF >> int(length)) == 0


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
