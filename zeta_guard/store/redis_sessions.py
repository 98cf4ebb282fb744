"""Sessions in Redis: ``session:ID`` is the sealed record, ``sessions`` and ``sessions:INSTITUTION`` are sorted sets by end."""

from __future__ import annotations

from collections.abc import Sequence

from zeta_guard.store.block_record import read_block
from zeta_guard.store.contract import Block, RotateOutcome, Session, block_subject
from zeta_guard.store.record_seal import RecordSeal, read_session, session_content
from zeta_guard.store.redis_blocks import clear_blocks, put_block
from zeta_guard.store.redis_connection import Reply
from zeta_guard.store.redis_guarded import ATTEMPTS, GuardedCommands
from zeta_guard.store.redis_link import RedisLink, no_answer
from zeta_guard.store.session_record import AFTERLIFE_SECONDS, REUSE_REASON, SessionRecord, decide_rotation

_BATCH = 500


class RedisSessions:
    """See the contract for every method."""

    def __init__(self, link: RedisLink, prefix: bytes, seal: RecordSeal) -> None:
        self._link = link
        self._prefix = prefix
        self._seal = seal

    async def start(self, session: Session, *, now: float) -> None:
        """See the contract."""
        life = max(1, int((session.expires_at - now) * 1000))
        key = self._key(session.session_id)
        step = GuardedCommands()
        step.do("SET", key, self._seal.seal(key, session_content(SessionRecord(session))), "PX", life)
        for index in self._indexes(session):
            step.do("ZREMRANGEBYSCORE", index, "-inf", now)
            step.do("ZADD", index, session.expires_at, session.session_id)
            step.do("KEEP", index, life)
        await step.run(self._link)

    async def get(self, session_id: str, *, now: float) -> Session | None:
        """See the contract."""
        record, _, ended = await self._read(session_id, now)
        return record.session if record is not None and ended is None else None

    async def rotate(
        self,
        session_id: str,
        *,
        presented_jti: str,
        successor_jti: str,
        jkt: str,
        sealed_answer: bytes,
        grace: int,
        now: float,
    ) -> RotateOutcome:
        """See the contract."""
        key = self._key(session_id)
        for _ in range(ATTEMPTS):
            record, sealed, ended = await self._read(session_id, now)
            rotation = decide_rotation(
                record,
                ended,
                presented_jti=presented_jti,
                successor_jti=successor_jti,
                jkt=jkt,
                sealed_answer=sealed_answer,
                grace=grace,
                now=now,
            )
            step = GuardedCommands()
            step.when_string(key, sealed)
            if rotation.ends and record is not None:
                self._end(step, record, session_id, REUSE_REASON, AFTERLIFE_SECONDS, now)
            elif rotation.record is not None:
                life = max(1, int((rotation.record.session.expires_at - now) * 1000))
                step.do("SET", key, self._seal.seal(key, session_content(rotation.record)), "PX", life)
            else:
                return rotation.outcome
            if await step.run(self._link):
                return rotation.outcome
        raise no_answer()

    async def end(self, session_id: str, *, reason: str, ttl: int, now: float) -> bool:
        """See the contract."""
        await clear_blocks(self._link, self._prefix, now)
        for _ in range(ATTEMPTS):
            record, sealed, _ = await self._read(session_id, now)
            step = GuardedCommands()
            step.when_string(self._key(session_id), sealed)
            self._end(step, record, session_id, reason, ttl, now)
            if await step.run(self._link):
                return record is not None
        raise no_answer()

    async def live(self, institution: str | None, *, now: float) -> Sequence[Session]:
        """See the contract."""
        index = self._prefix + (b"sessions" if institution is None else b"sessions:" + institution.encode())
        members = await self._link.call("ZRANGE", index, f"({now}", "+inf", "BYSCORE")
        ids = [member.decode() for member in members if isinstance(member, bytes)] if isinstance(members, list) else []
        found: list[Session] = []
        for start in range(0, len(ids), _BATCH):
            batch = ids[start : start + _BATCH]
            replies = await self._link.call_all(*(("GET", self._key(one)) for one in batch))
            records = [self._open(one, reply, now)[0] for one, reply in zip(batch, replies, strict=True)]
            found += [record.session for record in records if record is not None]
        return sorted(found, key=lambda session: (-session.started_at, session.session_id))

    def _key(self, session_id: str) -> bytes:
        return self._prefix + b"session:" + session_id.encode()

    def _indexes(self, session: Session) -> tuple[bytes, bytes]:
        return self._prefix + b"sessions", self._prefix + b"sessions:" + session.institution.encode()

    async def _read(self, session_id: str, now: float) -> tuple[SessionRecord | None, bytes, str | None]:
        """Record, its sealed form, and the reason of a block on it."""
        subject = block_subject("session", session_id)
        # All in one trip: a block is rare, so that the second place is looked at nearly always.
        sealed, blocked, returned = await self._link.call_all(
            ("GET", self._key(session_id)),
            ("HGET", self._prefix + b"blocks", subject),
            ("HGET", self._prefix + b"returned", subject),
        )
        if blocked is None:
            blocked = returned
        block = read_block(subject.encode(), blocked) if isinstance(blocked, bytes) else None
        ended = block.reason if block is not None and block.until > now else None
        record, raw = self._open(session_id, sealed, now)
        return record, raw, ended

    def _open(self, session_id: str, reply: Reply, now: float) -> tuple[SessionRecord | None, bytes]:
        if not isinstance(reply, bytes):
            return None, b""
        content = self._seal.open(self._key(session_id), reply)
        if content is None:
            return None, reply
        record = read_session(content)
        return (record if record.session.expires_at > now else None), reply

    def _end(
        self, step: GuardedCommands, record: SessionRecord | None, session_id: str, reason: str, ttl: int, now: float
    ) -> None:
        # The block lasts as long as the record would have, so that a refresh learns why its session is over.
        until = max(now + ttl, record.session.expires_at if record is not None else 0.0)
        put_block(step, self._prefix, Block(block_subject("session", session_id), reason, until, now), now)
        step.do("DEL", self._key(session_id))
        if record is not None:
            for index in self._indexes(record.session):
                step.do("ZREM", index, session_id)
