"""Claims, blocks and the epoch in Redis: all that a gateway needs."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

import hiredis

from zeta_guard.config.store import RedisStore as RedisStoreConfig
from zeta_guard.errors import ZetaError, unavailable
from zeta_guard.store.ahead import ClaimsAhead
from zeta_guard.store.block_record import read_block, write_block
from zeta_guard.store.claim_table import RESENDS
from zeta_guard.store.contract import Block, Claim, ClaimOutcome, ClaimStatus, Epoch
from zeta_guard.store.epoch import HighWaterMark, new_epoch
from zeta_guard.store.metrics import CommandCounts, Fill
from zeta_guard.store.redis_connection import Argument, ConnectionLost, RedisConnection, Reply, pack
from zeta_guard.store.redis_link import RedisLink, no_answer, script_call
from zeta_guard.store.redis_scripts import CLAIM, MARK, READ_BLOCKS, RENEW_EPOCH, REPLAY_SCRIPTS, RETURN_BLOCKS, Script

_LOGGER: Final = logging.getLogger("zeta_guard.store")

WON: Final = ClaimOutcome(ClaimStatus.WON)

EPOCH_LIFE_SECONDS: Final = 400 * 86_400
"""The epoch's key is renewed with every connection; where it ends after all, an epoch begins, which is harmless."""

SETTLING_SECONDS: Final = 5.0
"""After a loss, proofs dated in the future are refused so long: until every process has written back what it knows."""

_BATCH: Final = 500
_MOST_HEADS: Final = 64
_MOST_TAILS: Final = 8192


class RedisReplayStore:
    """What a gateway needs (:class:`zeta_guard.store.contract.ReplayStore`).

    The epoch is one key: identity, start, and the server process that it was made on. It vanishes when the server is
    emptied, and its server differs after a restart or failover. Every script compares the key with what this process knows,
    so that a loss is noticed by the first command after it, with or without a new connection.
    """

    scripts: tuple[Script, ...] = REPLAY_SCRIPTS

    def __init__(self, config: RedisStoreConfig, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._prefix = config.key_prefix.encode()
        self._epoch_key = self._prefix + b"epoch"
        self._claim_prefix = self._prefix + b"c:"
        self._blocks_key = self._prefix + b"blocks"
        self._returned_key = self._prefix + b"returned"
        self._link = RedisLink(config, self.scripts, self._settle)
        self._mark = HighWaterMark()
        self._epoch = Epoch("", 0.0)
        self._epoch_value = b""
        self._settled_at = 0.0
        self._renewing = asyncio.Lock()
        self._ahead = ClaimsAhead()
        self._known: dict[str, Block] = {}
        self._known_version = b""
        self._heads: dict[tuple[int, bytes, int, int], tuple[bytes, bytes, bytes]] = {}
        self._tails: dict[tuple[str, ...], bytes] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._link!r}, epoch {self._epoch.identity[:8]}, {len(self._known)} blocks)"

    @property
    def epoch(self) -> Epoch:
        """The epoch that this process knows; empty before :meth:`start`."""
        return self._epoch

    @property
    def reconnects(self) -> int:
        """Connections made after the first one (metric)."""
        return self._link.reconnects

    @property
    def connected(self) -> bool:
        """A connection to the server is up (metric)."""
        return self._link.connected

    @property
    def counts(self) -> CommandCounts:
        """Commands and their failures (metric)."""
        return self._link.counts

    def fills(self) -> Mapping[str, Fill]:
        """Nothing is held here; the server's own metrics say how full it is."""
        return {}

    async def start(self) -> None:
        """See the contract."""
        await self._link.start()

    async def close(self) -> None:
        """See the contract."""
        await self._link.close()

    async def ping(self) -> None:
        """See the contract."""
        await self._link.call("PING")

    async def claim(
        self, claims: Sequence[Claim], subjects: Sequence[str], *, owner: str, fingerprint: bytes, now: float
    ) -> ClaimOutcome:
        """See the contract."""
        self._mark.check(now)
        # The second round follows a lost answer (this owner then wins what it has won already) or a new epoch.
        for last in (False, True):
            stale = self._stale(claims, now)
            if stale >= 0:
                return ClaimOutcome(ClaimStatus.STALE, stale)
            epoch = self._epoch_value
            try:
                command = self._claim_call(claims, subjects, owner, fingerprint, now)
                reply = await self._link.evaluate(CLAIM, command)
                if reply == b"W":
                    self._ahead.note(claims, owner, now)
                    return WON
                if reply == b"E" and not last:
                    await self._renew(epoch)
                    continue
            except ConnectionLost:
                if not last:
                    continue
                raise no_answer() from None
            return claim_outcome(reply)
        raise no_answer()

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
        self._mark.check(now)
        # Nearly every claim is a single one, dated within the epoch.
        if now < self._settled_at or len(claims) != 1 or claims[0].dated <= self._epoch.started_at:
            stale = self._stale(claims, now)
            if stale >= 0:
                then(ClaimOutcome(ClaimStatus.STALE, stale))
                return
        connection = self._link.current
        if connection is None or connection.ended:
            then(None)
            return

        def replied(reply: Reply | ConnectionLost) -> None:
            if reply == b"W":
                self._ahead.note(claims, owner, now)
                then(WON)
                return
            outcome = None
            if isinstance(reply, bytes) and reply[:1] in (b"L", b"B"):
                # Whoever may not raise here has somebody who waits for an answer.
                with suppress(ZetaError):
                    outcome = claim_outcome(reply)
            # A lost answer, a new epoch, a forgotten script: there is a way for each, but it takes its time.
            then(outcome)

        if len(claims) == 1:
            command = self._one_claim(claims[0], subjects, owner, fingerprint, int(now))
        else:
            command = self._claim_call(claims, subjects, owner, fingerprint, now)
        connection.queue(command, replied)

    def _claim_call(
        self, claims: Sequence[Claim], subjects: Sequence[str], owner: str, fingerprint: bytes, now: float
    ) -> bytes:
        prefix = self._claim_prefix
        # Whole seconds: a block may last a part of a second longer, never shorter.
        if len(claims) == 1:
            return self._one_claim(claims[0], subjects, owner, fingerprint, int(now))
        words: list[Argument] = ["EVALSHA", CLAIM.sha, len(claims) + 1, self._epoch_key]
        words += [prefix + claim.key for claim in claims]
        words += (self._epoch_value, int(now), owner, fingerprint)
        words += [claim.ttl for claim in claims]
        words += (self._blocks_key, self._returned_key)
        words += subjects
        return pack(tuple(words))

    def _one_claim(self, claim: Claim, subjects: Sequence[str], owner: str, fingerprint: bytes, second: int) -> bytes:
        """The call for a single claim: what is the same for the next one is not packed again."""
        names = tuple(subjects)
        tail = self._tails.get(names)
        if tail is None:
            tail = b"".join(map(_word, (self._blocks_key, self._returned_key, *(name.encode() for name in names))))
            if len(self._tails) >= _MOST_TAILS:
                self._tails.clear()
            self._tails[names] = tail
        kind = (len(names), self._epoch_value, second, claim.ttl)
        head = self._heads.get(kind)
        if head is None:
            words = ("EVALSHA", CLAIM.sha, 2, self._epoch_key)
            front = b"*%d\r\n" % (12 + len(names)) + pack(words).partition(b"\r\n")[2]
            head = (front, _word(self._epoch_value) + _word(b"%d" % second), _word(b"%d" % claim.ttl))
            if len(self._heads) >= _MOST_HEADS:
                self._heads.clear()
            self._heads[kind] = head
        front, moment, ttl = head
        return b"%b$%d\r\n%b%b\r\n%b$%d\r\n%b\r\n$%d\r\n%b\r\n%b%b" % (
            *(front, len(self._claim_prefix) + len(claim.key), self._claim_prefix, claim.key, moment),
            *(len(owner), owner.encode(), len(fingerprint), fingerprint, ttl, tail),
        )

    async def mark_resendable(self, key: bytes, *, owner: str, fingerprint: bytes) -> None:
        """See the contract."""
        await self._run(MARK, [self._claim_key(key)], owner, fingerprint, RESENDS)

    async def blocks(self, *, now: float) -> Sequence[Block]:
        """See the contract. What was read is known to this process, and given back to a server that lost it."""
        self._mark.check(now)
        for last in (False, True):
            epoch = self._epoch_value
            keys = (self._blocks_key, self._returned_key)
            reply = await self._run(READ_BLOCKS, [self._epoch_key], epoch, *keys, self._known_version)
            if not isinstance(reply, list) or not reply or not isinstance(reply[0], bytes):
                raise no_answer()
            if reply[0] == b"E":
                if last:
                    raise no_answer()
                await self._renew(epoch)
                continue
            if len(reply) == 3:
                self._known = {block.subject: block for block in (*_blocks(reply[2]), *_blocks(reply[1]))}
                self._known_version = reply[0]
            break
        return [block for block in self._known.values() if block.until > now]

    async def _run(self, script: Script, keys: Sequence[bytes], *arguments: Argument) -> Reply:
        try:
            return await self._link.run(script, keys, *arguments)
        except ConnectionLost:
            raise no_answer() from None

    def _claim_key(self, key: bytes) -> bytes:
        return self._claim_prefix + key

    def _stale(self, claims: Sequence[Claim], now: float) -> int:
        started_at = self._epoch.started_at
        latest = now if now < self._settled_at else float("inf")
        for index, claim in enumerate(claims):
            if claim.dated <= started_at or claim.dated > latest:
                return index
        return -1

    # the epoch

    async def _renew(self, seen: bytes) -> None:
        """The server does not have the epoch ``seen``: learn or make the one that holds now."""
        async with self._renewing:
            if self._epoch_value == seen:
                await self._settle(await self._link.connection())

    async def _settle(self, connection: RedisConnection) -> None:
        """Compare the server's epoch with what is known; renew it when the server lost its memory; write back."""
        try:
            value = await connection.send(pack(("GET", self._epoch_key)))
            if isinstance(value, hiredis.ReplyError):
                raise self._link.refused(connection, value)
            current = value if isinstance(value, bytes) else b""
            if _server(current) != connection.run_id:
                started_at = max(self._clock(), self._epoch.started_at)
                epoch = new_epoch(started_at)
                mine = f"{epoch.identity}|{started_at:.6f}|{connection.run_id}"
                call = script_call(RENEW_EPOCH, [self._epoch_key], current, mine, EPOCH_LIFE_SECONDS * 1000)
                reply = await self._link.evaluate(RENEW_EPOCH, call, connection)
                current = reply if isinstance(reply, bytes) else b""
        except ConnectionLost:
            raise no_answer() from None
        if current != self._epoch_value:
            await self._adopt(connection, current)

    async def _adopt(self, connection: RedisConnection, value: bytes) -> None:
        try:
            identity, moment, _ = value.decode().split("|")
            started_at = float(moment)
        except ValueError:
            raise no_answer() from None
        if not math.isfinite(started_at):
            # Nothing would be dated before it.
            raise no_answer()
        first = not self._epoch_value
        if not first:
            await self._write_back(connection, self._clock())
        self._epoch = Epoch(identity, started_at)
        self._epoch_value = value
        self._mark.latest = max(self._mark.latest, self._epoch.started_at)
        self._known_version = b""
        if not first:
            self._settled_at = self._epoch.started_at + SETTLING_SECONDS
            _LOGGER.warning("store_epoch_changed", extra={"event_fields": {"started_at": self._epoch.started_at}})

    async def _write_back(self, connection: RedisConnection, now: float) -> None:
        """What this process knows and a new epoch does not refuse by itself: claims from the future, blocks."""
        try:
            for key, owner, seconds in self._ahead.remaining(now):
                command = ("SET", self._claim_key(key), f"0-{owner}", "NX", "EX", seconds)
                reply = await connection.send(pack(command))
                if isinstance(reply, hiredis.ReplyError):
                    raise self._link.refused(connection, reply)
            known = [block for block in self._known.values() if block.until > now]
            for start in range(0, len(known), _BATCH):
                batch = known[start : start + _BATCH]
                fields = [part for block in batch for part in (block.subject, write_block(block))]
                life = int((max(block.until for block in batch) - now) * 1000) + 1000
                call = script_call(RETURN_BLOCKS, [self._returned_key], secrets.token_hex(8), life, *fields)
                await self._link.evaluate(RETURN_BLOCKS, call, connection)
        except ConnectionLost:
            raise no_answer() from None


def _word(raw: bytes) -> bytes:
    """A word of a command as Redis reads it (RESP)."""
    return b"$%d\r\n%b\r\n" % (len(raw), raw)


def _server(epoch_value: bytes) -> str:
    return epoch_value.rpartition(b"|")[2].decode("utf-8", "replace") if epoch_value else ""


def claim_outcome(reply: Reply) -> ClaimOutcome:
    """What a reply of the claim script means. Raises ZetaError 503 for one that means nothing."""
    if isinstance(reply, bytes):
        kind, (index, _, reason) = reply[:1], reply[1:].partition(b":")
        if kind == b"L" and index.isdigit():
            return ClaimOutcome(ClaimStatus.LOST, int(index))
        if kind == b"B" and index.isdigit():
            return ClaimOutcome(ClaimStatus.BLOCKED, int(index), reason.decode("utf-8", "replace"))
    raise unavailable("the store of the guard gave no usable answer", stage="store")


def _blocks(reply: Reply) -> list[Block]:
    if not isinstance(reply, list):
        return []
    pairs = zip(reply[::2], reply[1::2], strict=True)
    found = [read_block(name, value) for name, value in pairs if isinstance(name, bytes) and isinstance(value, bytes)]
    return [block for block in found if block is not None]
