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

_PATTERNS: Final = re.compile(
    # A JWT or the start of one; what a truncated line leaves of it is masked as well.
    r"eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){0,4}"
    # Credentials of an Authorization header.
    r"|\b(?:DPoP|Bearer|Basic)(?: |%20|\+)+[A-Za-z0-9._~+/=-]{8,}"
    # KVNR: a letter and nine digits.
    r"|(?<![A-Za-z0-9])[A-Z][0-9]{9}(?![A-Za-z0-9])"
    # Telematik-ID: sector, hyphen, then the sector's own scheme.
    r"|(?<![A-Za-z0-9._-])[1-9][0-9]?-(?:SMC-B-|[0-9A-Z])[0-9A-Za-z._-]{5,}",
    re.IGNORECASE,
)


def mask(text: str) -> str:
    """``text`` with everything that looks like a token, a credential, a KVNR or a Telematik-ID replaced.

    Works on finished lines: no pattern reaches over a quote or a brace, so a JSON line stays JSON.
    """
    return _PATTERNS.sub(MASK, text)
