"""The answer of a refresh, kept for the grace window so that only the presented refresh token opens it (``security`` 4)."""

from __future__ import annotations

import hmac
from typing import Final

from zeta_guard.errors import ZetaError
from zeta_guard.jose.sealing import Sealer, SealingError

_PURPOSE: Final = b"zeta-guard successor of a refresh token"
_FIRST_BLOCK: Final = _PURPOSE + b"\x01"
_NO_SALT: Final = bytes(32)


def _sealer(presented: str) -> Sealer:
    # The token's signature is what nobody who reads the store can know; with it the whole token is a key.
    # HKDF-SHA256 (RFC 5869) without salt, for one block of output: every refresh makes a key of its own.
    secret = hmac.digest(_NO_SALT, presented.encode(), "sha256")
    return Sealer((hmac.digest(secret, _FIRST_BLOCK, "sha256"),))


def seal_answer(presented: str, body: bytes, *, session_id: str) -> bytes:
    """The answer ``body``, sealed under the refresh token that was presented for it."""
    return _sealer(presented).seal(body, session_id.encode())


def open_answer(presented: str, sealed: bytes, *, session_id: str) -> bytes:
    """The answer given before. Raises ZetaError ``invalid_grant`` for another spelling of the token than was presented then."""
    try:
        return _sealer(presented).open(sealed, session_id.encode())
    except SealingError:
        raise ZetaError(
            "invalid_grant", "refresh token: was used before; make a complete token exchange", stage="refresh_token"
        ) from None
