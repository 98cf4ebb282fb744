"""What an administrator asks: the members of a query or a JSON body, taken one by one; what is left over is a mistake."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from multidict import MultiMapping

from zeta_guard.errors import JsonValue, ZetaError

LONGEST_TEXT: Final = 256


class Question:
    """Members that are taken by name and type. Every mistake is a ZetaError 400 ``invalid_request``."""

    def __init__(self, members: Mapping[str, JsonValue]) -> None:
        self._members: Final = dict(members)

    @classmethod
    def of_query(cls, query: MultiMapping[str]) -> Question:
        """The members of a query; numbers are written in digits, and none may stand twice."""
        if len(query) != len(set(query)):
            raise _mistake("a query member stands twice")
        return cls({name: int(text) if _is_number(text) else text for name, text in query.items()})

    def optional_text(self, name: str, *, most: int = LONGEST_TEXT) -> str | None:
        """A printable text of 1 to ``most`` characters, None when absent."""
        value = self._members.pop(name, None)
        if isinstance(value, int) and not isinstance(value, bool):
            # Of a query: an identifier may consist of digits.
            value = str(value)
        if value is None or (isinstance(value, str) and 0 < len(value) <= most and value.isprintable()):
            return value
        raise _mistake(f"'{name}' must be a printable text of 1 to {most} characters")

    def text(self, name: str) -> str:
        """Like :meth:`optional_text`, but it must be there."""
        value = self.optional_text(name)
        if value is None:
            raise _mistake(f"'{name}' is missing")
        return value

    def choice(self, name: str, allowed: Collection[str]) -> str:
        """One of some texts."""
        value = self.text(name)
        if value not in allowed:
            raise _mistake(f"'{name}' must be one of {', '.join(allowed)}")
        return value

    def integer(self, name: str, least: int, most: int, *, default: int) -> int:
        """A whole number within bounds."""
        value = self._members.pop(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise _mistake(f"'{name}' must be a whole number from {least} to {most}")
        return value

    def end(self) -> None:
        """Refuse members that nobody asked for: a misspelt one must not widen what is done."""
        if self._members:
            raise _mistake(f"unknown member {', '.join(repr(name[:40]) for name in sorted(self._members))}")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10 and (text == "0" or text[0] != "0")


def _mistake(description: str) -> ZetaError:
    return ZetaError("invalid_request", description, stage="administration")
