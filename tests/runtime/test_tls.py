"""TLS where the guard ends it: versions, suites, groups, ALPN, and an alert for whoever is refused."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Literal

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from zeta_guard.config.limits import Limits
from zeta_guard.config.listen import Tls
from zeta_guard.runtime.listener import GuardServer
from zeta_guard.runtime.tls_context import server_context
from zeta_guard.runtime.tls_handshake import behind_tls
from zeta_guard.runtime.tls_offer import TlsOffer, tls_offer
from zeta_guard.simulators.pki import DemoPki

OPENSSL_CONF = Path(__file__).parents[2] / "docker" / "openssl.cnf"
REQUEST = b"GET / HTTP/1.1\r\nHost: guard.example.de\r\nConnection: close\r\n\r\n"

# A ClientHello that knows nothing newer than TLS 1.0, made by hand: no library offers it any more.
_HELLO = b"\x03\x01" + bytes(range(32)) + b"\x00" + b"\x00\x04\xc0\x09\x00\x2f" + b"\x01\x00"
OLD_CLIENT = b"\x16\x03\x01" + (4 + len(_HELLO)).to_bytes(2) + b"\x01" + len(_HELLO).to_bytes(3) + _HELLO

# Alerts are compared as bytes: record type 21, then level 2 (fatal) and the description (RFC 8446 §6).
PROTOCOL_VERSION, HANDSHAKE_FAILURE = 70, 40


@dataclass
class Ended:
    """A listener that ends TLS, and a client context that trusts it."""

    port: int
    ca: str
    refused: list[str] = field(default_factory=list)

    def client(self, version: ssl.TLSVersion | None = None, suites: str | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=self.ca)
        if version is not None:
            context.minimum_version = context.maximum_version = version
        if suites is not None:
            context.set_ciphers(suites)
        return context

    async def handshake(self, context: ssl.SSLContext) -> tuple[str, str, str | None, bytes]:
        """Version, suite, ALPN and the answer to a request. Raises ssl.SSLError with the alert's name."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=context, server_hostname="127.0.0.1")
        end: ssl.SSLObject = writer.get_extra_info("ssl_object")
        cipher = end.cipher()
        assert cipher is not None
        assert end.compression() is None
        writer.write(REQUEST)
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        return str(end.version()), cipher[0], end.selected_alpn_protocol(), answer


End = Callable[..., Awaitable[Ended]]


@pytest.fixture
async def end_tls(tmp_path: Path) -> AsyncIterator[End]:
    from aiohttp import web

    pki = DemoPki()
    certificate, key = pki.issue_tls(["127.0.0.1"])
    (tmp_path / "cert.pem").write_bytes(certificate)
    (tmp_path / "key.pem").write_bytes(key)
    running: list[tuple[asyncio.Server, GuardServer]] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text=request.scheme)

    async def make(minimum: Literal["1.2", "1.3"] = "1.2", seconds: float = 5.0) -> Ended:
        tls = Tls(
            certificate_file=tmp_path / "cert.pem", private_key_file=tmp_path / "key.pem", minimum_version=minimum
        )
        ended = Ended(0, pki.ca_pem().decode())
        http = GuardServer(answer, limits=Limits(), public_url="https://guard.example.de")
        secured = behind_tls(server_context(tls), handshake_seconds=seconds, on_refused=ended.refused.append)
        server = await asyncio.get_running_loop().create_server(lambda: secured(http()), "127.0.0.1", 0)
        ended.port = server.sockets[0].getsockname()[1]
        running.append((server, http))
        return ended

    yield make
    for server, http in running:
        server.close()
        await http.shutdown(0.1)


async def raw(port: int, hello: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(hello)
    try:
        return await asyncio.wait_for(reader.read(), 5)
    finally:
        writer.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_tls_1_2_and_1_3_are_accepted(end_tls: End, version: ssl.TLSVersion) -> None:
    ended = await end_tls()
    spoken, _, _, answer = await ended.handshake(ended.client(version))
    assert spoken == version.name.replace("_", ".")
    assert answer.endswith(b"https")
    assert ended.refused == []


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1:DeprecationWarning")
async def test_tls_1_1_is_refused_with_its_alert(end_tls: End) -> None:
    ended = await end_tls()
    context = ended.client(suites="ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError, match="alert protocol version"):
        await ended.handshake(context)
    assert ended.refused == ["version"]


async def test_the_alert_reaches_the_wire(end_tls: End) -> None:
    ended = await end_tls()
    answer = await raw(ended.port, OLD_CLIENT)
    assert (answer[0], answer[-2:]) == (21, bytes([2, PROTOCOL_VERSION]))


async def test_tls_1_2_is_refused_where_1_3_is_the_minimum(end_tls: End) -> None:
    ended = await end_tls("1.3")
    with pytest.raises(ssl.SSLError, match="alert protocol version"):
        await ended.handshake(ended.client(ssl.TLSVersion.TLSv1_2))
    assert (await ended.handshake(ended.client(ssl.TLSVersion.TLSv1_3)))[0] == "TLSv1.3"


@pytest.mark.parametrize("suite", ["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384"])
async def test_in_tls_1_2_ecdhe_with_aes_gcm_is_accepted(end_tls: End, suite: str) -> None:
    ended = await end_tls()
    assert (await ended.handshake(ended.client(ssl.TLSVersion.TLSv1_2, suite)))[1] == suite


@pytest.mark.parametrize(
    "suite",
    [
        "ECDHE-ECDSA-AES128-SHA256",
        "ECDHE-ECDSA-AES256-SHA",
        "ECDHE-ECDSA-AES128-CCM",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "AES128-GCM-SHA256",
        "DHE-RSA-AES128-GCM-SHA256",
    ],
)
async def test_in_tls_1_2_every_other_suite_is_refused_with_its_alert(end_tls: End, suite: str) -> None:
    ended = await end_tls()
    with pytest.raises(ssl.SSLError, match="handshake failure"):
        await ended.handshake(ended.client(ssl.TLSVersion.TLSv1_2, f"{suite}:@SECLEVEL=0"))
    assert ended.refused == ["suite"]


async def test_alpn_is_http_1_1_and_nothing_newer(end_tls: End) -> None:
    ended = await end_tls()
    context = ended.client()
    context.set_alpn_protocols(["h2", "http/1.1"])
    assert (await ended.handshake(context))[2] == "http/1.1"
    context.set_alpn_protocols(["h2"])
    assert (await ended.handshake(context))[2] is None


async def test_plain_http_on_the_tls_port_gets_nothing_and_is_counted(end_tls: End) -> None:
    ended = await end_tls()
    answer = await raw(ended.port, REQUEST)
    assert b"HTTP" not in answer
    assert ended.refused == ["no_tls"]


async def test_whoever_leaves_before_the_handshake_is_told_apart(end_tls: End) -> None:
    ended = await end_tls()
    for sent in (b"", b"\x16\x03\x01"):
        _, writer = await asyncio.open_connection("127.0.0.1", ended.port)
        writer.write(sent)
        writer.close()
        await writer.wait_closed()
    assert (await ended.handshake(ended.client()))[3].endswith(b"https")
    assert ended.refused == ["closed", "closed"]


async def test_a_client_that_does_not_trust_the_certificate_says_so(end_tls: End) -> None:
    ended = await end_tls()

    def distrust(version: ssl.TLSVersion) -> None:
        context = ssl.create_default_context()
        context.minimum_version = context.maximum_version = version
        with socket.create_connection(("127.0.0.1", ended.port)) as connection:
            context.wrap_socket(connection, server_hostname="127.0.0.1")

    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        with pytest.raises(ssl.SSLCertVerificationError):
            # In a thread: asyncio drops the alerts of its own clients, too.
            await asyncio.to_thread(distrust, version)
    assert (await ended.handshake(ended.client()))[3].endswith(b"https")
    assert ended.refused == ["alert", "alert"]


async def test_a_handshake_that_stalls_is_cut(end_tls: End) -> None:
    ended = await end_tls(seconds=0.1)
    assert await raw(ended.port, b"\x16\x03\x01") == b""
    assert ended.refused == ["timeout"]
    assert (await ended.handshake(ended.client()))[3].endswith(b"https")


def test_renegotiation_and_compression_are_off(tmp_path: Path) -> None:
    certificate, key = DemoPki().issue_tls(["127.0.0.1"])
    (tmp_path / "cert.pem").write_bytes(certificate)
    (tmp_path / "key.pem").write_bytes(key)
    context = server_context(Tls(certificate_file=tmp_path / "cert.pem", private_key_file=tmp_path / "key.pem"))
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert context.options & ssl.OP_NO_COMPRESSION


def with_image_configuration(script: str, **environment: str) -> Any:
    """What a Python prints as JSON when OpenSSL is configured as in the image."""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "OPENSSL_CONF": str(OPENSSL_CONF), **environment},
        capture_output=True,
        check=True,
        timeout=30,
    )
    return json.loads(done.stdout)


def test_the_image_agrees_to_the_groups_and_suites_of_the_specification_only() -> None:
    script = (
        "import json; from zeta_guard.runtime.tls_offer import tls_offer; offer = tls_offer();"
        "print(json.dumps([offer.groups, offer.suites13, offer.excess]))"
    )
    groups, suites, excess = with_image_configuration(script)
    assert groups == ["P-256", "P-384", "brainpoolP256r1", "brainpoolP384r1"]
    assert set(suites) == {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384"}
    assert excess == []


# The client wants one group only; the server is the guard's context. Both ends in memory.
_ONE_GROUP = """
import json, os, ssl
from pathlib import Path
from zeta_guard.config.listen import Tls
from zeta_guard.runtime.tls_context import server_context
folder = Path(os.environ["FOLDER"])
def agreed(group):
    client = ssl.create_default_context(cafile=folder / "ca.pem")
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ecdh_curve(group)
    a, b = ssl.MemoryBIO(), ssl.MemoryBIO()
    here = server_context(Tls(certificate_file=folder / "cert.pem", private_key_file=folder / "key.pem"))
    ends = [here.wrap_bio(a, b, server_side=True), client.wrap_bio(b, a, server_hostname="127.0.0.1")]
    done = set()
    for _ in range(10):
        for end in ends:
            try:
                end.do_handshake()
                done.add(end)
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                return False
    return len(done) == 2
print(json.dumps({group: agreed(group) for group in os.environ["GROUPS"].split()}))
"""


def test_handshakes_with_the_image_s_groups(tmp_path: Path) -> None:
    # An RSA certificate: one on a curve would bring a second group into play.
    key = rsa.generate_private_key(65_537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    begin = datetime.now(UTC) - timedelta(days=1)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(Encoding.PEM)
    (tmp_path / "cert.pem").write_bytes(pem)
    (tmp_path / "ca.pem").write_bytes(pem)
    (tmp_path / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    agreed = with_image_configuration(
        _ONE_GROUP, FOLDER=str(tmp_path), GROUPS="prime256v1 secp384r1 brainpoolP256r1 secp521r1"
    )
    assert agreed == {"prime256v1": True, "secp384r1": True, "brainpoolP256r1": True, "secp521r1": False}


def test_what_is_beyond_the_specification_is_named() -> None:
    offer = TlsOffer(("X25519", "P-256", "brainpoolP384r1"), ("TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256"))
    assert offer.excess == ("X25519", "TLS_CHACHA20_POLY1305_SHA256")
    own = tls_offer()
    assert "P-256" in own.groups
    assert "TLS_AES_128_GCM_SHA256" in own.suites13


def test_a_socket_that_is_gone_before_its_alert_disturbs_nobody() -> None:
    async def play() -> None:
        refused: asyncio.Queue[str] = asyncio.Queue()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        secured = behind_tls(context, handshake_seconds=5.0, on_refused=refused.put_nowait)
        server = await asyncio.get_running_loop().create_server(lambda: secured(asyncio.Protocol()), "127.0.0.1", 0)
        with socket.create_connection(server.sockets[0].getsockname()) as client:
            client.sendall(OLD_CLIENT)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert await asyncio.wait_for(refused.get(), 5) == "version"
        server.close()

    asyncio.run(play())
