"""Header names and raw header bytes.

aiohttp decodes header bytes as UTF-8 with surrogate escapes and writes strings as UTF-8: a Latin-1 byte survives in
``request.headers`` as a surrogate only and cannot be written again. What has to pass unchanged is therefore taken from
``request.raw_headers``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from aiohttp import web

RawHeader = tuple[bytes, bytes]

RESERVED_PREFIX: Final = "zeta-"

_FOLD = bytes(
    byte + 32 if 65 <= byte <= 90 else byte if 97 <= byte <= 122 or 48 <= byte <= 57 else 45 for byte in range(256)
)


def raw_header_pairs(request: web.BaseRequest) -> tuple[RawHeader, ...]:
    """Name and value of every header line exactly as received, in order."""
    return request.raw_headers


@lru_cache(maxsize=1024)
def fold(name: bytes) -> str:
    """A header name as a careless backend may read it: lower case, everything but letters and digits a ``-``.

    ``X_Zeta.Id`` and ``x-zeta-id`` fold to the same text (CGI and WSGI servers do the same with ``_``).
    """
    return name[:256].translate(_FOLD).decode("ascii")


def is_reserved(name: bytes) -> bool:
    """Whether only the guard may set this header towards a backend (``security`` section 1)."""
    return fold(name).startswith(RESERVED_PREFIX)
