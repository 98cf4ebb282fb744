"""Arithmetic of token buckets."""

from __future__ import annotations

import math

from zeta_guard.store.contract import Bucket


def refill(tokens: float, filled_at: float, *, per_minute: int, burst: int, now: float) -> float:
    """Tokens at ``now`` of a bucket that held ``tokens`` at ``filled_at``. A clock that steps back adds none."""
    return min(float(burst), tokens + max(0.0, now - filled_at) * per_minute / 60.0)


def bucket_state(allowed: bool, tokens: float, *, per_minute: int, burst: int) -> Bucket:
    """What the caller is told when ``tokens`` are left."""
    per_second = per_minute / 60.0
    return Bucket(
        allowed=allowed,
        limit=burst,
        remaining=int(tokens),
        reset=math.ceil((burst - tokens) / per_second),
        retry_after=0 if allowed else max(1, math.ceil((1.0 - tokens) / per_second)),
    )
