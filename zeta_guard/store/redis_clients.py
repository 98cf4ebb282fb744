"""Registrations in Redis.

``client:ID`` is a hash: ``r`` the sealed record, ``k`` the key's thumbprint, ``i`` the institution once bound, ``u`` the last
use, ``x`` the end. ``key:THUMBPRINT`` names the client of a key; ``pending`` and ``of:INSTITUTION`` are sorted sets (by end,
by last use); so is ``bound:INSTITUTION``, the bindings of the last hour (by time).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from zeta_guard.errors import unavailable
from zeta_guard.store.binding import HOUR, bound, decide_binding
from zeta_guard.store.contract import BindOutcome, BindStatus, Block, Client, ClientState, block_subject
from zeta_guard.store.record_seal import RecordSeal, client_content
from zeta_guard.store.redis_blocks import put_block
from zeta_guard.store.redis_connection import Argument, ConnectionLost, Reply
from zeta_guard.store.redis_guarded import ATTEMPTS, GuardedCommands
from zeta_guard.store.redis_link import RedisLink, no_answer, number
from zeta_guard.store.redis_scripts import TOUCH_CLIENT
from zeta_guard.store.session_record import AFTERLIFE_SECONDS

# What the constructor of a named tuple does, without its call of Python code.
_new: Final = tuple.__new__


class SeenClient(NamedTuple):
    """A client as a trip found it, and the sealed record that a later step compares."""

    client: Client | None
    sealed: bytes


class RedisClients:
    """See the contract for every method."""

    def __init__(self, link: RedisLink, prefix: bytes, seal: RecordSeal) -> None:
        self._link = link
        self._prefix = prefix
        self._seal = seal
        self._pending = prefix + b"pending"

    async def register(self, client: Client, *, ttl: int, most_pending: int, now: float) -> Client:
        """See the contract."""
        index = self._index(client.key_thumbprint)
        for _ in range(ATTEMPTS):
            seen = await self._link.call("GET", index)
            known_id = seen if isinstance(seen, bytes) else b""
            known = (await self._read(known_id.decode("utf-8", "replace"), now))[0] if known_id else None
            if known is not None:
                return known
            step = GuardedCommands()
            step.when_string(index, known_id)
            step.when_fewer(self._pending, now, most_pending)
            self._write(step, client, ttl=ttl, now=now)
            step.do("ZREMRANGEBYSCORE", self._pending, "-inf", now)
            step.do("ZADD", self._pending, now + ttl, client.client_id)
            step.do("KEEP", self._pending, ttl * 1000)
            done = await step.run(self._link)
            if done < 0:
                raise unavailable("too many registrations wait at present", retry_after=30, stage="store")
            if done:
                return client
        raise no_answer()

    async def get(self, client_id: str, *, now: float) -> Client | None:
        """See the contract."""
        return (await self._read(client_id, now))[0]

    async def touch(self, client_id: str, *, ttl: int, now: float) -> None:
        """See the contract."""
        index, of = self._prefix + b"key:", self._prefix + b"of:"
        try:
            await self._link.run(TOUCH_CLIENT, [self._key(client_id)], now, ttl * 1000, client_id, index, of)
        except ConnectionLost:
            raise no_answer() from None

    def touch_in(self, step: GuardedCommands, seen: SeenClient, *, ttl: int, now: float) -> bool:
        """Note a use of a bound client as part of ``step``, on the condition that its record is as it was seen.

        False, and nothing added, for one that is not bound: its use is none.
        """
        client = seen.client
        if client is None or client.institution is None:
            return False
        key, of, life = self._key(client.client_id), self._of(client.institution), ttl * 1000
        step.when_field(key, "r", seen.sealed)
        step.do("HSET", key, "u", now, "x", f"{now + ttl:.3f}")
        step.do("PEXPIRE", key, life)
        step.do("PEXPIRE", self._index(client.key_thumbprint), life)
        step.do("ZADD", of, now, client.client_id)
        step.do("PEXPIRE", of, life)
        return True

    async def bind(
        self, client_id: str, *, institution: str, platform: str, ttl: int, most: int, new_per_hour: int, now: float
    ) -> BindOutcome:
        """See the contract."""
        recent = self._prefix + b"bound:" + institution.encode()
        of = self._of(institution)
        for _ in range(ATTEMPTS):
            client, sealed = await self._read(client_id, now)
            status = decide_binding(client, institution=institution, platform=platform)
            if client is None or status in (BindStatus.GONE, BindStatus.FOREIGN):
                return BindOutcome(status)
            if status is BindStatus.ALREADY:
                await self.touch(client_id, ttl=ttl, now=now)
                return BindOutcome(status)
            older = await self._members(institution, now)
            evicted = older[: max(0, len(older) + 1 - most)]
            step = GuardedCommands()
            step.when_fewer(recent, now - HOUR, new_per_hour)
            # Where nobody has to leave, clients of one institution that come together do not get in each other's way.
            step.when_fewer(of, "-inf", len(older) + 1 if evicted else most)
            step.when_field(self._key(client_id), "r", sealed)
            for old, old_sealed in evicted:
                # Somebody else may have sent it away meanwhile: its place is taken then.
                step.when_field(self._key(old.client_id), "r", old_sealed)
                self._delete(step, old, now)
            self._write(step, bound(client, institution=institution, platform=platform, now=now), ttl=ttl, now=now)
            step.do("ZREM", self._pending, client_id)
            step.do("ZREMRANGEBYSCORE", recent, "-inf", now - HOUR)
            step.do("ZADD", recent, now, client_id)
            step.do("KEEP", recent, int(HOUR * 1000))
            done = await step.run(self._link)
            if done == 1:
                return BindOutcome(status, tuple(old.client_id for old, _ in evicted))
            if done == -1:
                return BindOutcome(BindStatus.TOO_MANY)
        raise no_answer()

    async def of_institution(self, institution: str, *, now: float) -> Sequence[Client]:
        """See the contract."""
        return [client for client, _ in await self._members(institution, now)]

    async def _members(self, institution: str, now: float) -> list[tuple[Client, bytes]]:
        """The clients of an institution with their sealed records, least recently used first."""
        members = await self._link.call("ZRANGE", self._of(institution), 0, -1)
        ids = [member.decode() for member in members if isinstance(member, bytes)] if isinstance(members, list) else []
        if not ids:
            return []
        replies = await self._link.call_all(*(("HMGET", self._key(one), "r", "u", "x") for one in ids))
        opened = [self._open(one, reply, now) for one, reply in zip(ids, replies, strict=True)]
        gone = [one for one, (client, _) in zip(ids, opened, strict=True) if client is None]
        if gone:
            await self._link.call("ZREM", self._of(institution), *gone)
        found = [(client, sealed) for client, sealed in opened if client is not None]
        return sorted(found, key=lambda pair: (pair[0].last_used_at, pair[0].registered_at, pair[0].client_id))

    async def delete(self, client_id: str, *, now: float) -> None:
        """See the contract."""
        for _ in range(ATTEMPTS):
            client, sealed = await self._read(client_id, now)
            if client is None:
                return
            step = GuardedCommands()
            step.when_field(self._key(client_id), "r", sealed)
            self._delete(step, client, now)
            if await step.run(self._link) == 1:
                return
        raise no_answer()

    def _key(self, client_id: str) -> bytes:
        return self._prefix + b"client:" + client_id.encode()

    def _index(self, thumbprint: str) -> bytes:
        return self._prefix + b"key:" + thumbprint.encode()

    def _of(self, institution: str) -> bytes:
        return self._prefix + b"of:" + institution.encode()

    def place(self, client_id: str) -> bytes:
        """The client's key; of the hash behind it the fields ``r``, ``u`` and ``x`` are read."""
        return self._key(client_id)

    def seen(self, client_id: str, reply: Reply, now: float) -> SeenClient:
        """What a reply for the client's fields says."""
        return _new(SeenClient, self._open(client_id, reply, now))

    async def _read(self, client_id: str, now: float) -> tuple[Client | None, bytes]:
        return self._open(client_id, await self._link.call("HMGET", self._key(client_id), "r", "u", "x"), now)

    def _open(self, client_id: str, reply: Reply, now: float) -> tuple[Client | None, bytes]:
        """The client and its sealed record."""
        if not isinstance(reply, list) or len(reply) != 3:
            raise no_answer()
        sealed, used, ends = reply
        if not isinstance(sealed, bytes) or not isinstance(used, bytes) or not isinstance(ends, bytes):
            return None, b""
        if number(ends) <= now:
            return None, sealed
        return self._seal.open_client(self._key(client_id), sealed, int(number(used))), sealed

    def _write(self, step: GuardedCommands, client: Client, *, ttl: int, now: float) -> None:
        key, index = self._key(client.client_id), self._index(client.key_thumbprint)
        # The last use stands beside the record, so that noting it needs no new seal.
        sealed = self._seal.seal(key, client_content(client._replace(last_used_at=0)))
        fields: dict[str, Argument] = {
            "r": sealed,
            "k": client.key_thumbprint,
            "u": str(client.last_used_at),
            "x": f"{now + ttl:.3f}",
        }
        if client.institution is not None:
            fields["i"] = client.institution
            of = self._of(client.institution)
            step.do("ZADD", of, client.last_used_at, client.client_id)
            step.do("KEEP", of, ttl * 1000)
        step.do("HSET", key, *(part for pair in fields.items() for part in pair))
        step.do("PEXPIRE", key, ttl * 1000)
        step.do("SET", index, client.client_id, "PX", ttl * 1000)

    def _delete(self, step: GuardedCommands, client: Client, now: float) -> None:
        step.do("DEL", self._key(client.client_id), self._index(client.key_thumbprint))
        step.do("ZREM", self._pending, client.client_id)
        if client.institution is not None:
            step.do("ZREM", self._of(client.institution), client.client_id)
        if client.state is ClientState.VALID:
            subject = block_subject("client", client.client_id)
            put_block(step, self._prefix, Block(subject, "client_vanished", now + AFTERLIFE_SECONDS, now), now)
