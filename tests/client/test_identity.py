"""SM(C)-B identities from files, and what is wrong with those that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from zeta_guard.client.errors import IdentityError
from zeta_guard.client.identity import admission, load_pem, load_pkcs12
from zeta_guard.simulators.card import Card
from zeta_guard.simulators.pki import DemoPki


@pytest.fixture
def p12(tmp_path: Path, card: Card) -> Path:
    path = tmp_path / "smcb.p12"
    path.write_bytes(card.to_p12("secret", "smcb"))
    return path


def test_a_pkcs12_file_gives_certificate_and_key(p12: Path, card: Card) -> None:
    identity = load_pkcs12(p12, b"secret", "SMCB")
    assert identity.der == card.der
    assert len(identity.sign(b"x")) == 64
    assert admission(identity.der) == ("1-2012345678", ("1.2.276.0.76.4.50",))


def test_a_wrong_password_is_named(p12: Path) -> None:
    with pytest.raises(IdentityError, match="cannot be opened") as error:
        load_pkcs12(p12, b"wrong")
    assert "password" in error.value.remedy


def test_a_wrong_alias_is_named(p12: Path) -> None:
    with pytest.raises(IdentityError, match="holds the alias 'smcb', not 'other'"):
        load_pkcs12(p12, b"secret", "other")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="cannot be read"):
        load_pkcs12(tmp_path / "nothing.p12", None)


def test_pem_files_give_the_same_identity(tmp_path: Path, card: Card) -> None:
    (tmp_path / "c.pem").write_bytes(card.certificate_pem())
    (tmp_path / "k.pem").write_bytes(card.key_pem())
    assert load_pem(tmp_path / "c.pem", tmp_path / "k.pem").der == card.der


def test_der_files_are_read_too(tmp_path: Path, card: Card) -> None:
    (tmp_path / "c.der").write_bytes(card.der)
    raw = card.private_key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "k.der").write_bytes(raw)
    assert load_pem(tmp_path / "c.der", tmp_path / "k.der").der == card.der


def test_key_and_certificate_must_belong_together(tmp_path: Path, card: Card) -> None:
    (tmp_path / "c.pem").write_bytes(card.certificate_pem())
    (tmp_path / "k.pem").write_bytes(DemoPki().issue_smcb("1-2").key_pem())
    with pytest.raises(IdentityError, match="do not belong together"):
        load_pem(tmp_path / "c.pem", tmp_path / "k.pem")


def test_an_rsa_key_is_refused(tmp_path: Path, card: Card) -> None:
    key = rsa.generate_private_key(65537, 2048)
    (tmp_path / "c.pem").write_bytes(card.certificate_pem())
    (tmp_path / "k.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    with pytest.raises(IdentityError, match="not EC"):
        load_pem(tmp_path / "c.pem", tmp_path / "k.pem")


@pytest.mark.parametrize("garbage", [b"", b"-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n", b"\x30\x03"])
def test_garbage_is_no_certificate(tmp_path: Path, card: Card, garbage: bytes) -> None:
    (tmp_path / "c.pem").write_bytes(garbage)
    (tmp_path / "k.pem").write_bytes(card.key_pem())
    with pytest.raises(IdentityError, match="no certificate"):
        load_pem(tmp_path / "c.pem", tmp_path / "k.pem")


def test_a_certificate_without_admission_is_refused() -> None:
    tls = DemoPki().issue_component("host")
    with pytest.raises(IdentityError, match="no admission extension"):
        admission(tls.der)
    with pytest.raises(IdentityError, match="cannot be read"):
        admission(b"garbage")
