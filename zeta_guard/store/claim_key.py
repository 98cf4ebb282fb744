"""Keys of claims: a hash over length-delimited parts, so that no two different lists of parts collide."""

from __future__ import annotations

import hashlib
from typing import Final

_HASHER: Final = hashlib.sha256()


def claim_key(kind: str, *parts: str | bytes) -> bytes:
    """SHA-256 over ``kind`` and ``parts``, each preceded by its length (4 bytes, big endian)."""
    pieces: list[bytes] = []
    for part in (kind, *parts):
        raw = part.encode() if isinstance(part, str) else part
        pieces += (len(raw).to_bytes(4, "big"), raw)
    # Copying a hasher saves OpenSSL the search for the algorithm.
    digest = _HASHER.copy()
    digest.update(b"".join(pieces))
    return digest.digest()
