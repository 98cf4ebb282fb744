"""Answers that are written to the client's connection directly, in one piece.

aiohttp's own response classes cost more than the rest of a forwarded request; what it needs afterwards is only whether the
connection stays open.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from aiohttp import web
from aiohttp.helpers import rfc822_formatted_time
from multidict import CIMultiDict

from zeta_guard.http.limits import rate_headers
from zeta_guard.http.plain_request import PlainRequest
from zeta_guard.http.refusal import API_VERSION, API_VERSION_HEADER
from zeta_guard.store.contract import Bucket

SERVER_NAME: Final = "zeta-guard"
"""``Server`` of the guard's own answers: no versions of anything."""

_NONE: Final[CIMultiDict[str]] = CIMultiDict()
_STANDING: Final = (
    f"Cache-Control: no-store\r\n{API_VERSION_HEADER}: {API_VERSION}\r\nServer: {SERVER_NAME}\r\n".encode("ascii")
)


class WrittenResponse(web.StreamResponse):
    """An answer whose bytes are on their way already; aiohttp adds nothing to it."""

    def __init__(self, status: int, *, keep_alive: bool, size: int = 0) -> None:
        # The base class would prepare much that nobody asks a written answer for.
        self._state = {}
        self._headers = _NONE
        self._status = status
        self._reason = ""
        self._keep_alive = keep_alive
        self._body_length = size
        self._eof_sent = True


class Unkept(NamedTuple):
    """A complete answer (200) for this client alone: nobody may keep it. ``content_type`` is written as it is."""

    content_type: bytes
    body: bytes


def answer_unkept(request: web.BaseRequest, answer: Unkept, bucket: Bucket) -> web.StreamResponse:
    """The answer: on its way already for a plain request, left to aiohttp for any other.

    Raises ConnectionResetError when the client of a plain request is gone.
    """
    content_type, body = answer
    if type(request) is not PlainRequest:
        headers = {"Content-Type": content_type.decode("ascii"), "Cache-Control": "no-store", **rate_headers(bucket)}
        return web.Response(body=body, headers=headers)
    transport = request.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError("the client is gone")
    keep_alive = request.keep_alive
    whole = (
        b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\n%bX-Rate-Limit-Limit: %d\r\nX-Rate-Limit-Remaining: %d\r\n"
        b"X-Rate-Limit-Reset: %d\r\nContent-Length: %d\r\nDate: %b\r\n%b\r\n%b"
    ) % (
        content_type,
        _STANDING,
        bucket.limit,
        bucket.remaining,
        bucket.reset,
        len(body),
        rfc822_formatted_time().encode("ascii"),
        b"" if keep_alive else b"Connection: close\r\n",
        body,
    )
    transport.write(whole)
    size = len(whole)
    # aiohttp asks this before it would answer an error of its own.
    request.written += size
    return WrittenResponse(200, keep_alive=keep_alive, size=size)
