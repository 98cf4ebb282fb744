"""Request bodies of the guard's own endpoints: read within limits, parsed strictly."""

from __future__ import annotations

import asyncio
import re
from email.message import Message
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from aiohttp import ClientPayloadError, web

from zeta_guard.errors import JsonValue, ZetaError
from zeta_guard.http.plain_request import PlainRequest
from zeta_guard.jose.slot import Slot
from zeta_guard.jose.strict_json import loads_object
from zeta_guard.recent import Recent

MOST_FIELDS = 64

_LONGEST_KNOWN_TYPE = 128
_CLOSE = {"Connection": "close"}
_FORM = "application/x-www-form-urlencoded"
_JSON = "application/json"
_BROKEN_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_PRINTABLE = bytes(range(0x20, 0x7F))

# Fields that clients send again and again with the same value; none of them is a secret.
_REPEATED = frozenset(
    {
        "audience",
        "client_assertion_type",
        "client_id",
        "grant_type",
        "requested_token_type",
        "resource",
        "scope",
        "subject_token_type",
        "token_type_hint",
    }
)
_LONGEST_KNOWN_FIELD = 256
_known_fields: Recent[bytes, tuple[str, str]] = Recent(4096)


def _refuse(description: str, status: int = 400, *, close: bool = False) -> ZetaError:
    return ZetaError("invalid_request", description, status=status, headers=_CLOSE if close else None, stage="body")


async def read_body(request: web.BaseRequest, *, limit: int, idle_seconds: float) -> bytes:
    """The whole body, at most ``limit`` bytes, with at most ``idle_seconds`` of silence between two pieces.

    Raises :class:`ZetaError` ``invalid_request``: 413 (too large, found before reading where the length is announced), 408
    (silence), 415 (a content coding), 400 (cut off). After these the connection is closed.
    """
    coding = request.headers.get("Content-Encoding")
    if coding is not None and coding.strip().lower() != "identity":
        raise _refuse("The body has a content coding; send it as it is.", 415, close=True)
    if type(request) is PlainRequest:
        # Here as a whole, as it was announced.
        body = request.body or b""
        if len(body) > limit:
            raise _refuse(f"The body is larger than {limit} bytes.", 413, close=True)
        return body
    announced = request.content_length
    if announced is not None and announced > limit:
        raise _refuse(f"The body is larger than {limit} bytes.", 413, close=True)
    content = request.content
    if content.is_eof() and content.exception() is None and not content.at_eof():
        # It came in one piece with its header, as most do: there is nothing to wait for.
        whole: bytes = content.read_nowait(-1)
        if len(whole) > limit:
            raise _refuse(f"The body is larger than {limit} bytes.", 413, close=True)
        return whole
    pieces: list[bytes] = []
    size = 0
    while True:
        try:
            async with asyncio.timeout(idle_seconds):
                piece = await content.readany()
        except TimeoutError:
            raise _refuse("The body did not arrive in time.", 408, close=True) from None
        except (ClientPayloadError, web.RequestPayloadError, ConnectionError, ValueError):
            raise _refuse("The body is cut off or badly framed.", close=True) from None
        if not piece:
            return b"".join(pieces)
        size += len(piece)
        if size > limit:
            raise _refuse(f"The body is larger than {limit} bytes.", 413, close=True)
        pieces.append(piece)


def _expect_media_type(content_type: str | None, expected: str) -> None:
    # Clients spell it in very few ways; reading it anew each time costs as much as reading a signature's encoding.
    known = content_type is not None and len(content_type) <= _LONGEST_KNOWN_TYPE
    if not (_is_media_type if known else _is_media_type.__wrapped__)(content_type, expected):
        raise _refuse(f"The media type of the body must be {expected} in UTF-8.", 415)


@lru_cache(maxsize=128)
def _is_media_type(content_type: str | None, expected: str) -> bool:
    message = Message()
    message["Content-Type"] = content_type or "application/octet-stream"
    charset = message.get_param("charset", "utf-8")
    return message.get_content_type() == expected and isinstance(charset, str) and charset.lower() == "utf-8"


def parse_form(raw: bytes, content_type: str | None) -> dict[str, str]:
    """Fields of a form (``application/x-www-form-urlencoded``), strictly.

    A repeated name is refused (RFC 6749 §3.2), so are broken escapes, anything that is not UTF-8, control characters and more
    than 64 fields. A field without value counts as absent (RFC 6749 §3.2). Raises :class:`ZetaError` 400, for another media
    type 415.
    """
    _expect_media_type(content_type, _FORM)
    fields: dict[str, str] = {}
    without_value = False
    pieces = raw.split(b"&", MOST_FIELDS)
    if len(pieces) > MOST_FIELDS:
        raise _refuse(f"The form has more than {MOST_FIELDS} fields.")
    # Looked at once as a whole: what is printable ASCII without escapes is its own decoding.
    printable = not raw.translate(None, _PRINTABLE)
    known = _known_fields.young
    for piece in pieces:
        pair = known.get(piece) or _read_field(piece, printable)
        if pair is None:
            continue
        name, value = pair
        if name in fields:
            raise _refuse("The form has the same field twice; each may occur once.")
        fields[name] = value
        if not value:
            without_value = True
    return {name: value for name, value in fields.items() if value} if without_value else fields


def _read_field(piece: bytes, printable: bool) -> tuple[str, str] | None:
    """Name and value of one field, None when it is empty. ``printable``: the whole form is printable ASCII."""
    if not piece:
        return None
    known = _known_fields.get(piece)
    if known is not None:
        return known
    raw_name, _, raw_value = piece.partition(b"=")
    literal = printable and b"%" not in piece and b"+" not in piece
    name = raw_name.decode() if literal else _decode(raw_name, "a field name")
    if not name:
        raise _refuse("The form has a field without name.")
    pair = (name, raw_value.decode() if literal else _decode(raw_value, "a field value"))
    if name in _REPEATED and len(piece) <= _LONGEST_KNOWN_FIELD:
        _known_fields.put(piece, pair)
    return pair


def _decode(raw: bytes, what: str) -> str:
    if b"+" in raw:
        raw = raw.replace(b"+", b" ")
    if b"%" in raw:
        if _BROKEN_ESCAPE.search(raw):
            raise _refuse(f"The form has an invalid percent escape in {what}.")
        raw = unquote_to_bytes(raw)
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise _refuse(f"The form has bytes that are not UTF-8 in {what}.") from None
    if _CONTROL.search(text):
        raise _refuse(f"The form has a control character in {what}.")
    return text


def parse_json_body(
    raw: bytes, content_type: str | None, *, code: str = "invalid_request", name: str = "request body"
) -> dict[str, JsonValue]:
    """The JSON object of a body, strictly (:func:`zeta_guard.jose.strict_json.loads_object`).

    Raises :class:`ZetaError` ``code`` when it is no such object, and 415 ``invalid_request`` for another media type than
    ``application/json``.
    """
    _expect_media_type(content_type, _JSON)
    return loads_object(raw, Slot(name, code))
