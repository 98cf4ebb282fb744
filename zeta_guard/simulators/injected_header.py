"""How a backend reads the ``ZETA-*`` headers that a guard sets: tolerant of every base64 spelling in use."""

from __future__ import annotations

import base64
import binascii
import json

from zeta_guard.errors import JsonValue


class MalformedHeader(Exception):
    """The value is not base64 of a JSON object with the members that must be there."""


def read_injected(value: str, *required: str) -> dict[str, JsonValue]:
    """The JSON object in a header value: base64 or base64url, padded or not. Raises MalformedHeader.

    ``required`` members must be non-empty strings.
    """
    try:
        raw = value.encode("ascii").translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
        members = json.loads(base64.b64decode(raw + b"=" * (-len(raw) % 4), validate=True))
    except (UnicodeError, binascii.Error, ValueError):
        raise MalformedHeader from None
    if not isinstance(members, dict):
        raise MalformedHeader
    for name in required:
        if not isinstance(members.get(name), str) or not members[name]:
            raise MalformedHeader(name)
    return members
