"""Nonces that nobody has to remember until they are spent (``wire-contract`` section 2, ``security`` section 2).

A nonce is one AES-256 block over its time, 64 random bits and 32 zero bits. Issuing one writes nothing, so a flood of requests
costs no memory and pushes out nobody's nonce; the zeros show that the guard made it (a guess passes once in 2^32, and then
only for the few seconds its time would be right).
"""

from __future__ import annotations

import hmac
import math
import os
from collections.abc import Callable
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from zeta_guard.errors import ZetaError
from zeta_guard.jose.encoding import b64url_decode, b64url_encode
from zeta_guard.jose.sealing import Secrets
from zeta_guard.store.claim_key import claim_key
from zeta_guard.store.contract import Claim, Epoch

NONCE_BYTES: Final = 16
# What the constructor of a named tuple does, without its call of Python code.
_new: Final = tuple.__new__
_TEXT_LENGTH: Final = 22
_ZEROS: Final = bytes(4)
_KEPT_EPOCHS: Final = 4

CLOCK_DIFFERENCE: Final = 15
"""Seconds that the clocks of two replicas may be apart; every claim is remembered this much longer."""


class Nonce(NamedTuple):
    """A nonce made by this guard in the present epoch that is neither too old nor ahead. Whether it is spent, the store knows.

    ``issued_at``: Unix seconds, rounded down. ``expires_at``: the last second of its life.
    """

    text: str
    raw: bytes
    issued_at: int
    expires_at: int

    @property
    def dated(self) -> float:
        """The latest moment at which it can have been issued.

        Its key depends on the epoch, so it is younger than the epoch's start whatever the fraction of its second was.
        """
        return float(self.issued_at + 1)

    def claim(self, *, now: float, skew: int) -> Claim:
        """What to claim when it is spent: remembered for the rest of its life on every replica's clock."""
        ttl = math.ceil(self.expires_at - now) + skew + CLOCK_DIFFERENCE + 1
        return _new(Claim, (claim_key("nonce", self.raw), self.dated, ttl, "nonce"))


class _Block:
    """AES-256 on single blocks. The contexts are kept: making one costs more than the block."""

    __slots__ = ("open", "seal")

    def __init__(self, key: bytes) -> None:
        # A single block of unique input is the one thing that ECB is right for; it leaves nothing behind in its context.
        cipher = Cipher(algorithms.AES256(key), modes.ECB())  # noqa: S305
        self.seal: Final[Callable[[bytes], bytes]] = cipher.encryptor().update
        self.open: Final[Callable[[bytes], bytes]] = cipher.decryptor().update


class NonceMint:
    """Makes and checks nonces. ``lifetime`` and ``skew`` in seconds. Pure but for the randomness."""

    def __init__(self, secrets: Secrets, *, lifetime: int, skew: int) -> None:
        self._secrets = secrets
        self._lifetime = lifetime
        self._skew = skew
        self._ciphers: dict[str, tuple[_Block, ...]] = {}

    def issue(self, *, epoch: Epoch, now: float) -> str:
        """A fresh nonce: 16 bytes in base64url without padding (22 characters)."""
        block = int(now).to_bytes(4, "big") + os.urandom(8) + _ZEROS
        return b64url_encode(self._of(epoch)[0].seal(block))

    def check(self, text: str, *, epoch: Epoch, now: float) -> Nonce:
        """The nonce behind ``text``. Raises ZetaError ``invalid_grant`` 400 for one that is foreign, expired or ahead."""
        if len(text) != _TEXT_LENGTH:
            raise _refuse("the nonce was not issued here; expected 16 bytes in base64url without padding")
        try:
            raw = b64url_decode(text)
        except ValueError:
            raise _refuse("the nonce is not canonical base64url without padding") from None
        issued_at = self._open(raw, epoch)
        if issued_at is None:
            raise _refuse("the nonce was not issued here, or before the guard lost its memory; expected a fresh one")
        expires_at = issued_at + self._lifetime
        if now > expires_at:
            raise _refuse(f"the nonce is {math.floor(now) - issued_at} s old; at most {self._lifetime} s allowed")
        if issued_at > now + self._skew:
            raise _refuse("the nonce is dated ahead of the server's time")
        return _new(Nonce, (text, raw, issued_at, expires_at))

    def _open(self, raw: bytes, epoch: Epoch) -> int | None:
        for cipher in self._of(epoch):
            block = cipher.open(raw)
            if hmac.compare_digest(block[12:], _ZEROS):
                return int.from_bytes(block[:4], "big")
        return None

    def _of(self, epoch: Epoch) -> tuple[_Block, ...]:
        ciphers = self._ciphers.get(epoch.identity)
        if ciphers is None:
            keys = self._secrets.derive("nonce", epoch.identity.encode())
            ciphers = tuple(_Block(key) for key in keys)
            while len(self._ciphers) >= _KEPT_EPOCHS:
                del self._ciphers[next(iter(self._ciphers))]
            self._ciphers[epoch.identity] = ciphers
        return ciphers


def _refuse(description: str) -> ZetaError:
    return ZetaError("invalid_grant", description, status=400, stage="nonce")
