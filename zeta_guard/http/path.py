"""The one canonical path: what is authorised is what is forwarded (``wire-contract`` section 7.1, ``security`` section 1).

A target is accepted as it came or refused; it is never repaired. The raw path goes to the backend byte for byte; beside it
stands the *matching form*, with which routes and policies compare.

The raw target is ``request.raw_path`` of aiohttp (``RawRequestMessage.path``): complete, with a fragment if one came, bytes
beyond ASCII decoded as UTF-8 with surrogate escapes. ``request.path``, ``rel_url`` and ``url`` are not usable here: they cut
fragments off, decode escapes and normalise dot segments.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from urllib.parse import unquote_to_bytes

from zeta_guard.errors import ZetaError

CACHED_PATHS: Final = 4096
CACHED_PATH_LENGTH: Final = 256
"""Longer paths are computed each time, so that a caller cannot fill the cache with megabytes."""


@dataclass(frozen=True, slots=True)
class CanonicalPath:
    """``raw`` is forwarded byte for byte; ``segments`` is the matching form (decoded once, cut at ``;``, no empty ones)."""

    raw: str
    segments: tuple[str, ...]


_PLAIN = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~!$&'()*+,=:@-]*)+")
"""Paths whose matching form is the path itself: no escapes, no parameters, no segment that is empty or begins with a dot."""

_VISIBLE = re.compile(r"[!-~]*")
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_ESCAPED_DELIMITER = re.compile(r"%(?:2[fF]|5[cC]|[01][0-9A-Fa-f]|7[fF])")
_DOUBLE_ESCAPE = re.compile(rb"%(?:2[eEfF]|5[cC]|[01][0-9A-Fa-f]|7[fF])")
_ESCAPE = re.compile(rb"%[0-9A-Fa-f]{2}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_MOST_LAYERS = 4


def _refuse(description: str) -> ZetaError:
    return ZetaError("invalid_request", description, stage="path")


def _matching_form(raw: str) -> tuple[str, ...]:
    if "\\" in raw:
        raise _refuse("The path contains a backslash; expected '/' between segments.")
    if "%" in raw:
        if _BROKEN_ESCAPE.search(raw):
            raise _refuse("The path contains an invalid percent escape; expected '%' and two hexadecimal digits.")
        if _ESCAPED_DELIMITER.search(raw):
            raise _refuse("The path contains an encoded slash, backslash or control character; these are not accepted.")
    try:
        decoded = [unquote_to_bytes(segment).decode() for segment in raw.split("/")]
    except UnicodeDecodeError:
        raise _refuse("The path contains percent escapes that are not UTF-8.") from None
    segments: list[str] = []
    for segment in decoded:
        if "%" in segment:
            _refuse_layers(segment)
        if _CONTROL.search(segment):
            raise _refuse("The path contains an encoded control character; these are not accepted.")
        name = segment.partition(";")[0]
        if name in (".", ".."):
            raise _refuse("The path contains a dot segment; send the path without '.' and '..'.")
        if name:
            segments.append(name)
    return tuple(segments)


def _refuse_layers(segment: str) -> None:
    # A backend that decodes once too often must not see what a single decoding hides.
    layer = segment.encode()
    for _ in range(_MOST_LAYERS):
        if _DOUBLE_ESCAPE.search(layer):
            raise _refuse("The path contains a doubly encoded dot, slash, backslash or control character.")
        if not _ESCAPE.search(layer):
            return
        layer = unquote_to_bytes(layer)
    raise _refuse("The path is percent-encoded too many times.")


def _compute(raw: str) -> CanonicalPath:
    if _PLAIN.fullmatch(raw):
        return CanonicalPath(raw, tuple(raw[1:].split("/")))
    return CanonicalPath(raw, _matching_form(raw))


_cached = lru_cache(maxsize=CACHED_PATHS)(_compute)


def canonical_target(raw_target: str) -> tuple[CanonicalPath, str]:
    """As :func:`split_target`; short targets are remembered."""
    return _cached_target(raw_target) if len(raw_target) <= CACHED_PATH_LENGTH else split_target(raw_target)


def split_target(raw_target: str) -> tuple[CanonicalPath, str]:
    """Split a raw request target into canonical path and raw query (without ``?``; empty when there is none).

    Raises :class:`ZetaError` 400 ``invalid_request`` for anything but origin-form (RFC 9112 §3.2.1), for bytes that no URI may
    contain (RFC 3986 §2), a fragment, dot segments (raw, encoded, with parameters), raw or encoded backslashes, encoded
    slashes, control characters, invalid or doubled escapes of these, and escapes that are not UTF-8.
    """
    if raw_target[:1] != "/":
        raise _refuse("The request target must be a path that begins with '/'.")
    if not _VISIBLE.fullmatch(raw_target):
        raise _refuse(
            "The request target contains a space, a control character or a byte beyond ASCII; percent-encode it."
        )
    if "#" in raw_target:
        raise _refuse("The request target contains a fragment ('#'), which is never sent to a server.")
    raw, _, query = raw_target.partition("?")
    if len(raw) > CACHED_PATH_LENGTH:
        return _compute(raw), query
    return _cached(raw), query


_cached_target = lru_cache(maxsize=CACHED_PATHS)(split_target)
