"""The throw-away PKI: fast, well-formed, marked, and valid for whoever else looks at it."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from zeta_guard.jose.slot import Slot
from zeta_guard.simulators.pki import Curve, DemoPki
from zeta_guard.trust.certificate import parse_smcb_certificate
from zeta_guard.trust.demo_marker import bears_demo_marker

SLOT = Slot("subject token", "invalid_grant")


def openssl() -> str:
    """The independent judge of certificates and answers; skipped where it is not installed."""
    found = shutil.which("openssl")
    if found is None:
        pytest.skip("openssl is not installed")
    return found


def test_a_whole_pki_takes_less_than_a_second() -> None:
    began = time.perf_counter()
    pki = DemoPki()
    for name in ("root", "smcb_ca", "component_ca", "foreign_ca", "expired_ca", "ocsp_signer", "ocsp_service"):
        assert getattr(pki, name)
    assert pki.tsl_signer
    for n in range(5):
        pki.issue_smcb(f"1-2-{n}")
    pki.issue_tls(["localhost"])
    pki.crl()
    assert time.perf_counter() - began < 1.0


@pytest.mark.parametrize("curve", ["brainpoolP256r1", "secp256r1"])
def test_an_smcb_has_the_form_that_a_guard_wants(curve: Curve) -> None:
    pki = DemoPki(ocsp_url="http://127.0.0.1:1/ocsp")
    card = pki.issue_smcb("5-2-KH-1", "1.2.276.0.76.4.53", "Klinik", "Träger", curve=curve)
    leaf = parse_smcb_certificate(card.der, SLOT)
    assert (leaf.telematik_id, leaf.profession_oid, leaf.common_name) == ("5-2-KH-1", "1.2.276.0.76.4.53", "Klinik")
    assert card.chain == (pki.smcb_ca.certificate, pki.root.certificate)
    card.certificate.verify_directly_issued_by(card.chain[0])
    card.chain[0].verify_directly_issued_by(card.chain[1])


def test_every_certificate_bears_the_marker_unless_told_otherwise() -> None:
    pki = DemoPki()
    tls = x509.load_pem_x509_certificates(pki.issue_tls(["localhost"])[0])
    cards = [pki.issue_smcb("1-2-X").certificate, pki.issue_popp_signer().certificate]
    authorities = [pki.root, pki.smcb_ca, pki.component_ca, pki.foreign_ca, pki.expired_ca, pki.ocsp_signer]
    signers = [pki.ocsp_service, pki.foreign_ocsp_signer, pki.tsl_ca, pki.tsl_signer]
    for certificate in (*tls, *cards, *(authority.certificate for authority in (*authorities, *signers))):
        assert bears_demo_marker(certificate)
    assert not bears_demo_marker(DemoPki(marked=False).issue_smcb("1-2-X").certificate)


def test_the_tls_certificate_is_accepted_for_its_names_and_addresses(tmp_path: Path) -> None:
    pki = DemoPki()
    certificate, key = pki.issue_tls(["localhost", "127.0.0.1", "::1"])
    (tmp_path / "tls.pem").write_bytes(certificate)
    (tmp_path / "tls.key").write_bytes(key)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "tls.pem", tmp_path / "tls.key")
    client = ssl.create_default_context(cadata=pki.ca_pem().decode())
    for name in ("localhost", "127.0.0.1", "::1"):
        _handshake(server, client, name)
    with pytest.raises(ssl.SSLCertVerificationError):
        _handshake(server, client, "example.org")


def _handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> None:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert ends[0].version() is not None


def test_the_crl_is_signed_by_the_component_ca_and_names_the_revoked() -> None:
    pki = DemoPki()
    crl = x509.load_der_x509_crl(pki.crl([7]))
    key = pki.component_ca.certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert crl.is_signature_valid(key)
    assert [entry.serial_number for entry in crl] == [7]


def test_component_certificates_name_the_crl_once_its_address_is_known() -> None:
    pki = DemoPki()
    with pytest.raises(x509.ExtensionNotFound):
        pki.issue_component("x").certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints)
    pki.crl_url = "http://127.0.0.1:1/crl"
    assert pki.issue_component("x").certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints)


def test_the_foreign_ca_is_a_namesake_with_another_key() -> None:
    pki = DemoPki()
    assert pki.foreign_ca.certificate.subject == pki.smcb_ca.certificate.subject
    assert pki.foreign_ca.certificate.public_key() != pki.smcb_ca.certificate.public_key()


def test_openssl_believes_the_chain(tmp_path: Path) -> None:
    pki = DemoPki()
    card = pki.issue_smcb("1-2-X")
    pem = serialization.Encoding.PEM
    (tmp_path / "root.pem").write_bytes(pki.root.certificate.public_bytes(pem))
    (tmp_path / "ca.pem").write_bytes(pki.smcb_ca.certificate.public_bytes(pem))
    (tmp_path / "leaf.pem").write_bytes(card.certificate.public_bytes(pem))
    command = [openssl(), "verify", "-CAfile", "root.pem", "-untrusted", "ca.pem", "leaf.pem"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
