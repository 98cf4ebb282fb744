"""Mutual TLS towards a backend: the guard's client certificate is shown, and a wrong one is a 502 that says so."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from zeta_guard.errors import ConfigurationError
from zeta_guard.simulators.pki import DemoPki

MakeWorld = Callable[..., Awaitable[Any]]


class StrictBackend:
    """Answers only those whose certificate its CA signed; a thread with blocking sockets, since asyncio drops alerts."""

    def __init__(self, folder: Path, maximum: ssl.TLSVersion) -> None:
        self.seen: list[str] = []
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(folder / "server.pem", folder / "server.key")
        self._context.load_verify_locations(folder / "client.pem")
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._context.maximum_version = maximum
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                self._serve(connection)

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(5)
        try:
            tls = self._context.wrap_socket(connection.dup(), server_side=True)
        except ssl.SSLError:
            # The alert is out; reading on keeps a reset from overtaking it.
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65_536):
                pass
            return
        with tls:
            tls.recv(65_536)
            subject = tls.getpeercert()
            assert subject is not None
            self.seen.append(str(subject["subject"]))
            tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nmine")

    def stop(self) -> None:
        # Closing alone would leave the thread in accept().
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates of a server, of a client that it knows, and of a stranger."""
    folder = tmp_path_factory.mktemp("mutual")
    pki = DemoPki()
    certificate, key = pki.issue_tls(["127.0.0.1"])
    (folder / "server.pem").write_bytes(certificate)
    (folder / "server.key").write_bytes(key)
    (folder / "ca.pem").write_bytes(pki.ca_pem())
    for name in ("client", "stranger"):
        own = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        begin = datetime.now(UTC) - timedelta(days=1)
        signed = (
            x509.CertificateBuilder(subject, subject, own.public_key(), x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(begin + timedelta(days=30))
            .sign(own, hashes.SHA256())
        )
        (folder / f"{name}.pem").write_bytes(signed.public_bytes(Encoding.PEM))
        (folder / f"{name}.key").write_bytes(own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return folder


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def strict(folder: Path, request: pytest.FixtureRequest) -> Iterator[StrictBackend]:
    backend = StrictBackend(folder, request.param)
    yield backend
    backend.stop()


def upstream(port: int, folder: Path, certificate: str | None) -> dict[str, Any]:
    plain = {"url": f"https://127.0.0.1:{port}", "ca_file": str(folder / "ca.pem")}
    if certificate is None:
        return plain
    return {
        **plain,
        "certificate_file": str(folder / f"{certificate}.pem"),
        "private_key_file": str(folder / f"{certificate}.key"),
    }


async def test_the_client_certificate_of_the_route_is_shown(
    make_world: MakeWorld, strict: StrictBackend, folder: Path
) -> None:
    world = await make_world([{"prefix": "/vsd", "upstreams": [upstream(strict.port, folder, "client")]}])
    reply = await world.get()
    assert (reply.status, reply.body) == (200, b"mine")
    (subject,) = strict.seen
    assert "client" in subject


@pytest.mark.parametrize("certificate", ["stranger", None])
async def test_a_wrong_or_missing_client_certificate_is_a_502_with_a_reason(
    make_world: MakeWorld,
    strict: StrictBackend,
    folder: Path,
    certificate: str | None,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging.getLogger("zeta_guard"), "propagate", True)
    world = await make_world([{"prefix": "/vsd", "upstreams": [upstream(strict.port, folder, certificate)]}])
    for _ in range(2):
        reply = await world.get()
        assert reply.status == 502
        document = json.loads(reply.body)
        assert document["error"] == "bad_gateway"
        assert document["error_description"] == "The secure connection to the service behind the guard failed."
        # What is wrong with it is nobody's business but the operator's.
        assert str(strict.port) not in reply.body.decode()
    assert world.metric("zeta_guard_gateway_upstream_faults_total", route="/vsd", fault="tls") == 2
    lines = [record for record in caplog.records if record.getMessage() == "upstream_tls_failed"]
    (fields,) = [getattr(line, "event_fields") for line in lines]
    assert fields["upstream"] == "gateway.routes[0].upstreams[0]"
    assert "ALERT" in fields["reason"]
    assert strict.seen == []


async def test_a_backend_that_cannot_be_believed_is_told_apart_from_one_that_is_away(
    make_world: MakeWorld,
    strict: StrictBackend,
    folder: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging.getLogger("zeta_guard"), "propagate", True)
    believed_nowhere = {"url": f"https://127.0.0.1:{strict.port}"}
    world = await make_world([{"prefix": "/vsd", "upstreams": [believed_nowhere]}])
    assert (await world.get()).status == 502
    assert world.metric("zeta_guard_gateway_upstream_faults_total", route="/vsd", fault="tls") == 1
    (line,) = [record for record in caplog.records if record.getMessage() == "upstream_tls_failed"]
    assert getattr(line, "event_fields")["reason"] == "CERTIFICATE_VERIFY_FAILED"


async def test_a_key_that_does_not_belong_to_the_certificate_is_an_error_at_load(
    make_world: MakeWorld, folder: Path
) -> None:
    mixed = {**upstream(1, folder, "client"), "private_key_file": str(folder / "stranger.key")}
    with pytest.raises(ConfigurationError) as caught:
        await make_world([{"prefix": "/vsd", "upstreams": [mixed]}])
    assert caught.value.path == "gateway.routes[0].upstreams[0].certificate_file"
