"""Which store a process gets, and the bounds of the one in memory."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from zeta_guard.config.store import MemoryStore as MemoryStoreConfig
from zeta_guard.config.store import RedisStore as RedisStoreConfig
from zeta_guard.errors import ConfigurationError, ZetaError
from zeta_guard.jose.sealing import Secrets
from zeta_guard.store import Role, open_store
from zeta_guard.store.ahead import MOST, ClaimsAhead
from zeta_guard.store.claim_key import claim_key
from zeta_guard.store.contract import Block, Claim, ClaimStatus, Client, Session
from zeta_guard.store.expiring import ExpiringTable
from zeta_guard.store.memory import MemoryStore

T0 = 1_750_000_000.0
NOW = T0 + 10


def memory(guard_secrets: Secrets, entries: int = 1000) -> MemoryStore:
    store = open_store(MemoryStoreConfig(max_entries=entries), secrets=guard_secrets, clock=lambda: T0)
    assert isinstance(store, MemoryStore)
    return store


def test_one_process_with_both_roles_may_keep_its_state_in_memory(guard_secrets: Secrets) -> None:
    assert memory(guard_secrets).epoch.started_at == T0


@pytest.mark.parametrize("role", ["gateway", "authorization-server"])
def test_memory_store_is_refused_to_a_process_with_a_single_role(guard_secrets: Secrets, role: Role) -> None:
    with pytest.raises(ConfigurationError) as refused:
        open_store(MemoryStoreConfig(), secrets=guard_secrets, clock=lambda: T0, role=role)
    assert refused.value.path == "store.kind"
    assert "redis" in refused.value.expected


def test_redis_store_is_opened_for_every_role_without_a_connection(guard_secrets: Secrets, tmp_path: Path) -> None:
    roles: tuple[Role, ...] = ("all", "gateway", "authorization-server")
    for role in roles:
        config = RedisStoreConfig(url=f"unix://{tmp_path}/absent.sock")
        assert open_store(config, secrets=guard_secrets, clock=lambda: T0, role=role).epoch.identity == ""


def test_claim_keys_of_different_parts_differ() -> None:
    keys = {
        claim_key("proof", "ab", "c"),
        claim_key("proof", "a", "bc"),
        claim_key("proof", "abc"),
        claim_key("nonce", "ab", "c"),
        claim_key("proof", "ab", "c", ""),
    }
    assert len(keys) == 5
    assert claim_key("proof", "ab", "c") == claim_key("proof", b"ab", b"c")


async def test_full_memory_refuses_new_proofs_until_old_ones_are_over(guard_secrets: Secrets) -> None:
    store = memory(guard_secrets)

    async def claim(number: int, now: float) -> ClaimStatus:
        key = hashlib.sha256(str(number).encode()).digest()
        outcome = await store.claim([Claim(key, NOW, 60)], [], owner=str(number), fingerprint=b"", now=now)
        return outcome.status

    for number in range(1000):
        assert await claim(number, NOW) is ClaimStatus.WON
    with pytest.raises(ZetaError) as full:
        await claim(1000, NOW)
    assert full.value.status == 503
    assert await claim(1000, NOW + 62) is ClaimStatus.WON


async def test_full_memory_refuses_new_sessions(guard_secrets: Secrets) -> None:
    store = memory(guard_secrets)

    async def start(number: int, now: float) -> None:
        session = Session(f"s{number}", "c", "i", "jkt", "j", int(now), int(now) + 60, b"")
        await store.start_session(session, now=now)

    for number in range(100):
        await start(number, NOW)
    with pytest.raises(ZetaError):
        await start(100, NOW)
    await start(100, NOW + 61)


async def test_full_memory_refuses_new_blocks_and_keeps_those_in_force(guard_secrets: Secrets) -> None:
    store = memory(guard_secrets)
    for number in range(100):
        await store.block(Block(f"client:{number}", "emergency", NOW + 60, NOW), now=NOW)
    with pytest.raises(ZetaError) as full:
        await store.block(Block("client:more", "emergency", NOW + 60, NOW), now=NOW)
    assert full.value.status == 503
    assert len(await store.blocks(now=NOW)) == 100
    await store.block(Block("client:more", "emergency", NOW + 120, NOW), now=NOW + 61)


@pytest.mark.parametrize(("most_pending", "fit"), [(1000, 100), (7, 7)])
async def test_full_memory_refuses_new_registrations_but_not_known_ones(
    guard_secrets: Secrets, most_pending: int, fit: int
) -> None:
    store = memory(guard_secrets)

    async def register(number: int) -> Client:
        client = Client(f"c{number}", f"t{number}", {}, "client", int(NOW))
        return await store.register_client(client, ttl=300, most_pending=most_pending, now=NOW)

    for number in range(fit):
        await register(number)
    with pytest.raises(ZetaError) as full:
        await register(fit)
    assert full.value.status == 503
    assert (await register(0)).client_id == "c0"


async def test_cache_holds_64_mib_and_the_oldest_leave(guard_secrets: Secrets) -> None:
    store = memory(guard_secrets)
    value = bytes(65_536)
    for number in range(1100):
        await store.put_cached(f"k{number}", value, ttl=60, now=NOW)
    held = [number for number in range(1100) if await store.get_cached(f"k{number}", now=NOW) is not None]
    assert held[-1] == 1099
    assert held[0] > 0
    assert len(held) <= 1024


async def test_table_of_buckets_is_bounded(guard_secrets: Secrets) -> None:
    store = memory(guard_secrets)
    for number in range(500):
        await store.take(f"b{number}", per_minute=1, burst=1, now=NOW)
    assert not (await store.take("b499", per_minute=1, burst=1, now=NOW)).allowed
    assert (await store.take("b0", per_minute=1, burst=1, now=NOW)).allowed


def test_entries_vanish_at_their_time_also_when_it_was_moved() -> None:
    gone: list[str] = []
    table: ExpiringTable[int] = ExpiringTable(lambda name, _: gone.append(name))
    table.put("short", 1, 10)
    table.put("moved on", 2, 10)
    table.put("moved on", 3, 30)
    table.put("moved back", 4, 30)
    table.put("moved back", 5, 20)
    table.sweep(9.9)
    assert len(table) == 3
    table.sweep(10)
    assert gone == ["short"]
    assert table.get("moved on", 29) == 3
    table.sweep(20)
    assert gone == ["short", "moved back"]
    table.sweep(30)
    assert gone == ["short", "moved back", "moved on"]
    assert len(table) == 0


def test_removed_entry_leaves_no_trace_for_one_of_the_same_name() -> None:
    table: ExpiringTable[int] = ExpiringTable()
    table.put("name", 1, 10)
    assert table.pop("name") == 1
    table.put("name", 2, 50)
    table.sweep(10)
    assert table.get("name", 49) == 2
    table.sweep(50)
    assert len(table) == 0


def test_claims_from_the_future_are_kept_until_their_time_and_no_longer() -> None:
    ahead = ClaimsAhead()
    ahead.note([Claim(b"past", NOW, 60), Claim(b"future", NOW + 5, 60)], "r1", NOW)
    assert list(ahead.remaining(NOW)) == [(b"future", "r1", 61)]
    ahead.note([], "r2", NOW + 5)
    assert len(ahead) == 0


def test_claims_from_the_future_are_bounded() -> None:
    ahead = ClaimsAhead()
    for number in range(MOST + 10):
        ahead.note([Claim(number.to_bytes(4, "big"), NOW + 5, 60)], "r", NOW)
    assert len(ahead) == MOST
