"""The token keys of a PoPP service, fetched and kept fresh (``wire-contract`` section 7.5; A_26493-01)."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.asymmetric import ec

from zeta_guard.config.gateway import PoppIssuer
from zeta_guard.errors import GuardError, ZetaError, unavailable
from zeta_guard.gateway.popp_federation import (
    KEY_SET_TYPE,
    MAX_DOCUMENT_BYTES,
    STATEMENT_TYPE,
    PublicKeys,
    SignedKeySet,
    base_url,
    read_entity_statement,
    read_signed_key_set,
)
from zeta_guard.recent import Recent
from zeta_guard.telemetry.logging import log_event

if TYPE_CHECKING:
    from zeta_guard.http.outbound import Outbound

_logger = logging.getLogger("zeta_guard.gateway")

_UNKNOWN_KIDS: Final = 1024
_UNKNOWN_SECONDS: Final = 60.0


class PoppKeys:
    """Keys of one issuer: one fetch at a time, at most one per cooldown, and on any error the old set stays.

    A set serves until ``stale`` seconds (24 h at most) after it expired; then there is none, and requests get 503.
    """

    def __init__(self, issuer: PoppIssuer, outbound: Outbound) -> None:
        self.issuer: Final = issuer.issuer
        self._config: Final = issuer
        self._outbound: Final = outbound
        self._keys: PublicKeys = {}
        self._version = 0
        self._unknown: Final[Recent[str, float]] = Recent(_UNKNOWN_KIDS)
        self._fetching: asyncio.Task[None] | None = None
        self._attempted_at = -math.inf
        self._failed = False
        self.expires_at = -math.inf

    @property
    def version(self) -> int:
        """Grows whenever a fetched set differs from the one before."""
        return self._version

    def key(self, kid: str, *, now: float) -> ec.EllipticCurvePublicKey | None:
        """The key of this name; None when it is unknown or the set is too old."""
        return self._keys.get(kid) if self.usable(now) else None

    def usable(self, now: float) -> bool:
        """Whether there is a set that is not older than the configuration allows."""
        return bool(self._keys) and now < self.expires_at + self._config.stale

    def readiness(self, now: float) -> str | None:
        """None when PoPP tokens can be judged with a set that is not stale, else one line."""
        if not self.usable(now):
            return "keys of a PoPP service are not loaded"
        if now >= self.expires_at:
            return "keys of a PoPP service have expired and cannot be renewed"
        return "keys of a PoPP service could not be fetched; the old ones serve" if self._failed else None

    async def refresh(self, *, now: float, kid: str | None = None) -> None:
        """Fetch the set, unless that was tried within the cooldown or ``kid`` was looked for in vain a short while ago.

        Raises ZetaError 503 when there is no usable set, and when ``kid`` is unknown because the service is away.
        """
        if kid is not None and self.usable(now) and self._is_known_to_be_unknown(kid, now):
            return
        if self._fetching is None and not 0 <= now - self._attempted_at < self._config.cooldown:
            self._attempted_at = now
            self._fetching = asyncio.create_task(self._fetch(now), name=f"PoPP keys of {self.issuer}")
        looked = self._fetching is not None
        if self._fetching is not None:
            # One caller that goes away must not take the fetch of all others with it.
            await asyncio.shield(self._fetching)
        missing = not self.usable(now) or (kid is not None and kid not in self._keys)
        # What was asked for within the cooldown has not been looked for: the next fetch may still find it.
        if missing and kid is not None and looked and not self._failed:
            self._unknown.put(kid, now)
        if missing and (self._failed or not self.usable(now)):
            raise unavailable("The keys of the PoPP service cannot be fetched now.", stage="popp")

    async def keep_fresh(self, clock: Callable[[], float]) -> None:
        """Fetch every ``refresh`` seconds, after failures every cooldown, until cancelled."""
        while True:
            # _fetch has logged why; the next round comes.
            with suppress(ZetaError):
                await self.refresh(now=clock())
            pause = self._config.cooldown if self._failed else self._config.refresh
            # A set that is about to expire is renewed before it does.
            left = self.expires_at - clock()
            await asyncio.sleep(max(self._config.cooldown, min(pause, left / 2)) if left > 0 else self._config.cooldown)

    async def close(self) -> None:
        """Cancel a fetch that is under way."""
        task = self._fetching
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _is_known_to_be_unknown(self, kid: str, now: float) -> bool:
        asked_at = self._unknown.get(kid)
        return asked_at is not None and 0 <= now - asked_at < _UNKNOWN_SECONDS

    async def _fetch(self, now: float) -> None:
        try:
            self._take(await self._load(now))
        except GuardError as error:
            self._failed = True
            log_event(_logger, logging.WARNING, "popp_keys_not_fetched", issuer=self.issuer, reason=str(error))
        else:
            self._failed = False
        finally:
            self._fetching = None

    async def _load(self, now: float) -> SignedKeySet:
        document = await self._outbound.get(
            f"{base_url(self._config)}/.well-known/openid-federation",
            accept=f"application/{STATEMENT_TYPE}",
            max_bytes=MAX_DOCUMENT_BYTES,
            ca_file=self._config.ca_file,
        )
        statement = read_entity_statement(document.expect().body, self._config, now=now)
        document = await self._outbound.get(
            statement.keys_url,
            accept=f"application/{KEY_SET_TYPE}",
            max_bytes=MAX_DOCUMENT_BYTES,
            ca_file=self._config.ca_file,
        )
        fetched = read_signed_key_set(document.expect().body, statement, self._config, now=now)
        return SignedKeySet(fetched.keys, min(fetched.expires_at, statement.expires_at))

    def _take(self, fetched: SignedKeySet) -> None:
        self.expires_at = fetched.expires_at
        if _points(fetched.keys) != _points(self._keys):
            self._keys = fetched.keys
            self._version += 1
            self._unknown.clear()
            log_event(_logger, logging.INFO, "popp_keys_changed", issuer=self.issuer, keys=len(fetched.keys))


def _points(keys: PublicKeys) -> dict[str, tuple[int, int]]:
    return {kid: (key.public_numbers().x, key.public_numbers().y) for kid, key in keys.items()}
