"""Keys of claims: a hash over length-delimited parts, so that no two different lists of parts collide."""

from __future__ import annotations

import hashlib


def claim_key(kind: str, *parts: str | bytes) -> bytes:
    """SHA-256 over ``kind`` and ``parts``, each preceded by its length (4 bytes, big endian)."""
    digest = hashlib.sha256()
    for part in (kind, *parts):
        raw = part.encode() if isinstance(part, str) else part
        digest.update(len(raw).to_bytes(4, "big"))
        digest.update(raw)
    return digest.digest()
