"""Registrations, in both stores."""

from __future__ import annotations

import asyncio

import pytest

from zeta_guard.errors import ZetaError
from zeta_guard.store.contract import BindOutcome, BindStatus, ClaimStatus, Client, ClientState, Store

NOW = 1_750_000_010.0
PENDING, IDLE = 300, 31_536_000


def client(name: str, *, key: str | None = None) -> Client:
    return Client(
        client_id=name,
        key_thumbprint=key or f"jkt-{name}",
        jwk={"kty": "EC", "crv": "P-256", "x": "x", "y": "ü"},
        client_name=f"Praxis {name}",
        registered_at=int(NOW),
        metadata={"grant_types": ["refresh_token"]},
    )


async def register(store: Store, one: Client, *, most: int = 100, now: float = NOW) -> Client:
    return await store.register_client(one, ttl=PENDING, most_pending=most, now=now)


async def bind(
    store: Store,
    client_id: str,
    *,
    institution: str = "inst",
    platform: str = "linux",
    most: int = 256,
    per_hour: int = 1000,
    now: float = NOW,
) -> BindOutcome:
    return await store.bind_client(
        client_id, institution=institution, platform=platform, ttl=IDLE, most=most, new_per_hour=per_hour, now=now
    )


async def test_registered_client_is_found_again_on_every_replica(replicas: tuple[Store, Store]) -> None:
    registered = await register(replicas[0], client("a"))
    assert registered == client("a")
    assert await replicas[1].get_client("a", now=NOW) == client("a")
    assert await replicas[1].get_client("b", now=NOW) is None


async def test_same_key_again_returns_the_same_client_unchanged(replicas: tuple[Store, Store]) -> None:
    await register(replicas[0], client("a", key="k"))
    assert (await register(replicas[1], client("b", key="k"), now=NOW + 100)).client_id == "a"
    assert await replicas[0].get_client("b", now=NOW + 100) is None
    assert await replicas[0].get_client("a", now=NOW + PENDING) is None, "a repeated registration lengthens nothing"


async def test_same_key_registered_by_many_at_once_is_one_client(replicas: tuple[Store, Store]) -> None:
    registered = await asyncio.gather(*(register(replicas[i % 2], client(f"c{i}", key="k")) for i in range(20)))
    assert len({one.client_id for one in registered}) == 1


async def test_pending_client_vanishes_after_its_time_and_its_key_is_free(store: Store) -> None:
    await register(store, client("a", key="k"))
    assert await store.get_client("a", now=NOW + PENDING - 1) is not None
    assert await store.get_client("a", now=NOW + PENDING) is None
    assert (await register(store, client("b", key="k"), now=NOW + PENDING)).client_id == "b"


async def test_pending_client_does_not_live_longer_by_use(store: Store) -> None:
    await register(store, client("a"))
    await store.touch_client("a", ttl=IDLE, now=NOW + 1)
    assert await store.get_client("a", now=NOW + PENDING) is None


async def test_too_many_pending_clients_are_refused_until_some_vanish(store: Store) -> None:
    await register(store, client("a"), most=2)
    await register(store, client("b"), most=2)
    with pytest.raises(ZetaError) as refused:
        await register(store, client("c"), most=2)
    assert refused.value.status == 503
    assert (await register(store, client("a"), most=2)).client_id == "a", "known keys are no new registration"
    assert (await register(store, client("c"), most=2, now=NOW + PENDING)).client_id == "c"


async def test_bound_clients_are_not_pending(store: Store) -> None:
    await register(store, client("a"), most=1)
    await bind(store, "a")
    assert (await register(store, client("b"), most=1)).client_id == "b"


async def test_binding_makes_a_client_valid_and_lasting(replicas: tuple[Store, Store]) -> None:
    await register(replicas[0], client("a"))
    assert await bind(replicas[0], "a") == BindOutcome(BindStatus.BOUND)
    found = await replicas[1].get_client("a", now=NOW + PENDING + 1)
    assert found is not None
    assert (found.state, found.institution, found.platform) == (ClientState.VALID, "inst", "linux")
    assert found.last_used_at == int(NOW)
    assert (await register(replicas[1], client("z", key="jkt-a"), now=NOW + 1000)).client_id == "a"


async def test_binding_is_confirmed_for_the_same_institution_and_refused_for_another(store: Store) -> None:
    await register(store, client("a"))
    await bind(store, "a")
    assert (await bind(store, "a", now=NOW + 5)).status is BindStatus.ALREADY
    assert (await bind(store, "a", institution="other")).status is BindStatus.FOREIGN
    assert (await bind(store, "a", platform="windows")).status is BindStatus.FOREIGN
    found = await store.get_client("a", now=NOW + 5)
    assert found is not None
    assert (found.institution, found.platform, found.last_used_at) == ("inst", "linux", int(NOW + 5))


async def test_unknown_and_vanished_clients_cannot_be_bound(store: Store) -> None:
    await register(store, client("a"))
    assert (await bind(store, "b")).status is BindStatus.GONE
    assert (await bind(store, "a", now=NOW + PENDING)).status is BindStatus.GONE


async def test_two_institutions_at_once_bind_a_client_only_once(replicas: tuple[Store, Store]) -> None:
    await register(replicas[0], client("a"))
    outcomes = await asyncio.gather(*(bind(replicas[i % 2], "a", institution=f"i{i}") for i in range(10)))
    statuses = [outcome.status for outcome in outcomes]
    assert statuses.count(BindStatus.BOUND) == 1
    assert statuses.count(BindStatus.FOREIGN) == 9


async def test_parallel_first_bindings_of_one_institution_all_succeed(replicas: tuple[Store, Store]) -> None:
    for i in range(60):
        await register(replicas[0], client(f"c{i}"))
    outcomes = await asyncio.gather(*(bind(replicas[i % 2], f"c{i}") for i in range(60)))
    assert {outcome.status for outcome in outcomes} == {BindStatus.BOUND}
    assert len(await replicas[1].list_clients("inst", now=NOW)) == 60


async def test_least_recently_used_client_leaves_when_there_are_too_many(replicas: tuple[Store, Store]) -> None:
    first, second = replicas
    for number, name in enumerate("abc"):
        await register(first, client(name), now=NOW + number)
        await bind(first, name, most=3, now=NOW + number)
    await second.touch_client("a", ttl=IDLE, now=NOW + 10)
    assert [one.client_id for one in await second.list_clients("inst", now=NOW + 10)] == ["b", "c", "a"]
    await register(second, client("d"), now=NOW + 11)
    assert await bind(second, "d", most=3, now=NOW + 11) == BindOutcome(BindStatus.BOUND, ("b",))
    assert await first.get_client("b", now=NOW + 11) is None
    assert [one.client_id for one in await first.list_clients("inst", now=NOW + 11)] == ["c", "a", "d"]
    outcome = await first.claim((), ("client:b",), owner="r", fingerprint=b"", now=NOW + 11)
    assert (outcome.status, outcome.reason) == (ClaimStatus.BLOCKED, "client_vanished")
    assert (await register(first, client("again", key="jkt-b"), now=NOW + 12)).client_id == "again"


async def test_bindings_of_one_institution_at_once_leave_no_more_than_permitted(
    replicas: tuple[Store, Store],
) -> None:
    for i in range(8):
        await register(replicas[0], client(f"c{i}"))
    outcomes = await asyncio.gather(*(bind(replicas[i % 2], f"c{i}", most=3) for i in range(8)))
    assert {outcome.status for outcome in outcomes} == {BindStatus.BOUND}
    left = {one.client_id for one in await replicas[1].list_clients("inst", now=NOW)}
    assert len(left) == 3
    assert {gone for outcome in outcomes for gone in outcome.evicted} == {f"c{i}" for i in range(8)} - left


async def test_a_lowered_limit_sends_several_away(store: Store) -> None:
    for number, name in enumerate("abcd"):
        await register(store, client(name), now=NOW + number)
        await bind(store, name, now=NOW + number)
    await register(store, client("e"), now=NOW + 9)
    assert (await bind(store, "e", most=2, now=NOW + 9)).evicted == ("a", "b", "c")


async def test_new_bindings_per_hour_are_limited_for_one_institution(store: Store) -> None:
    for number, name in enumerate("abc"):
        await register(store, client(name), now=NOW)
        outcome = await bind(store, name, per_hour=2, now=NOW + number)
        assert outcome.status is (BindStatus.BOUND if number < 2 else BindStatus.TOO_MANY)
    assert (await bind(store, "c", per_hour=2, institution="other", now=NOW + 3)).status is BindStatus.BOUND
    assert (await bind(store, "a", per_hour=2, now=NOW + 3)).status is BindStatus.ALREADY
    await register(store, client("d"), now=NOW + 3600)
    assert (await bind(store, "d", per_hour=2, now=NOW + 3600)).status is BindStatus.BOUND


async def test_valid_client_vanishes_a_year_after_its_last_use(store: Store) -> None:
    await register(store, client("a"))
    await bind(store, "a")
    await store.touch_client("a", ttl=IDLE, now=NOW + 1000)
    assert await store.get_client("a", now=NOW + 1000 + IDLE - 1) is not None
    assert await store.get_client("a", now=NOW + 1000 + IDLE) is None
    assert list(await store.list_clients("inst", now=NOW + 1000 + IDLE)) == []


async def test_deleted_client_is_gone_and_its_tokens_are_refused(replicas: tuple[Store, Store]) -> None:
    await register(replicas[0], client("a"))
    await bind(replicas[0], "a")
    await replicas[0].delete_client("a", now=NOW)
    await replicas[0].delete_client("unknown", now=NOW)
    assert await replicas[1].get_client("a", now=NOW) is None
    assert list(await replicas[1].list_clients("inst", now=NOW)) == []
    outcome = await replicas[1].claim((), ("client:a",), owner="r", fingerprint=b"", now=NOW)
    assert outcome.status is ClaimStatus.BLOCKED
    assert (await register(replicas[1], client("b", key="jkt-a"))).client_id == "b"


async def test_deleted_pending_client_waits_no_longer(store: Store) -> None:
    await register(store, client("a"), most=1)
    await store.delete_client("a", now=NOW)
    assert (await register(store, client("b"), most=1)).client_id == "b"


async def test_client_that_is_bound_while_it_is_deleted_is_gone_and_so_are_its_tokens(
    replicas: tuple[Store, Store],
) -> None:
    async def delete(name: str, turns: int) -> None:
        # Each a little later than the one before: some come between a binding's first look and its end.
        for _ in range(turns):
            await asyncio.sleep(0)
        await replicas[1].delete_client(name, now=NOW)

    for turns in range(40):
        name = f"c{turns}"
        await register(replicas[0], client(name))
        outcome, _ = await asyncio.gather(bind(replicas[0], name), delete(name, turns))
        assert await replicas[0].get_client(name, now=NOW) is None
        assert [one.client_id for one in await replicas[0].list_clients("inst", now=NOW)] == []
        if outcome.status is BindStatus.BOUND:
            use = await replicas[0].claim((), (f"client:{name}",), owner="r", fingerprint=b"", now=NOW)
            assert use.status is ClaimStatus.BLOCKED
