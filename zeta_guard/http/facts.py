"""The facts of one request, read once and used by every check."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from multidict import CIMultiDictProxy

from zeta_guard.http.path import CanonicalPath

IPAddress = IPv4Address | IPv6Address


class RequestFacts(NamedTuple):
    """Everything a check may look at; made by :func:`zeta_guard.http.read_facts.read_facts`.

    ``now`` is the one clock reading of this request. ``url`` is public URL + raw path, without query: what ``htu`` is
    compared with. ``client_address`` is None when it is unknown.
    """

    method: str
    target: str
    path: CanonicalPath
    query: str
    url: str
    peer_address: IPAddress | None
    peer_trusted: bool
    client_address: IPAddress | None
    scheme: str
    headers: CIMultiDictProxy[str]
    request_id: str
    now: float
