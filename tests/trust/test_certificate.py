"""The form of an SM(C)-B leaf: each check passes for what is right and refuses what is not."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zeta_guard.errors import ZetaError
from zeta_guard.jose.slot import Slot
from zeta_guard.simulators.card import Card
from zeta_guard.simulators.ocsp_answer import encode
from zeta_guard.simulators.pki import Curve, DemoPki, LeafProfile, admission, distinguished_name
from zeta_guard.trust.certificate import MAX_CERTIFICATE_BYTES, parse_smcb_certificate
from zeta_guard.trust.der import sequence

SLOT = Slot("subject token", "invalid_grant")
TELEMATIK_ID = "1-2-ARZT-WIRTH01"
UNKNOWN_EXTENSION = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4.5"), b"\x05\x00")


def refusal(der: bytes) -> ZetaError:
    with pytest.raises(ZetaError) as caught:
        parse_smcb_certificate(der, SLOT)
    return caught.value


@pytest.mark.parametrize("curve", ["brainpoolP256r1", "secp256r1"])
def test_a_leaf_of_the_usual_form_is_read(pki: DemoPki, curve: Curve) -> None:
    card = pki.issue_smcb(TELEMATIK_ID, "1.2.276.0.76.4.53", "Klinik Beispiel", "Träger e. V.", curve=curve)
    leaf = parse_smcb_certificate(card.der, SLOT)
    assert leaf.telematik_id == TELEMATIK_ID
    assert leaf.profession_oid == "1.2.276.0.76.4.53"
    assert (leaf.common_name, leaf.organization_name) == ("Klinik Beispiel", "Träger e. V.")
    assert leaf.public_key.curve.name == curve
    assert leaf.fingerprint == hashlib.sha256(card.der).digest()


def test_a_leaf_without_organisation_and_without_extended_key_usage_is_read(pki: DemoPki) -> None:
    leaf = parse_smcb_certificate(pki.issue_smcb(TELEMATIK_ID, profile=LeafProfile(extended_key_usage=())).der, SLOT)
    assert leaf.organization_name is None


def test_the_refusal_carries_the_code_of_its_slot_and_names_nobody(pki: DemoPki) -> None:
    card = pki.issue_smcb(TELEMATIK_ID, profile=LeafProfile(digital_signature=False))
    with pytest.raises(ZetaError) as caught:
        parse_smcb_certificate(card.der, Slot("client assertion", "invalid_client"))
    assert caught.value.code == "invalid_client"
    assert TELEMATIK_ID not in caught.value.description


def _two_admissions() -> x509.Admissions:
    return x509.Admissions(
        None, [admission(TELEMATIK_ID, "1.2.276.0.76.4.50"), admission("1-OTHER", "1.2.276.0.76.4.50")]
    )


def _admissions(**changes: Any) -> tuple[tuple[x509.ExtensionType, bool], ...]:
    fields = {
        "naming_authority": None,
        "profession_items": ["x"],
        "profession_oids": [x509.ObjectIdentifier("1.2.276.0.76.4.50")],
        "registration_number": TELEMATIK_ID,
        "add_profession_info": None,
    } | changes
    return ((x509.Admissions(None, [x509.Admission(None, None, [x509.ProfessionInfo(**fields)])]), False),)


BAD_PROFILES: dict[str, tuple[LeafProfile, str]] = {
    "no admission": (LeafProfile(admissions=0), "no admission"),
    "two admissions": (LeafProfile(admissions=2), "2 admissions, expected exactly one"),
    "two admissions of different institutions": (
        LeafProfile(admissions=0, extra=((_two_admissions(), False),)),
        "2 admissions",
    ),
    "no profession info": (
        LeafProfile(admissions=0, extra=((x509.Admissions(None, [x509.Admission(None, None, [])]), False),)),
        "names no profession",
    ),
    "no registration number": (LeafProfile(registration_number=False), "no registration number"),
    "blank around the registration number": (
        LeafProfile(admissions=0, extra=_admissions(registration_number=" 1-2")),
        "printable ASCII",
    ),
    "overlong registration number": (
        LeafProfile(admissions=0, extra=_admissions(registration_number="1" * 129)),
        "1 to 128",
    ),
    "no profession OID": (LeafProfile(admissions=0, extra=_admissions(profession_oids=[])), "0 profession OIDs"),
    "absent profession OIDs": (LeafProfile(admissions=0, extra=_admissions(profession_oids=None)), "0 profession"),
    "too many profession OIDs": (
        LeafProfile(
            admissions=0, extra=_admissions(profession_oids=[x509.ObjectIdentifier(f"1.2.{n}") for n in range(17)])
        ),
        "17 profession OIDs",
    ),
    "no key usage": (LeafProfile(key_usage=False), "digitalSignature"),
    "key usage without digitalSignature": (LeafProfile(digital_signature=False), "digitalSignature"),
    "extended key usage without clientAuth": (
        LeafProfile(extended_key_usage=(ExtendedKeyUsageOID.SERVER_AUTH,)),
        "clientAuth",
    ),
    "a CA": (LeafProfile(ca=True), "CA certificate"),
    "unknown critical extension": (LeafProfile(extra=((UNKNOWN_EXTENSION, True),)), "1.2.3.4.5"),
    "no common name": (
        LeafProfile(subject=x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "x")])),
        "common name",
    ),
}


@pytest.mark.parametrize("name", BAD_PROFILES)
def test_a_leaf_of_another_form_is_refused(pki: DemoPki, name: str) -> None:
    profile, words = BAD_PROFILES[name]
    error = refusal(pki.issue_smcb(TELEMATIK_ID, profile=profile).der)
    assert (error.code, error.status) == ("invalid_grant", 400)
    assert words in error.description


def test_an_unknown_extension_that_is_not_critical_is_nobodys_business(pki: DemoPki) -> None:
    card = pki.issue_smcb(TELEMATIK_ID, profile=LeafProfile(extra=((UNKNOWN_EXTENSION, False),)))
    assert parse_smcb_certificate(card.der, SLOT).telematik_id == TELEMATIK_ID


@pytest.mark.parametrize("bits", [2048, 3072])
def test_an_rsa_key_is_refused(pki: DemoPki, bits: int) -> None:
    key = rsa.generate_private_key(65537, bits)
    assert "named curve" in refusal(pki.issue_smcb(TELEMATIK_ID, profile=LeafProfile(key=key)).der).description


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP256K1(), ec.BrainpoolP384R1(), ec.SECP224R1()])
def test_a_key_on_another_curve_is_refused(pki: DemoPki, curve: ec.EllipticCurve) -> None:
    key = ec.generate_private_key(curve)
    assert "named curve" in refusal(pki.issue_smcb(TELEMATIK_ID, profile=LeafProfile(key=key)).der).description


def with_subject_key(card: Card, subject_key: bytes, signer: ec.EllipticCurvePrivateKey) -> bytes:
    """The same certificate with other bytes as SubjectPublicKeyInfo, signed anew."""
    members = [member.encoded for member in sequence(card.certificate.tbs_certificate_bytes)]
    members[6] = subject_key
    tbs = encode(0x30, *members)
    algorithm = sequence(card.der)[1].encoded
    return encode(0x30, tbs, algorithm, encode(3, b"\x00" + signer.sign(tbs, ec.ECDSA(hashes.SHA256()))))


def wide(value: int) -> bytes:
    return value.to_bytes(32, "big")


def explicit_parameters(key: ec.EllipticCurvePublicKey) -> bytes:
    """P-256 written out as prime, coefficients, base point and order instead of by name."""
    p = 2**256 - 2**224 + 2**192 + 2**96 - 1
    b = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
    gx = 0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296
    gy = 0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5
    n = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    parameters = encode(
        0x30,
        encode(2, b"\x01"),
        encode(0x30, bytes.fromhex("06072a8648ce3d0101"), encode(2, b"\x00" + wide(p))),
        encode(0x30, encode(4, wide(p - 3)), encode(4, wide(b))),
        encode(4, b"\x04" + wide(gx) + wide(gy)),
        encode(2, b"\x00" + wide(n)),
        encode(2, b"\x01"),
    )
    point = key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    algorithm = encode(0x30, bytes.fromhex("06072a8648ce3d0201"), parameters)
    return encode(0x30, algorithm, encode(3, b"\x00" + point))


def test_explicit_curve_parameters_are_refused_even_when_they_are_those_of_p256(pki: DemoPki) -> None:
    card = pki.issue_smcb(TELEMATIK_ID, curve="secp256r1")
    named = card.private_key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    signer = pki.smcb_ca.private_key
    assert parse_smcb_certificate(with_subject_key(card, named, signer), SLOT).telematik_id == TELEMATIK_ID
    explicit = with_subject_key(card, explicit_parameters(card.private_key.public_key()), signer)
    assert "named curve" in refusal(explicit).description


def test_a_point_off_the_curve_is_refused(pki: DemoPki) -> None:
    card = pki.issue_smcb(TELEMATIK_ID, curve="secp256r1")
    named = card.private_key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    off = named[:-1] + bytes([named[-1] ^ 1])
    assert "well-formed" in refusal(with_subject_key(card, off, pki.smcb_ca.private_key)).description


def test_two_admission_extensions_are_refused(pki: DemoPki) -> None:
    card = pki.issue_smcb(TELEMATIK_ID)
    members = [member.encoded for member in sequence(card.certificate.tbs_certificate_bytes)]
    listed = sequence(sequence(card.certificate.tbs_certificate_bytes)[-1].content)
    admissions = next(item for item in listed if bytes.fromhex("06052b24080303") in item.encoded)
    doubled = encode(0x30, *(item.encoded for item in listed), admissions.encoded)
    tbs = encode(0x30, *members[:-1], encode(0xA3, doubled))
    signature = pki.smcb_ca.private_key.sign(tbs, ec.ECDSA(hashes.SHA256()))
    der = encode(0x30, tbs, sequence(card.der)[1].encoded, encode(3, b"\x00" + signature))
    assert "well-formed" in refusal(der).description


@pytest.mark.parametrize("version", [0, 1])
def test_an_older_version_of_x509_is_refused(pki: DemoPki, version: int) -> None:
    card = pki.issue_smcb(TELEMATIK_ID)
    members = [member.encoded for member in sequence(card.certificate.tbs_certificate_bytes)]
    tbs = encode(0x30, encode(0xA0, bytes((2, 1, version))), *members[1:])
    signature = pki.smcb_ca.private_key.sign(tbs, ec.ECDSA(hashes.SHA256()))
    der = encode(0x30, tbs, sequence(card.der)[1].encoded, encode(3, b"\x00" + signature))
    assert any(words in refusal(der).description for words in ("version 3", "well-formed"))


def test_a_certificate_with_something_behind_it_is_refused(pki: DemoPki) -> None:
    assert "well-formed" in refusal(pki.issue_smcb(TELEMATIK_ID).der + b"\x00").description


def test_size_is_capped(pki: DemoPki) -> None:
    padding = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), bytes(MAX_CERTIFICATE_BYTES))
    error = refusal(pki.issue_smcb(TELEMATIK_ID, profile=LeafProfile(extra=((padding, False),))).der)
    assert str(MAX_CERTIFICATE_BYTES) in error.description


@pytest.mark.parametrize("raw", [b"", b"\x30\x00", b"-----BEGIN CERTIFICATE-----", bytes(5000), b"\x30\x80\x00\x00"])
def test_garbage_is_refused(raw: bytes) -> None:
    assert refusal(raw).code == "invalid_grant"


@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_refused_without_another_error(raw: bytes) -> None:
    refusal(raw)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=400, deadline=None)
@given(changes=st.lists(st.tuples(st.integers(0, 65_535), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_mutated_certificate_is_read_or_refused_without_another_error(
    pki: DemoPki, changes: list[tuple[int, int]]
) -> None:
    der = bytearray(_sample(pki))
    for position, value in changes:
        der[position % len(der)] = value
    try:
        leaf = parse_smcb_certificate(bytes(der), SLOT)
    except ZetaError:
        return
    assert dataclasses.is_dataclass(leaf)


_SAMPLES: dict[int, bytes] = {}


def _sample(pki: DemoPki) -> bytes:
    if id(pki) not in _SAMPLES:
        profile = LeafProfile(subject=distinguished_name("Praxis", "Träger"))
        _SAMPLES[id(pki)] = pki.issue_smcb(TELEMATIK_ID, ocsp_url="http://ocsp.example/", profile=profile).der
    return _SAMPLES[id(pki)]
