"""JSON objects with exactly one reading.

JSON parsers differ in what they do with repeated members, ``NaN``, huge numbers and lone surrogates; where two parsers look at
one token (ours and a backend's) such a difference is an attack. What is ambiguous is refused.
"""

from __future__ import annotations

import json
from typing import Any, Final

import orjson

from zeta_guard.errors import JsonValue
from zeta_guard.jose.slot import Slot

MAX_DEPTH: Final = 16
"""Deepest nesting; the outer object is level 1."""

MAX_NUMBER: Final = 2**53
"""Largest magnitude of a number: beyond it doubles and integers disagree (RFC 7493 §2.2)."""


class _RepeatedMember(ValueError):
    pass


def _unique(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _RepeatedMember
    return members


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_unique)


def parse_object(raw: bytes) -> dict[str, JsonValue]:
    """The object behind ``raw``. Raises ValueError whose text says, without quoting the input, what was wrong."""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise ValueError("is not valid JSON in UTF-8") from None
    if type(value) is not dict:
        raise ValueError("is not a JSON object")
    kinds = [*map(type, value.values())]
    strings = len(kinds)
    texts = kinds.count(str)
    if texts == strings - 1 and int in kinds:
        # The claims of a proof: one number among texts.
        if not -MAX_NUMBER <= [*value.values()][kinds.index(int)] <= MAX_NUMBER:
            raise ValueError("holds a number beyond 2^53")
        strings += texts
    else:
        strings = _count_strings(value, 1)
    # Every string of the text has two quotation marks of its own. A repeated member leaves its name (at least) in the text but
    # not in the object, an escaped mark adds one: where the counts agree, nothing was dropped. Else a slower look decides.
    if raw.count(b'"') != 2 * strings:
        _check_members(raw)
    return value


def _count_strings(value: Any, depth: int) -> int:
    """Strings in an object or array."""
    if depth > MAX_DEPTH:
        raise ValueError(f"is nested deeper than {MAX_DEPTH} levels")
    members = value
    strings = 0
    if type(value) is dict:
        strings = len(value)
        members = value.values()
    for member in members:
        kind = type(member)
        if kind is str:
            strings += 1
        elif kind is int or kind is float:
            if not -MAX_NUMBER <= member <= MAX_NUMBER:
                raise ValueError("holds a number beyond 2^53")
        elif kind is dict or kind is list:
            strings += _count_strings(member, depth + 1)
    return strings


def _check_members(raw: bytes) -> None:
    try:
        _DECODER.decode(raw.decode())
    except _RepeatedMember:
        raise ValueError("holds a member twice") from None


def loads_object(raw: bytes, slot: Slot) -> dict[str, JsonValue]:
    """The JSON object behind ``raw``.

    Raises the refusal of ``slot`` for everything that has no single reading: invalid UTF-8 or JSON, lone surrogates, ``NaN``,
    repeated members, numbers beyond ±2^53, nesting deeper than 16, anything but an object.
    """
    try:
        return parse_object(raw)
    except ValueError as error:
        raise slot.refuse(str(error)) from None
