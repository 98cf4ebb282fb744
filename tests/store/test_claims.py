"""Once means once, in both stores and in both ways to ask them."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from zeta_guard.errors import ZetaError
from zeta_guard.store.claim_key import claim_key
from zeta_guard.store.contract import Block, Claim, ClaimOutcome, ClaimStatus, Store, block_subject

T0 = 1_750_000_000.0
NOW = T0 + 10
PRINT = hashlib.sha256(b"this request").digest()
OTHER_PRINT = hashlib.sha256(b"another request").digest()


SOON = False
"""Whether claims are made by ``claim_soon``; each test runs with both."""


@pytest.fixture(params=[False, True], ids=["awaited", "soon"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request.module, "SOON", request.param)


def proof(name: str, *, dated: float = NOW, ttl: int = 90) -> Claim:
    return Claim(claim_key("proof", "jkt", name), dated, ttl)


async def claim(
    store: Store,
    *claims: Claim,
    owner: str,
    subjects: tuple[str, ...] = (),
    fingerprint: bytes = PRINT,
    now: float = NOW,
) -> ClaimOutcome:
    if SOON:
        answered: asyncio.Future[ClaimOutcome | None] = asyncio.get_running_loop().create_future()
        then = answered.set_result
        store.claim_soon(claims, subjects, owner=owner, fingerprint=fingerprint, now=now, then=then)
        outcome = await answered
        # Nothing happens here that could not be answered in this way.
        assert outcome is not None
        return outcome
    return await store.claim(claims, subjects, owner=owner, fingerprint=fingerprint, now=now)


async def test_first_claim_wins_and_the_second_loses(store: Store) -> None:
    assert (await claim(store, proof("a"), owner="r1")).status is ClaimStatus.WON
    assert await claim(store, proof("a"), owner="r2") == ClaimOutcome(ClaimStatus.LOST, 0)


async def test_proof_replayed_on_a_second_replica_is_refused(replicas: tuple[Store, Store]) -> None:
    assert (await claim(replicas[0], proof("a"), owner="r1")).status is ClaimStatus.WON
    assert (await claim(replicas[1], proof("a"), owner="r2")).status is ClaimStatus.LOST


async def test_of_fifty_concurrent_claims_exactly_one_wins(replicas: tuple[Store, Store]) -> None:
    outcomes = await asyncio.gather(*(claim(replicas[i % 2], proof("a"), owner=f"r{i}") for i in range(50)))
    assert [outcome.status for outcome in outcomes].count(ClaimStatus.WON) == 1


async def test_claim_repeated_by_its_own_owner_counts_as_won(store: Store) -> None:
    await claim(store, proof("a"), proof("b"), owner="r1")
    assert (await claim(store, proof("a"), proof("b"), owner="r1")).status is ClaimStatus.WON
    assert (await claim(store, proof("b"), owner="r1")).status is ClaimStatus.WON


async def test_several_claims_are_won_all_or_nothing(store: Store) -> None:
    await claim(store, proof("nonce"), owner="r1")
    outcome = await claim(store, proof("assertion"), proof("nonce"), proof("proof"), owner="r2")
    assert outcome == ClaimOutcome(ClaimStatus.LOST, 1)
    assert (await claim(store, proof("assertion"), proof("proof"), owner="r3")).status is ClaimStatus.WON


async def test_claim_without_anything_to_claim_only_reads_blocks(store: Store) -> None:
    assert (await claim(store, owner="r1", subjects=("session:s",))).status is ClaimStatus.WON
    await store.block(Block("session:s", "revoked", NOW + 60, NOW), now=NOW)
    assert (await claim(store, owner="r1", subjects=("session:s",))).status is ClaimStatus.BLOCKED


async def test_claim_is_forgotten_after_its_time_and_not_before(store: Store) -> None:
    from_now = NOW
    await claim(store, proof("short", ttl=1), proof("long", ttl=60), owner="r1")
    for attempt in range(2000):
        if (await claim(store, proof("short"), owner=f"again{attempt}", now=from_now)).status is ClaimStatus.WON:
            break
        assert attempt < 1900, "never forgotten"
        from_now += 0.05
        await asyncio.sleep(0.01)
    assert from_now > NOW + 0.5
    assert (await claim(store, proof("long"), owner="r3", now=from_now)).status is ClaimStatus.LOST


@pytest.mark.parametrize("dated", [T0, T0 - 1, T0 - 1000])
async def test_what_is_dated_at_or_before_the_epoch_is_stale(store: Store, dated: float) -> None:
    outcome = await claim(store, proof("new"), proof("old", dated=dated), owner="r1")
    assert outcome == ClaimOutcome(ClaimStatus.STALE, 1)
    assert (await claim(store, proof("new"), owner="r2")).status is ClaimStatus.WON


async def test_what_is_dated_just_after_the_epoch_passes(store: Store) -> None:
    assert store.epoch.started_at == T0
    assert (await claim(store, proof("a", dated=T0 + 0.001), owner="r1")).status is ClaimStatus.WON


# blocks


async def test_blocked_subject_is_refused_and_nothing_is_claimed(replicas: tuple[Store, Store]) -> None:
    subjects = ("session:s1", "client:c1", "institution:i1")
    await replicas[0].block(Block("client:c1", "emergency", NOW + 60, NOW, note="call 12|3"), now=NOW)
    outcome = await claim(replicas[1], proof("a"), owner="r1", subjects=subjects)
    assert outcome == ClaimOutcome(ClaimStatus.BLOCKED, 1, "emergency")
    assert (await claim(replicas[1], proof("a"), owner="r2", subjects=("session:s1",))).status is ClaimStatus.WON


async def test_block_ends_at_its_time_and_when_lifted(store: Store) -> None:
    await store.block(Block("client:c1", "emergency", NOW + 60, NOW), now=NOW)
    await store.block(Block("client:c2", "emergency", NOW + 60, NOW), now=NOW)
    assert (await claim(store, owner="r", subjects=("client:c1",), now=NOW + 59)).status is ClaimStatus.BLOCKED
    assert (await claim(store, owner="r", subjects=("client:c1",), now=NOW + 60)).status is ClaimStatus.WON
    assert await store.unblock("client:c2")
    assert not await store.unblock("client:c2")
    assert (await claim(store, owner="r", subjects=("client:c2",), now=NOW + 60)).status is ClaimStatus.WON


async def test_all_blocks_in_force_are_listed_on_every_replica(replicas: tuple[Store, Store]) -> None:
    first = Block("session:s1", "revoked", NOW + 5, NOW)
    second = Block(block_subject("institution", "ps"), "emergency", NOW + 60, NOW, note="stolen card | 2")
    assert list(await replicas[1].blocks(now=NOW)) == []
    await replicas[0].block(first, now=NOW)
    await replicas[0].block(second, now=NOW)
    assert {block.subject: block for block in await replicas[1].blocks(now=NOW + 1)} == {
        first.subject: first,
        second.subject: second,
    }
    assert [block.subject for block in await replicas[1].blocks(now=NOW + 5)] == [second.subject]
    await replicas[0].unblock(second.subject)
    assert list(await replicas[1].blocks(now=NOW + 5)) == []


async def test_a_block_written_later_replaces_the_earlier_one(store: Store) -> None:
    await store.block(Block("client:c1", "terminated", NOW + 60, NOW), now=NOW)
    await store.block(Block("client:c1", "emergency", NOW + 90, NOW), now=NOW)
    assert (await claim(store, owner="r", subjects=("client:c1",), now=NOW + 61)).reason == "emergency"


# proofs that may be sent again


async def test_marked_claim_admits_the_same_request_twice_more(replicas: tuple[Store, Store]) -> None:
    first, second = replicas
    await claim(first, proof("a"), owner="r0")
    for number in range(2):
        await first.mark_resendable(proof("a").key, owner=f"r{number}", fingerprint=PRINT)
        assert (await claim(second, proof("a"), owner=f"r{number + 1}")).status is ClaimStatus.WON
        assert (await claim(second, proof("a"), owner="eve")).status is ClaimStatus.LOST
    await first.mark_resendable(proof("a").key, owner="r2", fingerprint=PRINT)
    assert (await claim(second, proof("a"), owner="r3")).status is ClaimStatus.LOST


async def test_mark_admits_no_other_request(store: Store) -> None:
    await claim(store, proof("a"), owner="r1")
    await store.mark_resendable(proof("a").key, owner="r1", fingerprint=PRINT)
    assert (await claim(store, proof("a"), owner="r2", fingerprint=OTHER_PRINT)).status is ClaimStatus.LOST
    assert (await claim(store, proof("a"), owner="r3")).status is ClaimStatus.WON


async def test_only_the_owner_can_mark(store: Store) -> None:
    await claim(store, proof("a"), owner="r1")
    await store.mark_resendable(proof("a").key, owner="eve", fingerprint=PRINT)
    assert (await claim(store, proof("a"), owner="r2")).status is ClaimStatus.LOST


async def test_marking_something_never_claimed_admits_nobody_twice(store: Store) -> None:
    await store.mark_resendable(proof("a").key, owner="r1", fingerprint=PRINT)
    assert (await claim(store, proof("a"), owner="r2")).status is ClaimStatus.WON
    assert (await claim(store, proof("a"), owner="r3")).status is ClaimStatus.LOST


async def test_mark_is_not_used_up_by_a_trip_that_loses_elsewhere(store: Store) -> None:
    await claim(store, proof("a"), owner="r1")
    await claim(store, proof("b"), owner="r1")
    await store.mark_resendable(proof("a").key, owner="r1", fingerprint=PRINT)
    assert await claim(store, proof("a"), proof("b"), owner="r2") == ClaimOutcome(ClaimStatus.LOST, 1)
    assert (await claim(store, proof("a"), owner="r3")).status is ClaimStatus.WON


async def test_marked_claim_keeps_its_original_end(store: Store) -> None:
    await claim(store, proof("a", ttl=1), owner="r1")
    await store.mark_resendable(proof("a").key, owner="r1", fingerprint=PRINT)
    assert (await claim(store, proof("a", ttl=600), owner="r2")).status is ClaimStatus.WON
    now = NOW
    for attempt in range(2000):
        if (await claim(store, proof("a"), owner=f"again{attempt}", now=now)).status is ClaimStatus.WON:
            return
        now += 0.05
        await asyncio.sleep(0.01)
    pytest.fail("lives longer than it should")


# the clock


async def test_clock_fifteen_seconds_behind_passes_and_further_behind_is_refused(store: Store) -> None:
    await claim(store, proof("a"), owner="r1", now=NOW)
    assert (await claim(store, proof("b"), owner="r2", now=NOW - 15)).status is ClaimStatus.WON
    with pytest.raises(ZetaError) as refused:
        await claim(store, proof("c"), owner="r3", now=NOW - 15.1)
    assert (refused.value.code, refused.value.status) == ("temporarily_unavailable", 503)
    assert "Retry-After" in refused.value.headers
    assert (await claim(store, proof("c"), owner="r4", now=NOW)).status is ClaimStatus.WON
