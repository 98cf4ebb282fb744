"""The OCSP responder: answers that others understand, and each kind of misbehaviour."""

from __future__ import annotations

import asyncio
import base64
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509 import ocsp

from zeta_guard.simulators.card import Card
from zeta_guard.simulators.ocsp_responder import CardState, OcspResponder
from zeta_guard.simulators.pki import DemoPki

NONCE = bytes(range(16))


def openssl() -> str:
    """The independent judge of certificates and answers; skipped where it is not installed."""
    found = shutil.which("openssl")
    if found is None:
        pytest.skip("openssl is not installed")
    return found


@pytest.fixture
async def responder() -> AsyncIterator[OcspResponder]:
    async with OcspResponder(DemoPki()) as running:
        yield running


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


def question(responder: OcspResponder, card: Card) -> bytes:
    builder = ocsp.OCSPRequestBuilder().add_certificate(
        card.certificate, responder.pki.smcb_ca.certificate, hashes.SHA1()
    )
    request = builder.add_extension(x509.OCSPNonce(NONCE), False).build()
    return request.public_bytes(serialization.Encoding.DER)


async def ask(responder: OcspResponder, session: aiohttp.ClientSession, card: Card) -> tuple[int, bytes]:
    async with session.post(responder.url, data=question(responder, card), allow_redirects=False) as answer:
        return answer.status, await answer.read()


async def test_it_tells_the_pki_its_addresses(responder: OcspResponder) -> None:
    assert responder.pki.ocsp_url == responder.url
    assert responder.pki.crl_url is not None
    assert responder.authority in responder.url


async def test_what_the_pki_issued_is_good_and_the_rest_unknown(
    responder: OcspResponder, session: aiohttp.ClientSession
) -> None:
    known = responder.pki.issue_smcb("1-2-X")
    _, raw = await ask(responder, session, known)
    answer = ocsp.load_der_ocsp_response(raw)
    assert answer.certificate_status is ocsp.OCSPCertStatus.GOOD
    assert answer.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce == NONCE
    assert [item.oid.dotted_string for item in answer.single_extensions] == ["1.3.36.8.3.13"]
    stranger = DemoPki().issue_smcb("1-2-Y")
    _, raw = await ask(responder, session, stranger)
    assert ocsp.load_der_ocsp_response(raw).certificate_status is ocsp.OCSPCertStatus.UNKNOWN


async def test_states_are_per_certificate_and_questions_counted(
    responder: OcspResponder, session: aiohttp.ClientSession
) -> None:
    revoked, good = responder.pki.issue_smcb("1"), responder.pki.issue_smcb("2")
    responder.set_state(revoked, "revoked")
    for card, status in ((revoked, ocsp.OCSPCertStatus.REVOKED), (good, ocsp.OCSPCertStatus.GOOD)):
        _, raw = await ask(responder, session, card)
        assert ocsp.load_der_ocsp_response(raw).certificate_status is status
    assert responder.asked == 2
    assert responder.requests[good.certificate.serial_number] == 1


@pytest.mark.parametrize(
    ("state", "status"), [(CardState.EMPTY, 200), (CardState.REDIRECT, 307), (CardState.GARBAGE, 200)]
)
async def test_it_misbehaves_on_request(
    responder: OcspResponder, session: aiohttp.ClientSession, state: CardState, status: int
) -> None:
    card = responder.pki.issue_smcb("1")
    responder.set_state(card, state)
    seen, raw = await ask(responder, session, card)
    assert seen == status
    with pytest.raises(ValueError, match=r".+"):
        ocsp.load_der_ocsp_response(raw)


async def test_silence_lasts_until_the_responder_closes(session: aiohttp.ClientSession) -> None:
    pki = DemoPki()
    responder = OcspResponder(pki)
    await responder.start()
    card = pki.issue_smcb("1")
    responder.set_state(card, CardState.SILENT)
    waiting = asyncio.create_task(ask(responder, session, card))
    await responder.wait_for(1)
    assert not waiting.done()
    await responder.close()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_questions_may_come_by_get(responder: OcspResponder, session: aiohttp.ClientSession) -> None:
    raw = question(responder, responder.pki.issue_smcb("1"))
    async with session.get(f"{responder.url}/{base64.b64encode(raw).decode()}") as answer:
        assert ocsp.load_der_ocsp_response(await answer.read()).certificate_status is ocsp.OCSPCertStatus.GOOD


async def test_garbage_is_answered_as_malformed(responder: OcspResponder, session: aiohttp.ClientSession) -> None:
    async with session.post(responder.url, data=b"garbage") as answer:
        status = ocsp.load_der_ocsp_response(await answer.read()).response_status
    assert status is ocsp.OCSPResponseStatus.MALFORMED_REQUEST


async def test_the_crl_of_the_component_ca_is_served(responder: OcspResponder, session: aiohttp.ClientSession) -> None:
    responder.revoked_components.add(9)
    assert responder.pki.crl_url is not None
    async with session.get(responder.pki.crl_url) as answer:
        crl = x509.load_der_x509_crl(await answer.read())
    assert [entry.serial_number for entry in crl] == [9]


async def test_openssl_believes_its_answers(
    responder: OcspResponder, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    card = responder.pki.issue_smcb("1")
    _, raw = await ask(responder, session, card)
    pem = serialization.Encoding.PEM
    (tmp_path / "answer.der").write_bytes(raw)
    (tmp_path / "root.pem").write_bytes(responder.pki.root.certificate.public_bytes(pem))
    (tmp_path / "ca.pem").write_bytes(responder.pki.smcb_ca.certificate.public_bytes(pem))
    (tmp_path / "leaf.pem").write_bytes(card.certificate.public_bytes(pem))
    command = [openssl(), "ocsp", "-respin", "answer.der", "-issuer", "ca.pem", "-cert", "leaf.pem", "-no_nonce"]
    command += ["-CAfile", "root.pem", "-verify_other", "ca.pem"]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert b"Response verify OK" in out + err
    assert b"leaf.pem: good" in out + err
