"""From the leaf to a trust anchor: names, keys, times, status history, policy."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from zeta_guard.simulators.card import Card
from zeta_guard.simulators.ocsp_answer import encode
from zeta_guard.simulators.pki import DAY, Authority, DemoPki, LeafProfile, key_usage
from zeta_guard.trust.anchors import CaService, ServiceStatus, StatusPeriod, TrustAnchors, ca_service, make_anchors
from zeta_guard.trust.certificate import CertificateFormError
from zeta_guard.trust.chain import ChainError, check_policy, check_validity, find_issuer
from zeta_guard.trust.der import sequence

TELEMATIK_ID = "1-2-ARZT-WIRTH01"
ALWAYS = (StatusPeriod(ServiceStatus.IN_ACCORD, 0.0),)
IN_ACCORD, REVOKED, OTHER = ServiceStatus.IN_ACCORD, ServiceStatus.REVOKED, ServiceStatus.OTHER


def service(authority: Authority, *periods: StatusPeriod) -> CaService:
    return ca_service(authority.certificate, "Provider", periods or ALWAYS)


def anchors_of(*authorities: Authority) -> TrustAnchors:
    return make_anchors([service(authority) for authority in authorities], [])


def believed(card: Card, services: Sequence[CaService], now: float) -> CaService:
    anchors = make_anchors(services, [])
    return check_validity(card.certificate, find_issuer(card.certificate, anchors), now)


def test_a_leaf_of_an_anchor_finds_its_issuer(pki: DemoPki) -> None:
    card = pki.issue_smcb(TELEMATIK_ID)
    found = believed(card, [service(pki.smcb_ca)], pki.now)
    assert found.certificate == pki.smcb_ca.certificate


def test_the_right_one_of_many_anchors_is_found(pki: DemoPki) -> None:
    others = [pki.authority(f"CA {n}", curve="brainpoolP256r1") for n in range(3)]
    found = find_issuer(pki.issue_smcb(TELEMATIK_ID).certificate, anchors_of(*others, pki.smcb_ca))
    assert [ca.certificate for ca in found] == [pki.smcb_ca.certificate]


def test_a_leaf_of_a_ca_that_is_no_anchor_is_refused(pki: DemoPki) -> None:
    stranger = pki.authority("STRANGER", curve="brainpoolP256r1")
    with pytest.raises(ChainError, match="not a trust anchor"):
        find_issuer(pki.issue_smcb(TELEMATIK_ID, issuer=stranger).certificate, anchors_of(pki.smcb_ca))


def test_a_leaf_of_a_namesake_with_another_key_is_refused(pki: DemoPki) -> None:
    card = pki.issue_smcb(TELEMATIK_ID, issuer=pki.foreign_ca)
    assert card.certificate.issuer == pki.smcb_ca.certificate.subject
    with pytest.raises(ChainError, match="not a trust anchor"):
        find_issuer(card.certificate, anchors_of(pki.smcb_ca))


def test_a_forger_who_copies_the_key_identifier_too_fails_at_the_signature(pki: DemoPki) -> None:
    copied = x509.SubjectKeyIdentifier.from_public_key(pki.smcb_ca.private_key.public_key()).digest
    card = pki.issue_smcb(TELEMATIK_ID, issuer=pki.foreign_ca, profile=LeafProfile(authority_key_identifier=copied))
    with pytest.raises(ChainError, match="signature does not verify"):
        find_issuer(card.certificate, anchors_of(pki.smcb_ca))


def test_a_tampered_leaf_fails_at_the_signature(pki: DemoPki) -> None:
    der = pki.issue_smcb(TELEMATIK_ID).der
    tampered = der.replace(TELEMATIK_ID.encode(), b"1-2-ARZT-ANDERE1")
    assert tampered != der
    with pytest.raises(ChainError, match="signature does not verify"):
        find_issuer(x509.load_der_x509_certificate(tampered), anchors_of(pki.smcb_ca))


def test_a_leaf_signed_with_sha1_is_refused(pki: DemoPki) -> None:
    card = pki.issue_smcb(TELEMATIK_ID)
    ecdsa_with_sha1 = bytes.fromhex("300906072a8648ce3d0401")
    members = [member.encoded for member in sequence(card.certificate.tbs_certificate_bytes)]
    members[2] = ecdsa_with_sha1
    tbs = encode(0x30, *members)
    digest = hashlib.sha1(tbs, usedforsecurity=False).digest()
    signature = pki.smcb_ca.private_key.sign(digest, ec.ECDSA(Prehashed(hashes.SHA1())))
    leaf = x509.load_der_x509_certificate(encode(0x30, tbs, ecdsa_with_sha1, encode(3, b"\x00" + signature)))
    with pytest.raises(ChainError, match="not signed with SHA-2"):
        find_issuer(leaf, anchors_of(pki.smcb_ca))


def test_a_leaf_signed_with_an_unknown_algorithm_is_refused(pki: DemoPki) -> None:
    card = pki.issue_smcb(TELEMATIK_ID)
    known, unknown = bytes.fromhex("06082a8648ce3d040302"), bytes.fromhex("06082a8648ce3d04037f")
    assert card.der.count(known) == 2
    leaf = x509.load_der_x509_certificate(card.der.replace(known, unknown))
    with pytest.raises(ChainError, match="cannot be read"):
        find_issuer(leaf, anchors_of(pki.smcb_ca))


def test_a_leaf_whose_extensions_cannot_be_read_is_refused_at_every_step(pki: DemoPki) -> None:
    garbage = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    broken = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), b"\x02\x01\x05")
    for extra in (garbage, broken):
        leaf = pki.issue_smcb(TELEMATIK_ID, profile=LeafProfile(extra=((extra, False),))).certificate
        steps = (lambda: find_issuer(leaf, anchors_of(pki.smcb_ca)), lambda: check_policy(leaf, ["1.2.276.0.76.4.77"]))
        for step in steps:
            if extra is garbage:
                step()
                continue
            with pytest.raises(ChainError, match="cannot be read"):
                step()


@pytest.mark.parametrize(
    ("offset", "fault"),
    [(-DAY - 1, "not valid yet"), (-DAY, None), (0, None), (30 * DAY, None), (30 * DAY + 1, "has expired")],
)
def test_both_ends_of_the_validity_belong_to_it(pki: DemoPki, offset: int, fault: str | None) -> None:
    card = pki.issue_smcb(TELEMATIK_ID)
    if fault is None:
        believed(card, [service(pki.smcb_ca)], pki.now + offset)
        return
    with pytest.raises(ChainError, match=fault):
        believed(card, [service(pki.smcb_ca)], pki.now + offset)


def test_a_leaf_of_an_expired_ca_is_refused(pki: DemoPki) -> None:
    card = pki.issue_smcb(TELEMATIK_ID, issuer=pki.expired_ca)
    assert believed(card, [service(pki.expired_ca)], pki.now - 3601)
    with pytest.raises(ChainError, match="issuing CA's certificate is not valid"):
        believed(card, [service(pki.expired_ca)], pki.now)


def test_a_renewed_ca_certificate_for_the_same_key_serves_old_leaves(pki: DemoPki) -> None:
    old = pki.authority("RENEWED", curve="brainpoolP256r1", not_after=pki.now - 10)
    new = pki.authority("RENEWED", key=old.private_key)
    card = pki.issue_smcb(TELEMATIK_ID, issuer=old)
    found = believed(card, [service(old), service(new)], pki.now)
    assert found.certificate == new.certificate


@pytest.mark.parametrize(
    ("periods", "fault"),
    [
        ([(IN_ACCORD, -100 * DAY)], None),
        # Lists begin to name a CA some time after it began to issue.
        ([(IN_ACCORD, 0)], None),
        ([(REVOKED, 0), (IN_ACCORD, -100 * DAY)], None),
        ([(REVOKED, -DAY + 1)], None),
        ([(REVOKED, -DAY)], "revoked before"),
        ([(REVOKED, -2 * DAY), (IN_ACCORD, -100 * DAY)], "revoked before"),
        # Back in accord: leaves from the time in between stay refused.
        ([(IN_ACCORD, 0), (REVOKED, -2 * DAY), (IN_ACCORD, -100 * DAY)], "revoked before"),
        ([(IN_ACCORD, -2 * DAY), (REVOKED, -3 * DAY)], None),
        ([(OTHER, -100 * DAY)], "neither in accord nor revoked"),
        ([(OTHER, 0), (IN_ACCORD, -100 * DAY)], "neither in accord nor revoked"),
    ],
)
def test_the_status_history_of_the_ca_decides(
    pki: DemoPki, periods: list[tuple[ServiceStatus, float]], fault: str | None
) -> None:
    card = pki.issue_smcb(TELEMATIK_ID)
    history = [StatusPeriod(status, pki.now + offset) for status, offset in periods]
    services = [service(pki.smcb_ca, *history)]
    if fault is None:
        assert believed(card, services, pki.now)
        return
    with pytest.raises(ChainError, match=fault):
        believed(card, services, pki.now)


@pytest.mark.parametrize(
    ("policies", "accepted"),
    [(("1.2.276.0.76.4.163", "1.2.276.0.76.4.77"), True), (("1.2.276.0.76.4.163",), False), ((), False)],
    ids=["SM(C)-B AUT", "only the general one", "none"],
)
def test_the_certificate_policy_must_be_one_of_the_accepted(
    pki: DemoPki, policies: tuple[str, ...], accepted: bool
) -> None:
    card = pki.issue_smcb(TELEMATIK_ID, profile=LeafProfile(policies=policies))
    if accepted:
        check_policy(card.certificate, ["1.2.276.0.76.4.77"])
        return
    with pytest.raises(ChainError, match=r"lacks the policy 1\.2\.276\.0\.76\.4\.77"):
        check_policy(card.certificate, ["1.2.276.0.76.4.77"])


@pytest.mark.parametrize("sibling", ["1.2.276.0.76.4.76", "1.2.276.0.76.4.78", "1.2.276.0.76.4.70"])
def test_sibling_certificates_of_cards_are_refused_by_policy(pki: DemoPki, sibling: str) -> None:
    card = pki.issue_smcb(TELEMATIK_ID, profile=LeafProfile(policies=(sibling,)))
    with pytest.raises(ChainError, match="lacks the policy"):
        check_policy(card.certificate, ["1.2.276.0.76.4.77"])


def test_an_end_entity_certificate_cannot_be_an_anchor(pki: DemoPki) -> None:
    with pytest.raises(CertificateFormError, match="not a CA"):
        ca_service(pki.issue_smcb(TELEMATIK_ID).certificate, "Provider", ALWAYS)


def test_a_ca_that_may_not_sign_certificates_cannot_be_an_anchor(pki: DemoPki) -> None:
    ca = pki.authority("NO CERT SIGN", usage=key_usage("crl_sign"))
    with pytest.raises(CertificateFormError, match="keyCertSign"):
        ca_service(ca.certificate, "Provider", ALWAYS)
