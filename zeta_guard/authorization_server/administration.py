"""What operators may do with sessions, blocks and keys (``zeta-guard sessions``, ``block``, ``keys``); every act is recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zeta_guard.authorization_server.dependencies import Dependencies
from zeta_guard.authorization_server.key_folder import KeyFile
from zeta_guard.authorization_server.session_end import end_known_session, end_session
from zeta_guard.authorization_server.signing_keys import KeyEntry
from zeta_guard.store.contract import Block, Session, SubjectKind, block_subject


@dataclass(frozen=True, slots=True)
class SessionEntry:
    """One line of ``sessions list``. ``institution`` is a pseudonym; times are Unix seconds."""

    session_id: str
    client_id: str
    institution: str
    product_id: str
    started_at: int
    expires_at: int


class Administration:
    """Acts of an administrator, named by ``actor`` in the record. ``now`` is Unix seconds."""

    def __init__(self, dependencies: Dependencies) -> None:
        self._deps = dependencies

    def pseudonyms(self, telematik_id: str) -> tuple[str, ...]:
        """Names of an institution in records, current one first."""
        return self._deps.pseudonymizer.pseudonyms(telematik_id)

    async def list_sessions(self, *, institution: str | None = None, now: float) -> Sequence[SessionEntry]:
        """Live sessions, newest first; ``institution`` is a pseudonym."""
        sessions = await self._deps.store.list_sessions(institution=institution, now=now)
        return [_entry(session) for session in sessions]

    async def end_session(self, session_id: str, *, actor: str, now: float) -> bool:
        """End one session: refreshes get 403 ``session_terminated``, its tokens die within a second. False: unknown."""
        self._record("end_session", actor, session_id=session_id)
        session = await self._deps.store.get_session(session_id, now=now)
        if session is None:
            return await end_session(self._deps, session_id, reason="terminated", cause="administrator", now=now)
        return await end_known_session(self._deps, session, reason="terminated", cause="administrator", now=now)

    async def end_sessions_of(self, institution: str, *, actor: str, now: float) -> int:
        """End all sessions of an institution (pseudonym); how many there were."""
        self._record("end_sessions", actor, institution=institution)
        sessions = await self._deps.store.list_sessions(institution=institution, now=now)
        for session in sessions:
            await end_known_session(self._deps, session, reason="terminated", cause="administrator", now=now)
        return len(sessions)

    async def add_block(
        self, kind: SubjectKind, identifier: str, *, seconds: int, note: str, actor: str, now: float
    ) -> Block:
        """Refuse a client, product, session or institution (pseudonym) everywhere within a second."""
        block = Block(block_subject(kind, identifier), "emergency", now + seconds, now, note)
        self._record("block_added", actor, subject=block.subject, seconds=seconds, note=note)
        await self._deps.store.block(block, now=now)
        self._deps.events.emit("block_added", subject=block.subject, actor=actor)
        return block

    async def remove_block(self, kind: SubjectKind, identifier: str, *, actor: str) -> bool:
        """Lift a block. False when there was none."""
        subject = block_subject(kind, identifier)
        self._record("block_removed", actor, subject=subject)
        removed = await self._deps.store.unblock(subject)
        self._deps.events.emit("block_removed", subject=subject, actor=actor)
        return removed

    async def list_blocks(self, *, now: float) -> Sequence[Block]:
        """All blocks in force."""
        return await self._deps.store.blocks(now=now)

    def list_keys(self, *, now: float) -> tuple[KeyEntry, ...]:
        """Signing keys and their states, as this process has loaded them."""
        return self._deps.signing_keys.entries(now)

    def rotate_keys(self, *, actor: str, now: float) -> KeyFile:
        """Write the next signing key; it is shown at once and signs after its notice."""
        keys = self._deps.signing_keys
        self._record("rotate_keys", actor)
        written = keys.write_next(now)
        self._record("key_written", actor, kid=written.kid, not_before=written.not_before)
        keys.reload(now)
        return written

    def _record(self, act: str, actor: str, **fields: object) -> None:
        self._deps.audit.record("administration", act=act, actor=actor, **fields)
        self._deps.events.emit("administration", act=act, actor=actor)


def _entry(session: Session) -> SessionEntry:
    return SessionEntry(
        session_id=session.session_id,
        client_id=session.client_id,
        institution=session.institution,
        product_id=session.product_id,
        started_at=session.started_at,
        expires_at=session.expires_at,
    )
