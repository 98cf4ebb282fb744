"""``GET /errors/<code>``: what an error means and what to do, for people."""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache
from html import escape
from typing import Final

from aiohttp import web

from zeta_guard.errors import ERROR_KINDS, ZetaError
from zeta_guard.http.refusal import API_VERSION, API_VERSION_HEADER

ERRORS_PREFIX: Final = "/errors/"

_STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:40rem;margin:3rem auto;padding:0 1rem;color:#1a1a1a;background:#fff}"
    "code{font-size:1.1em}dt{font-weight:600;margin-top:1rem}dd{margin:0}"
    "@media(prefers-color-scheme:dark){body{color:#eee;background:#16181b}}"
)
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_HEADERS: Final = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "public, max-age=3600",
    "Vary": "Accept",
    API_VERSION_HEADER: API_VERSION,
}


@lru_cache(maxsize=64)
def _html(code: str) -> str:
    kind = ERROR_KINDS[code]
    name = escape(code)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>'
        f"<h1><code>{name}</code></h1><dl><dt>What it means</dt><dd>{escape(kind.meaning)}</dd>"
        f"<dt>What to do</dt><dd>{escape(kind.remedy)}</dd><dt>Usual status</dt><dd>{kind.status}</dd></dl>"
        "<p>The member <code>error_description</code> of the answer says what was wrong with your request; "
        "<code>request_id</code> lets the operator find it.</p></body></html>"
    )


def _text(code: str) -> str:
    kind = ERROR_KINDS[code]
    return f"{code}\n\n{kind.meaning}\n{kind.remedy}\nUsual status: {kind.status}\n"


def error_page(code: str, *, accept: str = "") -> web.Response:
    """The page of a code: HTML where ``Accept`` names ``text/html``, else plain text.

    Raises :class:`ZetaError` 404 ``resource_not_found`` for a code that does not exist; what was asked for is not repeated.
    """
    if code not in ERROR_KINDS:
        raise ZetaError("resource_not_found", "There is no error of this name.", stage="error_page")
    wants_html = "text/html" in accept.lower()
    return web.Response(
        text=_html(code) if wants_html else _text(code),
        content_type="text/html" if wants_html else "text/plain",
        charset="utf-8",
        headers=_HEADERS,
    )
