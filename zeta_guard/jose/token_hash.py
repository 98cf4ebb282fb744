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


def token_hash(token: str) -> TokenHash:
    """The hash of ``token``. Who sees the same token again and again remembers it."""
    # Copying a hasher saves OpenSSL the search for the algorithm, which costs as much as hashing.
    hasher = _HASHER.copy()
    hasher.update(token.encode(errors="surrogatepass"))
    digest = hasher.digest()
    return TokenHash(digest, b64url_encode(digest))
