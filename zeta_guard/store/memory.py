"""The store in the memory of one process: nothing to install, and nothing survives a restart.

Its epoch is the moment at which it was made; what is dated at or before it is refused. Every method is one uninterrupted
piece of the event loop, which makes it atomic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Sized
from typing import Final

from zeta_guard.config.store import MemoryStore as MemoryStoreConfig
from zeta_guard.errors import ZetaError, unavailable
from zeta_guard.store.binding import HOUR, bound, decide_binding
from zeta_guard.store.bucket import bucket_state, refill
from zeta_guard.store.claim_table import ClaimTable
from zeta_guard.store.contract import (
    BindOutcome,
    BindStatus,
    Block,
    Bucket,
    Charge,
    Claim,
    ClaimOutcome,
    ClaimStatus,
    Client,
    ClientState,
    Epoch,
    KeyAge,
    LookUp,
    RotateOutcome,
    RotateStatus,
    Session,
    block_subject,
)
from zeta_guard.store.epoch import HighWaterMark, new_epoch
from zeta_guard.store.expiring import ExpiringTable
from zeta_guard.store.metrics import Fill
from zeta_guard.store.session_record import AFTERLIFE_SECONDS, REUSE_REASON, SessionRecord, decide_rotation

WON: Final = ClaimOutcome(ClaimStatus.WON)

CACHE_BYTES: Final = 64 * 1024 * 1024
"""All cached values together; beyond it the oldest go."""

CACHED_VALUE_BYTES: Final = 64 * 1024
"""One cached value."""


class MemoryStore:
    """All promises of the store, for exactly one process.

    Bounds: claims ``max_entries``; sessions, clients, blocks, buckets and DPoP key ages a tenth of it each; the cache
    64 MiB. What is full refuses with 503, except the cache and the buckets, where the oldest entry leaves.
    """

    def __init__(self, config: MemoryStoreConfig, *, clock: Callable[[], float]) -> None:
        started_at = clock()
        self._epoch = new_epoch(started_at)
        self._mark = HighWaterMark(started_at)
        self._most_claims = config.max_entries
        self._most_records = max(100, config.max_entries // 10)
        self._claims = ClaimTable()
        self._blocks: ExpiringTable[Block] = ExpiringTable()
        self._clients: ExpiringTable[Client] = ExpiringTable(self._client_vanished)
        self._client_of_key: dict[str, str] = {}
        self._clients_of: dict[str, set[str]] = {}
        self._pending: set[str] = set()
        self._bindings: ExpiringTable[list[float]] = ExpiringTable()
        self._sessions: ExpiringTable[SessionRecord] = ExpiringTable()
        self._cache: ExpiringTable[bytes] = ExpiringTable(self._cache_left)
        self._cache_bytes = 0
        self._buckets: ExpiringTable[tuple[float, float]] = ExpiringTable()
        self._key_ages: ExpiringTable[KeyAge] = ExpiringTable()

    def __repr__(self) -> str:
        return f"MemoryStore({len(self._claims)} claims, {len(self._sessions)} sessions, {len(self._clients)} clients)"

    connected: Final = True
    reconnects: Final = 0
    counts: Final = None

    def fills(self) -> Mapping[str, Fill]:
        """How full the tables are that refuse when they are full; what is over may be counted until the next use."""
        records: dict[str, Sized] = {
            "blocks": self._blocks,
            "clients": self._clients,
            "sessions": self._sessions,
            "dpop_keys": self._key_ages,
        }
        fills = {kind: Fill(len(table), self._most_records) for kind, table in records.items()}
        return {"claims": Fill(len(self._claims), self._most_claims), **fills}

    @property
    def epoch(self) -> Epoch:
        """The life of this object."""
        return self._epoch

    async def start(self) -> None:
        """Nothing to connect."""

    async def close(self) -> None:
        """Nothing to close."""

    async def ping(self) -> None:
        """Always there."""

    # claims and blocks

    async def claim(
        self, claims: Sequence[Claim], subjects: Sequence[str], *, owner: str, fingerprint: bytes, now: float
    ) -> ClaimOutcome:
        """See the contract."""
        return self._claim(claims, subjects, owner, fingerprint, now)

    def claim_soon(
        self,
        claims: Sequence[Claim],
        subjects: Sequence[str],
        *,
        owner: str,
        fingerprint: bytes,
        now: float,
        then: Callable[[ClaimOutcome | None], None],
    ) -> None:
        """See the contract."""
        then(self._claim(claims, subjects, owner, fingerprint, now))

    def _claim(
        self, claims: Sequence[Claim], subjects: Sequence[str], owner: str, fingerprint: bytes, now: float
    ) -> ClaimOutcome:
        self._mark.check(now)
        self._claims.sweep(now)
        started_at = self._epoch.started_at
        for index, claim in enumerate(claims):
            if claim.dated <= started_at:
                return ClaimOutcome(ClaimStatus.STALE, index)
        if self._blocks:
            for index, subject in enumerate(subjects):
                block = self._blocks.get(subject, now)
                if block is not None:
                    return ClaimOutcome(ClaimStatus.BLOCKED, index, block.reason)
        if len(self._claims) + len(claims) > self._most_claims:
            raise self._full("proofs")
        lost = self._claims.claim(claims, owner, fingerprint, now)
        return WON if lost < 0 else ClaimOutcome(ClaimStatus.LOST, lost)

    async def mark_resendable(self, key: bytes, *, owner: str, fingerprint: bytes) -> None:
        """See the contract."""
        self._claims.mark(key, owner, fingerprint)

    async def blocks(self, *, now: float) -> Sequence[Block]:
        """See the contract."""
        self._blocks.sweep(now)
        return [block for _, block in self._blocks.items(now)]

    async def block(self, block: Block, *, now: float) -> None:
        """See the contract."""
        self._mark.check(now)
        self._put_block(block, now)

    async def unblock(self, subject: str) -> bool:
        """See the contract."""
        return self._blocks.pop(subject) is not None

    def _put_block(self, block: Block, now: float) -> None:
        self._blocks.sweep(now)
        if len(self._blocks) >= self._most_records:
            raise self._full("blocks")
        self._blocks.put(block.subject, block, block.until)

    async def look_up(
        self, client_id: str, *, session_id: str | None = None, cached: Sequence[str] = (), now: float
    ) -> LookUp:
        """See the contract."""
        client = self._clients.get(client_id, now)
        session = await self.get_session(session_id, now=now) if session_id is not None else None
        values = ((key, self._cache.get(key, now)) for key in cached)
        return LookUp(client, session, {key: value for key, value in values if value is not None}, client)

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
        for index, charge in enumerate(charges):
            state = await self.take(charge.bucket, per_minute=charge.per_minute, burst=charge.burst, now=now)
            if not state.allowed:
                return ClaimOutcome(ClaimStatus.EMPTY, index, bucket=state)
        return self._claim(claims, subjects, owner, fingerprint, now)

    # registrations

    async def register_client(self, client: Client, *, ttl: int, most_pending: int, now: float) -> Client:
        """See the contract."""
        self._mark.check(now)
        self._clients.sweep(now)
        known = self._clients.get(self._client_of_key.get(client.key_thumbprint, ""), now)
        if known is not None:
            return known
        if len(self._pending) >= most_pending or len(self._clients) >= self._most_records:
            raise self._full("registrations")
        self._clients.put(client.client_id, client, now + ttl)
        self._client_of_key[client.key_thumbprint] = client.client_id
        self._pending.add(client.client_id)
        return client

    async def get_client(self, client_id: str, *, now: float) -> Client | None:
        """See the contract."""
        return self._clients.get(client_id, now)

    async def touch_client(self, client_id: str, *, ttl: int, now: float) -> None:
        """See the contract."""
        client = self._clients.get(client_id, now)
        if client is not None and client.state is ClientState.VALID:
            self._clients.put(client_id, client._replace(last_used_at=int(now)), now + ttl)

    async def bind_client(
        self, client_id: str, *, institution: str, platform: str, ttl: int, most: int, new_per_hour: int, now: float
    ) -> BindOutcome:
        """See the contract."""
        self._mark.check(now)
        client = self._clients.get(client_id, now)
        status = decide_binding(client, institution=institution, platform=platform)
        if client is None or status not in (BindStatus.BOUND, BindStatus.ALREADY):
            return BindOutcome(status)
        if status is BindStatus.ALREADY:
            self._clients.put(client_id, client._replace(last_used_at=int(now)), now + ttl)
            return BindOutcome(status)
        recent = [at for at in self._bindings.get(institution, now) or [] if at > now - HOUR]
        if len(recent) >= new_per_hour:
            return BindOutcome(BindStatus.TOO_MANY)
        older = await self.list_clients(institution, now=now)
        evicted = tuple(old.client_id for old in older[: max(0, len(older) + 1 - most)])
        for old_id in evicted:
            self._delete_client(old_id, now)
        self._bindings.sweep(now)
        self._bindings.put(institution, [*recent, now], now + HOUR)
        client = bound(client, institution=institution, platform=platform, now=now)
        self._clients.put(client_id, client, now + ttl)
        self._pending.discard(client_id)
        self._clients_of.setdefault(institution, set()).add(client_id)
        return BindOutcome(status, evicted)

    async def list_clients(self, institution: str, *, now: float) -> Sequence[Client]:
        """See the contract."""
        found = (self._clients.get(client_id, now) for client_id in self._clients_of.get(institution, ()))
        return sorted((c for c in found if c is not None), key=lambda c: (c.last_used_at, c.registered_at, c.client_id))

    async def delete_client(self, client_id: str, *, now: float) -> None:
        """See the contract."""
        self._delete_client(client_id, now)

    def _delete_client(self, client_id: str, now: float) -> None:
        client = self._clients.pop(client_id)
        if client is None:
            return
        self._client_vanished(client_id, client)
        if client.state is ClientState.VALID:
            subject = block_subject("client", client_id)
            self._put_block(Block(subject, "client_vanished", now + AFTERLIFE_SECONDS, now), now)

    def _client_vanished(self, client_id: str, client: Client) -> None:
        self._pending.discard(client_id)
        if self._client_of_key.get(client.key_thumbprint) == client_id:
            del self._client_of_key[client.key_thumbprint]
        if client.institution is not None:
            siblings = self._clients_of.get(client.institution, set())
            siblings.discard(client_id)
            if not siblings:
                self._clients_of.pop(client.institution, None)

    # sessions

    async def start_session(self, session: Session, *, seen: object = None, client_ttl: int = 0, now: float) -> bool:
        """See the contract."""
        self._mark.check(now)
        self._sessions.sweep(now)
        if len(self._sessions) >= self._most_records:
            raise self._full("sessions")
        if isinstance(seen, Client):
            client = self._clients.get(session.client_id, now)
            # Uses are no change of the record.
            if client is None or client.institution is None or client._replace(last_used_at=seen.last_used_at) != seen:
                return False
            await self.touch_client(session.client_id, ttl=client_ttl, now=now)
        self._sessions.put(session.session_id, SessionRecord(session), session.expires_at)
        return True

    async def get_session(self, session_id: str, *, now: float) -> Session | None:
        """See the contract."""
        record = self._sessions.get(session_id, now)
        if record is None or self._blocks.get(block_subject("session", session_id), now) is not None:
            return None
        return record.session

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
        block = self._blocks.get(block_subject("session", session_id), now)
        rotation = decide_rotation(
            self._sessions.get(session_id, now),
            block.reason if block is not None else None,
            presented_jti=presented_jti,
            successor_jti=successor_jti,
            jkt=jkt,
            sealed_answer=sealed_answer,
            grace=grace,
            now=now,
        )
        if rotation.ends:
            self._end_session(session_id, REUSE_REASON, AFTERLIFE_SECONDS, now)
        elif rotation.record is not None:
            self._sessions.put(session_id, rotation.record, rotation.record.session.expires_at)
            if client_ttl is not None and rotation.outcome.status is RotateStatus.WON:
                await self.touch_client(rotation.record.session.client_id, ttl=client_ttl, now=now)
        return rotation.outcome

    async def end_session(self, session_id: str, *, reason: str, ttl: int, now: float) -> bool:
        """See the contract."""
        self._mark.check(now)
        return self._end_session(session_id, reason, ttl, now)

    def _end_session(self, session_id: str, reason: str, ttl: int, now: float) -> bool:
        record = self._sessions.get(session_id, now)
        # The block lasts as long as the record would have, so that a refresh learns why its session is over.
        until = max(now + ttl, record.session.expires_at if record is not None else 0.0)
        self._put_block(Block(block_subject("session", session_id), reason, until, now), now)
        self._sessions.pop(session_id)
        return record is not None

    async def list_sessions(self, *, institution: str | None = None, now: float) -> Sequence[Session]:
        """See the contract."""
        live = (record.session for _, record in self._sessions.items(now))
        found = [session for session in live if institution is None or session.institution == institution]
        return sorted(found, key=lambda session: (-session.started_at, session.session_id))

    # shared small things

    async def get_cached(self, key: str, *, now: float) -> bytes | None:
        """See the contract."""
        return self._cache.get(key, now)

    async def put_cached(self, key: str, value: bytes, *, ttl: int, now: float) -> None:
        """See the contract."""
        if len(value) > CACHED_VALUE_BYTES:
            raise ValueError(f"a cached value has at most {CACHED_VALUE_BYTES} bytes")
        self._cache.sweep(now)
        self._drop_cached(key)
        self._cache.put(key, value, now + ttl)
        self._cache_bytes += len(value)
        while self._cache_bytes > CACHE_BYTES:
            for oldest in self._cache.oldest():
                self._drop_cached(oldest)

    def _drop_cached(self, key: str) -> None:
        value = self._cache.pop(key)
        if value is not None:
            self._cache_left(key, value)

    def _cache_left(self, key: str, value: bytes) -> None:
        self._cache_bytes -= len(value)

    async def take(self, bucket: str, *, per_minute: int, burst: int, now: float) -> Bucket:
        """See the contract."""
        self._buckets.sweep(now)
        tokens, filled_at = self._buckets.get(bucket, now) or (float(burst), now)
        tokens = refill(tokens, filled_at, per_minute=per_minute, burst=burst, now=now)
        allowed = tokens >= 1.0
        if allowed:
            tokens -= 1.0
        state = bucket_state(allowed, tokens, per_minute=per_minute, burst=burst)
        # A full bucket says the same as none, so it may vanish.
        filled_at = max(now, filled_at)
        self._buckets.put(bucket, (tokens, filled_at), filled_at + state.reset + 1)
        if len(self._buckets) > self._most_records:
            for oldest in self._buckets.oldest():
                self._buckets.pop(oldest)
        return state

    async def see_key(self, jkt: str, *, ttl: int, now: float) -> KeyAge:
        """See the contract."""
        self._key_ages.sweep(now)
        age = self._key_ages.get(jkt, now)
        if age is None:
            if len(self._key_ages) >= self._most_records:
                raise self._full("DPoP keys")
            age = KeyAge(now, now)
        self._key_ages.put(jkt, KeyAge(age.first_seen, max(age.last_seen, now)), now + ttl)
        return age

    def _full(self, what: str) -> ZetaError:
        return unavailable(f"too many {what} are remembered at present", retry_after=30, stage="store")
