"""``Forwarded`` (RFC 7239) and ``X-Forwarded-For`` as lists of hops."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address

_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PAIR = re.compile(rf'({_NAME})=(?:({_NAME})|"((?:[^"\\]|\\.)*)")')
_SEPARATOR = re.compile(r"[ \t;,]+")
_NODE = re.compile(r"(?:([0-9.]+)|\[([^\]]*)\])(?::(?:[0-9]{1,5}|_[A-Za-z0-9._-]+))?")
_UNESCAPE = re.compile(r"\\(.)")

MOST_HOPS = 64
"""More elements than any real chain has; a longer list is treated as unreadable."""

CACHED_LINE_LENGTH = 256
"""Longer lines are read each time, so that a caller cannot fill the cache with megabytes."""


@dataclass(frozen=True, slots=True)
class Hop:
    """One element: who connected to the proxy that wrote it (None: no address), and by which scheme (None: not said)."""

    address: IPv4Address | IPv6Address | None
    scheme: str | None = None


def canonical_address(text: str) -> IPv4Address | IPv6Address | None:
    """An address without port and brackets in its canonical form, or None.

    IPv4-mapped IPv6 becomes IPv4, a zone is cut off.
    """
    try:
        if ":" not in text:
            return IPv4Address(text)
        address = IPv6Address(text.partition("%")[0])
    except AddressValueError:
        return None
    return address.ipv4_mapped or address


def node_address(node: str) -> IPv4Address | IPv6Address | None:
    """Address of a node (RFC 7239 §6): ``192.0.2.1``, ``192.0.2.1:80``, ``[2001:db8::1]:80``; anything else is None."""
    match = _NODE.fullmatch(node)
    if match is None:
        return None
    if match[1] is not None:
        return canonical_address(match[1])
    return canonical_address(match[2]) if ":" in match[2] else None


def parse_forwarded(line: str) -> tuple[Hop, ...] | None:
    """Elements of one ``Forwarded`` line, leftmost first; None when the line is not RFC 7239.

    ``unknown``, obfuscated (``_hidden``) and missing ``for`` make a hop without address. A parameter that occurs twice in one
    element makes the line unreadable (§4).
    """
    if len(line) > CACHED_LINE_LENGTH:
        return _parse_forwarded(line)
    return _cached_forwarded(line)


def _parse_forwarded(line: str) -> tuple[Hop, ...] | None:
    hops: list[Hop] = []
    position, end = 0, len(line)
    parameters: dict[str, str] = {}
    while True:
        separator = _SEPARATOR.match(line, position)
        if separator is not None:
            position = separator.end()
        if position == end or (separator is not None and "," in separator[0]):
            # Empty elements and pairs are legal in a list (RFC 9110 §5.6.1.2) and mean nothing.
            if parameters:
                hops.append(Hop(node_address(parameters.get("for", "")), _scheme(parameters.get("proto"))))
                parameters = {}
            if position == end:
                return tuple(hops)
        elif parameters and (separator is None or ";" not in separator[0]):
            return None
        match = _PAIR.match(line, position)
        if match is None or len(hops) >= MOST_HOPS:
            return None
        name = match[1].lower()
        if name in parameters:
            return None
        parameters[name] = match[2] if match[3] is None else _UNESCAPE.sub(r"\1", match[3])
        position = match.end()


# A proxy writes the same line for all requests of a client.
_cached_forwarded = lru_cache(maxsize=4096)(_parse_forwarded)


def parse_forwarded_for(lines: list[str], schemes: list[str]) -> tuple[Hop, ...] | None:
    """Elements of all ``X-Forwarded-For`` lines, leftmost first, with the scheme of the same position.

    ``schemes`` are the lines of ``X-Forwarded-Proto``. A single value there speaks for all hops (most proxies overwrite it);
    a list of another length than the addresses says nothing.
    """
    nodes = [node.strip() for line in lines for node in line.split(",")]
    if len(nodes) > MOST_HOPS:
        return None
    protos = [proto.strip() for line in schemes for proto in line.split(",")]
    if len(protos) == 1:
        protos *= len(nodes)
    if len(protos) != len(nodes):
        return tuple(Hop(_listed_address(node)) for node in nodes)
    return tuple(Hop(_listed_address(node), _scheme(proto)) for node, proto in zip(nodes, protos, strict=True))


def _listed_address(node: str) -> IPv4Address | IPv6Address | None:
    return node_address(node) or canonical_address(node)


def _scheme(text: str | None) -> str | None:
    lowered = (text or "").lower()
    return lowered if lowered in ("http", "https") else None
