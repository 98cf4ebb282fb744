"""Ending a session before its time: one place for store, metric, event and record."""

from __future__ import annotations

from typing import Literal

from zeta_guard.authorization_server.dependencies import Dependencies
from zeta_guard.store.contract import Session

EndReason = Literal["terminated", "revoked"]


async def end_session(
    deps: Dependencies, session_id: str, *, reason: EndReason, cause: str, now: float, expires_at: int | None = None
) -> bool:
    """Block the session for as long as any of its tokens can live, and drop its record. False when it was unknown.

    ``cause`` says in the record what led to it. ``expires_at``: end of the session, None when its record is not at hand; then
    the longest possible end counts, so that a block that stands already is never shortened.
    """
    lifetimes = deps.config.authorization_server.lifetimes
    longest = max(
        float(expires_at) if expires_at is not None else now + lifetimes.refresh_token_cap,
        now + lifetimes.access_token_cap,
    )
    ttl = int(longest - now) + deps.config.limits.skew + deps.config.gateway.token_leeway + 1
    deps.audit.record("session_ended", session_id=session_id, reason=reason, cause=cause)
    known = await deps.store.end_session(session_id, reason=reason, ttl=ttl, now=now)
    deps.metrics.sessions_ended.labels(reason).inc()
    deps.events.emit("session_ended", session_id=session_id, reason=reason, cause=cause)
    return known


async def end_known_session(deps: Dependencies, session: Session, *, reason: EndReason, cause: str, now: float) -> bool:
    """:func:`end_session` for a session whose record is at hand: blocked until its own end, too."""
    return await end_session(
        deps, session.session_id, reason=reason, cause=cause, now=now, expires_at=session.expires_at
    )
