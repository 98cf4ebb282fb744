"""The one error body and the headers that go with it (``wire-contract`` section 8)."""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

import orjson
from aiohttp import web
from multidict import CIMultiDict

from zeta_guard.errors import ERROR_KINDS, JsonValue, ZetaError

API_VERSION: Final = "1.0.0"
"""Value of ``ZETA-API-Version``, which every answer of the guard carries."""

API_VERSION_HEADER: Final = "ZETA-API-Version"

_CHALLENGES: Final[Mapping[str, str]] = {
    code: f'DPoP error="{code}", error_description="{kind.meaning}", algs="ES256"' for code, kind in ERROR_KINDS.items()
}

_DEFAULT_RETRY_AFTER: Final[Mapping[int, str]] = {429: "1", 503: "5"}


def error_body(error: ZetaError, *, public_url: str, request_id: str) -> bytes:
    """The JSON body. Members of the error cannot replace the four standing ones."""
    body: dict[str, JsonValue] = {
        "error": error.code,
        "error_description": error.description,
        "error_uri": f"{public_url}/errors/{error.code}",
        "request_id": request_id,
    }
    for name, value in error.members.items():
        body.setdefault(name, value)
    return orjson.dumps(body)


def error_headers(error: ZetaError) -> CIMultiDict[str]:
    """Headers of the refusal, without the framing ones.

    ``WWW-Authenticate`` (RFC 9449 §7.1, on every 401) carries a fixed text per code: what the client sent never gets into a
    header.
    """
    headers: CIMultiDict[str] = CIMultiDict(error.headers)
    headers["Content-Type"] = "application/json"
    headers["Cache-Control"] = "no-store"
    headers[API_VERSION_HEADER] = API_VERSION
    if error.status == 401:
        headers["WWW-Authenticate"] = _CHALLENGES[error.code]
    if error.code == "insufficient_user_authentication":
        headers["zeta-error-origin"] = "pep"
    if error.status in _DEFAULT_RETRY_AFTER:
        headers.setdefault("Retry-After", _DEFAULT_RETRY_AFTER[error.status])
    return headers


def error_response(error: ZetaError, *, public_url: str, request_id: str, head: bool = False) -> web.Response:
    """The refusal as a response. ``Connection: close`` in the error's headers also closes the connection.

    ``head`` leaves the body away and keeps its length (aiohttp does the same by itself once it knows the request).
    """
    body = error_body(error, public_url=public_url, request_id=request_id)
    headers = error_headers(error)
    if head:
        headers["Content-Length"] = str(len(body))
    response = web.Response(status=error.status, body=None if head else body, headers=headers)
    if error.headers.get("Connection", "").lower() == "close":
        response.force_close()
    return response


def raw_refusal(error: ZetaError, *, public_url: str, request_id: str, now: float | None = None) -> bytes:
    """A complete HTTP/1.1 answer for errors found before there is a request (bad request line, header too large).

    It always closes the connection: after broken framing nobody knows where the next request begins (RFC 9112 §9.6).
    """
    body = error_body(error, public_url=public_url, request_id=request_id)
    headers = error_headers(error)
    headers["Content-Length"] = str(len(body))
    headers["Date"] = formatdate(now, usegmt=True)  # None is this moment
    headers["Connection"] = "close"
    lines = [f"HTTP/1.1 {error.status} {_reason_phrase(error.status)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + body


def _reason_phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"
