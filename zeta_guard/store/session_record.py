"""A session as it is stored, and the one place that decides what a presented refresh token is worth."""

from __future__ import annotations

from typing import Final, NamedTuple

from zeta_guard.store.contract import RotateOutcome, RotateStatus, Session

REUSE_REASON: Final = "reuse"

AFTERLIFE_SECONDS: Final = 86_400
"""How long a block outlives the session or client that it ends: longer than any access token."""


class SessionRecord(NamedTuple):
    """``session.refresh_jti`` is the current refresh token. ``previous_jti`` was replaced by it at ``rotated_at``;
    ``sealed_answer`` is the answer that was given then."""

    session: Session
    previous_jti: str = ""
    rotated_at: float = 0.0
    sealed_answer: bytes = b""


class Rotation(NamedTuple):
    """A decision, to be carried out in the same atomic step: write ``record``, or end the session when ``ends``."""

    outcome: RotateOutcome
    record: SessionRecord | None = None
    ends: bool = False


def decide_rotation(
    record: SessionRecord | None,
    ended: str | None,
    *,
    presented_jti: str,
    successor_jti: str,
    jkt: str,
    sealed_answer: bytes,
    grace: int,
    now: float,
) -> Rotation:
    """Decide a rotation (``wire-contract`` 4.3, ``security`` 4). ``ended`` is the reason of a block on the session.

    Another DPoP key leaves the session alone (GONE): reuse counts only for the key that the session belongs to, so that a
    stolen refresh token alone cannot end somebody's session.
    """
    if ended is not None:
        return Rotation(RotateOutcome(RotateStatus.ENDED, reason=ended))
    if record is None or record.session.expires_at <= now or record.session.jkt != jkt:
        return Rotation(RotateOutcome(RotateStatus.GONE))
    if presented_jti == record.session.refresh_jti:
        session = record.session
        # Written out: a replaced copy costs three calls and nine look-ups at every refresh.
        rotated = SessionRecord(
            Session(
                session.session_id,
                session.client_id,
                session.institution,
                session.jkt,
                successor_jti,
                session.started_at,
                session.expires_at,
                session.sealed,
                session.product_id,
            ),
            presented_jti,
            now,
            sealed_answer if grace else b"",
        )
        return Rotation(RotateOutcome(RotateStatus.WON), record=rotated)
    if presented_jti == record.previous_jti and record.sealed_answer and now < record.rotated_at + grace:
        return Rotation(RotateOutcome(RotateStatus.SUCCESSOR, sealed_answer=record.sealed_answer))
    return Rotation(RotateOutcome(RotateStatus.REUSED, reason=REUSE_REASON), ends=True)
