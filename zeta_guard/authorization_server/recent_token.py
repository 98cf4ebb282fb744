"""Refresh tokens that this process has just signed: what it made itself, it need not verify again.

The bytes that come back are the bytes that were signed, or they are not found here: their SHA-256 says so, and the tokens
themselves are not kept. Time, key and everything that may change meanwhile are looked at again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container
from typing import Final

from zeta_guard.authorization_server.own_token import OwnToken
from zeta_guard.recent import Recent

_TOKENS: Final = 8192
"""Half a kibibyte each."""

_HASHER: Final = hashlib.sha256()


class RecentRefreshTokens:
    """The latest of them, by hash."""

    __slots__ = ("_tokens",)

    def __init__(self) -> None:
        self._tokens: Final[Recent[bytes, OwnToken]] = Recent(_TOKENS)

    def note(self, token: str, own: OwnToken) -> None:
        """A token that was signed this moment, and what it says."""
        self._tokens.put(_digest(token), own)

    def recall(self, token: str, *, keys: Container[str], now: float) -> OwnToken | None:
        """What the token says; None when it is not known, its key (``kid`` among ``keys``) is over, or it has expired."""
        own = self._tokens.get(_digest(token))
        return own if own is not None and own.expires_at > now and own.kid in keys else None


def _digest(token: str) -> bytes:
    # Copying a hasher saves OpenSSL the search for the algorithm.
    hasher = _HASHER.copy()
    hasher.update(token.encode(errors="surrogatepass"))
    return hasher.digest()
