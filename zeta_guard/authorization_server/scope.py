"""Scopes: all that are asked for or none (``policy-contract`` section 1; RFC 6749 §3.3)."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from zeta_guard.errors import ZetaError


def requested_scopes(
    text: str | None, *, allowed: Collection[str], default: Sequence[str], what: str
) -> tuple[str, ...]:
    """The scopes of the form, each once, in their order; ``default`` when the parameter is absent.

    Names are separated by exactly one blank. ``what`` names in the description where ``allowed`` comes from. Raises ZetaError
    400 ``invalid_scope``.
    """
    if text is None:
        return tuple(default)
    scopes = tuple(dict.fromkeys(text.split(" ")))
    if any(scope not in allowed for scope in scopes):
        raise ZetaError("invalid_scope", f"'scope' names a scope that is not among those of {what}", stage="scope")
    return scopes
