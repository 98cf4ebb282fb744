from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeta_guard.http import forwarded as module
from zeta_guard.http.forwarded import Hop, canonical_address, node_address, parse_forwarded, parse_forwarded_for


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("for=192.0.2.43", [("192.0.2.43", None)]),
        ('for="192.0.2.43:80";proto=https', [("192.0.2.43", "https")]),
        ('For="[2001:db8:cafe::17]:4711"', [("2001:db8:cafe::17", None)]),
        ('for="[2001:db8::1]"', [("2001:db8::1", None)]),
        ("for=192.0.2.60;proto=http;by=203.0.113.43", [("192.0.2.60", "http")]),
        ("for=192.0.2.43, for=198.51.100.17;proto=https", [("192.0.2.43", None), ("198.51.100.17", "https")]),
        ('for="_gazonk"', [(None, None)]),
        ("for=unknown", [(None, None)]),
        ('for="unknown:8080"', [(None, None)]),
        ("for=_hidden, for=_SEVKISEK", [(None, None), (None, None)]),
        ("proto=https", [(None, "https")]),
        ("proto=gopher;for=192.0.2.1", [("192.0.2.1", None)]),
        ('for="[::ffff:192.0.2.1]"', [("192.0.2.1", None)]),
        ('for="[fe80::1%25eth0]"', [("fe80::1", None)]),
        ('for="192.0.2.1:_port"', [("192.0.2.1", None)]),
        ('for="192.0.\\2.1"', [("192.0.2.1", None)]),
        ('for=192.0.2.1;host="a, for=6.6.6.6"', [("192.0.2.1", None)]),
        (" for=192.0.2.1 ,\tfor=192.0.2.2 ", [("192.0.2.1", None), ("192.0.2.2", None)]),
        (", for=192.0.2.1,, for=192.0.2.2,", [("192.0.2.1", None), ("192.0.2.2", None)]),
        ("for=192.0.2.1;", [("192.0.2.1", None)]),
    ],
)
def test_forwarded_line_is_read_as_rfc_7239_says(line: str, expected: list[tuple[str | None, str | None]]) -> None:
    parsed = parse_forwarded(line)
    assert parsed is not None
    assert [(str(hop.address) if hop.address else None, hop.scheme) for hop in parsed] == expected


@pytest.mark.parametrize(
    "line",
    [
        "for",
        "for=",
        "=x",
        'for="192.0.2.1',
        'for="a"b',
        "for=a b",
        "for=192.0.2.1;for=192.0.2.2",
        "for=[2001:db8::1]",
        "for=192.0.2.1:80",
        "for = 192.0.2.1",
        "for=192.0.2.1 x",
        "for=192.0.2.1 proto=http",
        'for="192.0.2.1"proto=http',
        'for=", for="[2001:db8::1]"',
        ",".join(["for=192.0.2.1"] * 65),
        "for=\xe4",
    ],
)
def test_line_that_is_not_rfc_7239_is_unreadable(line: str) -> None:
    assert parse_forwarded(line) is None


@pytest.mark.parametrize(
    "node",
    [
        "",
        "1.2.3",
        "1.2.3.4.5",
        "01.2.3.4",
        "1.2.3.4:",
        "1.2.3.4:123456",
        "::1",
        "[1.2.3.4]",
        "[::1",
        "[::g]",
        "a.b",
        "１.2.3.4",
    ],
)
def test_node_that_is_no_address_is_none(node: str) -> None:
    assert node_address(node) is None


@given(st.ip_addresses())
def test_every_address_survives_being_written_as_a_node(address: IPv4Address | IPv6Address) -> None:
    text = str(address) if address.version == 4 else f"[{address}]"
    expected = canonical_address(str(address))
    assert node_address(text) == node_address(f"{text}:443") == expected
    assert parse_forwarded(f'for="{text}"') == (Hop(expected),)


@given(st.text(max_size=80))
def test_any_text_is_hops_or_unreadable(line: str) -> None:
    parsed = parse_forwarded(line)
    assert parsed is None or all(isinstance(hop, Hop) for hop in parsed)


_TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12)


@given(st.ip_addresses(v=4), st.text(max_size=40).filter(lambda text: text.isprintable()))
def test_whatever_a_client_wrote_before_the_proxy_never_changes_the_proxys_own_element(
    address: IPv4Address, prefix: str
) -> None:
    parsed = parse_forwarded(f"{prefix}, for={address}")
    assert parsed is None or parsed[-1].address == address


@given(_TEXT, _TEXT)
def test_quoted_values_end_where_their_quote_ends(host: str, by: str) -> None:
    def quoted(text: str) -> str:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    assert parse_forwarded(f"host={quoted(host)};for=192.0.2.1;by={quoted(by)}") == (Hop(ip_address("192.0.2.1")),)


def test_x_forwarded_for_lines_are_one_list_with_ports_and_brackets_tolerated() -> None:
    hops = parse_forwarded_for(["192.0.2.1, 2001:db8::1", "[2001:db8::2]:80,192.0.2.2:99"], [])
    assert hops is not None
    assert [str(hop.address) for hop in hops] == ["192.0.2.1", "2001:db8::1", "2001:db8::2", "192.0.2.2"]


def test_scheme_of_x_forwarded_proto_belongs_to_the_same_position() -> None:
    assert parse_forwarded_for(["192.0.2.1, 192.0.2.2"], ["http, https"]) == (
        Hop(ip_address("192.0.2.1"), "http"),
        Hop(ip_address("192.0.2.2"), "https"),
    )
    single = parse_forwarded_for(["192.0.2.1, 192.0.2.2"], ["https"])
    assert single is not None
    assert {hop.scheme for hop in single} == {"https"}
    other = parse_forwarded_for(["192.0.2.1, 192.0.2.2, 192.0.2.3"], ["https, http"])
    assert other is not None
    assert {hop.scheme for hop in other} == {None}


def test_x_forwarded_for_with_a_name_in_it_has_a_hop_without_address() -> None:
    assert parse_forwarded_for(["unknown, 192.0.2.1"], []) == (Hop(None), Hop(ip_address("192.0.2.1")))
    assert parse_forwarded_for([",".join(["192.0.2.1"] * 65)], []) is None


def test_long_lines_are_read_but_not_remembered() -> None:
    before = module._cached_forwarded.cache_info().currsize
    hops = parse_forwarded(", ".join(["for=192.0.2.1"] * 64))
    assert hops is not None
    assert len(hops) == 64
    assert module._cached_forwarded.cache_info().currsize == before
