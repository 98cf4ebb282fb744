"""A block as it stands in Redis: ``until|reason|created_at|note``, readable for the claim script."""

from __future__ import annotations

import re
from typing import Final

from zeta_guard.store.contract import Block

_FORM: Final = re.compile(rb"(\d{1,12}(?:\.\d{1,6})?)\|([^|]{0,64})\|(\d{1,12}(?:\.\d{1,6})?)\|(.*)", re.DOTALL)


def write_block(block: Block) -> bytes:
    """The record."""
    reason = block.reason.replace("|", "/")[:64]
    return f"{block.until:.3f}|{reason}|{block.created_at:.3f}|{block.note}".encode()


def read_block(subject: bytes, record: bytes) -> Block | None:
    """The block, or None for what is none (the version field)."""
    found = _FORM.fullmatch(record)
    if found is None or not subject:
        return None
    until, reason, created_at, note = found.groups()
    return Block(
        subject.decode("utf-8", "replace"),
        reason.decode("utf-8", "replace"),
        float(until),
        float(created_at),
        note.decode("utf-8", "replace"),
    )
