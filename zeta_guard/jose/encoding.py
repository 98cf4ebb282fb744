"""Base64 as JOSE writes it (RFC 7515 §2): URL alphabet, no padding, and only one spelling of each value.

Decoding is strict because two spellings of one value would be two tokens with one meaning: whoever compares text (a replay
store, a cache, a log) and whoever compares bytes must see the same.
"""

from __future__ import annotations

import binascii
from typing import Final

_TO_URL: Final = bytes.maketrans(b"+/", b"-_")
# What belongs to the other alphabet, and padding, becomes a character that no alphabet has.
_FROM_URL: Final = bytes.maketrans(b"-_+/=", b"+/!!!")
_PADDING: Final = (b"", b"", b"==", b"=")
# The last character of a shortened group carries 4 or 2 unused bits, which must be zero.
_LAST_OF_TWO: Final = frozenset(b"AQgw")
_LAST_OF_THREE: Final = frozenset(b"AEIMQUYcgkosw048")
# By the length of the group; one of a single character does not exist.
_LAST: Final = (frozenset[int](), frozenset[int](), _LAST_OF_TWO, _LAST_OF_THREE)
_decode: Final = binascii.a2b_base64
_encode: Final = binascii.b2a_base64


def b64url_encode(raw: bytes) -> str:
    """Base64url without padding."""
    return _encode(raw, newline=False).translate(_TO_URL, b"=").decode("ascii")


def b64url_decode(text: str | bytes) -> bytes:
    """The bytes behind canonical base64url without padding.

    Raises ValueError for padding, white space, foreign characters, impossible lengths and non-zero unused bits.
    """
    raw = text.encode("ascii") if isinstance(text, str) else text
    rest = len(raw) & 3
    if not rest:
        return _decode(raw.translate(_FROM_URL), strict_mode=True)
    if raw[-1] not in _LAST[rest]:
        raise ValueError("not canonical base64url")
    return _decode(raw.translate(_FROM_URL) + _PADDING[rest], strict_mode=True)


def b64_decode(text: str) -> bytes:
    """The bytes behind canonical, padded standard base64 without white space (``x5c``, RFC 7515 §4.1.6).

    Raises ValueError for every other spelling.
    """
    raw = text.encode("ascii")
    if len(raw) & 3:
        raise ValueError("not canonical base64")
    decoded = binascii.a2b_base64(raw, strict_mode=True)
    # The strict mode has seen the alphabet and data behind padding; what is left are the unused bits of the last character.
    if raw[-1:] == b"=" and (raw[-3] not in _LAST_OF_TWO if raw[-2:] == b"==" else raw[-2] not in _LAST_OF_THREE):
        raise ValueError("not canonical base64")
    return decoded
