from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from zeta_guard.errors import ConfigurationError
from zeta_guard.http.address import (
    Origin,
    OriginReader,
    Source,
    TrustedProxies,
    ip_prefixes,
    parse_address,
    parse_network,
)

PROXY = ip_address("10.0.0.1")
STRANGER = ip_address("198.51.100.9")


def _read(source: Source, peer: IPv4Address | IPv6Address | None, *headers: tuple[str, str]) -> Origin:
    reader = OriginReader(source, TrustedProxies(("10.0.0.0/8", "2001:db8:ffff::/48")))
    return reader.read(peer, CIMultiDict(headers))


def test_forwarding_header_of_a_peer_that_is_no_proxy_is_not_read() -> None:
    assert _read("forwarded", STRANGER, ("Forwarded", "for=192.0.2.1")).client == STRANGER
    assert _read("x-forwarded-for", STRANGER, ("X-Forwarded-For", "192.0.2.1")).client == STRANGER


def test_only_the_configured_source_is_read() -> None:
    headers = (("Forwarded", "for=192.0.2.1;proto=https"), ("X-Forwarded-For", "192.0.2.2"), ("X-Real-IP", "192.0.2.3"))
    assert _read("forwarded", PROXY, *headers) == Origin(ip_address("192.0.2.1"), "https")
    assert _read("x-forwarded-for", PROXY, *headers) == Origin(ip_address("192.0.2.2"), None)
    assert _read("peer", PROXY, *headers) == Origin(PROXY, None)


def test_spoofed_elements_left_of_the_client_are_not_believed() -> None:
    origin = _read("forwarded", PROXY, ("Forwarded", "for=6.6.6.6;proto=http, for=192.0.2.1;proto=https, for=10.0.0.7"))
    assert origin == Origin(ip_address("192.0.2.1"), "https")


def test_all_lines_are_one_list_walked_from_the_last_line() -> None:
    origin = _read("forwarded", PROXY, ("Forwarded", "for=6.6.6.6"), ("Forwarded", "for=192.0.2.1"))
    assert origin.client == ip_address("192.0.2.1")
    origin = _read("x-forwarded-for", PROXY, ("X-Forwarded-For", "6.6.6.6, 192.0.2.1"), ("X-Forwarded-For", "10.9.9.9"))
    assert origin.client == ip_address("192.0.2.1")


def test_open_quote_in_a_clients_line_does_not_swallow_the_proxys_line() -> None:
    assert _read("forwarded", PROXY, ("Forwarded", 'for="'), ("Forwarded", "for=192.0.2.1")).client == ip_address(
        "192.0.2.1"
    )


@pytest.mark.parametrize("line", ["for=unknown", "for=_hidden", "proto=https", 'for="', "for=host.example"])
def test_where_the_proxy_names_no_address_the_address_is_unknown(line: str) -> None:
    assert _read("forwarded", PROXY, ("Forwarded", f"for=192.0.2.1, {line}")).client is None


def test_proxy_that_says_nothing_leaves_the_address_unknown() -> None:
    assert _read("forwarded", PROXY).client is None
    assert _read("x-forwarded-for", PROXY).client is None
    assert _read("x-forwarded-for", PROXY, ("X-Forwarded-For", "")).client is None


def test_chain_of_proxies_alone_ends_at_its_leftmost_element() -> None:
    assert _read("forwarded", PROXY, ("Forwarded", "for=10.2.2.2, for=10.1.1.1")).client == ip_address("10.2.2.2")


def test_mapped_ipv4_of_a_proxy_is_the_proxy() -> None:
    assert _read("x-forwarded-for", PROXY, ("X-Forwarded-For", "192.0.2.1, ::ffff:10.0.0.2")).client == ip_address(
        "192.0.2.1"
    )


def test_unknown_peer_has_no_address() -> None:
    assert _read("forwarded", None, ("Forwarded", "for=192.0.2.1")).client is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("", None),
        ("192.0.2.1:80", None),
        ("192.0.2.01", None),
        ("3232235521", None),
        ("localhost", None),
        ("/run/socket", None),
    ],
)
def test_address_has_one_canonical_form(text: str, expected: str | None) -> None:
    address = parse_address(text)
    assert (str(address) if address else None) == expected


def test_network_of_the_configuration_is_checked_with_its_path() -> None:
    assert parse_network("::ffff:10.0.0.0/104", "x") == ip_network("10.0.0.0/8")
    assert parse_network("192.0.2.1", "x") == ip_network("192.0.2.1/32")
    with pytest.raises(ConfigurationError) as caught:
        TrustedProxies(("10.0.0.0/8", "10.0.0.1/8"))
    assert caught.value.path == "gateway.trusted_proxies[1]"


@given(st.ip_addresses())
def test_prefixes_are_all_networks_that_contain_the_address(address: IPv4Address | IPv6Address) -> None:
    prefixes = ip_prefixes(address)
    assert len(prefixes) == (33 if address.version == 4 else 129)
    assert all(address in ip_network(prefix) and str(ip_network(prefix)) == prefix for prefix in prefixes)
    assert len(set(prefixes)) == len(prefixes)


_HOSTS = st.ip_addresses(v=4)


@given(st.lists(_HOSTS, max_size=4), _HOSTS.filter(lambda address: address not in ip_network("10.0.0.0/8")))
def test_no_list_of_spoofed_addresses_moves_the_client(spoofed: list[IPv4Address], client: IPv4Address) -> None:
    chain = [*map(str, spoofed), str(client), "10.5.5.5"]
    assert _read("x-forwarded-for", PROXY, ("X-Forwarded-For", ", ".join(chain))).client == client
    line = ", ".join(f"for={address}" for address in chain)
    assert _read("forwarded", PROXY, ("Forwarded", line)).client == client
