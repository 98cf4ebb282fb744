"""Comparison of ``htu`` with the URL of a request (RFC 9449 §4.3 number 9, RFC 3986 §6.2)."""

from __future__ import annotations

import re
from typing import Final

from zeta_guard.recent import Recent

# Scheme, authority without userinfo, path; query and fragment are cut off.
_URL: Final = re.compile(
    r"([A-Za-z][A-Za-z0-9+.\-]*)://([A-Za-z0-9.\-_]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?(/[^?#]*)?(?:[?#].*)?"
)
_SCHEMES: Final = {"https": "https", "wss": "https", "http": "http", "ws": "http"}
_DEFAULT_PORTS: Final = {"https": "443", "http": "80"}
_MOST_SHOWN: Final = 200

_recent: Recent[str, str] = Recent(1024)


def normal_url(url: str) -> str | None:
    """``url`` with scheme and host in lower case, without default port, query and fragment; ``wss`` counts as ``https``.

    None when it is no absolute http(s) or ws(s) URL, or carries user information. The path stays byte for byte.
    """
    parts = _URL.fullmatch(url)
    if parts is None:
        return None
    name, host, port, path = parts.groups()
    scheme = _SCHEMES.get(name.lower())
    if scheme is None:
        return None
    if port is not None:
        port = port.lstrip("0") or "0"
    authority = host.lower() if port is None or port == _DEFAULT_PORTS[scheme] else f"{host.lower()}:{port}"
    return f"{scheme}://{authority}{path or '/'}"


def same_url(htu: str, url: str) -> bool:
    """Whether the claim ``htu`` names ``url``, the URL that the guard expects."""
    if htu == url:
        return True
    expected = _recent.get(url)
    if expected is None:
        expected = normal_url(url)
        if expected is None:
            return False
        if len(url) <= _MOST_SHOWN:
            _recent.put(url, expected)
    return normal_url(htu) == expected


def shown(url: str) -> str:
    """``url`` for an error text: no query, no fragment, no user information, at most 200 printable characters."""
    bare = re.split(r"[?#]", url, maxsplit=1)[0]
    scheme, separator, rest = bare.partition("://")
    authority, slash, path = rest.partition("/")
    visible = f"{scheme}{separator}{authority.rpartition('@')[2]}{slash}{path}"
    clean = "".join(character if character.isprintable() else "?" for character in visible[: _MOST_SHOWN + 1])
    return clean if len(clean) <= _MOST_SHOWN else clean[:_MOST_SHOWN] + "…"
