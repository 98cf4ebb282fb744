"""Key sets of token issuers: the own one from memory, others from their ``jwks_uri``.

A key set only ever gets better: an error, an empty document or a document with two keys of one name leaves the old set. It does
so for a day: a key that its issuer has withdrawn must not live on because nobody can be asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from cryptography.hazmat.primitives.asymmetric import ec

from zeta_guard.errors import GuardError, JsonValue, ZetaError, unavailable
from zeta_guard.jose.jwk import parse_public_jwk
from zeta_guard.jose.slot import Slot
from zeta_guard.jose.strict_json import parse_object
from zeta_guard.recent import Recent
from zeta_guard.telemetry.logging import log_event

if TYPE_CHECKING:
    from zeta_guard.http.outbound import Outbound

logger = logging.getLogger("zeta_guard.tokens")

MAX_SET_BYTES: Final = 262_144
"""Largest JWKS document."""

MAX_KEYS: Final = 100
"""Most members of a JWKS document."""

COOLDOWN: Final = 10.0
"""Seconds between two fetches, whoever asks."""

STALE_SECONDS: Final = 86_400.0
"""How long a set serves after its ``max-age`` when it cannot be fetched; then there is none, and requests get 503."""

UNKNOWN_KID_SECONDS: Final = 30.0
"""How long a ``kid`` that a fetch did not bring causes no other one."""

MAX_KID: Final = 256
"""Longest ``kid``, in characters."""

_MOST_SOUGHT: Final = 1024
_SHORTEST_AGE: Final = 30.0
_LONGEST_AGE: Final = 3600.0
_USUAL_AGE: Final = 300.0
_MAX_AGE: Final = re.compile(r"(?:^|[\s,])max-age\s*=\s*\"?([0-9]{1,9})")
_KEY: Final = Slot("key of a key set", "server_error")

PublicKeys = Mapping[str, ec.EllipticCurvePublicKey]


class KeySet(Protocol):
    """The public keys of one issuer."""

    @property
    def issuer(self) -> str:
        """Exact value of ``iss``."""

    @property
    def version(self) -> int:
        """Grows whenever the keys change; what was verified under an earlier version is verified again."""

    def key(self, kid: str) -> ec.EllipticCurvePublicKey | None:
        """The P-256 key of this name, None when it is unknown. Pure."""

    async def refresh(self, *, now: float, kid: str | None = None) -> None:
        """Look for newer keys because ``kid`` is missing (or, without it, because it is time).

        Raises ZetaError 503 when the issuer's keys are away, so that nobody takes a new key for a wrong one.
        """


class LocalKeySet:
    """The own keys, from memory. ``keys`` gives those that are public now, by ``kid``."""

    __slots__ = ("_keys", "_seen", "_version", "issuer")

    def __init__(self, issuer: str, keys: Callable[[], PublicKeys]) -> None:
        self.issuer: Final = issuer
        self._keys: Final = keys
        self._seen: frozenset[str] = frozenset()
        self._version = 0

    @property
    def version(self) -> int:
        """Grows whenever a key came or went (``kid`` being the thumbprint, names stand for keys)."""
        names = self._keys().keys()
        if names != self._seen:
            self._seen = frozenset(names)
            self._version += 1
        return self._version

    def key(self, kid: str) -> ec.EllipticCurvePublicKey | None:
        """The key of this name, None when it is unknown."""
        return self._keys().get(kid)

    async def refresh(self, *, now: float, kid: str | None = None) -> None:
        """Nothing to do: memory is never behind."""


class RemoteKeySet:
    """The keys at ``jwks_uri`` (RFC 7517 §5): EC P-256 signing keys that have a ``kid``; all others are ignored.

    ``refresh`` fetches at most once in ``cooldown`` seconds, one fetch at a time for all who wait; ``keep_fresh`` is the loop
    that follows ``Cache-Control`` and belongs to a task of the owner.
    """

    __slots__ = (
        "_cooldown",
        "_etag",
        "_failed",
        "_fetching",
        "_fresh_until",
        "_keys",
        "_outdated",
        "_sought_in_vain",
        "_version",
        "attempted_at",
        "ca_file",
        "due_at",
        "issuer",
        "jwks_uri",
        "loaded_at",
        "outbound",
    )

    def __init__(
        self,
        issuer: str,
        jwks_uri: str,
        outbound: Outbound,
        *,
        ca_file: Path | None = None,
        cooldown: float = COOLDOWN,
    ) -> None:
        self.issuer: Final = issuer
        self.jwks_uri: Final = jwks_uri
        self.outbound: Final = outbound
        self.ca_file: Final = ca_file
        self._cooldown: Final = cooldown
        self._keys: PublicKeys = {}
        self._version = 0
        self._etag: str | None = None
        self._failed = False
        self._outdated = False
        self._fresh_until = -math.inf
        self._fetching: asyncio.Task[None] | None = None
        self._sought_in_vain: Recent[str, float] = Recent(_MOST_SOUGHT)
        self.attempted_at = -math.inf
        self.loaded_at = -math.inf
        self.due_at = -math.inf

    @property
    def version(self) -> int:
        """Grows whenever a fetched set differs from the one before."""
        return self._version

    def key(self, kid: str) -> ec.EllipticCurvePublicKey | None:
        """The key of this name, None when it is unknown."""
        return self._keys.get(kid)

    def readiness(self) -> str | None:
        """None when there are keys and the last fetch went well, else one line."""
        if self._outdated:
            return f"keys of a token issuer could not be fetched for {STALE_SECONDS / 3600:.0f} h; its tokens get 503"
        if not self._keys:
            return "keys of a token issuer were never loaded"
        return "keys of a token issuer could not be fetched; the old ones serve" if self._failed else None

    async def refresh(self, *, now: float, kid: str | None = None) -> None:
        """Fetch the set, unless it was fetched within the cooldown or ``kid`` was looked for in vain a short while ago.

        Raises ZetaError 503 ``temporarily_unavailable`` when there is no set at all, or when ``kid`` is still unknown and the
        last fetch failed.
        """
        if kid is not None and (len(kid) > MAX_KID or self._was_sought_in_vain(kid, now)):
            return
        if self._fetching is None and not 0 <= now - self.attempted_at < self._cooldown:
            self.attempted_at = now
            self._fetching = asyncio.create_task(self._fetch(now), name=f"key set of {self.issuer}")
        fetching = self._fetching
        if fetching is not None:
            # Not awaited directly: one caller that goes away must not take the fetch of all others with it.
            await asyncio.wait((fetching,))
            if not fetching.cancelled():
                fetching.result()
        if self._keys and (kid is None or kid in self._keys):
            return
        if self._failed or not self._keys:
            raise unavailable("The keys of the token issuer cannot be fetched now", stage="key_set")
        if kid is not None and fetching is not None:
            self._sought_in_vain.put(kid, now)

    async def keep_fresh(self, clock: Callable[[], float]) -> None:
        """Fetch whenever the set's ``max-age`` is over, until cancelled. Failures are retried after the cooldown."""
        while True:
            now = clock()
            if now >= self.due_at:
                # _fetch has logged why; the next round comes.
                with contextlib.suppress(ZetaError):
                    await self.refresh(now=now)
            await asyncio.sleep(max(min(self.due_at - clock(), _LONGEST_AGE), self._cooldown, 0.05))

    async def close(self) -> None:
        """Cancel a fetch that is under way."""
        task = self._fetching
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _was_sought_in_vain(self, kid: str, now: float) -> bool:
        asked_at = self._sought_in_vain.get(kid)
        return asked_at is not None and 0 <= now - asked_at < UNKNOWN_KID_SECONDS

    async def _fetch(self, now: float) -> None:
        try:
            answer = await self.outbound.get(
                self.jwks_uri,
                accept="application/jwk-set+json, application/json",
                max_bytes=MAX_SET_BYTES,
                etag=self._etag,
                ca_file=self.ca_file,
            )
            if answer.status == 200:
                self._take(parse_key_set(answer.body))
                self._etag = answer.etag
            elif answer.status != 304 or not self._keys:
                raise KeySetError(f"status {answer.status}")
        except GuardError as error:
            self._failed = True
            self.due_at = now + self._cooldown
            self._drop_outdated(now)
            # Only the kind of an outbound failure: its text names a host, which may be an internal one.
            reason = getattr(error, "reason", None) or str(error)
            log_event(logger, logging.WARNING, "key_set_not_fetched", issuer=self.issuer, reason=reason)
        else:
            self._failed = self._outdated = False
            self.loaded_at = now
            self.due_at = self._fresh_until = now + _fresh_for(answer.headers.get("cache-control", ""))
        finally:
            self._fetching = None

    def _drop_outdated(self, now: float) -> None:
        if self._keys and now >= self._fresh_until + STALE_SECONDS:
            self._keys = {}
            self._version += 1
            self._outdated = True
            # "Not modified" would refer to what is gone.
            self._etag = None
            log_event(logger, logging.ERROR, "key_set_outdated", issuer=self.issuer)

    def _take(self, keys: PublicKeys) -> None:
        if _points(keys) != _points(self._keys):
            self._keys = keys
            self._version += 1
            self._sought_in_vain.clear()
            log_event(logger, logging.INFO, "key_set_changed", issuer=self.issuer, keys=len(keys))


class KeySetError(GuardError):
    """A document that is no usable key set. The text names the fault and quotes nothing."""

    remedy = (
        "Look at what the issuer serves at its jwks_uri: one object with 'keys', each EC P-256 key with its own 'kid'."
    )


def parse_key_set(document: bytes) -> PublicKeys:
    """The EC P-256 signing keys of a JWKS document, by ``kid``. What is not such a key is ignored (RFC 7517 §5).

    Raises KeySetError when the document is malformed or too large, names one ``kid`` twice or holds no usable key.
    """
    if len(document) > MAX_SET_BYTES:
        raise KeySetError(f"larger than {MAX_SET_BYTES} bytes")
    try:
        members = parse_object(document).get("keys")
    except ValueError as error:
        raise KeySetError(f"document {error}") from None
    if not isinstance(members, list) or len(members) > MAX_KEYS:
        raise KeySetError(f"'keys' is not an array of at most {MAX_KEYS} keys")
    keys: dict[str, ec.EllipticCurvePublicKey] = {}
    for member in members:
        kid = _kid_of(member)
        if kid is None:
            continue
        try:
            key = parse_public_jwk(member, _KEY).key
        except ZetaError:
            continue
        if kid in keys:
            raise KeySetError("one 'kid' names two keys")
        keys[kid] = key
    if not keys:
        raise KeySetError("no EC P-256 signing key with a 'kid'")
    return keys


def _kid_of(member: JsonValue) -> str | None:
    if not isinstance(member, dict):
        return None
    kid = member.get("kid")
    operations = member.get("key_ops")
    if operations is not None and not (isinstance(operations, list) and "verify" in operations):
        return None
    return kid if isinstance(kid, str) and 0 < len(kid) <= MAX_KID else None


def _points(keys: PublicKeys) -> dict[str, tuple[int, int]]:
    return {kid: (key.public_numbers().x, key.public_numbers().y) for kid, key in keys.items()}


def _fresh_for(cache_control: str) -> float:
    directives = cache_control.lower()
    if "no-store" in directives or "no-cache" in directives:
        return _SHORTEST_AGE
    found = _MAX_AGE.search(directives)
    return _USUAL_AGE if found is None else min(max(float(found[1]), _SHORTEST_AGE), _LONGEST_AGE)
