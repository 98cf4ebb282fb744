"""The trust service: anchors that stay fresh, the chain of a leaf, its revocation state (``wire-contract`` section 5)."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from prometheus_client import CollectorRegistry

from zeta_guard.config import trust as trust_config
from zeta_guard.errors import ConfigurationError, GuardError, ZetaError, unavailable
from zeta_guard.http.outbound import Outbound
from zeta_guard.telemetry.logging import log_event
from zeta_guard.telemetry.security_events import SecurityEvents
from zeta_guard.trust.anchor_source import AnchorSource, DirectorySource
from zeta_guard.trust.anchors import CaService, TrustAnchors
from zeta_guard.trust.certificate import PARSER_ERRORS
from zeta_guard.trust.chain import ChainError, check_policy, check_validity, find_issuer, validity
from zeta_guard.trust.contract import ChainedCertificate, SmcbCertificate, SmcbIdentity
from zeta_guard.trust.demo_marker import bears_demo_marker
from zeta_guard.trust.metrics import TrustMetrics
from zeta_guard.trust.ocsp import Good, Outcome, Refused
from zeta_guard.trust.revocation import AnswerCache, RevocationCheck, answer_keys
from zeta_guard.trust.trust_list_source import TrustListSource

# What the constructor of a named tuple does, without its call of Python code.
_new: Final = tuple.__new__
_LOGGER = logging.getLogger("zeta_guard.trust")

RETRY_AFTER: Final = 5
_NO_ANCHOR: Final = "trust.directory holds no CA certificate: nobody can log in until one is copied there"
_CHAINED: Final = 4096
_REFUSALS: Final = {
    "revoked": "the certificate was revoked (OCSP)",
    "unknown": "the certificate is unknown to its OCSP responder",
    "cert_hash": "the OCSP responder holds another certificate under this serial number",
}


class _KnownLeaf:
    """What never changes for a leaf and a set of anchors: who signed it; and within which time the last of its checks, by
    times and status, comes out the same."""

    __slots__ = ("begin", "end", "issuer", "issuers")

    def __init__(self, issuers: tuple[CaService, ...]) -> None:
        self.issuers: Final = issuers
        self.issuer: CaService | None = None
        self.begin = self.end = 0.0

    def remember(self, issuer: CaService, leaf: tuple[float, float], authority: tuple[float, float]) -> None:
        """It holds under ``issuer`` while both are valid: an issuer's status is that of the moment of issue."""
        self.issuer = issuer
        self.begin, self.end = max(leaf[0], authority[0]), min(leaf[1], authority[1])


class TrustService:
    """Implements :class:`zeta_guard.trust.contract.Trust`. One per process; used from one event loop.

    Stages of its refusals (``ZetaError.stage``): ``trust_anchors``, ``demo_certificate``, ``certificate_chain``,
    ``certificate_policy``, ``ocsp_revoked``, ``ocsp_unknown``, ``ocsp_cert_hash``, ``ocsp_unavailable``.
    """

    def __init__(
        self,
        config: trust_config.Trust,
        store: AnswerCache,
        outbound: Outbound,
        clock: Callable[[], float],
        registry: CollectorRegistry,
        *,
        events: SecurityEvents | None = None,
    ) -> None:
        self._config = config
        self._clock = clock
        self._events = events
        self._metrics = TrustMetrics(registry)
        self._revocation = RevocationCheck(config.ocsp, store, outbound, self._metrics)
        self._source: AnchorSource
        if config.tsl is not None:
            self._source = TrustListSource(
                config.tsl,
                config.certificate_policies,
                outbound,
                self._metrics,
                admit=self._refuse_demo,
                alarm=self._on_alarm,
            )
        else:
            assert config.directory is not None
            self._source = DirectorySource(config.directory)
        self._anchors: TrustAnchors | None = None
        self._authorities = 0
        self._chained: OrderedDict[bytes, _KnownLeaf] = OrderedDict()
        self._refreshing: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()

    async def start(self) -> None:
        """Load the anchors and keep them fresh. Raises ConfigurationError when what is there cannot be used."""
        self._warn_unsafe()
        if self._config.directory is not None and self._config.ocsp.mode != "ignore" and not self._config.ocsp.hosts:
            raise ConfigurationError(
                "trust.ocsp.hosts",
                "empty",
                "the OCSP responder hosts of the CAs in trust.directory (host or host:port)",
                "A folder of certificates does not name responders as a trust list does.",
            )
        anchors = await self._source.start(now=self._clock())
        self._refuse_demo(anchors)
        self._adopt(anchors)
        if not anchors.authority_count:
            log_event(_LOGGER, logging.WARNING, "no_trust_anchor", detail=_NO_ANCHOR)
        self._refreshing = asyncio.create_task(self._keep_fresh(), name="trust-refresh")

    async def close(self) -> None:
        """Cancel refreshes and running questions."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)
            self._refreshing = None
        await self._revocation.close()

    async def refresh(self) -> None:
        """Look at the source of the anchors now (also the configuration's reload). What is refused changes nothing."""
        async with self._lock:
            try:
                anchors = await self._source.refresh(now=self._clock())
                if anchors is not None:
                    self._refuse_demo(anchors)
                    self._adopt(anchors)
            except GuardError as error:
                self._metrics.refreshes.labels("failed").inc()
                log_event(_LOGGER, logging.WARNING, "trust_refresh_failed", reason=str(error))
                return
            self._metrics.refreshes.labels("unchanged" if anchors is None else "changed").inc()
            self._metrics.refreshed.set(self._clock())

    def chain(self, certificate: SmcbCertificate, *, now: float) -> ChainedCertificate:
        """Find and verify the issuer at ``now``, without I/O.

        Raises ZetaError ``invalid_grant``; 503 ``temporarily_unavailable`` while the trust list is outdated.
        """
        anchors = self._usable(now)
        known = self._chained.get(certificate.fingerprint)
        if known is None:
            self._refuse_demo_leaf(certificate)
            try:
                check_policy(certificate.certificate, self._config.certificate_policies)
            except ChainError as error:
                raise ZetaError("invalid_grant", str(error), stage="certificate_policy") from error
        elif known.issuer is not None and known.begin <= now <= known.end:
            self._chained.move_to_end(certificate.fingerprint)
            return _new(ChainedCertificate, (certificate, known.issuer.certificate))
        try:
            known = self._known(certificate, anchors)
            issuer = check_validity(certificate.certificate, known.issuers, now)
        except ChainError as error:
            raise ZetaError("invalid_grant", str(error), stage="certificate_chain") from error
        known.remember(issuer, validity(certificate.certificate), validity(issuer.certificate))
        return ChainedCertificate(certificate, issuer.certificate)

    def answer_keys(self, fingerprint: bytes) -> tuple[str, ...]:
        """See the contract."""
        return () if self._config.ocsp.mode == "ignore" else answer_keys(fingerprint)

    def known_state(
        self, chained: ChainedCertificate, cached: Mapping[str, bytes], *, now: float
    ) -> SmcbIdentity | None:
        """See the contract."""
        anchors = self._usable(now)
        if self._config.ocsp.mode == "ignore":
            return SmcbIdentity(chained.certificate, chained.issuer, 0.0)
        issuer = self._service_behind(chained, anchors)
        outcome = self._revocation.at_hand(cached, chained.certificate, issuer, anchors, now=now)
        return None if outcome is None else _judged(chained, outcome)

    async def check_revocation(self, chained: ChainedCertificate, *, now: float) -> SmcbIdentity:
        """Ask OCSP, cache first.

        Raises ZetaError ``invalid_grant`` for *revoked* and *unknown*, 503 when nobody authorised answered usably.
        """
        anchors = self._usable(now)
        if self._config.ocsp.mode == "ignore":
            return SmcbIdentity(chained.certificate, chained.issuer, 0.0)
        issuer = self._service_behind(chained, anchors)
        return _judged(chained, await self._revocation.outcome(chained.certificate, issuer, anchors, now=now))

    def _service_behind(self, chained: ChainedCertificate, anchors: TrustAnchors) -> CaService:
        known = self._chained.get(chained.certificate.fingerprint)
        issuer = known.issuer if known is not None else None
        if issuer is None or issuer.certificate is not chained.issuer:
            # The anchors changed between the two steps, or the leaf was forgotten.
            issuer = _service_of(chained.issuer, anchors)
        if issuer is None:
            raise ZetaError(
                "invalid_grant", "the certificate's issuer is not a trust anchor", stage="certificate_chain"
            )
        return issuer

    async def readiness(self) -> str | None:
        """None when logins can be checked, else one line."""
        if self._anchors is None:
            return "trust anchors are not loaded"
        if not self._anchors.authority_count:
            return _NO_ANCHOR
        until = self._anchors.usable_until
        if until is not None and self._clock() > until:
            return f"trust list is outdated since {datetime.fromtimestamp(until, UTC):%Y-%m-%dT%H:%M:%SZ}"
        return None

    def _usable(self, now: float) -> TrustAnchors:
        anchors = self._anchors
        if anchors is None:
            raise unavailable("trust anchors are not loaded", stage="trust_anchors")
        if not self._authorities:
            raise unavailable("this guard has no trust anchor yet", retry_after=60, stage="trust_anchors")
        if anchors.usable_until is not None and now > anchors.usable_until:
            raise unavailable("the trust list is outdated", retry_after=60, stage="trust_anchors")
        return anchors

    def _known(self, certificate: SmcbCertificate, anchors: TrustAnchors) -> _KnownLeaf:
        """Name, key identifier and signature never change for a leaf and a set of anchors; times and status do.

        A leaf that is known here has passed the checks of marker and policy too, which depend on it and the configuration alone.
        """
        known = self._chained.get(certificate.fingerprint)
        if known is not None:
            self._chained.move_to_end(certificate.fingerprint)
            return known
        known = self._chained[certificate.fingerprint] = _KnownLeaf(find_issuer(certificate.certificate, anchors))
        if len(self._chained) > _CHAINED:
            self._chained.popitem(last=False)
        return known

    def _adopt(self, anchors: TrustAnchors) -> None:
        self._anchors = anchors
        self._authorities = anchors.authority_count
        self._chained.clear()
        self._revocation.forget()
        self._metrics.anchors.labels("ca").set(anchors.authority_count)
        self._metrics.anchors.labels("ocsp").set(sum(len(signers) for signers in anchors.responders.values()))

    def _refuse_demo(self, anchors: TrustAnchors) -> None:
        if self._config.unsafe_demo_trust or not anchors.demo:
            return
        raise ConfigurationError(
            "trust.tsl" if self._config.tsl is not None else "trust.directory",
            "a certificate of the demo PKI",
            "certificates of the Telematikinfrastruktur",
            "For laboratories only: trust.unsafe_demo_trust.",
        )

    def _refuse_demo_leaf(self, certificate: SmcbCertificate) -> None:
        if self._config.unsafe_demo_trust:
            return
        try:
            demo = bears_demo_marker(certificate.certificate)
        except PARSER_ERRORS as error:
            raise ZetaError("invalid_grant", "certificate cannot be read", stage="certificate_chain") from error
        if demo:
            raise ZetaError("invalid_grant", "certificates of the demo PKI are not accepted", stage="demo_certificate")

    def _warn_unsafe(self) -> None:
        unsafe = {
            "unsafe_demo_trust": self._config.unsafe_demo_trust,
            "ocsp_ignore": self._config.ocsp.mode == "ignore",
        }
        for setting, in_force in unsafe.items():
            self._metrics.unsafe.labels(setting).set(1 if in_force else 0)
            if in_force:
                log_event(_LOGGER, logging.WARNING, "unsafe_trust_setting", setting=setting)

    def _on_alarm(self, reason: str) -> None:
        self._metrics.alarms.labels(reason).inc()
        log_event(_LOGGER, logging.ERROR, "trust_list_alarm", reason=reason)
        if self._events is not None:
            self._events.emit("trust_list_alarm", reason=reason)

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(self._source.pause)
            await self.refresh()


def _judged(chained: ChainedCertificate, outcome: Outcome) -> SmcbIdentity:
    if isinstance(outcome, Good):
        return _new(SmcbIdentity, (chained.certificate, chained.issuer, outcome.produced_at))
    if isinstance(outcome, Refused):
        raise ZetaError("invalid_grant", _REFUSALS[outcome.reason], stage=f"ocsp_{outcome.reason}")
    raise unavailable(
        "the revocation state of the certificate cannot be checked now",
        retry_after=RETRY_AFTER,
        stage="ocsp_unavailable",
    )


def _service_of(issuer: x509.Certificate, anchors: TrustAnchors) -> CaService | None:
    candidates = anchors.authorities.get(issuer.subject.public_bytes(), ())
    return next((ca for ca in candidates if ca.certificate == issuer), None)
