"""One OCSP answer: who may give it, what it is about, what it says, how long it counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zeta_guard.simulators.card import Card
from zeta_guard.simulators.ocsp_answer import encode, rewrite
from zeta_guard.simulators.ocsp_responder import CardState, OcspResponder, SignerKind
from zeta_guard.simulators.pki import DAY, Authority, DemoPki, LeafProfile, key_usage, moment
from zeta_guard.trust.anchors import CaService, ServiceStatus, StatusPeriod, ca_service
from zeta_guard.trust.contract import SmcbCertificate
from zeta_guard.trust.ocsp import (
    Answered,
    AnswerError,
    Good,
    Refused,
    build_question,
    judge_times,
    read_answer,
    responder_url,
    url_authority,
)

NONCE = bytes(range(16))
ALWAYS = (StatusPeriod(ServiceStatus.IN_ACCORD, 0.0),)
LeafOf = Callable[[Card], SmcbCertificate]


@dataclass
class Desk:
    """A card, its issuer and a responder that answers without a socket."""

    pki: DemoPki
    leaf: SmcbCertificate
    issuer: CaService
    responder: OcspResponder

    def raw(self, state: CardState = CardState.GOOD, *, digest: hashes.HashAlgorithm | None = None) -> bytes:
        question = build_question(self.leaf.certificate, self.issuer.certificate, NONCE)
        if digest is not None:
            builder = ocsp.OCSPRequestBuilder().add_certificate(self.leaf.certificate, self.issuer.certificate, digest)
            question = builder.build().public_bytes(serialization.Encoding.DER)
        return self.responder.answer(ocsp.load_der_ocsp_request(question), state)

    def read(
        self,
        raw: bytes,
        responders: tuple[x509.Certificate, ...] = (),
        *,
        now: float | None = None,
        nonce: bytes | None = NONCE,
    ) -> Answered:
        moment_now = self.pki.now if now is None else now
        return read_answer(raw, self.leaf, self.issuer, responders, now=moment_now, nonce=nonce)

    def refusal(self, raw: bytes, responders: tuple[x509.Certificate, ...] = (), *, now: float | None = None) -> str:
        with pytest.raises(AnswerError) as caught:
            self.read(raw, responders, now=now)
        return str(caught.value)


@pytest.fixture
def desk(pki: DemoPki, leaf_of: LeafOf) -> Desk:
    issuer = ca_service(pki.smcb_ca.certificate, "Provider", ALWAYS)
    return Desk(pki, leaf_of(pki.issue_smcb("1-2-ARZT")), issuer, OcspResponder(pki, clock=lambda: pki.now))


# what it says


def test_a_good_answer_is_good(desk: Desk) -> None:
    now = desk.pki.now
    assert desk.read(desk.raw()) == Good(now, now, now + 3600)


def test_an_answer_without_next_update_is_good(desk: Desk) -> None:
    desk.responder.valid_seconds = None
    assert desk.read(desk.raw()) == Good(desk.pki.now, desk.pki.now, None)


@pytest.mark.parametrize("state", [CardState.REVOKED, CardState.UNKNOWN])
def test_revoked_and_unknown_are_refusals(desk: Desk, state: CardState) -> None:
    answer = desk.read(desk.raw(state))
    assert isinstance(answer, Refused)
    assert answer.reason == state.value


@pytest.mark.parametrize("digest", [hashes.SHA1(), hashes.SHA256()])
def test_both_digests_of_the_certificate_id_are_understood(desk: Desk, digest: hashes.HashAlgorithm) -> None:
    assert isinstance(desk.read(desk.raw(digest=digest)), Good)


def test_another_digest_of_the_certificate_id_is_not(desk: Desk) -> None:
    assert desk.refusal(desk.raw(digest=hashes.SHA384())) == "about_another_certificate"


def test_an_answer_about_another_number_says_nothing(desk: Desk) -> None:
    assert desk.refusal(desk.raw(CardState.WRONG_SERIAL)) == "about_another_certificate"


def test_an_answer_about_the_same_number_of_another_ca_says_nothing(desk: Desk, leaf_of: LeafOf) -> None:
    pki = desk.pki
    other = pki.authority("OTHER CA", curve="brainpoolP256r1")
    profile = LeafProfile(serial_number=desk.leaf.certificate.serial_number)
    twin = leaf_of(pki.issue_smcb("1-2-ARZT", issuer=other, profile=profile))
    foreign = Desk(pki, twin, ca_service(other.certificate, "Provider", ALWAYS), desk.responder)
    assert desk.refusal(foreign.raw()) == "about_another_certificate"


def test_try_later_says_nothing(desk: Desk) -> None:
    assert desk.refusal(desk.raw(CardState.TRY_LATER)) == "try_later"


@pytest.mark.parametrize("copies", [0, 2])
def test_no_answer_and_two_at_once_say_nothing(desk: Desk, copies: int) -> None:
    raw = rewrite(desk.raw(), desk.pki.ocsp_signer.private_key, produced_at=desk.pki.now, copies=copies)
    assert desk.refusal(raw) == "not_one_answer"


# CertHash


def test_an_answer_without_cert_hash_is_good(desk: Desk) -> None:
    assert isinstance(desk.read(desk.raw(CardState.NO_CERT_HASH)), Good)


def test_a_cert_hash_of_another_certificate_is_a_refusal(desk: Desk) -> None:
    answer = desk.read(desk.raw(CardState.WRONG_CERT_HASH))
    assert isinstance(answer, Refused)
    assert answer.reason == "cert_hash"


def with_single_extension(desk: Desk, value: bytes, *, oid: str = "06052b2408030d", critical: bool = False) -> bytes:
    """A good answer with a hand-made single extension."""
    parts = [bytes.fromhex(oid), b"\x01\x01\xff" if critical else b"", encode(4, value)]
    return rewrite(
        desk.raw(CardState.NO_CERT_HASH),
        desk.pki.ocsp_signer.private_key,
        produced_at=desk.pki.now,
        extension=encode(0x30, *parts),
    )


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\x30\x00",
        b"\x04\x02ab",
        encode(0x30, encode(0x30), encode(4, bytes(32))),
        encode(0x30, encode(0x30, b"\x05\x00"), encode(4, bytes(32))),
        encode(0x30, encode(0x30, bytes.fromhex("0609608648016503040201")), encode(5)),
        encode(0x30, encode(0x30, bytes.fromhex("0609608648016503040201"))),
        encode(0x30, encode(0x30, bytes.fromhex("0609608648016503040201")), encode(4, bytes(32)), encode(5)),
    ],
)
def test_a_malformed_cert_hash_says_nothing(desk: Desk, value: bytes) -> None:
    assert desk.refusal(with_single_extension(desk, value)) == "malformed"


def test_a_cert_hash_with_a_weak_digest_says_nothing(desk: Desk) -> None:
    value = encode(0x30, encode(0x30, bytes.fromhex("06052b0e03021a")), encode(4, bytes(20)))
    assert desk.refusal(with_single_extension(desk, value)) == "cert_hash_algorithm"


def test_an_unknown_critical_extension_says_nothing(desk: Desk) -> None:
    assert desk.refusal(with_single_extension(desk, b"\x05\x00", oid="06022a03", critical=True)) == (
        "unknown_critical_extension"
    )
    assert isinstance(desk.read(with_single_extension(desk, b"\x05\x00", oid="06022a03")), Good)


def test_an_unknown_critical_extension_of_the_whole_answer_says_nothing(desk: Desk) -> None:
    pki = desk.pki
    question = ocsp.load_der_ocsp_request(build_question(desk.leaf.certificate, desk.issuer.certificate, NONCE))
    for critical in (False, True):
        builder = (
            ocsp.OCSPResponseBuilder()
            .add_response_by_hash(
                question.issuer_name_hash,
                question.issuer_key_hash,
                question.serial_number,
                hashes.SHA1(),
                ocsp.OCSPCertStatus.GOOD,
                moment(pki.now),
                None,
                None,
                None,
            )
            .responder_id(ocsp.OCSPResponderEncoding.HASH, pki.smcb_ca.certificate)
            .add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"\x05\x00"), critical)
        )
        raw = builder.sign(pki.smcb_ca.private_key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
        if critical:
            assert desk.refusal(raw) == "unknown_critical_extension"
        else:
            assert isinstance(desk.read(raw), Good)


# nonce


def test_a_wrong_nonce_says_nothing(desk: Desk) -> None:
    assert desk.refusal(desk.raw(CardState.WRONG_NONCE)) == "wrong_nonce"


def test_a_responder_need_not_echo_the_nonce(desk: Desk) -> None:
    assert isinstance(desk.read(desk.raw(digest=hashes.SHA1())), Good)


def test_a_cached_answer_is_read_without_its_nonce(desk: Desk) -> None:
    assert isinstance(desk.read(desk.raw(), nonce=None), Good)


# who may answer


@pytest.mark.parametrize("kind", ["delegate", "issuer"])
def test_the_issuing_ca_and_its_delegate_may_answer(desk: Desk, kind: str) -> None:
    desk.responder.signer = cast(SignerKind, kind)
    assert isinstance(desk.read(desk.raw()), Good)


def test_a_service_of_the_trust_list_may_answer_and_without_the_list_may_not(desk: Desk) -> None:
    desk.responder.signer = "service"
    raw = desk.raw()
    assert isinstance(desk.read(raw, (desk.pki.ocsp_service.certificate,)), Good)
    assert desk.refusal(raw) == "responder_not_authorised"


def test_a_delegate_of_a_foreign_ca_may_not_answer(desk: Desk) -> None:
    assert desk.refusal(desk.raw(CardState.FOREIGN_SIGNER)) == "responder_not_authorised"


def signed_by(desk: Desk, authority: Authority) -> bytes:
    desk.responder.signing_authority = authority
    return desk.raw()


def test_a_certificate_of_the_same_ca_for_another_purpose_may_not_answer(desk: Desk) -> None:
    pki = desk.pki
    other = pki.signer("NOT OCSP", pki.smcb_ca, ExtendedKeyUsageOID.CLIENT_AUTH)
    assert desk.refusal(signed_by(desk, other)) == "responder_not_authorised"


def test_a_certificate_of_the_same_ca_without_a_purpose_may_not_answer(desk: Desk) -> None:
    unspecific: list[tuple[x509.ExtensionType, bool]] = [(key_usage("digital_signature"), True)]
    for extensions in ([], unspecific):
        assert desk.refusal(signed_by(desk, delegate_with(desk.pki, extensions))) == "responder_not_authorised"


def test_an_institution_may_not_answer_for_itself(desk: Desk) -> None:
    card = desk.pki.issue_smcb("1-2-EVIL")
    assert desk.refusal(signed_by(desk, Authority(card.certificate, card.private_key))) == "responder_not_authorised"


def test_a_delegate_that_is_a_ca_may_not_answer(desk: Desk) -> None:
    pki = desk.pki
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(True, None), True),
        (key_usage("digital_signature", "key_cert_sign"), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]), False),
    ]
    assert desk.refusal(signed_by(desk, delegate_with(pki, extensions))) == "responder_not_authorised"


@pytest.mark.parametrize(
    ("extension", "critical", "authorised"),
    [
        (x509.OCSPNoCheck(), False, True),
        (x509.OCSPNoCheck(), True, True),
        (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), False, True),
        (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True, False),
        (key_usage("digital_signature"), True, True),
        (key_usage("key_agreement"), True, False),
    ],
)
def test_extensions_of_a_delegate_are_looked_at(
    desk: Desk, extension: x509.ExtensionType, critical: bool, authorised: bool
) -> None:
    purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING])
    raw = signed_by(desk, delegate_with(desk.pki, [(purpose, False), (extension, critical)]))
    if authorised:
        assert isinstance(desk.read(raw), Good)
    else:
        assert desk.refusal(raw) == "responder_not_authorised"


def delegate_with(pki: DemoPki, extensions: list[tuple[x509.ExtensionType, bool]]) -> Authority:
    key = pki.ocsp_signer.private_key
    certificate = pki.certify(
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "DELEGATE")]),
        key.public_key(),
        issuer=pki.smcb_ca,
        signing_key=pki.smcb_ca.private_key,
        not_before=pki.now - DAY,
        not_after=pki.now + DAY,
        extensions=extensions,
    )
    return Authority(certificate, key)


def test_a_delegate_of_the_same_key_under_another_name_may_not_answer(desk: Desk) -> None:
    pki = desk.pki
    renamed = pki.authority("ANOTHER NAME", key=pki.smcb_ca.private_key)
    delegate = pki.signer("DELEGATE", renamed, ExtendedKeyUsageOID.OCSP_SIGNING)
    assert desk.refusal(signed_by(desk, delegate)) == "responder_not_authorised"


def test_a_forged_delegate_certificate_may_not_answer(desk: Desk) -> None:
    pki = desk.pki
    namesake = Authority(pki.smcb_ca.certificate, pki.foreign_ca.private_key)
    forged = pki.signer("DEMO.OCSP1 NOT-VALID", namesake, ExtendedKeyUsageOID.OCSP_SIGNING)
    assert forged.certificate.issuer == pki.smcb_ca.certificate.subject
    assert desk.refusal(signed_by(desk, forged)) == "responder_not_authorised"


@pytest.mark.parametrize(("offset", "authorised"), [(90 * DAY, True), (90 * DAY + 1, False), (-DAY - 1, False)])
def test_a_delegate_answers_only_while_it_is_valid(desk: Desk, offset: int, authorised: bool) -> None:
    raw = desk.raw()
    if authorised:
        assert isinstance(desk.read(raw, now=desk.pki.now + offset), Good)
    else:
        assert desk.refusal(raw, now=desk.pki.now + offset) == "responder_not_authorised"


def test_an_expired_service_of_the_trust_list_may_not_answer(desk: Desk) -> None:
    pki = desk.pki
    service = pki.signer("OLD", pki.component_ca, ExtendedKeyUsageOID.OCSP_SIGNING, not_after=pki.now - 1)
    assert desk.refusal(signed_by(desk, service), (service.certificate,)) == "responder_not_authorised"


def test_a_broken_signature_says_nothing(desk: Desk) -> None:
    assert desk.refusal(desk.raw(CardState.BAD_SIGNATURE)) == "bad_signature"


def test_a_status_turned_to_good_by_hand_says_nothing(desk: Desk) -> None:
    revoked = desk.raw(CardState.UNKNOWN)
    turned = revoked.replace(b"\x82\x00\x18", b"\x80\x00\x18")
    assert turned != revoked
    assert desk.refusal(turned) == "bad_signature"


def test_an_answer_that_names_nobody_present_says_nothing(desk: Desk) -> None:
    pki = desk.pki
    question = ocsp.load_der_ocsp_request(build_question(desk.leaf.certificate, desk.issuer.certificate, NONCE))
    builder = (
        ocsp.OCSPResponseBuilder()
        .add_response_by_hash(
            question.issuer_name_hash,
            question.issuer_key_hash,
            question.serial_number,
            hashes.SHA1(),
            ocsp.OCSPCertStatus.GOOD,
            moment(pki.now),
            None,
            None,
            None,
        )
        .responder_id(ocsp.OCSPResponderEncoding.NAME, pki.ocsp_signer.certificate)
    )
    raw = builder.sign(pki.ocsp_signer.private_key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
    assert desk.refusal(raw) == "responder_unknown"
    # Named by subject, known from the trust list, certificate not enclosed: enough.
    dated = rewrite(raw, pki.ocsp_signer.private_key, produced_at=pki.now)
    assert isinstance(desk.read(dated, (pki.ocsp_signer.certificate,)), Good)


# times


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (Good(0, 0, 100), None),
        (Good(37.5, 37.5, None), None),
        (Good(37.6, 0, None), "from_the_future"),
        (Good(0, 37.6, None), "from_the_future"),
        (Good(-100, -100, -37.5), None),
        (Good(-100, -100, -37.6), "expired"),
        (Good(-1037.5, -1037.5, None), None),
        (Good(-1037.6, -1037.6, None), "too_old"),
        (Good(0, -1037.6, 100), "too_old"),
        (Refused("revoked", 0, 0, -37.6), "expired"),
    ],
)
def test_times_have_their_limits(answer: Answered, fault: str | None) -> None:
    assert judge_times(answer, now=0, max_age=1000, skew=37.5) == fault


# addresses


@pytest.mark.parametrize(
    ("url", "authority"),
    [
        ("http://OCSP.example/x", ("ocsp.example", "ocsp.example:80")),
        ("https://ocsp.example", ("ocsp.example", "ocsp.example:443")),
        ("http://ocsp.example:8080/", ("ocsp.example", "ocsp.example:8080")),
        ("http://[::1]:80/", ("[::1]", "[::1]:80")),
        ("ldap://ocsp.example", None),
        ("file:///etc/passwd", None),
        ("http://good.example@evil.example/", None),
        ("http://", None),
        ("http://ocsp.example:99999/", None),
        ("http://ocsp.example/\nX", None),
        ("http://ocsp.example/ x", None),
        ("http://[::1/", None),
        ("http://\u00f6csp.example/", None),
        ("http://ocsp\u3002example/", None),
        ("http://ocsp.example/".ljust(2048, "x"), ("ocsp.example", "ocsp.example:80")),
        ("http://ocsp.example/".ljust(2049, "x"), None),
    ],
)
def test_only_plain_http_addresses_have_an_authority(url: str, authority: tuple[str, str] | None) -> None:
    assert url_authority(url) == authority


@given(st.text(max_size=60))
def test_arbitrary_text_is_an_address_or_none(text: str) -> None:
    url_authority("http://" + text)


def test_the_responder_is_named_by_the_certificate(pki: DemoPki) -> None:
    assert responder_url(pki.issue_smcb("1", ocsp_url="http://a.example/").certificate) == "http://a.example/"
    assert responder_url(pki.issue_smcb("1", ocsp_url="").certificate) is None


def test_other_access_methods_are_passed_over(pki: DemoPki) -> None:
    uri = x509.UniformResourceIdentifier
    access = x509.AuthorityInformationAccess(
        [
            x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, uri("http://issuer.example/")),
            x509.AccessDescription(AuthorityInformationAccessOID.OCSP, x509.DNSName("name.example")),
            x509.AccessDescription(AuthorityInformationAccessOID.OCSP, uri("http://ocsp.example/")),
        ]
    )
    card = pki.issue_smcb("1", ocsp_url="", profile=LeafProfile(extra=((access, False),)))
    assert responder_url(card.certificate) == "http://ocsp.example/"


# garbage


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(raw=st.binary(max_size=300))
def test_arbitrary_bytes_say_nothing(desk: Desk, raw: bytes) -> None:
    with pytest.raises(AnswerError):
        desk.read(raw)


_REFUSALS: dict[int, bytes] = {}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
@given(data=st.data())
def test_a_mutated_refusal_never_becomes_good(desk: Desk, data: st.DataObject) -> None:
    raw = bytearray(_REFUSALS.setdefault(id(desk), desk.raw(CardState.UNKNOWN)))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, 2000)) % len(raw)] = data.draw(st.integers(0, 255))
    try:
        answer = desk.read(bytes(raw))
    except AnswerError:
        return
    assert isinstance(answer, Refused)
