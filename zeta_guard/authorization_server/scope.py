"""Scopes: all that are asked for or none (``policy-contract`` section 1; RFC 6749 §3.3)."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Final

from zeta_guard.errors import ZetaError

_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+(?: [\x21\x23-\x5b\x5d-\x7e]+)*")
MOST_SCOPES: Final = 64


def requested_scopes(
    text: str | None, *, allowed: Collection[str], default: Sequence[str], what: str
) -> tuple[str, ...]:
    """The scopes of the form, each once, in their order; ``default`` when the parameter is absent.

    ``what`` names in the description where ``allowed`` comes from. Raises ZetaError 400 ``invalid_scope``.
    """
    if text is None:
        return tuple(default)
    if not _SCOPE.fullmatch(text):
        raise ZetaError("invalid_scope", "'scope' must be names separated by single blanks", stage="scope")
    scopes = tuple(dict.fromkeys(text.split(" ")))
    if len(scopes) > MOST_SCOPES:
        raise ZetaError("invalid_scope", f"'scope' names more than {MOST_SCOPES} scopes", stage="scope")
    if any(scope not in allowed for scope in scopes):
        raise ZetaError("invalid_scope", f"'scope' names a scope that is not among those of {what}", stage="scope")
    return scopes
