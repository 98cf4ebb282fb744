"""TLS and what a person reads when it fails."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from zeta_guard.client.errors import ClientError, Unreachable
from zeta_guard.client.wire import Wire, redacted
from zeta_guard.simulators.pki import DemoPki


@pytest.fixture
async def tls_url(tmp_path: Path) -> AsyncIterator[str]:
    pki = DemoPki()
    certificate, key = pki.issue_tls(["127.0.0.1"])
    (tmp_path / "tls.pem").write_bytes(certificate)
    (tmp_path / "tls.key").write_bytes(key)
    (tmp_path / "ca.pem").write_bytes(pki.ca_pem())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "tls.pem", tmp_path / "tls.key")

    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"path": request.path_qs})

    application = web.Application()
    application.router.add_get("/{anything:.*}", answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    yield f"https://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_the_named_ca_is_trusted_and_the_path_goes_out_byte_for_byte(tls_url: str, tmp_path: Path) -> None:
    async with Wire(ca_file=tmp_path / "ca.pem") as wire:
        answer = await wire.send("GET", f"{tls_url}/a%7Cb,c$d?x=%2F")
    assert answer.json() == {"path": "/a%7Cb,c$d?x=%2F"}


async def test_an_unknown_ca_is_named_with_its_remedy(tls_url: str) -> None:
    async with Wire() as wire:
        with pytest.raises(Unreachable, match="is not trusted") as error:
            await wire.send("GET", tls_url)
    assert "--ca" in error.value.remedy


async def test_plain_http_at_a_tls_port_is_named(tls_url: str) -> None:
    async with Wire() as wire:
        with pytest.raises(Unreachable, match="closed or garbled"):
            await wire.send("GET", tls_url.replace("https", "http"))


async def test_a_ca_file_without_certificates_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("nothing")
    with pytest.raises(ClientError, match="no usable CA certificates"):
        await Wire(ca_file=tmp_path / "empty.pem").__aenter__()


async def test_a_client_that_is_not_open_says_so() -> None:
    with pytest.raises(ClientError, match="not open"):
        await Wire().send("GET", "https://127.0.0.1:1")


@pytest.mark.parametrize("name", ["Authorization", "dpop", "POPP", "Cookie"])
def test_credentials_are_shortened(name: str) -> None:
    assert redacted(name, "DPoP abc") == "DPoP <3 characters>"
    assert redacted(name, "abcdef") == "<6 characters>"


def test_other_headers_are_shown() -> None:
    assert redacted("Accept", "application/json") == "application/json"
