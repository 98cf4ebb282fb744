"""Bundles as OCI artefacts: from a real registry, and from one that has bad days."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from zeta_guard.config.outbound import Outbound as OutboundConfig
from zeta_guard.errors import ConfigurationError
from zeta_guard.http.outbound import Outbound
from zeta_guard.policy.bundle import Bundle, BundleError
from zeta_guard.policy.registry import Reference, RegistrySource

Any3 = Callable[..., Any]
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def sha256(raw: bytes) -> str:
    return "sha256:" + hashlib.sha256(raw).hexdigest()


def manifest_of(archive: bytes, **changes: Any) -> bytes:
    layer = {"mediaType": LAYER, "digest": sha256(archive), "size": len(archive), **changes}
    config = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": sha256(b"{}"), "size": 2}
    document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]}
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("oci://registry.example/policies/demo:v1", ("registry.example", "policies/demo", "v1")),
        ("oci://localhost:5000/demo", ("localhost:5000", "demo", "latest")),
        (f"oci://r/demo:v1@sha256:{'0' * 64}", ("r", "demo", f"sha256:{'0' * 64}")),
    ],
)
def test_references_are_read(text: str, expected: tuple[str, str, str]) -> None:
    found = Reference.parse(text, "policy.token.bundle")
    assert (found.host, found.name, found.version) == expected


@pytest.mark.parametrize(
    "text",
    ["oci://", "oci://host", "oci://host/", "oci://host/../x", "oci://host/a//b", "oci://u:p@host/a", "oci://host/a@sha256:1", "oci://host/a:b:c", "oci://host/A", "oci://host/a?x"],
)  # fmt: skip
def test_what_is_no_reference_is_a_configuration_error(text: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Reference.parse(text, "policy.token.bundle")
    assert refused.value.path == "policy.token.bundle"


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ca.pem, tls.pem and tls.key for localhost."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for file, content in (("ca.pem", certificate), ("tls.pem", certificate), ("tls.key", private)):
        (folder / file).write_bytes(content)
    return folder


@asynccontextmanager
async def source(text: str, tls: Path, credentials: Path | None = None) -> AsyncIterator[RegistrySource]:
    outbound = Outbound(OutboundConfig())
    yield RegistrySource(
        text, where="policy.token", outbound=outbound, ca_file=tls / "ca.pem", credentials_file=credentials
    )
    await outbound.close()


class Registry:
    """A stand-in that keeps one artefact; tests bend it."""

    def __init__(self, archive: bytes) -> None:
        self.archive = archive
        self.manifest = manifest_of(archive)
        self.token = ""
        self.credentials = ""
        self.redirect = ""
        self.paths: list[str] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.paths.append(request.path)
        given = request.headers.get("Authorization", "")
        if request.path == "/token":
            wanted = "Basic " + base64.b64encode(self.credentials.encode()).decode() if self.credentials else ""
            assert request.query["scope"] == "repository:policies/demo:pull"
            return web.json_response({"token": self.token}) if given == wanted else web.Response(status=401)
        if request.path == "/storage":
            assert not given
            return web.Response(body=self.archive)
        if self.token and given != f"Bearer {self.token}":
            realm = str(request.url.origin()) + "/token"
            challenge = f'Bearer realm="{realm}",service="registry"'
            return web.Response(status=401, headers={"WWW-Authenticate": challenge})
        if request.path == "/v2/policies/demo/manifests/v1":
            return web.Response(body=self.manifest, content_type=MANIFEST)
        if request.path.startswith("/v2/policies/demo/blobs/sha256:"):
            if self.redirect:
                return web.Response(status=307, headers={"Location": self.redirect})
            return web.Response(body=self.archive)
        return web.Response(status=404)


@pytest.fixture
async def registry(demo: Bundle, pack: Any3, tls: Path) -> AsyncIterator[tuple[Registry, str]]:
    stand_in = Registry(pack(demo))
    app = web.Application()
    app.router.add_get("/{path:.*}", stand_in.handle)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tls / "tls.pem", tls / "tls.key")
    server = TestServer(app, scheme="https", host="localhost")
    await server.start_server(ssl=context)
    yield stand_in, f"oci://localhost:{server.port}/policies/demo:v1"
    await server.close()


async def test_a_bundle_is_pulled_once_per_manifest(registry: tuple[Registry, str], tls: Path, variant: Any3, pack: Any3) -> None:  # fmt: skip
    stand_in, text = registry
    async with source(text, tls) as pulling:
        first = await pulling.fetch()
        assert first is not None
        assert first.bundle.manifest.revision == "demo-1"
        assert await pulling.fetch() is None
        stand_in.archive = pack(variant(revision="next"))
        stand_in.manifest = manifest_of(stand_in.archive)
        second = await pulling.fetch()
        assert second is not None
        assert second.bundle.manifest.revision == "next"


async def test_a_pull_token_is_fetched_and_renewed(registry: tuple[Registry, str], tls: Path, tmp_path: Path) -> None:
    stand_in, text = registry
    stand_in.token, stand_in.credentials = "first", "user:secret"
    (tmp_path / "credentials").write_text("user:secret\n")
    async with source(text, tls, tmp_path / "credentials") as pulling:
        assert await pulling.fetch() is not None
        assert stand_in.paths.count("/token") == 1
        stand_in.token = "second"
        assert await pulling.fetch() is None
        assert stand_in.paths.count("/token") == 2
    async with source(text, tls) as anonymous:
        with pytest.raises(BundleError, match="401"):
            await anonymous.fetch()


async def test_a_blob_may_be_redirected_without_the_credentials(registry: tuple[Registry, str], tls: Path) -> None:
    stand_in, text = registry
    stand_in.token, stand_in.redirect = "token", "/storage"
    async with source(text, tls) as pulling:
        assert await pulling.fetch() is not None
    assert "/storage" in stand_in.paths


async def test_a_redirect_without_tls_or_without_end_is_refused(registry: tuple[Registry, str], tls: Path) -> None:
    stand_in, text = registry
    stand_in.redirect = "http://localhost/storage"
    async with source(text, tls) as pulling:
        with pytest.raises(BundleError, match="without TLS"):
            await pulling.fetch()
        stand_in.redirect = f"/v2/policies/demo/blobs/{sha256(b'')}"
        with pytest.raises(BundleError, match="307"):
            await pulling.fetch()


async def test_what_is_not_what_the_digest_names_is_refused(registry: tuple[Registry, str], tls: Path) -> None:
    stand_in, text = registry
    good = stand_in.archive
    async with source(text, tls) as pulling:
        for bad in (good[:-1] + b"\1", good[:-1], good + b"\0"):
            stand_in.archive = bad
            with pytest.raises(BundleError):
                await pulling.fetch()
        stand_in.archive = good
        assert await pulling.fetch() is not None
    pinned = text.replace("/policies/demo:v1", f"/policies/demo:v1@{sha256(b'other')}")
    async with source(pinned, tls) as pulling:
        with pytest.raises(BundleError):
            await pulling.fetch()


@pytest.mark.parametrize(
    "changes",
    [
        {"mediaType": "application/json"},
        {"digest": "md5:0"},
        {"digest": None},
        {"size": 0},
        {"size": True},
        {"size": "1"},
        {"size": 10**12},
    ],
)
async def test_a_manifest_of_another_form_is_refused(
    registry: tuple[Registry, str], tls: Path, changes: dict[str, Any]
) -> None:
    stand_in, text = registry
    stand_in.manifest = manifest_of(stand_in.archive, **changes)
    async with source(text, tls) as pulling:
        with pytest.raises(BundleError):
            await pulling.fetch()


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b'{"layers": {}}', b'{"layers": [1]}', b'{"layers": []}'])
async def test_garbage_for_a_manifest_is_refused(registry: tuple[Registry, str], tls: Path, raw: bytes) -> None:
    stand_in, text = registry
    stand_in.manifest = raw
    async with source(text, tls) as pulling:
        with pytest.raises(BundleError):
            await pulling.fetch()


def test_credentials_that_are_none_are_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "credentials").write_text("token only")
    for name in ("credentials", "missing"):
        with pytest.raises(ConfigurationError) as refused:
            RegistrySource(
                "oci://host/a",
                where="policy.token",
                outbound=Outbound(OutboundConfig()),
                ca_file=None,
                credentials_file=tmp_path / name,
            )
        assert refused.value.path == "policy.token.credentials_file"


@pytest.fixture
def docker_registry(tls: Path, tmp_path: Path) -> Iterator[int]:
    """The registry of Debian's package ``docker-registry``, with TLS, on a free port."""
    program = shutil.which(os.environ.get("ZETA_GUARD_REGISTRY", "docker-registry"))
    if program is None:
        if "registry" in os.environ.get("ZETA_GUARD_REQUIRE", ""):
            pytest.fail("docker-registry is required and not there")
        pytest.skip("needs the docker-registry program")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
    (tmp_path / "registry.yml").write_text(
        "version: 0.1\n"
        "log: {level: error}\n"
        f"storage: {{filesystem: {{rootdirectory: {tmp_path / 'registry'}}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}', tls: {{certificate: {tls / 'tls.pem'}, key: {tls / 'tls.key'}}}}}\n"
    )
    with subprocess.Popen([program, "serve", str(tmp_path / "registry.yml")], stderr=subprocess.DEVNULL) as process:
        try:
            yield port
        finally:
            process.terminate()
            process.wait(10)


async def push(port: int, archive: bytes, tls: Path) -> None:
    context = ssl.create_default_context(cafile=tls / "ca.pem")
    base = f"https://localhost:{port}/v2/policies/demo"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
        async with asyncio.timeout(20):
            while True:
                try:
                    async with session.get(f"https://localhost:{port}/v2/") as response:
                        if response.status == 200:
                            break
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.05)
        for blob in (b"{}", archive):
            async with session.post(f"{base}/blobs/uploads/") as response:
                assert response.status == 202
                location = response.headers["Location"]
            joint = "&" if "?" in location else "?"
            async with session.put(f"{location}{joint}digest={sha256(blob)}", data=blob) as response:
                assert response.status == 201, await response.text()
        headers = {"Content-Type": MANIFEST}
        async with session.put(f"{base}/manifests/v1", data=manifest_of(archive), headers=headers) as response:
            assert response.status == 201, await response.text()


async def test_a_bundle_is_pulled_from_a_real_registry(
    docker_registry: int, tls: Path, demo: Bundle, variant: Any3, pack: Any3, run_policy: Any3, practice: Any3
) -> None:
    await push(docker_registry, pack(demo), tls)
    section = {
        "engine": "embedded",
        "bundle": f"oci://localhost:{docker_registry}/policies/demo:v1",
        "ca_file": str(tls / "ca.pem"),
        "unsafe_unsigned": True,
    }
    async with run_policy({"token": section}) as service:
        assert (await service.token.decide("token", practice(), now=0)).revision == "demo-1"
        assert not await service._token.look()
        await push(docker_registry, pack(variant(revision="pushed")), tls)
        assert await service._token.look()
        assert (await service.token.decide("token", practice(), now=0)).revision == "pushed"
