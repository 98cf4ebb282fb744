"""From the leaf to its issuer among the trust anchors (RFC 5280 §6, in the fixed shape of the TI: leaf ← CA of the list).

Pure. Everything that refuses raises :class:`ChainError`; its text may reach a client and names nobody.
"""

from __future__ import annotations

from collections.abc import Iterable

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from zeta_guard.trust.anchors import CaService, ServiceStatus, TrustAnchors
from zeta_guard.trust.certificate import PARSER_ERRORS, extension
from zeta_guard.trust.signature import is_strong_digest


class ChainError(ValueError):
    """Why a leaf is not believed."""


def find_issuer(certificate: x509.Certificate, anchors: TrustAnchors) -> tuple[CaService, ...]:
    """The CAs that issued ``certificate``: same name, same key identifier, and their signature verifies.

    More than one when a CA's certificate was renewed for the same key. Raises ChainError when there is none.
    """
    try:
        candidates = anchors.authorities.get(certificate.issuer.public_bytes(), ())
        authority = extension(certificate.extensions, x509.AuthorityKeyIdentifier)
        digest = certificate.signature_hash_algorithm
    except PARSER_ERRORS as error:
        raise ChainError("certificate cannot be read") from error
    wanted = authority.key_identifier if authority is not None else None
    matching = [ca for ca in candidates if wanted is None or ca.key_identifier == wanted]
    if not matching:
        raise ChainError("the certificate's issuer is not a trust anchor")
    if not is_strong_digest(digest):
        raise ChainError("the certificate is not signed with SHA-2")
    issuers = tuple(ca for ca in matching if _signed_by(certificate, ca))
    if not issuers:
        raise ChainError("the certificate's signature does not verify with its issuer's key")
    return issuers


def check_validity(certificate: x509.Certificate, issuers: Iterable[CaService], now: float) -> CaService:
    """The issuer under which the leaf counts at ``now``. Both ends of a validity period belong to it (RFC 5280 §4.1.2.5).

    An issuer that is *revoked* in the trust list still counts for leaves issued before; one that was not in accord when the
    leaf was issued does not. Raises ChainError.
    """
    begin, end = validity(certificate)
    if now < begin:
        raise ChainError("the certificate is not valid yet")
    if now > end:
        raise ChainError("the certificate has expired")
    refused = ChainError("the certificate's issuer is not a trust anchor")
    for ca in issuers:
        try:
            _check_issuer(ca, begin, now)
        except ChainError as error:
            refused = error
        else:
            return ca
    raise refused


def check_policy(certificate: x509.Certificate, accepted: Iterable[str]) -> None:
    """Raise ChainError unless one of the ``accepted`` certificate policies stands in the leaf."""
    try:
        policies = extension(certificate.extensions, x509.CertificatePolicies)
    except PARSER_ERRORS as error:
        raise ChainError("certificate cannot be read") from error
    found = {policy.policy_identifier.dotted_string for policy in policies or ()}
    wanted = tuple(accepted)
    if found.isdisjoint(wanted):
        raise ChainError(f"the certificate lacks the policy {' or '.join(wanted)}")


def validity(certificate: x509.Certificate) -> tuple[float, float]:
    """First and last second (Unix) of a certificate."""
    return certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()


def _signed_by(certificate: x509.Certificate, ca: CaService) -> bool:
    try:
        certificate.verify_directly_issued_by(ca.certificate)
    except InvalidSignature:
        return False
    except PARSER_ERRORS:
        return False
    return True


def _check_issuer(ca: CaService, leaf_issued_at: float, now: float) -> None:
    begin, end = validity(ca.certificate)
    if not begin <= now <= end:
        raise ChainError("the issuing CA's certificate is not valid now")
    if ca.status is ServiceStatus.OTHER:
        raise ChainError("the issuing CA is neither in accord nor revoked in the trust list")
    if ca.status_at(leaf_issued_at) not in (None, ServiceStatus.IN_ACCORD):
        raise ChainError("the issuing CA was revoked before the certificate was issued")
