"""Trust lists: what is signed by the pinned signer is read, everything else is refused."""

from __future__ import annotations

import base64
import re
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zeta_guard.simulators.pki import DAY, FOREIGN_PROVIDER, TSL_SIGNING, Authority, DemoPki, key_usage, moment
from zeta_guard.simulators.trust_list import (
    ECDSA_SHA1,
    ENVELOPED,
    EXCLUSIVE,
    OCSP,
    REVOKED,
    RSA_PSS_SHA256,
    RSA_SHA256,
    SHA1,
    Provider,
    Service,
    demo_content,
    list_document,
    sign_list,
    trust_list,
)
from zeta_guard.trust.anchors import ServiceStatus
from zeta_guard.trust.trust_list import TrustList, read_trust_list
from zeta_guard.trust.trust_list_signature import MAX_LIST_BYTES, TrustListError

SMCB_AUT = ["1.2.276.0.76.4.77"]


def read(pki: DemoPki, raw: bytes, *signers: x509.Certificate, now: float | None = None) -> TrustList:
    return read_trust_list(
        raw, signers or [pki.tsl_ca.certificate], identifiers=SMCB_AUT, now=pki.now if now is None else now
    )


def refusal(pki: DemoPki, raw: bytes, *signers: x509.Certificate, now: float | None = None) -> TrustListError:
    with pytest.raises(TrustListError) as caught:
        read(pki, raw, *signers, now=now)
    return caught.value


# content


def test_a_signed_list_is_read(pki: DemoPki) -> None:
    found = read(pki, trust_list(pki, sequence=7))
    assert found.sequence == 7
    assert found.next_update == pki.now + 30 * DAY
    assert found.issued_at == pki.now - 3600
    assert [ca.certificate for ca in found.authorities] == [pki.smcb_ca.certificate]
    assert [certificate for _, certificate in found.responders] == [pki.ocsp_service.certificate]


def test_grace_begins_at_next_update(pki: DemoPki) -> None:
    found = read(pki, trust_list(pki))
    assert found.anchors(100).usable_until == found.next_update + 100


def test_a_list_past_its_next_update_is_still_read(pki: DemoPki) -> None:
    assert read(pki, trust_list(pki, next_update=pki.now - DAY)).next_update < pki.now


def test_responder_hosts_come_from_the_supply_points_of_the_wanted_cas(pki: DemoPki) -> None:
    content = demo_content(pki)
    ca, responder = content.providers[0].services
    services = (
        replace(ca, supply_points=("http://OCSP.example:8080/x", "https://ocsp2.example/", "ftp://no.example", "junk")),
        replace(responder, supply_points=("http://elsewhere.example",)),
        Service(pki.root.certificate, pki.now, identifiers=("1.2.3",), supply_points=("http://other.example",)),
    )
    raw = sign_list(list_document(replace(content, providers=(Provider("P", services),))), pki.tsl_signer)
    assert read(pki, raw).responder_hosts == {"ocsp.example:8080", "ocsp2.example:443"}


def test_other_services_are_not_taken(pki: DemoPki) -> None:
    content = demo_content(pki)
    extra = (
        Service(pki.root.certificate, pki.now, identifiers=("1.2.276.0.76.4.70",)),
        Service(pki.component_ca.certificate, pki.now, kind="http://uri.etsi.org/TrstSvc/Svctype/unspecified"),
        Service(pki.ocsp_signer.certificate, pki.now, kind=OCSP, status=REVOKED, identifiers=()),
    )
    providers = (*content.providers, Provider(FOREIGN_PROVIDER, extra))
    found = read(pki, sign_list(list_document(replace(content, providers=providers)), pki.tsl_signer))
    assert [ca.certificate for ca in found.authorities] == [pki.smcb_ca.certificate]
    assert [certificate for _, certificate in found.responders] == [pki.ocsp_service.certificate]


def test_status_and_history_are_read_newest_first(pki: DemoPki) -> None:
    history = (("http://example/other", pki.now - 300), (REVOKED, pki.now - 200))
    service = Service(pki.smcb_ca.certificate, pki.now - 100, status=REVOKED, history=history)
    content = replace(demo_content(pki), providers=(Provider("P", (service,)),))
    (ca,) = read(pki, sign_list(list_document(content), pki.tsl_signer)).authorities
    assert [(period.status, period.since) for period in ca.periods] == [
        (ServiceStatus.REVOKED, pki.now - 100),
        (ServiceStatus.REVOKED, pki.now - 200),
        (ServiceStatus.OTHER, pki.now - 300),
    ]


def test_cas_that_cannot_be_used_are_skipped_and_counted(pki: DemoPki) -> None:
    content = demo_content(pki)
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "RSA CA")])
    rsa_ca = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(moment(pki.now))
        .not_valid_after(moment(pki.now + DAY))
        .add_extension(x509.BasicConstraints(True, None), True)
        .sign(key, hashes.SHA256())
    )
    providers = (Provider("P", (*content.providers[0].services, Service(rsa_ca, pki.now))),)
    found = read(pki, sign_list(list_document(replace(content, providers=providers)), pki.tsl_signer))
    assert (len(found.authorities), found.skipped) == (1, 1)
    whole = list_document(replace(content, providers=providers))
    encoded = base64.b64encode(rsa_ca.public_bytes(serialization.Encoding.DER))
    for garbage in (b"AAAA", b"!", b"", encoded[:-40]):
        found = read(pki, sign_list(whole.replace(encoded, garbage), pki.tsl_signer))
        assert (len(found.authorities), found.skipped) == (1, 1)


def test_number_of_services_is_capped(pki: DemoPki, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = trust_list(pki)
    services = sum(len(provider.services) for provider in demo_content(pki).providers)
    monkeypatch.setattr("zeta_guard.trust.trust_list._MAX_SERVICES", services)
    assert read(pki, raw).sequence == 1
    monkeypatch.setattr("zeta_guard.trust.trust_list._MAX_SERVICES", services - 1)
    assert refusal(pki, raw).reason == "too_large"


def test_a_list_without_a_usable_ca_is_refused(pki: DemoPki) -> None:
    content = replace(demo_content(pki), providers=())
    assert refusal(pki, sign_list(list_document(content), pki.tsl_signer)).reason == "empty"


@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [
        (rb"<TSLSequenceNumber>.*</TSLSequenceNumber>", b""),
        (rb"<TSLSequenceNumber>.*</TSLSequenceNumber>", b"<TSLSequenceNumber>x</TSLSequenceNumber>"),
        (rb"<TSLSequenceNumber>.*</TSLSequenceNumber>", "<TSLSequenceNumber>²</TSLSequenceNumber>".encode()),
        (rb"<TSLSequenceNumber>.*</TSLSequenceNumber>", "<TSLSequenceNumber>١٢</TSLSequenceNumber>".encode()),
        (rb"<TSLSequenceNumber>.*</TSLSequenceNumber>", b"<TSLSequenceNumber>-1</TSLSequenceNumber>"),
        (rb"<TSLSequenceNumber>.*</TSLSequenceNumber>", b"<TSLSequenceNumber>1000000000000000</TSLSequenceNumber>"),
        (rb"<dateTime>.*</dateTime>", b"<dateTime/>"),
        (rb"<dateTime>.*</dateTime>", b"<dateTime>tomorrow</dateTime>"),
        (rb"<StatusStartingTime>[^<]*</StatusStartingTime>", b""),
        (rb"<TSPName>.*?</TSPName>", b""),
        (rb"<ServiceTypeIdentifier>[^<]*<", b"<ServiceTypeIdentifier> \n<"),
        (rb"TrustServiceStatusList", b"OtherServiceStatusList"),
    ],
)
def test_a_signed_list_that_lacks_something_is_refused(pki: DemoPki, pattern: bytes, replacement: bytes) -> None:
    document = re.sub(pattern, replacement, list_document(demo_content(pki)))
    assert refusal(pki, sign_list(document, pki.tsl_signer)).reason == "malformed"


# signature


@pytest.mark.parametrize("xades", [True, False])
@pytest.mark.parametrize("key_info", [True, False])
def test_the_pinned_signer_itself_is_believed(pki: DemoPki, xades: bool, key_info: bool) -> None:
    document = list_document(demo_content(pki))
    raw = sign_list(document, pki.tsl_signer, xades=xades, key_info=key_info)
    assert read(pki, raw, pki.tsl_signer.certificate).sequence == 1


def test_a_signer_issued_by_the_pinned_ca_is_believed(pki: DemoPki) -> None:
    assert read(pki, trust_list(pki), pki.tsl_ca.certificate).sequence == 1


def test_without_key_info_a_pinned_ca_is_not_enough(pki: DemoPki) -> None:
    raw = sign_list(list_document(demo_content(pki)), pki.tsl_signer, key_info=False)
    assert refusal(pki, raw, pki.tsl_ca.certificate).reason == "signer"


def _rsa_signer(pki: DemoPki, bits: int = 2048) -> tuple[Authority, rsa.RSAPrivateKey]:
    key = rsa.generate_private_key(65537, bits)
    certificate = pki.certify(
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "RSA SIGNER")]),
        key.public_key(),
        issuer=pki.tsl_ca,
        signing_key=pki.tsl_ca.private_key,
        not_before=pki.now - DAY,
        not_after=pki.now + DAY,
        extensions=[(key_usage("content_commitment"), True), (x509.ExtendedKeyUsage([TSL_SIGNING]), False)],
    )
    return Authority(certificate, pki.tsl_ca.private_key), key


@pytest.mark.parametrize("method", [RSA_SHA256, RSA_PSS_SHA256])
def test_rsa_signatures_of_older_signers_are_believed(pki: DemoPki, method: str) -> None:
    signer, key = _rsa_signer(pki)
    raw = sign_list(list_document(demo_content(pki)), signer, method=method, key=key)
    assert read(pki, raw).sequence == 1


def test_a_short_rsa_key_is_refused(pki: DemoPki) -> None:
    signer, key = _rsa_signer(pki, 1024)
    raw = sign_list(list_document(demo_content(pki)), signer, method=RSA_SHA256, key=key)
    assert refusal(pki, raw).reason == "signer"


def test_a_p256_signer_is_believed(pki: DemoPki) -> None:
    signer = pki.signer("P256", pki.tsl_ca, TSL_SIGNING, "secp256r1")
    assert read(pki, sign_list(list_document(demo_content(pki)), signer)).sequence == 1


def test_sha1_as_digest_or_in_the_signature_is_refused(pki: DemoPki) -> None:
    document = list_document(demo_content(pki))
    assert refusal(pki, sign_list(document, pki.tsl_signer, digest=SHA1)).reason == "signature"
    assert refusal(pki, sign_list(document, pki.tsl_signer, method=ECDSA_SHA1)).reason == "signature"


def test_a_stranger_who_brings_his_certificate_along_is_refused(pki: DemoPki) -> None:
    stranger_ca = pki.authority("DEMO.TSL-CA1 NOT-VALID", unit="TSL-Signer-CA", curve="brainpoolP256r1")
    stranger = pki.signer("DEMO TSL Signing Unit 1 NOT-VALID", stranger_ca, TSL_SIGNING, "brainpoolP256r1")
    raw = sign_list(list_document(demo_content(pki)), stranger)
    assert refusal(pki, raw).reason == "signer"


@pytest.mark.parametrize("garbage", [b"AAAA", b"", b"\xc3\xbc"])
def test_key_info_that_cannot_be_read_is_refused_and_not_passed_over(pki: DemoPki, garbage: bytes) -> None:
    raw = trust_list(pki)
    changed = re.sub(rb"(<ds:X509Certificate>)[^<]*", rb"\1" + garbage, raw)
    assert changed != raw
    assert refusal(pki, changed).reason == "signer"


def test_key_info_of_the_true_signer_does_not_help_a_forger(pki: DemoPki) -> None:
    forger = ec.generate_private_key(ec.BrainpoolP256R1())
    raw = sign_list(list_document(demo_content(pki)), pki.tsl_signer, key=forger)
    assert refusal(pki, raw).reason == "signature"


def test_a_certificate_of_the_pinned_ca_for_another_purpose_may_not_sign(pki: DemoPki) -> None:
    other = pki.signer("OCSP", pki.tsl_ca, ExtendedKeyUsageOID.OCSP_SIGNING, "brainpoolP256r1")
    raw = sign_list(list_document(demo_content(pki)), other)
    assert refusal(pki, raw).reason == "signer"


@pytest.mark.parametrize(
    ("more", "believed"),
    [
        ([], True),
        ([(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), False)], True),
        ([(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True)], False),
        ([(x509.BasicConstraints(True, None), True)], False),
    ],
)
def test_extensions_of_a_signer_are_looked_at(
    pki: DemoPki, more: list[tuple[x509.ExtensionType, bool]], believed: bool
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    usual: list[tuple[x509.ExtensionType, bool]] = [
        (key_usage("digital_signature"), True),
        (x509.ExtendedKeyUsage([TSL_SIGNING]), False),
    ]
    certificate = pki.certify(
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "SIGNER")]),
        key.public_key(),
        issuer=pki.tsl_ca,
        signing_key=pki.tsl_ca.private_key,
        not_before=pki.now - DAY,
        not_after=pki.now + DAY,
        extensions=[*usual, *more],
    )
    raw = sign_list(list_document(demo_content(pki)), Authority(certificate, key))
    if believed:
        assert read(pki, raw, pki.tsl_ca.certificate).sequence == 1
    else:
        assert refusal(pki, raw, pki.tsl_ca.certificate).reason == "signer"


def test_the_pinned_ca_may_issue_signers_but_not_sign(pki: DemoPki) -> None:
    raw = sign_list(list_document(demo_content(pki)), pki.tsl_ca)
    assert refusal(pki, raw).reason == "signer"


def test_a_pinned_signer_is_no_issuer(pki: DemoPki) -> None:
    child = pki.signer("CHILD", pki.tsl_signer, TSL_SIGNING, "brainpoolP256r1")
    raw = sign_list(list_document(demo_content(pki)), child)
    assert refusal(pki, raw, pki.tsl_signer.certificate).reason == "signer"


def test_a_pinned_certificate_that_is_no_ca_issues_no_signer(pki: DemoPki) -> None:
    anchor = pki.authority("NOT A CA", ca=False)
    raw = sign_list(list_document(demo_content(pki)), pki.signer("CHILD", anchor, TSL_SIGNING))
    assert refusal(pki, raw, anchor.certificate).reason == "signer"
    ca = pki.authority("A CA")
    raw = sign_list(list_document(demo_content(pki)), pki.signer("CHILD", ca, TSL_SIGNING))
    assert read(pki, raw, ca.certificate).sequence == 1


@pytest.mark.parametrize("offset", [-DAY - 1, 90 * DAY + 1])
def test_a_signer_outside_its_validity_is_refused(pki: DemoPki, offset: int) -> None:
    assert refusal(pki, trust_list(pki), now=pki.now + offset).reason == "signer"


def test_a_list_without_signature_is_refused(pki: DemoPki) -> None:
    assert refusal(pki, list_document(demo_content(pki))).reason == "signature"


def test_every_changed_byte_of_the_content_is_noticed(pki: DemoPki) -> None:
    raw = trust_list(pki, sequence=7)
    for old, new in [
        (b"<TSLSequenceNumber>7<", b"<TSLSequenceNumber>8<"),
        (b"Svcstatus/inaccord", b"Svcstatus/revoked"),
        (b"1.2.276.0.76.4.77", b"1.2.276.0.76.4.78"),
        (b"<SignatureMethod", b"<signatureMethod"),
        (b"2026-01-01T00:00:00Z", b"2026-01-01T00:00:01Z"),
    ]:
        if old in raw:
            assert refusal(pki, raw.replace(old, new)).reason in ("signature", "malformed")


def _wrapped(pki: DemoPki, *, inside: bool) -> bytes:
    """A signed list, and around or beside it another one with an attacker's CA."""
    signed = trust_list(pki).split(b"?>", 1)[1]
    evil = list_document(
        replace(
            demo_content(pki, sequence=99),
            providers=(Provider("EVIL", (Service(pki.foreign_ca.certificate, pki.now - DAY),)),),
        )
    )
    if inside:
        return evil.replace(b"</TrustServiceStatusList>", signed + b"</TrustServiceStatusList>")
    signature = signed[signed.index(b"<ds:Signature") : signed.index(b"</ds:Signature>") + len(b"</ds:Signature>")]
    original = signed.replace(signature, b"")
    moved = signature.replace(b"</ds:Signature>", b"<ds:Object>" + original + b"</ds:Object></ds:Signature>")
    return evil.replace(b"</TrustServiceStatusList>", moved + b"</TrustServiceStatusList>")


@pytest.mark.parametrize("inside", [True, False])
def test_a_signature_moved_into_another_document_is_refused(pki: DemoPki, inside: bool) -> None:
    assert refusal(pki, _wrapped(pki, inside=inside)).reason == "signature"


def test_two_signatures_are_refused(pki: DemoPki) -> None:
    once = trust_list(pki)
    assert refusal(pki, sign_list(once, pki.tsl_signer)).reason == "signature"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'<ds:Reference URI="">', b'<ds:Reference URI="#x">'),
        (b'<ds:Reference URI="">', b'<ds:Reference URI="http://evil.example/">'),
        (b'<ds:Reference URI="">', b"<ds:Reference>"),
        (b"http://www.w3.org/2001/10/xml-exc-c14n#", b"http://www.w3.org/2001/10/xml-exc-c14n#WithComments"),
        (b"http://www.w3.org/2000/09/xmldsig#enveloped-signature", b"http://www.w3.org/TR/1999/REC-xslt-19991116"),
        (b'URI="#SignedProperties-1"', b'URI="#ID-elsewhere"'),
        (b'URI="#SignedProperties-1"', b'URI="file:///etc/passwd"'),
    ],
)
def test_references_and_transforms_are_exactly_the_expected(pki: DemoPki, old: bytes, new: bytes) -> None:
    raw = trust_list(pki)
    assert old in raw
    assert refusal(pki, raw.replace(old, new)).reason == "signature"


@pytest.mark.parametrize(
    ("transforms", "accepted"),
    [
        ((ENVELOPED, EXCLUSIVE), True),
        ((ENVELOPED, "http://www.w3.org/TR/2001/REC-xml-c14n-20010315"), True),
        ((ENVELOPED, f"{EXCLUSIVE}WithComments"), False),
        ((ENVELOPED,), False),
        ((ENVELOPED, EXCLUSIVE, EXCLUSIVE), False),
        ((EXCLUSIVE, EXCLUSIVE), False),
        ((ENVELOPED, ENVELOPED, EXCLUSIVE), False),
    ],
)
def test_a_true_signature_over_another_form_of_the_document_is_refused(
    pki: DemoPki, transforms: tuple[str, ...], accepted: bool
) -> None:
    raw = sign_list(list_document(demo_content(pki)), pki.tsl_signer, transforms=transforms)
    if accepted:
        assert read(pki, raw).sequence == 1
    else:
        assert refusal(pki, raw).reason == "signature"


# parsing


@pytest.mark.parametrize(
    "prologue",
    [
        b"<!DOCTYPE x>",
        b'<!DOCTYPE x [<!ENTITY a "b">]>',
        b'<!DOCTYPE x SYSTEM "file:///etc/passwd">',
        b'<!DOCTYPE x [<!ENTITY a "1234567890"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;">]>',
    ],
)
def test_a_document_type_is_refused_before_anything_is_expanded(pki: DemoPki, prologue: bytes) -> None:
    declaration, rest = trust_list(pki).split(b"?>", 1)
    assert refusal(pki, declaration + b"?>" + prologue + rest).reason == "document_type"


def test_an_encoding_that_hides_a_document_type_is_refused(pki: DemoPki) -> None:
    text = trust_list(pki).decode().replace("UTF-8", "UTF-16")
    assert refusal(pki, text.encode("utf-16")).reason == "malformed"
    assert refusal(pki, text.replace("UTF-16", "ISO-8859-1").encode()).reason == "malformed"


def test_size_is_capped(pki: DemoPki) -> None:
    assert refusal(pki, bytes(MAX_LIST_BYTES + 1)).reason == "too_large"


def test_a_comment_inside_a_value_cannot_cut_it_in_two(pki: DemoPki) -> None:
    raw = trust_list(pki, sequence=123).replace(b">123<", b">1<!-- -->23<")
    assert read(pki, raw).sequence == 123


def test_deep_nesting_is_refused(pki: DemoPki) -> None:
    bomb = b"<a>" * 100_000 + b"</a>" * 100_000
    assert refusal(pki, bomb).reason == "malformed"


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused_without_another_error(raw: bytes) -> None:
    with pytest.raises(TrustListError):
        read_trust_list(raw, [], identifiers=SMCB_AUT, now=0)


_LIST: dict[int, bytes] = {}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(data=st.data())
def test_a_mutated_list_is_never_read_differently(pki: DemoPki, data: st.DataObject) -> None:
    raw = _LIST.setdefault(id(pki), trust_list(pki, sequence=5))
    mutated = bytearray(raw)
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(mutated) - 1))
        mutated[position] = data.draw(st.sampled_from(b"<>&\"'/ =#;x0A\x00\xff"))
    try:
        found = read(pki, bytes(mutated))
    except TrustListError:
        return
    original = read(pki, raw)
    assert replace(found, digest=original.digest) == original


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(data=st.data())
def test_a_signed_list_with_garbage_inside_is_read_or_refused(pki: DemoPki, data: st.DataObject) -> None:
    document = list_document(demo_content(pki))
    texts = [match.span(1) for match in re.finditer(rb">([^<>\n]+)</", document)]
    begin, end = data.draw(st.sampled_from(texts))
    garbage = data.draw(
        st.text(st.characters(codec="ascii", categories=["L", "N", "P"], exclude_characters="<&"), max_size=30)
    )
    changed = document[:begin] + garbage.encode() + document[end:]
    try:
        read(pki, sign_list(changed, pki.tsl_signer))
    except TrustListError:
        return


def test_base64_with_carriage_returns_is_read(pki: DemoPki) -> None:
    document = list_document(demo_content(pki))
    der = base64.b64encode(pki.smcb_ca.certificate.public_bytes(serialization.Encoding.DER))
    broken = b"&#13;\n".join(der[n : n + 76] for n in range(0, len(der), 76))
    assert der in document
    assert len(read(pki, sign_list(document.replace(der, broken), pki.tsl_signer)).authorities) == 1
