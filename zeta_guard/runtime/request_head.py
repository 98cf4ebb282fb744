"""What the compiled HTTP parser lets through and this guard does not (RFC 9112, ``wire-contract`` 7.2).

aiohttp's parser (llhttp) refuses most ambiguous heads; the rest is closed here, on the head as it came, before anything
else looks at the request. One head, one meaning: what a second parser behind us could read differently is refused.
"""

from __future__ import annotations

from collections.abc import Sequence

from zeta_guard.config.limits import Limits
from zeta_guard.errors import ZetaError
from zeta_guard.runtime.refusal_event import FRAMING

RawHeaders = Sequence[tuple[bytes, bytes]]

# Control characters except tab have no place in a field value (RFC 9110 §5.5); obs-text would be re-encoded on the way.
_ALLOWED_IN_VALUE = bytes([9, *range(32, 127)])
_SINGLE = frozenset(
    {b"host", b"content-length", b"transfer-encoding", b"content-type", b"expect", b"upgrade", b"authorization"}
)
_FRAMING = frozenset({b"content-length", b"transfer-encoding", b"host"})
_CHECKED = frozenset({b"content-length", b"transfer-encoding", b"expect", b"upgrade"})


def check_request_head(
    method: str, version: tuple[int, int], target: str, raw_headers: RawHeaders, limits: Limits
) -> None:
    """Refuse an ambiguous or oversized head with 400, 417, 431 or 505-like 400 (ZetaError ``invalid_request``)."""
    if version not in ((1, 1), (1, 0)):
        raise _malformed("HTTP version is not supported; expected HTTP/1.1")
    if len(target) > limits.request_line - 16:
        raise ZetaError("invalid_request", "request target is too long", status=431, stage="http")
    if len(raw_headers) > limits.header_count:
        raise ZetaError(
            "invalid_request",
            f"too many header lines; expected at most {limits.header_count}",
            status=431,
            stage="http",
        )
    size = 4 * len(raw_headers)
    seen: set[bytes] = set()
    for name, value in raw_headers:
        size += len(name) + len(value)
        lower = name.lower()
        if lower in _SINGLE:
            if lower in seen:
                refuse = _ambiguous if lower in _FRAMING else _malformed
                raise refuse(f"header {_printable(name)} came twice; expected once")
            seen.add(lower)
            if lower in _CHECKED:
                _check_single(method, version, lower, value)
    # One pass over all values; which one it was is looked for only when there is something to tell.
    if b"".join([value for _, value in raw_headers]).translate(None, _ALLOWED_IN_VALUE):
        culprit = next(name for name, value in raw_headers if value.translate(None, _ALLOWED_IN_VALUE))
        raise _malformed(f"header {_printable(culprit)} holds bytes other than visible ASCII, blank and tab")
    if size > limits.request_header:
        raise ZetaError(
            "invalid_request",
            f"request header is too large; expected at most {limits.request_header} bytes",
            status=431,
            stage="http",
        )
    if b"host" not in seen:
        raise _malformed("header Host is missing")
    if b"transfer-encoding" in seen and b"content-length" in seen:
        raise _ambiguous("Content-Length and Transfer-Encoding came together; expected one of them")


def _check_single(method: str, version: tuple[int, int], lower: bytes, value: bytes) -> None:
    if lower == b"transfer-encoding":
        if version == (1, 0):
            raise _ambiguous("Transfer-Encoding is not part of HTTP/1.0")
        if value.strip(b" \t").lower() != b"chunked":
            raise _ambiguous("Transfer-Encoding is not supported; expected exactly 'chunked'")
    elif lower == b"content-length":
        if not value.isdigit() or len(value) > 18:
            raise _ambiguous("Content-Length is not a number of digits only")
    elif lower == b"upgrade":
        if method != "GET" or version == (1, 0):
            raise _malformed("an upgrade is accepted with GET over HTTP/1.1 only")
        if value.strip(b" \t").lower() != b"websocket":
            raise _malformed("the only protocol offered for an upgrade is 'websocket'")
    elif lower == b"expect" and value.strip(b" \t").lower() != b"100-continue":
        raise ZetaError("invalid_request", "the only expectation met is '100-continue'", status=417, stage="http")


def _malformed(description: str) -> ZetaError:
    return ZetaError("invalid_request", description, stage="http")


def _ambiguous(description: str) -> ZetaError:
    return ZetaError("invalid_request", description, stage=FRAMING)


def _printable(name: bytes) -> str:
    return repr(name[:40].decode("ascii", "replace"))
