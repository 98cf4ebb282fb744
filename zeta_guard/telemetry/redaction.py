"""Masks what must never stand in a log (A_25744 to A_25746), even when somebody wrote it there by mistake."""

from __future__ import annotations

import re
from typing import Final

SENSITIVE_FIELDS: Final = frozenset(
    {
        "authorization",
        "dpop",
        "popp",
        "token",
        "access_token",
        "refresh_token",
        "subject_token",
        "client_assertion",
        "password",
        "secret",
        "private_key",
        "cookie",
        "nonce",
        "telematik_id",
        "kvnr",
        "patient_id",
        "patientid",
        "actorid",
        "sub",
    }
)

MASK: Final = "[masked]"

_TOKEN: Final = re.compile(r"eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){0,4}")
"""A JWT, or what a truncated line left of it."""

_CREDENTIAL: Final = re.compile(r"\b((?:DPoP|Bearer|Basic)(?: |%20|\+)+)[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
_LONG_NUMBER: Final = re.compile(r"[0-9]{9}")
_KVNR: Final = re.compile(r"(?<![A-Za-z0-9])[A-Za-z][0-9]{9}(?![A-Za-z0-9])")

_OUTSIDE = "[^A-Za-z0-9._-]"
_TELEMATIK_ID: Final = re.compile(
    # Sector, hyphen, the sector's own scheme. Begins with the hyphen, because that is what a scan finds fastest.
    rf"-(?:(?<={_OUTSIDE}[1-9]-)|(?<={_OUTSIDE}[1-9][0-9]-)|(?<=\A[1-9]-)|(?<=\A[1-9][0-9]-))"
    r"(?:SMC-B-|[0-9A-Za-z])[0-9A-Za-z._-]{5,}"
)


def mask(text: str) -> str:
    """``text`` with everything that looks like a token, a credential, a KVNR or a Telematik-ID replaced.

    Works on finished lines: no pattern reaches over a quote or a brace, so a JSON line stays JSON. Of a Telematik-ID the
    sector stays.
    """
    if "eyJ" in text:
        text = _TOKEN.sub(MASK, text)
    lowered = text.lower()
    if "dpop" in lowered or "bearer" in lowered or "basic" in lowered:
        text = _CREDENTIAL.sub(rf"\1{MASK}", text)
    if _LONG_NUMBER.search(text):
        text = _KVNR.sub(MASK, text)
    return _TELEMATIK_ID.sub(f"-{MASK}", text)
