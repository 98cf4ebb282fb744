"""The hash of a token as a whole: the name of a verified token in memory, and ``ath`` of a DPoP proof (RFC 9449 §4.1)."""

from __future__ import annotations

import hashlib
from typing import Final, NamedTuple

from zeta_guard.jose.encoding import b64url_encode
from zeta_guard.jose.recent import Recent


class TokenHash(NamedTuple):
    """``digest``: SHA-256 over the token's characters (32 bytes). ``ath``: the same in base64url."""

    digest: bytes
    ath: str


_HASHER: Final = hashlib.sha256()


# Clients send their token again and again; garbage pushes out at most what is quickly hashed again.
_KNOWN: Final = 1024
_LONGEST_KNOWN: Final = 2048

_known: Final[Recent[str, TokenHash]] = Recent(_KNOWN)


def token_hash(token: str) -> TokenHash:
    """The hash of ``token``; repeated ones are answered from memory."""
    known = _known.get(token)
    if known is not None:
        return known
    # Copying a hasher saves OpenSSL the search for the algorithm, which costs as much as hashing.
    hasher = _HASHER.copy()
    hasher.update(token.encode(errors="surrogatepass"))
    digest = hasher.digest()
    result = TokenHash(digest, b64url_encode(digest))
    if len(token) <= _LONGEST_KNOWN:
        _known.put(token, result)
    return result
