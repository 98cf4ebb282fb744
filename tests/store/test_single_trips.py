"""What a token request asks the store in one trip means the same as the steps one after the other, in both stores."""

from __future__ import annotations

import asyncio

import pytest

from zeta_guard.store.claim_key import claim_key
from zeta_guard.store.contract import (
    Block,
    Charge,
    Claim,
    ClaimOutcome,
    ClaimStatus,
    Client,
    LookUp,
    RotateOutcome,
    RotateStatus,
    Session,
    Store,
)

NOW = 1_750_000_010.0
IDLE = 31_536_000
CLIENT = Client("c", "jkt-c", {"kty": "EC", "crv": "P-256", "x": "x", "y": "y"}, "Praxis", int(NOW))
SESSION = Session("s", "c", "inst", "jkt", "j0", int(NOW), int(NOW) + 3600, b"\x00sealed", "product")
CHARGES = (Charge("client:c", 60, 3), Charge("institution:i", 60, 2))


def claim(name: str, *, dated: float = NOW) -> Claim:
    return Claim(claim_key("proof", "jkt", name), dated, 90)


async def spend(store: Store, *claims: Claim, subjects: tuple[str, ...] = (), owner: str = "r1") -> ClaimOutcome:
    return await store.spend(claims, subjects, CHARGES, owner=owner, fingerprint=bytes(32), now=NOW)


async def bound(store: Store, *, session: bool = True) -> None:
    await store.register_client(CLIENT, ttl=300, most_pending=10, now=NOW)
    await store.bind_client("c", institution="inst", platform="linux", ttl=IDLE, most=10, new_per_hour=10, now=NOW)
    if session:
        await store.start_session(SESSION, now=NOW)


async def rotate(store: Store, found: LookUp, presented: str, successor: str, *, now: float = NOW) -> RotateOutcome:
    return await store.rotate_session(
        "s",
        presented_jti=presented,
        successor_jti=successor,
        jkt="jkt",
        sealed_answer=b"answer " + successor.encode(),
        grace=10,
        seen=found.seen,
        client_ttl=IDLE,
        now=now,
    )


async def test_client_session_and_cached_values_are_found_together(replicas: tuple[Store, Store]) -> None:
    await bound(replicas[0])
    await replicas[0].put_cached("ocsp:good:1", b"\x00\xff", ttl=60, now=NOW)
    found = await replicas[1].look_up("c", session_id="s", cached=("ocsp:good:1", "ocsp:refused:1"), now=NOW)
    assert found.client == await replicas[1].get_client("c", now=NOW)
    assert found.session == SESSION
    assert found.cached == {"ocsp:good:1": b"\x00\xff"}


async def test_what_is_unknown_over_or_not_asked_for_is_not_found(store: Store) -> None:
    await bound(store)
    await store.put_cached("k", b"v", ttl=60, now=NOW)
    empty = await store.look_up("other", session_id="other", cached=("other",), now=NOW)
    assert (empty.client, empty.session, empty.cached) == (None, None, {})
    assert (await store.look_up("c", now=NOW)).session is None
    late = await store.look_up("c", session_id="s", cached=("k",), now=NOW + 3600)
    assert (late.session, late.cached) == (None, {})


async def test_a_blocked_session_is_not_found(store: Store) -> None:
    await bound(store)
    await store.block(Block("session:s", "emergency", NOW + 60, NOW), now=NOW)
    assert (await store.look_up("c", session_id="s", now=NOW)).session is None
    assert (await store.look_up("c", session_id="s", now=NOW + 60)).session == SESSION


async def test_a_spending_charges_every_bucket_and_claims(store: Store) -> None:
    assert (await spend(store, claim("a"), claim("b"))).status is ClaimStatus.WON
    assert (await store.take("client:c", per_minute=60, burst=3, now=NOW)).remaining == 1
    assert (await store.take("institution:i", per_minute=60, burst=2, now=NOW)).remaining == 0
    assert (await store.claim([claim("b")], (), owner="r2", fingerprint=bytes(32), now=NOW)).status is ClaimStatus.LOST


async def test_an_empty_bucket_ends_a_spending_and_nothing_is_claimed(store: Store) -> None:
    for name in "ab":
        assert (await spend(store, claim(name))).status is ClaimStatus.WON
    outcome = await spend(store, claim("c"))
    assert (outcome.status, outcome.index) == (ClaimStatus.EMPTY, 1)
    assert outcome.bucket is not None
    assert (outcome.bucket.allowed, outcome.bucket.limit, outcome.bucket.retry_after) == (False, 2, 1)
    assert (await store.claim([claim("c")], (), owner="r2", fingerprint=bytes(32), now=NOW)).status is ClaimStatus.WON


async def test_a_spending_that_loses_or_is_blocked_was_charged_all_the_same(store: Store) -> None:
    await store.claim([claim("a")], (), owner="r0", fingerprint=bytes(32), now=NOW)
    assert await spend(store, claim("z"), claim("a")) == ClaimOutcome(ClaimStatus.LOST, 1)
    await store.block(Block("product:p", "emergency", NOW + 60, NOW), now=NOW)
    outcome = await spend(store, claim("b"), subjects=("client:c", "product:p"), owner="r2")
    assert outcome == ClaimOutcome(ClaimStatus.BLOCKED, 1, "emergency")
    assert (await store.take("institution:i", per_minute=60, burst=2, now=NOW)).allowed is False


async def test_what_is_older_than_the_epoch_is_not_spent(store: Store) -> None:
    assert await spend(store, claim("a"), claim("b", dated=store.epoch.started_at)) == ClaimOutcome(
        ClaimStatus.STALE, 1
    )


async def test_one_spending_wins_of_fifty(replicas: tuple[Store, Store]) -> None:
    many = tuple(charge._replace(burst=100) for charge in CHARGES)
    outcomes = await asyncio.gather(
        *(
            replicas[i % 2].spend([claim("a")], (), many, owner=f"r{i}", fingerprint=bytes(32), now=NOW)
            for i in range(50)
        )
    )
    assert [outcome.status for outcome in outcomes].count(ClaimStatus.WON) == 1


async def test_a_rotation_of_what_was_seen_wins_and_notes_the_use_of_the_client(replicas: tuple[Store, Store]) -> None:
    await bound(replicas[0])
    found = await replicas[0].look_up("c", session_id="s", now=NOW)
    assert (await rotate(replicas[0], found, "j0", "j1", now=NOW + 50)).status is RotateStatus.WON
    again = await replicas[1].look_up("c", session_id="s", now=NOW + 50)
    assert again.session is not None
    assert again.session.refresh_jti == "j1"
    assert again.client is not None
    assert again.client.last_used_at == int(NOW) + 50


@pytest.mark.parametrize("seen", ["nothing", "what was before"])
async def test_a_rotation_notes_the_use_of_the_client_whatever_was_seen(store: Store, seen: str) -> None:
    await bound(store)
    before = await store.look_up("c", session_id="s", now=NOW)
    assert (await rotate(store, before, "j0", "j1", now=NOW + 1)).status is RotateStatus.WON
    found = before if seen == "what was before" else LookUp(None, None, {})
    assert (await rotate(store, found, "j1", "j2", now=NOW + 50)).status is RotateStatus.WON
    client = await store.get_client("c", now=NOW + 50)
    assert client is not None
    assert client.last_used_at == int(NOW) + 50


async def test_a_rotation_that_does_not_win_is_no_use_of_the_client(store: Store) -> None:
    await bound(store)
    for now, presented in ((NOW + 1, "j0"), (NOW + 5, "j0"), (NOW + 20, "j0"), (NOW + 21, "j1")):
        await rotate(store, await store.look_up("c", session_id="s", now=now), presented, "j1", now=now)
    client = await store.get_client("c", now=NOW + 30)
    assert client is not None
    assert client.last_used_at == int(NOW) + 1


async def test_a_rotation_that_comes_too_late_gets_the_answer_of_the_winner(replicas: tuple[Store, Store]) -> None:
    await bound(replicas[0])
    found = [await replica.look_up("c", session_id="s", now=NOW) for replica in replicas]
    outcomes = await asyncio.gather(*(rotate(replicas[i % 2], found[i % 2], "j0", f"n{i}") for i in range(20)))
    won = [i for i, outcome in enumerate(outcomes) if outcome.status is RotateStatus.WON]
    assert len(won) == 1
    others = {outcome.sealed_answer for outcome in outcomes if outcome.status is RotateStatus.SUCCESSOR}
    assert others == {b"answer n" + str(won[0]).encode()}


@pytest.mark.parametrize("reason", ["emergency", "terminated"])
async def test_a_session_that_ended_since_it_was_seen_is_not_rotated(store: Store, reason: str) -> None:
    await bound(store)
    found = await store.look_up("c", session_id="s", now=NOW)
    if reason == "emergency":
        await store.block(Block("session:s", reason, NOW + 60, NOW), now=NOW)
    else:
        await store.end_session("s", reason=reason, ttl=60, now=NOW)
    assert await rotate(store, found, "j0", "j1") == RotateOutcome(RotateStatus.ENDED, reason=reason)


async def test_a_rotation_survives_the_client_being_used_or_deleted_meanwhile(store: Store) -> None:
    await bound(store)
    found = await store.look_up("c", session_id="s", now=NOW)
    await store.touch_client("c", ttl=IDLE, now=NOW + 5)
    assert (await rotate(store, found, "j0", "j1")).status is RotateStatus.WON
    found = await store.look_up("c", session_id="s", now=NOW)
    await store.delete_client("c", now=NOW)
    assert (await rotate(store, found, "j1", "j2")).status is RotateStatus.WON
    assert await store.get_client("c", now=NOW) is None


async def test_a_session_begins_while_its_client_is_as_it_was_seen(store: Store) -> None:
    await bound(store, session=False)
    found = await store.look_up("c", now=NOW)
    await store.touch_client("c", ttl=IDLE, now=NOW + 5)
    assert await store.start_session(SESSION, seen=found.seen, client_ttl=IDLE, now=NOW + 9)
    again = await store.look_up("c", session_id="s", now=NOW + 9)
    assert again.session == SESSION
    assert again.client is not None
    assert again.client.last_used_at == int(NOW) + 9
    assert [one.session_id for one in await store.list_sessions(institution="inst", now=NOW + 9)] == ["s"]


async def test_no_session_begins_for_a_client_that_vanished_since_it_was_seen(store: Store) -> None:
    await bound(store, session=False)
    found = await store.look_up("c", now=NOW)
    await store.delete_client("c", now=NOW)
    assert not await store.start_session(SESSION, seen=found.seen, client_ttl=IDLE, now=NOW)
    assert await store.get_session("s", now=NOW) is None


async def test_no_session_begins_for_a_client_that_is_not_bound(store: Store) -> None:
    await store.register_client(CLIENT, ttl=300, most_pending=10, now=NOW)
    found = await store.look_up("c", now=NOW)
    assert not await store.start_session(SESSION, seen=found.seen, client_ttl=IDLE, now=NOW)
    assert await store.get_session("s", now=NOW) is None


async def test_no_session_begins_for_a_client_whose_record_changed_since_it_was_seen(
    replicas: tuple[Store, Store],
) -> None:
    await replicas[0].register_client(CLIENT, ttl=300, most_pending=10, now=NOW)
    found = await replicas[0].look_up("c", now=NOW)
    await replicas[1].bind_client("c", institution="x", platform="linux", ttl=IDLE, most=9, new_per_hour=9, now=NOW)
    assert not await replicas[0].start_session(SESSION, seen=found.seen, client_ttl=IDLE, now=NOW)
    assert await replicas[0].get_session("s", now=NOW) is None
    assert await replicas[0].list_sessions(now=NOW) == []


async def test_a_use_of_the_client_is_no_change_of_its_record(replicas: tuple[Store, Store]) -> None:
    await bound(replicas[0], session=False)
    found = await replicas[0].look_up("c", now=NOW)
    await replicas[1].touch_client("c", ttl=IDLE, now=NOW + 5)
    assert await replicas[0].start_session(SESSION, seen=found.seen, client_ttl=IDLE, now=NOW + 6)
    assert await replicas[1].get_session("s", now=NOW + 6) == SESSION
