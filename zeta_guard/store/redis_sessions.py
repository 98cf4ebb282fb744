"""Sessions in Redis: ``session:ID`` is the sealed record, ``sessions`` and ``sessions:INSTITUTION`` are sorted sets by end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from zeta_guard.store.block_record import read_block
from zeta_guard.store.contract import Block, RotateOutcome, Session, block_subject
from zeta_guard.store.record_seal import RecordSeal, read_session, session_content
from zeta_guard.store.redis_blocks import clear_blocks, put_block
from zeta_guard.store.redis_clients import RedisClients, SeenClient
from zeta_guard.store.redis_connection import Reply
from zeta_guard.store.redis_guarded import ATTEMPTS, GuardedCommands
from zeta_guard.store.redis_link import RedisLink, no_answer
from zeta_guard.store.session_record import AFTERLIFE_SECONDS, REUSE_REASON, SessionRecord, decide_rotation

# What the constructor of a named tuple does, without its call of Python code.
_new: Final = tuple.__new__
_BATCH = 500


class SeenSession(NamedTuple):
    """A session's record and the blocks on it as a trip found them, with the bytes that a later step compares."""

    record: SessionRecord | None
    ended: str | None
    """Reason of a block in force."""
    sealed: bytes
    blocked: bytes
    returned: bytes

    @property
    def session(self) -> Session | None:
        """The session, None when unknown, over or blocked."""
        return self.record.session if self.record is not None and self.ended is None else None


class RedisSessions:
    """See the contract for every method."""

    def __init__(self, link: RedisLink, prefix: bytes, seal: RecordSeal, clients: RedisClients) -> None:
        self._link = link
        self._prefix = prefix
        self._seal = seal
        self._clients = clients
        self._blocks = prefix + b"blocks"
        self._returned = prefix + b"returned"

    async def start(self, session: Session, *, seen: SeenClient | None, client_ttl: int, now: float) -> bool:
        """See the contract."""
        life = max(1, int((session.expires_at - now) * 1000))
        key = self._key(session.session_id)
        step = GuardedCommands()
        if seen is not None and not self._clients.touch_in(step, seen, ttl=client_ttl, now=now):
            return False
        step.do("SET", key, self._seal.seal(key, *session_content(SessionRecord(session))), "PX", life)
        for index in self._indexes(session):
            step.do("ZREMRANGEBYSCORE", index, "-inf", now)
            step.do("ZADD", index, session.expires_at, session.session_id)
            step.do("KEEP", index, life)
        return await step.run(self._link) == 1

    async def get(self, session_id: str, *, now: float) -> Session | None:
        """See the contract."""
        return (await self._read(session_id, now)).session

    async def rotate(
        self,
        session_id: str,
        *,
        presented_jti: str,
        successor_jti: str,
        jkt: str,
        sealed_answer: bytes,
        grace: int,
        seen: tuple[SeenSession, SeenClient] | None,
        client_ttl: int | None,
        now: float,
    ) -> RotateOutcome:
        """See the contract."""
        key, subject = self._key(session_id), block_subject("session", session_id)
        for _ in range(ATTEMPTS):
            found = seen[0] if seen is not None else await self._read(session_id, now)
            rotation = decide_rotation(
                found.record,
                found.ended,
                presented_jti=presented_jti,
                successor_jti=successor_jti,
                jkt=jkt,
                sealed_answer=sealed_answer,
                grace=grace,
                now=now,
            )
            step = GuardedCommands()
            step.when_string(key, found.sealed)
            # A block that came since does not only wait for the next request.
            step.when_field(self._blocks, subject, found.blocked)
            step.when_field(self._returned, subject, found.returned)
            touched = client_ttl is None
            if rotation.ends and found.record is not None:
                self._end(step, found.record, session_id, REUSE_REASON, AFTERLIFE_SECONDS, now)
            elif rotation.record is not None:
                life = max(1, int((rotation.record.session.expires_at - now) * 1000))
                step.do("SET", key, self._seal.seal(key, *session_content(rotation.record)), "PX", life)
                if client_ttl is not None and seen is not None:
                    touched = self._clients.touch_in(step, seen[1], ttl=client_ttl, now=now)
            else:
                return rotation.outcome
            if await step.run(self._link):
                if client_ttl is not None and not touched and rotation.record is not None:
                    await self._clients.touch(rotation.record.session.client_id, ttl=client_ttl, now=now)
                return rotation.outcome
            seen = None
        raise no_answer()

    async def end(self, session_id: str, *, reason: str, ttl: int, now: float) -> bool:
        """See the contract."""
        await clear_blocks(self._link, self._prefix, now)
        for _ in range(ATTEMPTS):
            found = await self._read(session_id, now)
            step = GuardedCommands()
            step.when_string(self._key(session_id), found.sealed)
            self._end(step, found.record, session_id, reason, ttl, now)
            if await step.run(self._link):
                return found.record is not None
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

    def places(self, session_id: str) -> tuple[bytes, tuple[bytes, bytes, str]]:
        """The session's key, and where blocks on it stand: two hashes and the field in both."""
        return self._key(session_id), (self._blocks, self._returned, block_subject("session", session_id))

    async def _read(self, session_id: str, now: float) -> SeenSession:
        key, (blocks, returned, subject) = self.places(session_id)
        # All in one trip: a block is rare, so that the second place is looked at nearly always.
        replies = await self._link.call_all(("GET", key), ("HGET", blocks, subject), ("HGET", returned, subject))
        return self.seen(session_id, replies, now)

    def seen(self, session_id: str, replies: Sequence[Reply], now: float) -> SeenSession:
        """What replies for the session's key and its two places of blocks say."""
        sealed, blocked, returned = replies
        reason = None
        if blocked is not None or returned is not None:
            either = blocked if blocked is not None else returned
            subject = block_subject("session", session_id).encode()
            block = read_block(subject, either) if isinstance(either, bytes) else None
            reason = block.reason if block is not None and block.until > now else None
        record, raw = self._open(session_id, sealed, now)
        if blocked is None and returned is None:
            return _new(SeenSession, (record, None, raw, b"", b""))
        return SeenSession(
            record,
            reason,
            raw,
            blocked if isinstance(blocked, bytes) else b"",
            returned if isinstance(returned, bytes) else b"",
        )

    def _open(self, session_id: str, reply: Reply, now: float) -> tuple[SessionRecord | None, bytes]:
        if not isinstance(reply, bytes):
            return None, b""
        content = self._seal.open(self._key(session_id), reply)
        if content is None:
            return None, reply
        record = read_session(*content)
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
