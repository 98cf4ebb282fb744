"""Which key signs, which keys are shown (``architecture`` section 7).

A key stands in the JWKS for at least twice the JWKS's max-age before it signs, and until the last token that it signed has
died. So rotation needs no downtime, and no verifier meets a ``kid`` that it could not have fetched.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from zeta_guard.authorization_server.key_folder import KeyFile, read_keys, rotate
from zeta_guard.authorization_server.pkcs12_key import read_key_password
from zeta_guard.config.authorization_server import Lifetimes
from zeta_guard.errors import ConfigurationError, JsonValue
from zeta_guard.jose.jwk import public_jwk
from zeta_guard.jose.jws import Signer
from zeta_guard.telemetry.logging import log_event

__all__ = ["KeyEntry", "KeyState", "SigningKeys", "rotate"]

_LOGGER: Final = logging.getLogger("zeta_guard.authorization_server")
_FOR_EVER: Final = float("inf")
_MOUNTING: Final = 60
"""Seconds that a new file may take to reach every replica."""


class KeyState(StrEnum):
    """Where a key is in its life."""

    NEXT = "next"
    """Shown, not signing yet."""
    CURRENT = "current"
    FORMER = "former"
    """Signs no more; shown until its last token has died."""
    OVER = "over"
    """Not shown any more; its file may be removed."""


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """One line of ``zeta-guard keys list``. Times in Unix seconds; ``until`` None while there is no successor."""

    kid: str
    file: str
    state: KeyState
    signs_from: float
    until: float | None


@dataclass(frozen=True, slots=True)
class _Scheduled:
    file: KeyFile
    signs_from: float
    shown_until: float


class SigningKeys:
    """The keys of the folder and their schedule. Reading is I/O (:meth:`start`, :meth:`reload`); all else is pure."""

    def __init__(
        self,
        directory: Path,
        lifetimes: Lifetimes = Lifetimes(),  # noqa: B008 - frozen
        *,
        password_file: Path | None = None,
    ) -> None:
        self._directory = directory
        self._password_file = password_file
        self._notice = 2 * lifetimes.jwks_max_age
        # Refresh tokens are signed by the same keys and live longer than access tokens.
        self._longest_token = max(lifetimes.access_token_cap, lifetimes.refresh_token_cap)
        self._first_seen: dict[str, float] = {}
        self._schedule: tuple[_Scheduled, ...] = ()
        self._shown: dict[str, ec.EllipticCurvePublicKey] = {}
        self._shown_from = _FOR_EVER
        self._shown_until = -_FOR_EVER

    def __repr__(self) -> str:
        return f"SigningKeys({', '.join(entry.file.path.name for entry in self._schedule)})"

    @property
    def notice(self) -> int:
        """Seconds that a key is shown before it signs."""
        return self._notice

    def start(self, now: float) -> None:
        """Read the folder. Raises ConfigurationError; what stands there already is believed by its name."""
        self._take(self._read_now(), now, known=True)

    def reload(self, now: float) -> bool:
        """Read the folder again: True when something changed. A folder with a mistake changes nothing and is logged."""
        return self._apply(self._read(), now)

    async def reload_in_background(self, now: float) -> bool:
        """:meth:`reload` with the files read off the event loop; what was read takes effect in one step on the loop."""
        return self._apply(await asyncio.to_thread(self._read), now)

    def write_next(self, now: float) -> KeyFile:
        """Write the key that follows, in time to be shown before it signs. Raises ConfigurationError; is I/O."""
        return rotate(
            self._directory, now, lead=self._notice + _MOUNTING, password=read_key_password(self._password_file)
        )

    def _read_now(self) -> tuple[KeyFile, ...]:
        return read_keys(self._directory, read_key_password(self._password_file))

    def _read(self) -> tuple[KeyFile, ...] | None:
        try:
            return self._read_now()
        except ConfigurationError as error:
            log_event(_LOGGER, logging.ERROR, "signing_keys_refused", reason=str(error))
            return None

    def _apply(self, keys: tuple[KeyFile, ...] | None, now: float) -> bool:
        if keys is None or {(key.kid, key.not_before) for key in keys} == {
            (entry.file.kid, entry.file.not_before) for entry in self._schedule
        }:
            return False
        self._take(keys, now, known=False)
        log_event(_LOGGER, logging.INFO, "signing_keys_loaded", keys=len(keys), current=self.current(now).kid)
        return True

    def _take(self, keys: tuple[KeyFile, ...], now: float, *, known: bool) -> None:
        self._first_seen = {
            # At start the other replicas have shown the key since it was written, which rotation does in time.
            key.kid: self._first_seen.get(key.kid, key.not_before - self._notice if known else now)
            for key in keys
        }
        begins = [max(float(key.not_before), self._first_seen[key.kid] + self._notice) for key in keys]
        # Somebody must sign: the earliest key does so before its time when there is no other.
        if min(begins) > now:
            begins[begins.index(min(begins))] = now
        ordered = sorted(zip(begins, keys, strict=True), key=lambda pair: (pair[0], pair[1].not_before))
        schedule: list[_Scheduled] = []
        for index, (signs_from, key) in enumerate(ordered):
            until = _FOR_EVER
            if index + 1 < len(ordered):
                # Another replica may learn of the successor later than this one and sign with this key meanwhile.
                until = ordered[index + 1][0] + self._notice + self._longest_token
            schedule.append(_Scheduled(key, signs_from, until))
        self._schedule = tuple(schedule)
        self._shown_until = -_FOR_EVER

    def current(self, now: float) -> Signer:
        """The key that signs at ``now``."""
        return self._current(now).file.signer

    def _current(self, now: float) -> _Scheduled:
        if not self._schedule:
            raise RuntimeError("signing keys were not started")
        found = self._schedule[0]
        for entry in self._schedule[1:]:
            if entry.signs_from <= now:
                found = entry
        return found

    def public(self, now: float) -> Mapping[str, ec.EllipticCurvePublicKey]:
        """The keys that are shown at ``now``, by ``kid``: those to come, the current one, and those with living tokens."""
        if not self._shown_from <= now < self._shown_until:
            self._shown = {
                entry.file.kid: entry.file.signer.key.public_key()
                for entry in self._schedule
                if now < entry.shown_until
            }
            self._shown_from = now
            self._shown_until = min(
                (entry.shown_until for entry in self._schedule if now < entry.shown_until), default=_FOR_EVER
            )
        return self._shown

    def jwks(self, now: float) -> dict[str, JsonValue]:
        """The JWK Set (RFC 7517 §5)."""
        return {"keys": [{**public_jwk(key)} for key in self.public(now).values()]}

    def entries(self, now: float) -> tuple[KeyEntry, ...]:
        """All keys and their states, earliest first (``zeta-guard keys list``)."""
        current = self._current(now)
        return tuple(self._entry(entry, current, now) for entry in self._schedule)

    def _entry(self, entry: _Scheduled, current: _Scheduled, now: float) -> KeyEntry:
        if entry is current:
            state = KeyState.CURRENT
        elif entry.signs_from > now:
            state = KeyState.NEXT
        else:
            state = KeyState.FORMER if now < entry.shown_until else KeyState.OVER
        until = None if entry.shown_until == _FOR_EVER else entry.shown_until
        return KeyEntry(entry.file.kid, entry.file.path.name, state, entry.signs_from, until)
