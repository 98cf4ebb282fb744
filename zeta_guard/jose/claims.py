"""Typed access to claims: the right JSON type or the refusal of the slot (RFC 7519 §4)."""

from __future__ import annotations

from collections.abc import Mapping

from zeta_guard.errors import JsonValue
from zeta_guard.jose.slot import Slot

Claims = Mapping[str, JsonValue]


def _seen(claims: Claims, name: str) -> str:
    if name not in claims:
        return "is missing"
    value = claims[name]
    if value is None:
        return "is null"
    if isinstance(value, bool):
        return "is a boolean"
    if isinstance(value, int | float):
        return "is a number"
    if isinstance(value, str):
        return "is text" if value else "is empty"
    return "is an array" if isinstance(value, list) else "is an object"


def text(claims: Claims, name: str, slot: Slot) -> str:
    """A claim that must be text and not empty."""
    value = claims.get(name)
    if value and type(value) is str:
        return value
    raise slot.refuse(f"'{name}' {_seen(claims, name)}; expected text")


def optional_text(claims: Claims, name: str, slot: Slot) -> str | None:
    """None when the claim is absent; text (not empty) otherwise. ``null`` is not absent."""
    return text(claims, name, slot) if name in claims else None


def integer(claims: Claims, name: str, slot: Slot) -> int:
    """A claim that must be a whole number; a boolean or a number with a fraction is none."""
    value = claims.get(name)
    if type(value) is int:
        return value
    raise slot.refuse(f"'{name}' {_seen(claims, name)}; expected a whole number")


def optional_integer(claims: Claims, name: str, slot: Slot) -> int | None:
    """None when the claim is absent; a whole number otherwise."""
    return integer(claims, name, slot) if name in claims else None


def member(claims: Claims, name: str, slot: Slot) -> dict[str, JsonValue]:
    """A claim that must be an object (``cnf``, ``client_key``)."""
    value = claims.get(name)
    if isinstance(value, dict):
        return value
    raise slot.refuse(f"'{name}' {_seen(claims, name)}; expected an object")


def audience(claims: Claims, slot: Slot) -> tuple[str, ...]:
    """``aud`` as one or more texts (RFC 7519 §4.1.3)."""
    value = claims.get("aud")
    if isinstance(value, str) and value:
        return (value,)
    if isinstance(value, list) and value:
        named = tuple(entry for entry in value if isinstance(entry, str) and entry)
        if len(named) == len(value):
            return named
    raise slot.refuse(f"'aud' {_seen(claims, 'aud')}; expected text or an array of texts")


def single_audience(claims: Claims, slot: Slot) -> str:
    """``aud`` where only one receiver may be meant: text, or an array with one."""
    named = audience(claims, slot)
    if len(named) != 1:
        raise slot.refuse(f"'aud' names {len(named)} receivers; expected exactly one")
    return named[0]
