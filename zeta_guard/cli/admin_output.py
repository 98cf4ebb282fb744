"""How administration is written and read by people: moments, durations, tables, institutions."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from zeta_guard.errors import ConfigurationError

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "": 1}
_DURATION: Final = re.compile(r"([0-9]{1,8})([smhd]?)")
_LONGEST: Final = 366 * 86_400


def moment(seconds: float | None) -> str:
    """Unix seconds as UTC; a dash for None."""
    if seconds is None:
        return "-"
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def duration(text: str) -> int:
    """``90s``, ``15m``, ``12h``, ``7d`` or plain seconds; 1 s to 366 d."""
    found = _DURATION.fullmatch(text)
    seconds = int(found[1]) * _UNITS[found[2]] if found else 0
    if not 1 <= seconds <= _LONGEST:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a duration from 1s to 366d, e.g. 90s, 15m, 12h, 7d")
    return seconds


def print_json(document: object) -> None:
    """One object on standard output."""
    print(json.dumps(document, ensure_ascii=False))


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their widest cell; the last one is not padded."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    for row in [head, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def add_institution(parser: argparse.ArgumentParser, words: str) -> None:
    """``--institution`` and ``--pseudonym``."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--institution",
        metavar="TELEMATIK_ID",
        help=f"{words} of this institution (- reads the id from standard input)",
    )
    which.add_argument("--pseudonym", metavar="NAME", help=f"{words} of the institution that lists call so")


def telematik_id(text: str) -> str:
    """A Telematik-ID of the command line, or from standard input, where no process list shows it."""
    found = sys.stdin.readline().strip() if text == "-" else text.strip()
    if not found:
        raise ConfigurationError("TELEMATIK_ID", "empty", "a Telematik-ID")
    return found


def printable(text: str) -> str:
    """Text that somebody else chose, harmless to a terminal."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)


def count(number: Any, one: str, many: str) -> str:
    """``1 session``, ``2 sessions``."""
    return f"{number} {one if number == 1 else many}"
