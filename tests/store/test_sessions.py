"""Sessions and the rotation of refresh tokens, in both stores."""

from __future__ import annotations

import asyncio

from zeta_guard.store.contract import ClaimStatus, RotateOutcome, RotateStatus, Session, Store

NOW = 1_750_000_010.0


def session(name: str = "s", *, institution: str = "inst", started: float = NOW, life: int = 3600) -> Session:
    return Session(
        session_id=name,
        client_id="c",
        institution=institution,
        jkt="jkt",
        refresh_jti="j0",
        started_at=int(started),
        expires_at=int(started) + life,
        sealed=b"\x00\xff sealed",
        product_id="product",
    )


async def rotate(
    store: Store,
    presented: str,
    successor: str,
    *,
    jkt: str = "jkt",
    grace: int = 10,
    now: float = NOW,
    answer: bytes | None = None,
) -> RotateOutcome:
    sealed = b"\xfeanswer " + successor.encode() if answer is None else answer
    return await store.rotate_session(
        "s", presented_jti=presented, successor_jti=successor, jkt=jkt, sealed_answer=sealed, grace=grace, now=now
    )


async def test_session_is_read_as_it_was_written_by_every_replica(replicas: tuple[Store, Store]) -> None:
    await replicas[0].start_session(session(), now=NOW)
    assert await replicas[1].get_session("s", now=NOW) == session()
    assert await replicas[1].get_session("other", now=NOW) is None


async def test_session_is_over_at_its_end(store: Store) -> None:
    await store.start_session(session(life=60), now=NOW)
    assert await store.get_session("s", now=NOW + 59) is not None
    assert await store.get_session("s", now=NOW + 60) is None
    assert (await rotate(store, "j0", "j1", now=NOW + 60)).status is RotateStatus.GONE


async def test_rotation_replaces_the_refresh_token(store: Store) -> None:
    await store.start_session(session(), now=NOW)
    assert (await rotate(store, "j0", "j1")).status is RotateStatus.WON
    assert (await rotate(store, "j1", "j2", now=NOW + 100)).status is RotateStatus.WON
    found = await store.get_session("s", now=NOW + 100)
    assert found is not None
    assert found.refresh_jti == "j2"
    assert found.sealed == session().sealed


async def test_fifty_concurrent_refreshes_have_exactly_one_successor(replicas: tuple[Store, Store]) -> None:
    await replicas[0].start_session(session(), now=NOW)
    outcomes = await asyncio.gather(*(rotate(replicas[i % 2], "j0", f"next{i}") for i in range(50)))
    won = [i for i, outcome in enumerate(outcomes) if outcome.status is RotateStatus.WON]
    assert len(won) == 1
    others = [outcome for i, outcome in enumerate(outcomes) if i != won[0]]
    answer = f"answer next{won[0]}".encode()
    assert {(outcome.status, outcome.sealed_answer) for outcome in others} == {
        (RotateStatus.SUCCESSOR, b"\xfe" + answer)
    }


async def test_within_the_grace_window_the_same_answer_comes_again(replicas: tuple[Store, Store]) -> None:
    await replicas[0].start_session(session(), now=NOW)
    await rotate(replicas[0], "j0", "j1")
    again = await rotate(replicas[1], "j0", "j2", now=NOW + 9.9)
    assert again == RotateOutcome(RotateStatus.SUCCESSOR, sealed_answer=b"\xfeanswer j1")
    assert (await rotate(replicas[1], "j1", "j3", now=NOW + 10)).status is RotateStatus.WON


async def test_after_the_grace_window_reuse_ends_the_session_everywhere(replicas: tuple[Store, Store]) -> None:
    await replicas[0].start_session(session(), now=NOW)
    await rotate(replicas[0], "j0", "j1")
    assert (await rotate(replicas[1], "j0", "j2", now=NOW + 10)).status is RotateStatus.REUSED
    assert await replicas[0].get_session("s", now=NOW + 10) is None
    ended = RotateOutcome(RotateStatus.ENDED, reason="reuse")
    assert await rotate(replicas[0], "j1", "j3", now=NOW + 11) == ended
    outcome = await replicas[0].claim((), ("session:s",), owner="r", fingerprint=b"", now=NOW + 11)
    assert (outcome.status, outcome.reason) == (ClaimStatus.BLOCKED, "reuse")
    assert await rotate(replicas[1], "j0", "j3", now=NOW + 3599) == ended


async def test_reuse_after_the_successor_was_used_ends_the_session_within_the_window(store: Store) -> None:
    await store.start_session(session(), now=NOW)
    await rotate(store, "j0", "j1")
    await rotate(store, "j1", "j2", now=NOW + 1)
    assert (await rotate(store, "j0", "j3", now=NOW + 2)).status is RotateStatus.REUSED


async def test_without_a_grace_window_the_second_use_is_reuse(store: Store) -> None:
    await store.start_session(session(), now=NOW)
    assert (await rotate(store, "j0", "j1", grace=0)).status is RotateStatus.WON
    assert (await rotate(store, "j0", "j2", grace=0)).status is RotateStatus.REUSED


async def test_another_key_gets_nothing_and_leaves_the_session_alone(store: Store) -> None:
    await store.start_session(session(), now=NOW)
    await rotate(store, "j0", "j1")
    for presented in ("j0", "j1", "garbage"):
        assert (await rotate(store, presented, "x", jkt="thief", now=NOW + 60)).status is RotateStatus.GONE
    assert (await rotate(store, "j1", "j2", now=NOW + 60)).status is RotateStatus.WON


async def test_unknown_session_is_gone(store: Store) -> None:
    assert (await rotate(store, "j0", "j1")).status is RotateStatus.GONE


async def test_ended_session_says_why_for_as_long_as_it_would_have_lived(replicas: tuple[Store, Store]) -> None:
    await replicas[0].start_session(session(), now=NOW)
    assert await replicas[1].end_session("s", reason="terminated", ttl=900, now=NOW)
    assert not await replicas[1].end_session("s", reason="terminated", ttl=900, now=NOW)
    assert await replicas[0].get_session("s", now=NOW) is None
    outcome = await rotate(replicas[0], "j0", "j1", now=NOW + 899)
    assert outcome == RotateOutcome(RotateStatus.ENDED, reason="terminated")


async def test_of_many_who_end_a_session_at_once_one_is_told_that_it_was_there(
    replicas: tuple[Store, Store],
) -> None:
    await replicas[0].start_session(session(), now=NOW)
    ended = await asyncio.gather(
        *(replicas[i % 2].end_session("s", reason="revoked", ttl=900, now=NOW) for i in range(10))
    )
    assert ended.count(True) == 1


async def test_block_of_an_ended_session_lasts_until_the_record_would_have_ended(store: Store) -> None:
    await store.start_session(session(life=3600), now=NOW)
    await store.end_session("s", reason="revoked", ttl=900, now=NOW)
    assert (await rotate(store, "j0", "j1", now=NOW + 3599)).reason == "revoked"
    assert (await rotate(store, "j0", "j1", now=NOW + 3600)).status is RotateStatus.GONE


async def test_unknown_session_can_be_blocked_all_the_same(store: Store) -> None:
    assert not await store.end_session("never-seen", reason="revoked", ttl=900, now=NOW)
    outcome = await store.claim((), ("session:never-seen",), owner="r", fingerprint=b"", now=NOW + 899)
    assert outcome.status is ClaimStatus.BLOCKED


async def test_sessions_are_listed_newest_first_and_by_institution(replicas: tuple[Store, Store]) -> None:
    first = replicas[0]
    await first.start_session(session("a", started=NOW), now=NOW)
    await first.start_session(session("b", institution="other", started=NOW + 1), now=NOW + 1)
    await first.start_session(session("c", started=NOW + 2, life=10), now=NOW + 2)
    second = replicas[1]
    assert [one.session_id for one in await second.list_sessions(now=NOW + 2)] == ["c", "b", "a"]
    assert [one.session_id for one in await second.list_sessions(institution="inst", now=NOW + 2)] == ["c", "a"]
    assert [one.session_id for one in await second.list_sessions(institution="inst", now=NOW + 12)] == ["a"]
    await first.end_session("a", reason="terminated", ttl=60, now=NOW + 2)
    assert [one.session_id for one in await second.list_sessions(now=NOW + 2)] == ["c", "b"]
