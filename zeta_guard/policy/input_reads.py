"""What a bundle reads of its input, by the table that ``policy build`` wrote: for caching and for replaying masked lines."""

from __future__ import annotations

from collections.abc import Iterable

from zeta_guard.policy.bundle import Bundle


def reads_time(bundle: Bundle, entrypoint: str) -> bool:
    """Whether the rules behind ``entrypoint`` may read ``input.time``; yes, when nobody found out."""
    return bool(read_members(bundle, entrypoint, ["time"]))


def read_members(bundle: Bundle, entrypoint: str, members: Iterable[str]) -> list[str]:
    """Those of ``members`` (``user_info/identifier``) that the rules behind ``entrypoint`` may read, by name or as a part of more."""
    table = bundle.manifest.reads
    if table is None or entrypoint not in table:
        return list(members)
    return [member for member in members if any(_overlap(read, member) for read in table[entrypoint])]


def _overlap(one: str, other: str) -> bool:
    if not one or not other:
        return True
    parts, others = one.split("/"), other.split("/")
    shared = min(len(parts), len(others))
    return parts[:shared] == others[:shared]
