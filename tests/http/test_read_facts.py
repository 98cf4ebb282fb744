from __future__ import annotations

from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from zeta_guard.config.guard import GuardConfig
from zeta_guard.errors import ConfigurationError, ZetaError
from zeta_guard.http.facts import RequestFacts
from zeta_guard.http.header import raw_header_pairs
from zeta_guard.http.read_facts import FactsReader, authorities

MakeConfig = Callable[..., GuardConfig]
Serve = Callable[[Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]], Awaitable[int]]
Exchange = Callable[[int, bytes], Awaitable[bytes]]

NOW = 1_800_000_000.5


@pytest.fixture
def read(make_config: MakeConfig, serve: Serve, exchange: Exchange) -> Callable[..., Awaitable[Any]]:
    async def run(target: str, *lines: str, host: str | None = "guard.example.de", **gateway: Any) -> Any:
        reader = FactsReader(make_config(**gateway))
        found: list[RequestFacts] = []

        async def handler(request: web.BaseRequest) -> web.StreamResponse:
            found.append(reader.read(request, now=NOW, request_id="r1"))
            return web.Response()

        head = [f"GET {target} HTTP/1.1", *([f"Host: {host}"] if host is not None else []), *lines, "Connection: close"]
        answer = await exchange(await serve(handler), "\r\n".join([*head, "", ""]).encode("latin-1"))
        return found[0] if found else answer

    return run


async def test_facts_hold_the_target_byte_for_byte(read: Callable[..., Awaitable[Any]]) -> None:
    facts = await read("/a%7Cb/c;d//e?x=%2e%2e&y=a|b")
    assert facts.target == "/a%7Cb/c;d//e?x=%2e%2e&y=a|b"
    assert facts.path.raw == "/a%7Cb/c;d//e"
    assert facts.path.segments == ("a|b", "c", "e")
    assert facts.query == "x=%2e%2e&y=a|b"
    assert facts.url == "https://guard.example.de/a%7Cb/c;d//e"
    assert (facts.method, facts.now, facts.request_id) == ("GET", NOW, "r1")
    assert facts.peer_address == facts.client_address == ip_address("127.0.0.1")
    assert facts.scheme == "http"
    assert not facts.peer_trusted


@pytest.mark.parametrize(
    "target", ["/a#b", "/a/../b", "/a/%2e%2e/b", "http://guard.example.de/a", "*", "/a%2fb", "/\xe4", "//x/../y"]
)
async def test_target_that_aiohttp_would_repair_is_refused(target: str, read: Callable[..., Awaitable[Any]]) -> None:
    assert b" 400 " in (await read(target)).splitlines()[0]


@pytest.mark.parametrize("host", ["guard.example.de", "GUARD.example.de", "guard.example.de:443", "alias.example:8443"])
async def test_host_of_the_public_url_or_an_alias_is_accepted(host: str, read: Callable[..., Awaitable[Any]]) -> None:
    facts = await read("/", host=host, host_aliases=("Alias.example:8443",))
    assert facts.url == "https://guard.example.de/"


@pytest.mark.parametrize(
    "host", ["evil.example", "guard.example.de:8443", "guard.example.de.", "a@guard.example.de", ""]
)
async def test_foreign_host_is_misdirected(host: str, read: Callable[..., Awaitable[Any]]) -> None:
    answer = await read("/", host=host)
    assert b" 421 " in answer.splitlines()[0]
    assert b'"misdirected_request"' in answer


async def test_missing_or_repeated_host_is_refused(read: Callable[..., Awaitable[Any]]) -> None:
    assert b" 400 " in (await read("/", host=None)).splitlines()[0]
    assert b" 400 " in (await read("/", "Host: guard.example.de")).splitlines()[0]


async def test_host_of_an_own_issuer_is_accepted(read: Callable[..., Awaitable[Any]]) -> None:
    assert (await read("/token", host="as.example.de", issuer="https://as.example.de")).path.raw == "/token"


async def test_address_and_scheme_come_from_a_trusted_proxy(read: Callable[..., Awaitable[Any]]) -> None:
    facts = await read(
        "/",
        "Forwarded: for=192.0.2.1;proto=https",
        client_address="forwarded",
        trusted_proxies=("127.0.0.0/8",),
    )
    assert facts.client_address == ip_address("192.0.2.1")
    assert facts.scheme == "https"
    assert facts.peer_trusted
    assert facts.peer_address == ip_address("127.0.0.1")


async def test_address_is_unknown_when_the_trusted_proxy_hides_it(read: Callable[..., Awaitable[Any]]) -> None:
    facts = await read("/", "Forwarded: for=_hidden", client_address="forwarded", trusted_proxies=("127.0.0.1",))
    assert facts.client_address is None


async def test_forwarding_header_of_a_stranger_is_not_read(read: Callable[..., Awaitable[Any]]) -> None:
    facts = await read("/", "X-Forwarded-For: 192.0.2.1", client_address="x-forwarded-for")
    assert facts.client_address == ip_address("127.0.0.1")


async def test_trusted_peer_is_marked_also_when_its_address_is_the_source(read: Callable[..., Awaitable[Any]]) -> None:
    facts = await read("/", trusted_proxies=("127.0.0.1",))
    assert facts.peer_trusted
    assert facts.client_address == ip_address("127.0.0.1")


async def test_raw_header_pairs_are_the_bytes_that_came(serve: Serve, exchange: Exchange) -> None:
    seen: list[tuple[tuple[bytes, bytes], ...]] = []

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        seen.append(raw_header_pairs(request))
        # What aiohttp makes of the same byte cannot be written to a backend again.
        with pytest.raises(UnicodeEncodeError):
            request.headers["X-Name"].encode()
        return web.Response()

    await exchange(
        await serve(handler), b"GET / HTTP/1.1\r\nHost: a\r\nX-Name: J\xf6rg\r\nx-name: 2\r\nConnection: close\r\n\r\n"
    )
    assert seen[0][1:3] == ((b"X-Name", b"J\xf6rg"), (b"x-name", b"2"))


async def test_aiohttps_view_of_a_target_is_not_the_one_that_came(serve: Serve, exchange: Exchange) -> None:
    seen: list[tuple[str, str]] = []

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        seen.append((request.raw_path, request.path))
        return web.Response()

    await exchange(await serve(handler), b"GET /a%2fb?x#f HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert seen == [("/a%2fb?x#f", "/a/b")]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://a.example", {"a.example", "a.example:443"}),
        ("https://a.example:443", {"a.example", "a.example:443"}),
        ("https://a.example:8443", {"a.example:8443"}),
        ("http://127.0.0.1:80", {"127.0.0.1", "127.0.0.1:80"}),
        ("http://[::1]:8080", {"[::1]:8080"}),
    ],
)
def test_authorities_of_a_url(url: str, expected: set[str]) -> None:
    assert authorities(url) == expected


def test_network_that_is_none_is_a_configuration_error(make_config: MakeConfig) -> None:
    with pytest.raises(ConfigurationError):
        FactsReader(make_config(trusted_proxies=("10.0.0.0/33",)))


@pytest.mark.parametrize("hosts", [(), ("guard.example.de", "guard.example.de"), ("guard.example.de", "evil.example")])
def test_host_is_counted_also_when_the_parser_let_it_pass(hosts: tuple[str, ...], make_config: MakeConfig) -> None:
    request = make_mocked_request("GET", "/", headers=CIMultiDict([("Host", host) for host in hosts]))
    with pytest.raises(ZetaError) as caught:
        FactsReader(make_config()).read(request, now=NOW, request_id="r")
    assert (caught.value.code, caught.value.status) == ("invalid_request", 400)
