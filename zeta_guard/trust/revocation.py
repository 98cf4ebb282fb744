"""Is the certificate revoked? Cache first, then one question at a time per certificate (``wire-contract`` section 5).

Each certificate has two places in the shared cache, its newest *good* and its newest *refused* answer, both as DER; the
newer of the two counts. So an older good answer can never replace a later refusal, whichever process writes last. A process
verifies a cached answer when it first meets it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Final, Protocol

from zeta_guard.config.trust import Ocsp
from zeta_guard.errors import GuardError
from zeta_guard.http.outbound import Outbound, OutboundError
from zeta_guard.recent import Recent
from zeta_guard.telemetry.logging import log_event
from zeta_guard.trust.anchors import CaService, TrustAnchors
from zeta_guard.trust.contract import SmcbCertificate
from zeta_guard.trust.metrics import TrustMetrics
from zeta_guard.trust.ocsp import (
    REQUEST_TYPE,
    RESPONSE_TYPE,
    Answered,
    AnswerError,
    Good,
    Outcome,
    Refused,
    Unavailable,
    build_question,
    judge_times,
    read_answer,
    responder_url,
    url_authority,
)

_LOGGER = logging.getLogger("zeta_guard.trust")

UNKNOWN_SECONDS: Final = 60
"""How long *unknown* counts without asking again: a new card becomes known to its responder at some moment."""

QUESTIONS_PER_HOST: Final = 16
"""Questions in flight to one responder; further ones wait inside their own time limit."""

_VERIFIED: Final = 4096
_MAX_CACHED_BYTES: Final = 65_536
_NONCE_BYTES: Final = 16


class AnswerCache(Protocol):
    """The part of the store that is needed here."""

    async def get_cached(self, key: str, *, now: float) -> bytes | None:
        """A cached value."""

    async def put_cached(self, key: str, value: bytes, *, ttl: int, now: float) -> None:
        """Cache a value."""


class RevocationCheck:
    """Asks responders and remembers what they said. One per process."""

    def __init__(self, config: Ocsp, cache: AnswerCache, outbound: Outbound, metrics: TrustMetrics) -> None:
        self._config = config
        self._cache = cache
        self._outbound = outbound
        self._metrics = metrics
        self._skew = config.skew_ms / 1000
        self._ttl = max(config.max_age, config.cached_age) + round(self._skew) + 60
        self._flights: dict[bytes, asyncio.Task[Outcome]] = {}
        self._slots: dict[str, asyncio.Semaphore] = {}
        self._verified: Recent[tuple[bytes, bytes], Answered] = Recent(_VERIFIED)

    def forget(self) -> None:
        """Verify cached answers anew: the trust anchors changed."""
        self._verified.clear()

    async def close(self) -> None:
        """Cancel running questions."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    async def outcome(self, leaf: SmcbCertificate, issuer: CaService, anchors: TrustAnchors, *, now: float) -> Outcome:
        """What is known about ``leaf`` at ``now``; at most one question per certificate is under way.

        A usable cached answer first; then the responder. Where nobody answers: a known refusal stays, in mode
        ``allow-cached`` a last good answer younger than ``cached_age`` counts, everything else is Unavailable. Raises
        ZetaError when the store is away.
        """
        # One after the other: tasks for two look-ups cost more than the look-ups, also in Redis, where others share the trip.
        found = {key: await self._cache.get_cached(key, now=now) for key in answer_keys(leaf.fingerprint)}
        known = self._newest(found, leaf, issuer, anchors, now)
        if known is not None and self._is_fresh(known, now):
            return self._noted(known, "cache", leaf, issuer)
        asked = await self._ask_once(leaf, issuer, anchors, now)
        if isinstance(asked, Unavailable):
            if isinstance(known, Refused) and known.reason != "unknown":
                return self._noted(known, "cache", leaf, issuer)
            if isinstance(known, Good) and self._is_last_good(known, now):
                return self._noted(known, "last_good", leaf, issuer)
            return self._noted(asked, "responder", leaf, issuer)
        if isinstance(known, Refused) and known.produced_at > asked.produced_at:
            return self._noted(known, "cache", leaf, issuer)
        return self._noted(asked, "responder", leaf, issuer)

    def at_hand(
        self,
        cached: Mapping[str, bytes | None],
        leaf: SmcbCertificate,
        issuer: CaService,
        anchors: TrustAnchors,
        *,
        now: float,
    ) -> Answered | None:
        """What the answers that stand in the cache under :func:`answer_keys` say, if they suffice. No I/O."""
        known = self._newest(cached, leaf, issuer, anchors, now)
        if known is None or not self._is_fresh(known, now):
            return None
        self._noted(known, "cache", leaf, issuer)
        return known

    def _is_fresh(self, answer: Answered, now: float) -> bool:
        if judge_times(answer, now=now, max_age=self._config.max_age, skew=self._skew) is not None:
            return False
        unknown = isinstance(answer, Refused) and answer.reason == "unknown"
        return not unknown or now - answer.produced_at < UNKNOWN_SECONDS

    def _is_last_good(self, answer: Good, now: float) -> bool:
        if self._config.mode != "allow-cached":
            return False
        return now - self._config.cached_age - self._skew <= answer.this_update <= now + self._skew

    def _newest(
        self,
        cached: Mapping[str, bytes | None],
        leaf: SmcbCertificate,
        issuer: CaService,
        anchors: TrustAnchors,
        now: float,
    ) -> Answered | None:
        newest: Answered | None = None
        # A refusal that is as old as a good answer counts: it comes second.
        for key in answer_keys(leaf.fingerprint):
            raw = cached.get(key)
            answer = self._verify_cached(raw, leaf, issuer, anchors, now) if raw is not None else None
            if answer is not None and (newest is None or answer.produced_at >= newest.produced_at):
                newest = answer
        return newest

    def _verify_cached(
        self, raw: bytes, leaf: SmcbCertificate, issuer: CaService, anchors: TrustAnchors, now: float
    ) -> Answered | None:
        key = (leaf.fingerprint, hashlib.sha256(raw).digest())
        known = self._verified.get(key)
        if known is not None:
            return known
        try:
            answer = read_answer(raw, leaf, issuer, anchors.responders.get(issuer.provider, ()), now=now)
        except AnswerError:
            self._metrics.cached_unusable.inc()
            return None
        self._remember(key, answer)
        return answer

    def _remember(self, key: tuple[bytes, bytes], answer: Answered) -> None:
        self._verified.put(key, answer)

    async def _ask_once(self, leaf: SmcbCertificate, issuer: CaService, anchors: TrustAnchors, now: float) -> Outcome:
        flight = self._flights.get(leaf.fingerprint)
        if flight is None:
            flight = asyncio.create_task(self._ask(leaf, issuer, anchors, now), name="ocsp")
            self._flights[leaf.fingerprint] = flight
            flight.add_done_callback(lambda task: self._landed(leaf.fingerprint, task))
        try:
            # A caller that goes away must not take the answer from the others.
            return await asyncio.shield(flight)
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if flight.cancelled() and (caller is None or not caller.cancelling()):
                return Unavailable("closing")
            raise

    def _landed(self, fingerprint: bytes, flight: asyncio.Task[Outcome]) -> None:
        self._flights.pop(fingerprint, None)
        if not flight.cancelled():
            flight.exception()

    async def _ask(self, leaf: SmcbCertificate, issuer: CaService, anchors: TrustAnchors, now: float) -> Outcome:
        url = responder_url(leaf.certificate)
        if url is None:
            return Unavailable("no_responder")
        authority = url_authority(url)
        if authority is None:
            return Unavailable("responder_url")
        host, host_and_port = authority
        listed = self._config.hosts
        if host_and_port not in anchors.responder_hosts and host not in listed and host_and_port not in listed:
            return Unavailable("host_not_listed")
        began = time.perf_counter()
        nonce = os.urandom(_NONCE_BYTES)
        answer = await self._exchange(url, host_and_port, build_question(leaf.certificate, issuer.certificate, nonce))
        outcome: Outcome
        if isinstance(answer, Unavailable):
            outcome = answer
        else:
            outcome = await self._judge(answer, nonce, leaf, issuer, anchors, now)
        self._metrics.questions.labels(_word(outcome)).observe(time.perf_counter() - began)
        return outcome

    async def _exchange(self, url: str, host_and_port: str, question: bytes) -> bytes | Unavailable:
        seconds = self._config.timeout_ms / 1000
        slots = self._slots.setdefault(host_and_port, asyncio.Semaphore(QUESTIONS_PER_HOST))
        try:
            async with asyncio.timeout(seconds), slots:
                answer = await self._outbound.post(
                    url,
                    question,
                    content_type=REQUEST_TYPE,
                    accept=RESPONSE_TYPE,
                    max_bytes=min(self._config.max_bytes, _MAX_CACHED_BYTES),
                    timeout=seconds,
                    allow_private=self._config.private_addresses,
                )
        except TimeoutError:
            return Unavailable("timeout")
        except OutboundError as error:
            return Unavailable(error.reason)
        except GuardError:
            return Unavailable("outbound")
        return answer.body if answer.status == 200 else Unavailable("status")

    async def _judge(
        self, raw: bytes, nonce: bytes, leaf: SmcbCertificate, issuer: CaService, anchors: TrustAnchors, now: float
    ) -> Outcome:
        responders = anchors.responders.get(issuer.provider, ())
        try:
            answer = read_answer(raw, leaf, issuer, responders, now=now, nonce=nonce)
        except AnswerError as error:
            return Unavailable(str(error))
        fault = judge_times(answer, now=now, max_age=self._config.max_age, skew=self._skew)
        if fault is not None:
            return Unavailable(fault)
        self._remember((leaf.fingerprint, hashlib.sha256(raw).digest()), answer)
        good, refused = answer_keys(leaf.fingerprint)
        await self._cache.put_cached(good if isinstance(answer, Good) else refused, raw, ttl=self._ttl, now=now)
        return answer

    def _noted(self, outcome: Outcome, source: str, leaf: SmcbCertificate, issuer: CaService) -> Outcome:
        reason = outcome.reason if isinstance(outcome, Refused | Unavailable) else ""
        word = _word(outcome)
        self._metrics.outcomes.count((word, source, reason))
        quiet = source == "cache" and isinstance(outcome, Good)
        level = logging.DEBUG if quiet else logging.INFO
        if not _LOGGER.isEnabledFor(level):
            return outcome
        log_event(
            _LOGGER,
            level,
            "ocsp_outcome",
            outcome=word,
            source=source,
            reason=reason,
            serial=f"{leaf.certificate.serial_number:x}",
            provider=issuer.provider,
        )
        return outcome


@lru_cache(maxsize=_VERIFIED)
def answer_keys(fingerprint: bytes) -> tuple[str, str]:
    """Where the newest *good* and the newest *refused* answer about a certificate stand in the cache."""
    name = fingerprint.hex()
    return f"ocsp:good:{name}", f"ocsp:refused:{name}"


def _word(outcome: Outcome) -> str:
    if isinstance(outcome, Good):
        return "good"
    return "refused" if isinstance(outcome, Refused) else "unavailable"
