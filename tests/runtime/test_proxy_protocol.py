"""PROXY protocol v2: exactly one header, from a trusted proxy, in time, before everything else; or no connection."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from zeta_guard.config.limits import Limits
from zeta_guard.http.address import TrustedProxies
from zeta_guard.runtime.listener import GuardServer
from zeta_guard.runtime.proxy_protocol import (
    LONGEST_HEADER,
    SIGNATURE,
    PeerName,
    ProxyHeaderError,
    ProxyListener,
    parse_header,
)
from zeta_guard.runtime.tls_handshake import behind_tls
from zeta_guard.simulators.pki import DemoPki

REQUEST = b"GET / HTTP/1.1\r\nHost: guard.example.de\r\nConnection: close\r\n\r\n"
PROXY, LOCAL = 0x21, 0x20
TCP4, TCP6 = 0x11, 0x21


def addition(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


def block(source: str, port: int = 56_324) -> tuple[int, bytes]:
    address = ip_address(source)
    if isinstance(address, IPv4Address):
        return TCP4, address.packed + IPv4Address("10.0.0.1").packed + struct.pack("!HH", port, 443)
    return TCP6, address.packed + IPv6Address("2001:db8::1").packed + struct.pack("!HH", port, 443)


def header(source: str = "192.0.2.7", *, command: int = PROXY, family: int | None = None, rest: bytes = b"") -> bytes:
    own, addresses = block(source)
    body = addresses + rest
    return SIGNATURE + bytes([command, own if family is None else family]) + struct.pack("!H", len(body)) + body


@pytest.mark.parametrize("source", ["192.0.2.7", "2001:db8::7"])
@pytest.mark.parametrize("rest", [b"", addition(0x04, b""), addition(0x02, b"guard") + addition(0xEA, b"\x01vpce")])
def test_tcp_over_both_families_names_the_client_and_additions_are_skipped(source: str, rest: bytes) -> None:
    assert parse_header(header(source, rest=rest)).source == (source, 56_324)


@pytest.mark.parametrize(
    "raw", [header(command=LOCAL), SIGNATURE + bytes([LOCAL, 0, 0, 0]), header(command=LOCAL, family=0x99)]
)
def test_local_stands_for_the_proxy_itself_whatever_family_it_names(raw: bytes) -> None:
    assert parse_header(raw).source is None


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"PROXY TCP4 192.0.2.7 10.0.0.1 56324 443\r\n", "signature"),
        (b"\r\n\r\n\x00\r\nQUIT\r" + header()[12:], "signature"),
        (header(command=0x11), "version"),
        (header(command=0x31), "version"),
        (header(command=0x22), "command"),
        (header(command=0x2F), "command"),
        (header(family=0x00), "family"),
        (header(family=0x12), "family"),
        (header(family=0x22), "family"),
        (header(family=0x31), "family"),
        (header("192.0.2.7", family=TCP6), "length"),
        (SIGNATURE + bytes([PROXY, TCP4, 0, 11]) + bytes(11), "length"),
        (SIGNATURE + bytes([PROXY, TCP6, 0, 12]) + bytes(12), "length"),
        (header()[:-1], "length"),
        (header() + b"G", "length"),
        (header(rest=b"\x04"), "additions"),
        (header(rest=b"\x04\x00"), "additions"),
        (header(rest=b"\x04\x00\x05abcd"), "additions"),
        (header(rest=addition(4, b"ab") + b"\x00"), "additions"),
        (header(rest=addition(4, bytes(LONGEST_HEADER - 16 - 12 - 3 + 1))), "too_long"),
        (header("0.0.0.0"), "address"),
        (header("::"), "address"),
        (header("224.0.0.1"), "address"),
        (b"", "length"),
    ],
)
def test_everything_else_is_refused_for_a_named_reason(raw: bytes, reason: str) -> None:
    with pytest.raises(ProxyHeaderError) as refused:
        parse_header(raw)
    assert refused.value.reason == reason


def test_the_longest_header_passes() -> None:
    raw = header(rest=addition(4, bytes(LONGEST_HEADER - 16 - 12 - 3)))
    assert len(raw) == LONGEST_HEADER
    assert parse_header(raw).source is not None


@given(st.binary(max_size=300))
def test_no_bytes_break_the_parser(raw: bytes) -> None:
    for attempt in (raw, SIGNATURE + raw, SIGNATURE + bytes([PROXY, TCP4]) + raw):
        with contextlib.suppress(ProxyHeaderError):
            parse_header(attempt)


@given(
    st.ip_addresses(),
    st.integers(0, 65_535),
    st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=40)), max_size=5),
)
def test_what_a_balancer_writes_is_what_is_read(
    source: IPv4Address | IPv6Address, port: int, additions: list[tuple[int, bytes]]
) -> None:
    if source.is_unspecified or source.is_multicast:
        return
    family, addresses = block(str(source), port)
    body = addresses + b"".join(addition(kind, value) for kind, value in additions)
    raw = SIGNATURE + bytes([PROXY, family]) + struct.pack("!H", len(body)) + body
    assert parse_header(raw).source == (str(source), port)


class Balanced:
    """The listener under test; its requests are answered with the peer that they are believed to come from."""

    def __init__(self, trusted: str, seconds: float, most: int, tls: ssl.SSLContext | None) -> None:
        self.refused: list[str] = []
        self.heard = asyncio.Event()
        self.handshakes: list[str] = []
        self.http = GuardServer(self.answer, limits=Limits(), public_url="http://guard.example.de")
        self._proxies = TrustedProxies([trusted])
        self._secured = (
            behind_tls(tls, handshake_seconds=5.0, on_refused=self.handshakes.append) if tls is not None else None
        )
        listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(listening.getsockname()[1])
        self.listener = ProxyListener(
            listening,
            self.protocol,
            is_trusted=lambda address: address in self._proxies,
            on_refused=self.note,
            seconds=seconds,
            most=most,
            backlog=16,
        )

    def protocol(self, peer: PeerName | None) -> asyncio.BaseProtocol:
        protocol = self.http()
        protocol.peer_override = peer
        return protocol if self._secured is None else self._secured(protocol)

    def note(self, reason: str) -> None:
        self.refused.append(reason)
        self.heard.set()

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text=f"{request.scheme} from {request.remote}")

    async def talk(self, *pieces: bytes, end: bool = False) -> bytes:
        """Send the pieces one by one; all that comes back until the guard closes (a reset is a close)."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        answer = b""
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.01)
            if end:
                writer.write_eof()
            async with asyncio.timeout(5):
                answer = await reader.read()
        except ConnectionError:
            pass
        finally:
            writer.close()
        return answer


Balance = Callable[..., Awaitable[Balanced]]


@pytest.fixture
async def balance() -> AsyncIterator[Balance]:
    running: list[Balanced] = []

    async def make(
        trusted: str = "127.0.0.1", *, seconds: float = 5.0, most: int = 100, tls: ssl.SSLContext | None = None
    ) -> Balanced:
        running.append(Balanced(trusted, seconds, most, tls))
        return running[-1]

    yield make
    for balanced in running:
        balanced.listener.close()
        await balanced.http.shutdown(0.1)


async def test_the_request_comes_from_the_named_client(balance: Balance) -> None:
    balanced = await balance()
    assert (await balanced.talk(header() + REQUEST)).endswith(b"http from 192.0.2.7")
    assert (await balanced.talk(header("2001:db8::7") + REQUEST)).endswith(b"http from 2001:db8::7")
    assert (await balanced.talk(header(command=LOCAL) + REQUEST)).endswith(b"http from 127.0.0.1")
    assert balanced.refused == []


async def test_a_header_in_pieces_is_read_and_not_one_byte_of_the_request_is_taken(balance: Balance) -> None:
    balanced = await balance()
    raw = header(rest=addition(0x02, b"guard"))
    pieces = [raw[:5], raw[5:13], raw[13:30], raw[30:] + REQUEST[:3], REQUEST[3:]]
    assert (await balanced.talk(*pieces)).endswith(b"from 192.0.2.7")


async def test_only_the_first_header_counts(balance: Balance) -> None:
    balanced = await balance()
    answer = await balanced.talk(header() + header("198.51.100.1") + REQUEST)
    assert answer.startswith(b"HTTP/1.1 400 ")


async def test_whoever_is_no_trusted_proxy_is_disconnected_unread(balance: Balance) -> None:
    balanced = await balance("10.0.0.0/8")
    assert await balanced.talk(header() + REQUEST) == b""
    assert await balanced.talk(REQUEST) == b""
    assert balanced.refused == ["untrusted", "untrusted"]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (REQUEST, "signature"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "signature"),
        (b"PROXY TCP4 192.0.2.7 10.0.0.1 56324 443\r\n" + REQUEST, "signature"),
        (b"\r\n\r\nGET / HTTP/1.1\r\n", "signature"),
        (header(command=0x11) + REQUEST, "version"),
        (header(family=0) + REQUEST, "family"),
        (header(rest=b"\x01") + REQUEST, "additions"),
        (SIGNATURE + bytes([PROXY, TCP4, 0xFF, 0xFF]), "too_long"),
    ],
)
async def test_a_connection_that_begins_otherwise_gets_no_answer(balance: Balance, raw: bytes, reason: str) -> None:
    balanced = await balance()
    assert await balanced.talk(raw) == b""
    assert balanced.refused == [reason]


@pytest.mark.parametrize("raw", [b"\r", header()[:15], header()[:20]])
async def test_a_header_that_ends_early_is_refused(balance: Balance, raw: bytes) -> None:
    balanced = await balance()
    assert await balanced.talk(raw, end=True) == b""
    assert balanced.refused == ["truncated"]


async def test_a_probe_that_only_connects_is_no_refusal(balance: Balance) -> None:
    balanced = await balance()
    assert await balanced.talk(end=True) == b""
    assert balanced.refused == []


@pytest.mark.parametrize("raw", [b"", header()[:20]])
async def test_a_header_has_its_time(balance: Balance, raw: bytes) -> None:
    balanced = await balance(seconds=0.1)
    assert await balanced.talk(raw) == b""
    assert balanced.refused == ["timeout"]
    assert (await balanced.talk(header() + REQUEST)).endswith(b"from 192.0.2.7")


async def test_connections_without_a_header_are_bounded(balance: Balance) -> None:
    balanced = await balance(most=2)
    waiting = [await asyncio.open_connection("127.0.0.1", balanced.port) for _ in range(2)]
    await asyncio.sleep(0.05)
    assert await balanced.talk(header() + REQUEST) == b""
    assert balanced.refused == ["full"]
    waiting[0][1].write(header() + REQUEST)
    assert (await asyncio.wait_for(waiting[0][0].read(), 5)).endswith(b"from 192.0.2.7")
    assert (await balanced.talk(header() + REQUEST)).endswith(b"from 192.0.2.7")
    for _, writer in waiting:
        writer.close()


async def test_closing_drops_those_without_a_header_and_nobody_else(balance: Balance) -> None:
    balanced = await balance()
    silent, silent_writer = await asyncio.open_connection("127.0.0.1", balanced.port)
    reader, writer = await asyncio.open_connection("127.0.0.1", balanced.port)
    keep_alive = REQUEST.replace(b"Connection: close\r\n", b"")
    writer.write(header() + keep_alive)
    assert b"192.0.2.7" in await reader.readuntil(b"192.0.2.7")
    balanced.listener.close()
    assert balanced.listener.sockets == ()
    assert await asyncio.wait_for(silent.read(), 5) == b""
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", balanced.port)
    writer.write(REQUEST)
    assert (await asyncio.wait_for(reader.read(), 5)).endswith(b"from 192.0.2.7")
    for open_writer in (writer, silent_writer):
        open_writer.close()


@pytest.fixture
def contexts(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Server and client."""
    pki = DemoPki()
    certificate, key = pki.issue_tls(["127.0.0.1"])
    (tmp_path / "cert.pem").write_bytes(certificate)
    (tmp_path / "key.pem").write_bytes(key)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    return server, ssl.create_default_context(cadata=pki.ca_pem().decode())


async def test_the_header_stands_before_tls(balance: Balance, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    server, client = contexts
    balanced = await balance(tls=server)
    loop = asyncio.get_running_loop()
    plain = socket.create_connection(("127.0.0.1", balanced.port))
    plain.setblocking(False)
    await loop.sock_sendall(plain, header())
    reader, writer = await asyncio.open_connection(sock=plain, ssl=client, server_hostname="127.0.0.1")
    writer.write(REQUEST)
    assert (await asyncio.wait_for(reader.read(), 5)).endswith(b"https from 192.0.2.7")
    writer.close()
    assert (balanced.refused, balanced.handshakes) == ([], [])


async def test_a_header_inside_tls_is_not_taken_for_one(
    balance: Balance, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    server, client = contexts
    balanced = await balance(tls=server)
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", balanced.port, ssl=client, server_hostname="127.0.0.1")
    assert balanced.refused == ["signature"]
    assert balanced.handshakes == []
