"""A session as it is stored, and the one place that decides what a presented refresh token is worth."""

from __future__ import annotations

from typing import Final, NamedTuple

from zeta_guard.store.contract import RotateOutcome, RotateStatus, Session

REUSE_REASON: Final = "reuse"

AFTERLIFE_SECONDS: Final = 86_400
"""How long a block outlives the session or client that it ends: longer than any access token."""


_JTI: Final = Session._fields.index("refresh_jti")
_WON: Final = RotateOutcome(RotateStatus.WON)

# What the constructor of a named tuple does, without its call of Python code.
_new: Final = tuple.__new__


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
        renewed = _new(Session, (*session[:_JTI], successor_jti, *session[_JTI + 1 :]))
        rotated = _new(SessionRecord, (renewed, presented_jti, now, sealed_answer if grace else b""))
        return _new(Rotation, (_WON, rotated, False))
    if presented_jti == record.previous_jti and record.sealed_answer and now < record.rotated_at + grace:
        return Rotation(RotateOutcome(RotateStatus.SUCCESSOR, sealed_answer=record.sealed_answer))
    return Rotation(RotateOutcome(RotateStatus.REUSED, reason=REUSE_REASON), ends=True)
