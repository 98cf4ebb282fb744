"""Conditional answers for documents that rarely change (metadata, JWKS): RFC 9110 §8.8.3 and §13.1.2."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache

from aiohttp import web

_ENTITY_TAG = re.compile(r'(?:W/)?("[\x21\x23-\x7e]*")')


@lru_cache(maxsize=64)
def entity_tag(body: bytes) -> str:
    """A strong entity tag made of the content alone, so that all replicas answer the same one."""
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'


def matches(if_none_match: str, tag: str) -> bool:
    """Whether ``If-None-Match`` names ``tag`` (weak comparison) or anything (``*``)."""
    return if_none_match.strip() == "*" or tag in _ENTITY_TAG.findall(if_none_match)


def conditional(request: web.BaseRequest, body: bytes, content_type: str, max_age: int) -> web.Response:
    """200 with ``ETag`` and ``Cache-Control: public``, or 304 when the caller has this content. ``max_age`` in seconds.

    For GET and HEAD; aiohttp leaves the body of an answer to HEAD away and keeps its length.
    """
    tag = entity_tag(body)
    headers = {"ETag": tag, "Cache-Control": f"public, max-age={max_age}"}
    lines = request.headers.getall("If-None-Match", ())
    if lines and matches(", ".join(lines), tag):
        return web.Response(status=304, headers=headers)
    return web.Response(body=body, headers=headers | {"Content-Type": content_type})
