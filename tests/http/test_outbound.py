from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from zeta_guard.config import outbound as outbound_config
from zeta_guard.errors import ConfigurationError
from zeta_guard.http.outbound import Outbound, OutboundError, is_public

Serve = Callable[[Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]], Awaitable[int]]


class TableResolver(AbstractResolver):
    """Resolves from a table; every look-up is noted."""

    def __init__(self, table: dict[str, list[str]]) -> None:
        self.table = table
        self.asked: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked.append(host)
        if host not in self.table:
            raise OSError("no such host")
        return [
            ResolveResult(hostname=host, host=text, port=port, family=socket.AF_INET, proto=0, flags=0)
            for text in self.table[host]
        ]

    async def close(self) -> None:
        return None


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., Outbound]]:
    made: list[Outbound] = []

    def build(resolver: AbstractResolver | None = None, **values: Any) -> Outbound:
        config = outbound_config.Outbound.model_validate({"timeout_ms": 2000, **values})
        made.append(Outbound(config, resolver=lambda: resolver) if resolver else Outbound(config))
        return made[-1]

    yield build
    for outbound in made:
        await outbound.close()


async def _reason(answer: Awaitable[object]) -> str:
    with pytest.raises(OutboundError) as caught:
        await answer
    assert caught.value.remedy
    return caught.value.reason


async def test_document_is_fetched_with_status_headers_and_tag(serve: Serve, make: Callable[..., Outbound]) -> None:
    seen: list[web.BaseRequest] = []

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        seen.append(request)
        if request.headers.get("If-None-Match") == '"1"':
            return web.Response(status=304)
        return web.Response(body=b"{}", headers={"ETag": '"1"', "X-A": "b", "Set-Cookie": "a=b"})

    url = f"http://127.0.0.1:{await serve(handler)}/jwks?x=%2f"
    outbound = make()
    answer = await outbound.get(url, accept="application/json", extra_headers={"X-Own": "1"})
    assert (answer.status, answer.body, answer.etag, answer.headers["x-a"]) == (200, b"{}", '"1"', "b")
    assert answer.expect() is answer
    second = await outbound.get(url, etag=answer.etag)
    assert second.status == 304
    with pytest.raises(OutboundError) as caught:
        second.expect(200)
    assert (caught.value.reason, caught.value.status) == ("status", 304)
    assert seen[0].raw_path == "/jwks?x=%2f"
    assert seen[0].headers["Accept"] == "application/json"
    assert seen[0].headers["Accept-Encoding"] == "identity"
    assert seen[0].headers["X-Own"] == "1"
    assert "Cookie" not in seen[1].headers


async def test_body_is_posted_with_its_media_type(serve: Serve, make: Callable[..., Outbound]) -> None:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        assert request.headers["Accept"] == "application/x"
        return web.Response(body=await request.read(), content_type=request.content_type)

    port = await serve(handler)
    answer = await make().post(
        f"http://127.0.0.1:{port}/", b"\x30\x03", content_type="application/ocsp-request", accept="application/x"
    )
    assert (answer.body, answer.headers["content-type"]) == (b"\x30\x03", "application/ocsp-request")


async def test_redirects_are_not_followed(serve: Serve, make: Callable[..., Outbound]) -> None:
    asked: list[str] = []

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        asked.append(request.raw_path)
        return web.Response(status=302, headers={"Location": "/other"})

    answer = await make().get(f"http://127.0.0.1:{await serve(handler)}/a")
    assert answer.status == 302
    assert asked == ["/a"]


@pytest.mark.parametrize("chunked", [True, False])
async def test_answer_beyond_its_cap_is_refused(chunked: bool, serve: Serve, make: Callable[..., Outbound]) -> None:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        if chunked:
            response.enable_chunked_encoding()
        else:
            response.content_length = 101
        await response.prepare(request)
        await response.write(b"x" * 101)
        return response

    url = f"http://127.0.0.1:{await serve(handler)}/"
    assert await _reason(make().get(url, max_bytes=100)) == "too_large"
    assert len((await make().get(url, max_bytes=101)).body) == 101


async def test_content_coding_that_was_not_asked_for_is_malformed(serve: Serve, make: Callable[..., Outbound]) -> None:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=b"x", headers={"Content-Encoding": "gzip"})

    assert await _reason(make().get(f"http://127.0.0.1:{await serve(handler)}/")) == "malformed"


async def test_server_that_never_answers_is_a_timeout(serve: Serve, make: Callable[..., Outbound]) -> None:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        await asyncio.Event().wait()
        return web.Response()

    url = f"http://127.0.0.1:{await serve(handler)}/"
    assert await _reason(make().get(url, timeout=0.1)) == "timeout"
    assert await _reason(make(timeout_ms=100).get(url)) == "timeout"


async def test_body_that_trickles_is_a_timeout(serve: Serve, make: Callable[..., Outbound]) -> None:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(100):
            await response.write(b"x")
            await asyncio.sleep(0.02)
        return response

    assert await _reason(make().get(f"http://127.0.0.1:{await serve(handler)}/", timeout=0.2)) == "timeout"


async def _raw_server(answer: bytes) -> tuple[asyncio.Server, int]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"garbage\r\n\r\n", "malformed"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", "malformed"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "malformed"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", "malformed"),
        (b"", "refused"),
    ],
)
async def test_broken_answer_has_a_stable_reason(answer: bytes, reason: str, make: Callable[..., Outbound]) -> None:
    server, port = await _raw_server(answer)
    async with server:
        assert await _reason(make().get(f"http://127.0.0.1:{port}/")) == reason


async def test_closed_port_is_refused(make: Callable[..., Outbound]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert await _reason(make().get(f"http://127.0.0.1:{port}/")) == "refused"


async def test_name_that_does_not_resolve_is_a_dns_error(make: Callable[..., Outbound]) -> None:
    assert await _reason(make(TableResolver({})).get("http://nowhere.example/")) == "dns"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "x",
        "ftp://a/",
        "http://",
        "http:///a",
        "file:///etc/passwd",
        "http://user:secret@a/",
        "http://a:99999/",
        "//a/b",
    ],
)
async def test_url_that_is_none_is_malformed_and_not_repeated(url: str, make: Callable[..., Outbound]) -> None:
    with pytest.raises(OutboundError) as caught:
        await make().get(url)
    assert caught.value.reason == "malformed"
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "10.0.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "[::1]", "[fd00::1]", "[fe80::1]",
     "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]",
        "[2001:0:7f00:1::1]", "224.0.0.1"],
)  # fmt: skip
async def test_private_literal_is_refused_when_not_allowed(host: str, make: Callable[..., Outbound]) -> None:
    assert await _reason(make().get(f"http://{host}:9/", allow_private=False)) == "private_address"


async def test_name_that_resolves_to_a_private_address_is_refused(serve: Serve, make: Callable[..., Outbound]) -> None:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=b"reached")

    port = await serve(handler)
    resolver = TableResolver({"inside.example": ["127.0.0.1"], "both.example": ["192.0.2.99", "127.0.0.1"]})
    outbound = make(resolver)
    assert (await outbound.get(f"http://inside.example:{port}/")).body == b"reached"
    assert await _reason(outbound.get(f"http://inside.example:{port}/", allow_private=False)) == "private_address"
    assert await _reason(outbound.get(f"http://both.example:{port}/", allow_private=False)) == "private_address"


async def test_name_is_resolved_once_so_that_the_checked_address_is_the_connected_one(
    make: Callable[..., Outbound],
) -> None:
    resolver = TableResolver({"outside.example": ["203.0.113.1"]})
    reason = await _reason(make(resolver).get("http://outside.example:9/", allow_private=False, timeout=0.1))
    # 203.0.113.0/24 is documentation space and not global.
    assert reason == "private_address"
    assert resolver.asked == ["outside.example"]


@pytest.mark.parametrize("text", ["8.8.8.8", "2a00:1450::1", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_global_addresses_are_public(text: str) -> None:
    assert is_public(ip_address(text))


async def test_proxy_gets_the_request_and_its_names_are_still_looked_at(
    serve: Serve, make: Callable[..., Outbound]
) -> None:
    async def proxy(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text=request.raw_path)

    port = await serve(proxy)
    outbound = make(TableResolver({"inside.example": ["10.0.0.1"]}), proxy=f"http://127.0.0.1:{port}")
    assert (await outbound.get("http://server.example/a")).body == b"http://server.example/a"
    assert (await outbound.get("http://unresolvable.example/a", allow_private=False)).status == 200
    assert await _reason(outbound.get("http://inside.example/a", allow_private=False)) == "private_address"


def _certificate(folder: Path, name: str) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), False)
        .add_extension(x509.BasicConstraints(True, None), True)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = folder / f"{name}.pem", folder / f"{name}.key"
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate_file, key_file


async def test_server_is_believed_with_the_named_trust_anchors_only(
    tmp_path: Path, make: Callable[..., Outbound]
) -> None:
    certificate_file, key_file = _certificate(tmp_path, "server.example")
    foreign_file, _ = _certificate(tmp_path, "foreign.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate_file, key_file)

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=b"secure")

    server = web.Server(handler)
    listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0, ssl=context)
    port = listener.sockets[0].getsockname()[1]
    resolver = TableResolver({"server.example": ["127.0.0.1"], "other.example": ["127.0.0.1"]})
    outbound = make(resolver)
    assert (await outbound.get(f"https://server.example:{port}/", ca_file=certificate_file)).body == b"secure"
    assert await _reason(outbound.get(f"https://server.example:{port}/", ca_file=foreign_file)) == "tls"
    assert await _reason(outbound.get(f"https://server.example:{port}/")) == "tls"
    assert await _reason(outbound.get(f"https://other.example:{port}/", ca_file=certificate_file)) == "tls"
    configured = make(resolver, ca_file=certificate_file)
    assert (await configured.get(f"https://server.example:{port}/")).body == b"secure"
    listener.close()
    await server.shutdown(1)


async def test_trust_anchors_that_cannot_be_read_are_a_configuration_error(
    tmp_path: Path, make: Callable[..., Outbound]
) -> None:
    with pytest.raises(ConfigurationError):
        await make().get("https://server.example/", ca_file=tmp_path / "missing.pem")
    (tmp_path / "garbage.pem").write_text("garbage")
    with pytest.raises(ConfigurationError):
        await make().get("https://server.example/", ca_file=tmp_path / "garbage.pem")


async def test_client_can_be_used_again_after_it_was_closed(serve: Serve, make: Callable[..., Outbound]) -> None:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response()

    url, outbound = f"http://127.0.0.1:{await serve(handler)}/", make()
    assert (await outbound.get(url)).status == 200
    await outbound.close()
    assert (await outbound.get(url)).status == 200
