"""The answer of a refresh, kept for the grace window so that only the presented refresh token opens it (``security`` 4)."""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from zeta_guard.errors import ZetaError
from zeta_guard.jose.sealing import Sealer, SealingError

_PURPOSE: Final = b"zeta-guard successor of a refresh token"


def _sealer(presented: str) -> Sealer:
    # The token's signature is what nobody who reads the store can know; with it the whole token is a key.
    key = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=_PURPOSE).derive(presented.encode())
    return Sealer((key,))


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
