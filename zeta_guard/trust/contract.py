"""What trust answers: who holds a certificate, and whether it still counts (``wire-contract`` section 5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec


@dataclass(frozen=True, slots=True)
class SmcbCertificate:
    """A leaf whose *form* is right (EC key, one admission, key usage); not yet chained, nobody is proven by it.

    Made by :func:`zeta_guard.trust.certificate.parse_smcb_certificate` from DER, without I/O, so that the signature of the
    subject token can be checked with ``public_key`` before anything dearer. ``telematik_id`` and ``profession_oids`` come
    from the first profession info of the admission extension.
    """

    der: bytes
    certificate: x509.Certificate
    public_key: ec.EllipticCurvePublicKey
    fingerprint: bytes
    telematik_id: str
    profession_oids: tuple[str, ...]
    common_name: str
    organization_name: str | None

    @property
    def profession_oid(self) -> str:
        """The first profession OID: the one that stands in tokens."""
        return self.profession_oids[0]


class SmcbIdentity(NamedTuple):
    """An institution, proven: chained to a trust anchor and not revoked. Only :class:`Trust` makes one."""

    certificate: SmcbCertificate
    issuer: x509.Certificate
    ocsp_checked_at: float
    """When the OCSP answer that was used had been produced (0 in mode ``ignore``)."""


class ChainedCertificate(NamedTuple):
    """A leaf that chains to a trust anchor at ``now``; revocation not asked yet."""

    certificate: SmcbCertificate
    issuer: x509.Certificate


class Trust(Protocol):
    """Trust anchors and revocation."""

    async def start(self) -> None:
        """Load the anchors; ConfigurationError when nothing usable is there."""

    def chain(self, certificate: SmcbCertificate, *, now: float) -> ChainedCertificate:
        """Find and verify the issuer, compare the certificate policy (pure).

        Raises ZetaError ``invalid_grant``; 503 when the trust list is outdated.
        """

    def answer_keys(self, fingerprint: bytes) -> tuple[str, ...]:
        """Keys of the store's cache where answers about the certificate are kept, for :meth:`known_state`."""

    def known_state(
        self, chained: ChainedCertificate, cached: Mapping[str, bytes], *, now: float
    ) -> SmcbIdentity | None:
        """As :meth:`check_revocation`, from what stands in the cache at ``now`` and without I/O.

        ``cached`` holds what was found under :meth:`answer_keys`. None: a responder must be asked.
        """

    async def check_revocation(self, chained: ChainedCertificate, *, now: float) -> SmcbIdentity:
        """Ask OCSP (cache first). Raises ZetaError ``invalid_grant`` for *revoked*/*unknown*, 503 for *unavailable*."""

    async def readiness(self) -> str | None:
        """None when logins can be checked, else one line."""

    async def close(self) -> None:
        """Cancel refreshes."""
