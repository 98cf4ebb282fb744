"""The software SM(C)-B: signatures, PKCS#12 and PEM, there and back."""

from __future__ import annotations

import base64
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, pkcs12

from zeta_guard.simulators.card import Card
from zeta_guard.simulators.pki import Curve, DemoPki, LeafProfile

CURVES: list[Curve] = ["brainpoolP256r1", "secp256r1"]


@pytest.mark.parametrize("curve", CURVES)
def test_a_signature_is_raw_r_and_s_on_the_cards_own_curve(curve: Curve) -> None:
    card = DemoPki().issue_smcb("1-2-X", curve=curve)
    signature = card.sign(b"header.payload")
    assert len(signature) == 64
    der = encode_dss_signature(int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))
    key = card.certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    key.verify(der, b"header.payload", ec.ECDSA(hashes.SHA256()))


@pytest.mark.parametrize("curve", CURVES)
def test_pkcs12_and_pem_hold_the_whole_card(curve: Curve) -> None:
    card = DemoPki().issue_smcb("1-2-X", curve=curve)
    for copy in (
        Card.from_p12(card.to_p12("geheim", "smcb"), "geheim"),
        Card.from_pem(card.certificate_pem(), card.key_pem()),
    ):
        assert copy.der == card.der
        assert copy.chain == card.chain
        assert copy.private_key.private_numbers() == card.private_key.private_numbers()


def test_the_alias_is_the_friendly_name() -> None:
    stored = pkcs12.load_pkcs12(DemoPki().issue_smcb("1-2-X").to_p12("geheim", "smcb"), b"geheim")
    assert stored.cert is not None
    assert stored.cert.friendly_name == b"smcb"


def test_a_wrong_password_is_a_value_error() -> None:
    with pytest.raises(ValueError, match=r".+"):
        Card.from_p12(DemoPki().issue_smcb("1-2-X").to_p12("geheim"), "falsch")


def test_a_file_without_key_is_a_value_error() -> None:
    card = DemoPki().issue_smcb("1-2-X")
    raw = pkcs12.serialize_key_and_certificates(b"x", None, card.certificate, None, BestAvailableEncryption(b"pw"))
    with pytest.raises(ValueError, match="does not hold an EC key"):
        Card.from_p12(raw, "pw")


def test_x5c_is_the_leaf_alone_in_standard_base64() -> None:
    card = DemoPki().issue_smcb("1-2-X")
    assert [base64.b64decode(entry, validate=True) for entry in card.x5c] == [card.der]


def test_identity_and_profession_are_read_from_the_admission() -> None:
    pki = DemoPki()
    card = pki.issue_smcb("1-2-X", "1.2.276.0.76.4.53")
    assert (card.telematik_id, card.profession_oid) == ("1-2-X", "1.2.276.0.76.4.53")
    bare = pki.issue_smcb("1-2-X", profile=LeafProfile(admissions=0))
    assert (bare.telematik_id, bare.profession_oid) == ("", "")


@pytest.mark.parametrize("curve", CURVES)
def test_java_lists_the_key_store(tmp_path: Path, curve: Curve) -> None:
    keytool = shutil.which("keytool")
    if keytool is None:
        pytest.skip("keytool is not installed")
    path = tmp_path / "smcb.p12"
    path.write_bytes(DemoPki().issue_smcb("1-2-X", curve=curve).to_p12("geheim", "smcb"))
    command = [keytool, "-list", "-keystore", str(path), "-storepass", "geheim", "-storetype", "PKCS12"]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0
    assert b"smcb" in done.stdout
    assert b"PrivateKeyEntry" in done.stdout
