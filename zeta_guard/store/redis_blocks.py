"""Writing blocks to Redis (reading is a gateway's: ``redis_replay.py``).

``blocks`` is a hash (subject → record, empty field → version), ``blocks:until`` a sorted set by end for clearing up.
"""

from __future__ import annotations

import secrets
from typing import Final

from zeta_guard.store.block_record import write_block
from zeta_guard.store.contract import Block
from zeta_guard.store.redis_guarded import GuardedCommands
from zeta_guard.store.redis_link import RedisLink

_CLEARED_AT_ONCE: Final = 100


def put_block(step: GuardedCommands, prefix: bytes, block: Block, now: float) -> None:
    """Add a block to an atomic step."""
    blocks, until = prefix + b"blocks", prefix + b"blocks:until"
    life = max(1, int((block.until - now) * 1000) + 1000)
    step.do("HSET", blocks, block.subject, write_block(block), "", secrets.token_hex(8))
    step.do("ZADD", until, block.until, block.subject)
    step.do("KEEP", blocks, life)
    step.do("KEEP", until, life)


async def drop_block(link: RedisLink, prefix: bytes, subject: str) -> bool:
    """Lift a block, also one that a process gave back. False when there was none."""
    blocks, until, returned = prefix + b"blocks", prefix + b"blocks:until", prefix + b"returned"
    version = secrets.token_hex(8)
    replies = await link.call_all(
        ("HDEL", blocks, subject), ("HDEL", returned, subject), ("ZREM", until, subject), ("EXISTS", blocks)
    )
    if replies[3]:
        # Only where the hash is there already: the version alone would be a key without an end.
        await link.call("HSET", blocks, "", version)
    if replies[1]:
        await link.call("HSET", returned, "", version)
    return bool(replies[0]) or bool(replies[1])


async def clear_blocks(link: RedisLink, prefix: bytes, now: float) -> None:
    """Remove some of the blocks that are over; called with every new one."""
    blocks, until = prefix + b"blocks", prefix + b"blocks:until"
    over = await link.call("ZRANGEBYSCORE", until, "-inf", now, "LIMIT", 0, _CLEARED_AT_ONCE)
    if isinstance(over, list) and over:
        subjects = [subject for subject in over if isinstance(subject, bytes)]
        await link.call_all(("HDEL", blocks, *subjects), ("ZREM", until, *subjects))
