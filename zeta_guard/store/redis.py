"""The store in Redis, shared by all replicas.

Redis runs alone or behind Sentinel, version 7.0 or newer, with ``maxmemory-policy noeviction``; Cluster is not supported.
Replicas are never read. Every key begins with ``store.key_prefix`` and has a time to live.

Users (ACL lines for the prefix ``zg:``). An authorization server, or a guard with role ``all``::

    user guard on >PASSWORD resetkeys resetchannels -@all ~zg:*
      +evalsha +script|load +info +ping +select
      +get +set +del +exists +pttl +pexpire
      +hget +hmget +hset +hdel +hgetall
      +zadd +zrem +zrange +zrangebyscore +zremrangebyscore +zcount

A gateway can claim and read blocks, and nothing else: it sees neither clients nor sessions, and can lift no block
(``returned`` holds blocks that processes gave back after the server had lost its memory)::

    user gateway on >PASSWORD resetkeys resetchannels -@all ~zg:c:* ~zg:epoch ~zg:returned %R~zg:blocks
      +evalsha +script|load +info +ping +select
      +get +set +pttl +pexpire +hget +hmget +hset +hgetall
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from zeta_guard.config.store import RedisStore as RedisStoreConfig
from zeta_guard.store.bucket import bucket_state
from zeta_guard.store.contract import (
    BindOutcome,
    Block,
    Bucket,
    Charge,
    Claim,
    ClaimOutcome,
    ClaimStatus,
    Client,
    KeyAge,
    LookUp,
    RotateOutcome,
    Session,
)
from zeta_guard.store.record_seal import RecordSeal
from zeta_guard.store.redis_blocks import clear_blocks, drop_block, put_block
from zeta_guard.store.redis_clients import RedisClients, SeenClient
from zeta_guard.store.redis_connection import Argument, ConnectionLost, Reply
from zeta_guard.store.redis_guarded import GuardedCommands
from zeta_guard.store.redis_link import no_answer, number, script_call
from zeta_guard.store.redis_replay import WON, RedisReplayStore, claim_outcome
from zeta_guard.store.redis_scripts import LOOK_UP, RECORD_SCRIPTS, REPLAY_SCRIPTS, SEE_KEY, SPEND, TAKE, Script
from zeta_guard.store.redis_sessions import RedisSessions, SeenSession

if TYPE_CHECKING:
    from zeta_guard.store import KeyDerivation, Role

CACHED_VALUE_BYTES: Final = 64 * 1024
"""One cached value."""


class RedisStore(RedisReplayStore):
    """All promises of the store. Role ``gateway`` has no key and no permission for records: it is a ReplayStore."""

    scripts: tuple[Script, ...] = (*REPLAY_SCRIPTS, *RECORD_SCRIPTS)

    def __init__(
        self, config: RedisStoreConfig, *, secrets: KeyDerivation, clock: Callable[[], float], role: Role = "all"
    ) -> None:
        if role == "gateway":
            self.scripts = REPLAY_SCRIPTS
        super().__init__(config, clock=clock)
        # A gateway has no key with which records could be read or made.
        keys = secrets.derive("store-mac") if role != "gateway" else ()
        seal = RecordSeal(keys)
        self._clients = RedisClients(self._link, self._prefix, seal)
        self._sessions = RedisSessions(self._link, self._prefix, seal, self._clients)

    async def look_up(
        self, client_id: str, *, session_id: str | None = None, cached: Sequence[str] = (), now: float
    ) -> LookUp:
        """See the contract."""
        keys = [self._clients.place(client_id)]
        places: tuple[Argument, ...] = (b"", b"", b"")
        if session_id is not None:
            key, places = self._sessions.places(session_id)
            keys.append(key)
        prefix = self._prefix
        words = (*places, *[prefix + b"cache:" + key.encode() for key in cached])
        try:
            reply = await self._link.evaluate(LOOK_UP, script_call(LOOK_UP, keys, *words))
        except ConnectionLost:
            raise no_answer() from None
        if not isinstance(reply, list) or len(reply) != 4 + len(cached):
            raise no_answer()
        client = self._clients.seen(client_id, reply[0], now)
        found: dict[str, bytes] = {}
        for place, key_of_value in enumerate(cached, 4):
            value = reply[place]
            if value is not None and (kept := self._cached(value, now)) is not None:
                found[key_of_value] = kept
        if session_id is None:
            return LookUp(client.client, None, found, client)
        session = self._sessions.seen(session_id, reply[1:4], now)
        return LookUp(client.client, session.session, found, (session, client))

    async def spend(
        self,
        claims: Sequence[Claim],
        subjects: Sequence[str],
        charges: Sequence[Charge],
        *,
        owner: str,
        fingerprint: bytes,
        now: float,
    ) -> ClaimOutcome:
        """See the contract."""
        if not charges:
            return await self.claim(claims, subjects, owner=owner, fingerprint=fingerprint, now=now)
        self._mark.check(now)
        prefix = self._claim_prefix
        keys = [self._epoch_key, *[prefix + claim.key for claim in claims]]
        words: list[Argument] = [len(charges)]
        for bucket, per_minute, burst in charges:
            words += (self._bucket_key(bucket), per_minute, burst)
        words.append(now)
        ttls = [claim.ttl for claim in claims]
        # As in `claim`: a block may last a part of a second longer, never shorter.
        rest: tuple[Argument, ...] = (
            int(now),
            owner,
            fingerprint,
            *ttls,
            self._blocks_key,
            self._returned_key,
            *subjects,
        )
        # The second round follows a lost answer or a new epoch, as in `claim`.
        for last in (False, True):
            stale = self._stale(claims, now)
            if stale >= 0:
                return ClaimOutcome(ClaimStatus.STALE, stale)
            epoch = self._epoch_value
            try:
                reply = await self._link.evaluate(SPEND, script_call(SPEND, keys, *words, epoch, *rest))
            except ConnectionLost:
                continue
            if reply == b"E" and not last:
                await self._renew(epoch)
                continue
            if isinstance(reply, list):
                index, tokens = reply if len(reply) == 2 else (None, None)
                if not isinstance(index, int) or not 0 <= index < len(charges):
                    raise no_answer()
                charge = charges[index]
                state = bucket_state(False, number(tokens), per_minute=charge.per_minute, burst=charge.burst)
                return ClaimOutcome(ClaimStatus.EMPTY, index, bucket=state)
            if reply == b"W":
                self._ahead.note(claims, owner, now)
                return WON
            return claim_outcome(reply)
        raise no_answer()

    # registrations

    async def register_client(self, client: Client, *, ttl: int, most_pending: int, now: float) -> Client:
        """See the contract."""
        self._mark.check(now)
        return await self._clients.register(client, ttl=ttl, most_pending=most_pending, now=now)

    async def get_client(self, client_id: str, *, now: float) -> Client | None:
        """See the contract."""
        return await self._clients.get(client_id, now=now)

    async def touch_client(self, client_id: str, *, ttl: int, now: float) -> None:
        """See the contract."""
        await self._clients.touch(client_id, ttl=ttl, now=now)

    async def bind_client(
        self, client_id: str, *, institution: str, platform: str, ttl: int, most: int, new_per_hour: int, now: float
    ) -> BindOutcome:
        """See the contract."""
        self._mark.check(now)
        return await self._clients.bind(
            client_id,
            institution=institution,
            platform=platform,
            ttl=ttl,
            most=most,
            new_per_hour=new_per_hour,
            now=now,
        )

    async def list_clients(self, institution: str, *, now: float) -> Sequence[Client]:
        """See the contract."""
        return await self._clients.of_institution(institution, now=now)

    async def delete_client(self, client_id: str, *, now: float) -> None:
        """See the contract."""
        await self._clients.delete(client_id, now=now)

    # sessions

    async def start_session(self, session: Session, *, seen: object = None, client_ttl: int = 0, now: float) -> bool:
        """See the contract."""
        self._mark.check(now)
        known = seen if isinstance(seen, SeenClient) else None
        return await self._sessions.start(session, seen=known, client_ttl=client_ttl, now=now)

    async def get_session(self, session_id: str, *, now: float) -> Session | None:
        """See the contract."""
        return await self._sessions.get(session_id, now=now)

    async def rotate_session(
        self,
        session_id: str,
        *,
        presented_jti: str,
        successor_jti: str,
        jkt: str,
        sealed_answer: bytes,
        grace: int,
        seen: object = None,
        client_ttl: int | None = None,
        now: float,
    ) -> RotateOutcome:
        """See the contract."""
        self._mark.check(now)
        return await self._sessions.rotate(
            session_id,
            presented_jti=presented_jti,
            successor_jti=successor_jti,
            jkt=jkt,
            sealed_answer=sealed_answer,
            grace=grace,
            seen=_seen_together(seen),
            client_ttl=client_ttl,
            now=now,
        )

    async def end_session(self, session_id: str, *, reason: str, ttl: int, now: float) -> bool:
        """See the contract."""
        self._mark.check(now)
        return await self._sessions.end(session_id, reason=reason, ttl=ttl, now=now)

    async def list_sessions(self, *, institution: str | None = None, now: float) -> Sequence[Session]:
        """See the contract."""
        return await self._sessions.live(institution, now=now)

    # blocks

    async def block(self, block: Block, *, now: float) -> None:
        """See the contract."""
        self._mark.check(now)
        await clear_blocks(self._link, self._prefix, now)
        step = GuardedCommands()
        put_block(step, self._prefix, block, now)
        if await step.run(self._link) != 1:
            raise no_answer()

    async def unblock(self, subject: str) -> bool:
        """See the contract."""
        self._known.pop(subject, None)
        return await drop_block(self._link, self._prefix, subject)

    # shared small things

    async def get_cached(self, key: str, *, now: float) -> bytes | None:
        """See the contract."""
        return self._cached(await self._link.call("GET", self._cache_key(key)), now)

    def _cache_key(self, key: str) -> bytes:
        return self._prefix + b"cache:" + key.encode()

    @staticmethod
    def _cached(value: Reply, now: float) -> bytes | None:
        return value[8:] if isinstance(value, bytes) and int.from_bytes(value[:8], "big") > now * 1000 else None

    async def put_cached(self, key: str, value: bytes, *, ttl: int, now: float) -> None:
        """See the contract."""
        if len(value) > CACHED_VALUE_BYTES:
            raise ValueError(f"a cached value has at most {CACHED_VALUE_BYTES} bytes")
        ends = int((now + ttl) * 1000).to_bytes(8, "big")
        await self._link.call("SET", self._cache_key(key), ends + value, "EX", ttl)

    def _bucket_key(self, bucket: str) -> bytes:
        return self._prefix + b"bucket:" + bucket.encode()

    async def take(self, bucket: str, *, per_minute: int, burst: int, now: float) -> Bucket:
        """See the contract."""
        reply = await self._run(TAKE, [self._bucket_key(bucket)], now, per_minute, burst)
        if not isinstance(reply, list) or len(reply) != 2:
            raise no_answer()
        return bucket_state(reply[0] == 1, number(reply[1]), per_minute=per_minute, burst=burst)

    async def see_key(self, jkt: str, *, ttl: int, now: float) -> KeyAge:
        """See the contract."""
        reply = await self._run(SEE_KEY, [self._prefix + b"seen:" + jkt.encode()], now, ttl * 1000)
        if not isinstance(reply, list) or len(reply) != 2:
            raise no_answer()
        return KeyAge(number(reply[0]), number(reply[1]))


def _seen_together(seen: object) -> tuple[SeenSession, SeenClient] | None:
    """What a :meth:`RedisStore.look_up` of client and session saw; None for anything else."""
    if isinstance(seen, tuple) and len(seen) == 2:
        session, client = seen
        if isinstance(session, SeenSession) and isinstance(client, SeenClient):
            return session, client
    return None
