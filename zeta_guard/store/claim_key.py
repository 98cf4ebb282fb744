"""Keys of claims: a hash over length-delimited parts, so that no two different lists of parts collide."""

from __future__ import annotations

import hashlib
from typing import Final

_LENGTHS: Final = tuple(length.to_bytes(4, "big") for length in range(512))
# Hashers that have read a kind already: copying one saves OpenSSL the search for the algorithm, and us the kind.
_begun: Final[dict[str, hashlib._Hash]] = {}
_MOST_KINDS: Final = 64


def claim_key(kind: str, *parts: str | bytes) -> bytes:
    """SHA-256 over ``kind`` and ``parts``, each preceded by its length (4 bytes, big endian)."""
    return begin_key(kind, *parts).digest()


def begin_key(kind: str, *parts: str | bytes) -> hashlib._Hash:
    """The hasher of a key whose first parts are known, for any number of :func:`end_key`."""
    begun = _begun.get(kind)
    if begun is None:
        begun = _begin(kind)
    pieces = b""
    for part in parts:
        raw = part.encode() if type(part) is str else part
        length = len(raw)
        pieces += (_LENGTHS[length] if length < 512 else length.to_bytes(4, "big")) + raw  # type: ignore[operator]
    digest = begun.copy()
    digest.update(pieces)
    return digest


def end_key(begun: hashlib._Hash, part: str) -> bytes:
    """The key whose last part is ``part``."""
    raw = part.encode()
    length = len(raw)
    digest = begun.copy()
    digest.update((_LENGTHS[length] if length < 512 else length.to_bytes(4, "big")) + raw)
    return digest.digest()


def _begin(kind: str) -> hashlib._Hash:
    raw = kind.encode()
    begun = hashlib.sha256(len(raw).to_bytes(4, "big") + raw)
    if len(_begun) < _MOST_KINDS:
        _begun[kind] = begun
    return begun
