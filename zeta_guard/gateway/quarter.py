"""Calendar quarters in German local time: billing and PoPP tokens follow them (A_26477-01)."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

GRACE_SECONDS: Final = 300
"""How long after the end of a quarter its tokens are still accepted."""

_GERMANY: Final = ZoneInfo("Europe/Berlin")


def earliest_issue(now: float) -> float:
    """The earliest issue time (Unix seconds) that still counts as *this quarter* at ``now``, grace included."""
    return _start_of_quarter(int(now - GRACE_SECONDS) // 3600)


# Quarters begin at full hours in every zone that Germany has had, so that an hour decides.
@lru_cache(maxsize=8)
def _start_of_quarter(hour: int) -> float:
    local = datetime.fromtimestamp(hour * 3600, _GERMANY)
    return datetime(local.year, local.month - (local.month - 1) % 3, 1, tzinfo=_GERMANY).timestamp()
