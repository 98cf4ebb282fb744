"""The hash of a token as a whole: the name of a verified token in memory, and ``ath`` of a DPoP proof (RFC 9449 §4.1)."""

from __future__ import annotations

import hashlib
from typing import Final, NamedTuple

from zeta_guard.jose.encoding import b64url_encode


class TokenHash(NamedTuple):
    """``digest``: SHA-256 over the token's characters (32 bytes). ``ath``: the same in base64url."""

    digest: bytes
    ath: str


_HASHER: Final = hashlib.sha256()


class _Latest:
    __slots__ = ("pair",)

    def __init__(self) -> None:
        # One tuple, replaced as a whole, so that another thread never sees the token of one and the hash of another.
        self.pair: tuple[str, TokenHash] | tuple[None, None] = (None, None)


_latest: Final = _Latest()


def token_hash(token: str) -> TokenHash:
    """The hash of ``token``. Asked twice in a row for the same object, as every request does, it answers from memory."""
    latest, known = _latest.pair
    if latest is token and known is not None:
        return known
    # Copying a hasher saves OpenSSL the search for the algorithm, which costs as much as hashing.
    hasher = _HASHER.copy()
    hasher.update(token.encode(errors="surrogatepass"))
    digest = hasher.digest()
    result = TokenHash(digest, b64url_encode(digest))
    _latest.pair = (token, result)
    return result
