"""Keys of claims: a hash over length-delimited parts, so that no two different lists of parts collide."""

from __future__ import annotations

import hashlib
from typing import Final

_HASHER: Final = hashlib.sha256()
_LENGTHS: Final = tuple(length.to_bytes(4, "big") for length in range(512))


def claim_key(kind: str, *parts: str | bytes) -> bytes:
    """SHA-256 over ``kind`` and ``parts``, each preceded by its length (4 bytes, big endian)."""
    pieces: list[bytes] = []
    for part in (kind, *parts):
        raw = part.encode() if type(part) is str else part
        length = len(raw)
        pieces += (_LENGTHS[length] if length < 512 else length.to_bytes(4, "big"), raw)  # type: ignore[arg-type]
    # Copying a hasher saves OpenSSL the search for the algorithm.
    digest = _HASHER.copy()
    digest.update(b"".join(pieces))
    return digest.digest()
