"""Several guards on one store: what one knows, all know; secrets change without losing anybody."""

from __future__ import annotations

import asyncio
import os
import secrets as randomness
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from zeta_guard.jose.sealing import Secrets
from zeta_guard.simulators.redis_process import RedisProcess

if TYPE_CHECKING:
    from tests.authorization_server.conftest import MakeServer, Server

MakePair = Callable[..., Awaitable[tuple["Server", "Server"]]]
SECRET_A, SECRET_B = bytes(range(32)), bytes(range(32, 64))
OLD, NEW = Secrets([SECRET_A]), Secrets([SECRET_B, SECRET_A])


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    if not RedisProcess.installed():
        if "redis" in os.environ.get("ZETA_GUARD_REQUIRE", ""):
            pytest.fail("redis-server is required and not installed")
        pytest.skip("redis-server is not installed")
    process = RedisProcess(tmp_path_factory.mktemp("redis"))
    process.start()
    yield process
    process.stop()


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def make_pair(request: pytest.FixtureRequest, make_server: MakeServer) -> MakePair:
    """Two servers on one store; ``second`` are differences of the second one."""

    async def make(second: dict[str, Any] | None = None) -> tuple[Server, Server]:
        options: dict[str, Any] = {}
        if request.param == "redis":
            process: RedisProcess = request.getfixturevalue("redis")
            options["store"] = {"kind": "redis", "url": process.url, "key_prefix": f"{randomness.token_hex(4)}:"}
        one = await make_server(**options)
        if request.param == "memory":
            options["shared_store"] = one.store
        return one, await make_server(**options, **(second or {}))

    return make


async def test_a_client_registered_at_one_guard_is_known_at_the_other(make_pair: MakePair) -> None:
    one, other = await make_pair()
    practice = one.practice()
    await practice.register()
    practice.server = other
    assert (await practice.exchange()).status == 200


async def test_a_nonce_is_spent_everywhere(make_pair: MakePair) -> None:
    one, other = await make_pair()
    practice = one.practice()
    nonce = await practice.nonce()
    assert (await practice.exchange(nonce=nonce)).status == 200
    practice.server = other
    assert (await practice.exchange(nonce=nonce)).refusal == (400, "invalid_grant")


async def test_a_nonce_of_one_guard_is_good_at_the_other(make_pair: MakePair) -> None:
    one, other = await make_pair()
    practice = one.practice()
    nonce = await practice.nonce()
    practice.server = other
    assert (await practice.exchange(nonce=nonce)).status == 200


async def test_an_assertion_is_good_once_everywhere(make_pair: MakePair) -> None:
    one, other = await make_pair()
    practice = one.practice()
    same: Any = {"claims": {"jti": "same"}}
    assert (await practice.exchange(assertion=same)).status == 200
    practice.server = other
    assert (await practice.exchange(assertion=same)).refusal == (400, "invalid_client")


async def test_of_concurrent_refreshes_there_is_one_successor(make_pair: MakePair) -> None:
    one, _ = await make_pair()
    practice = one.practice()
    token = (await practice.exchange()).json["refresh_token"]
    replies = await asyncio.gather(*(practice.refresh(token) for _ in range(20)))
    assert Counter(reply.status for reply in replies) == {200: 20}
    assert len({reply.json["refresh_token"] for reply in replies}) == 1


async def test_parallel_first_exchanges_all_succeed(make_pair: MakePair) -> None:
    one, _ = await make_pair()
    practice = one.practice()
    await practice.register()
    replies = await asyncio.gather(*(practice.exchange() for _ in range(10)))
    assert Counter(reply.status for reply in replies) == {200: 10}


async def test_an_ending_at_one_guard_counts_at_the_other(make_pair: MakePair) -> None:
    one, other = await make_pair({"authorization_server": {"issuer": "http://127.0.0.1/shared"}})
    practice = one.practice()
    token = (await practice.exchange()).json["refresh_token"]
    (session,) = await other.admin.list_sessions(now=other.clock.now)
    assert await other.admin.end_session(session.session_id, actor="root", now=other.clock.now)
    assert (await practice.refresh(token)).refusal == (403, "session_terminated")


async def test_a_change_of_secrets_costs_nobody_a_binding_or_a_session(make_server: MakeServer) -> None:
    before = await make_server(secrets=OLD, authorization_server={"issuer": "http://127.0.0.1/"})
    practice = before.practice()
    token = (await practice.exchange()).json["refresh_token"]
    keys = str(before.config.authorization_server.signing_keys)
    after = await make_server(
        secrets=NEW,
        shared_store=before.store,
        authorization_server={"issuer": "http://127.0.0.1/", "signing_keys": keys},
    )
    nonce = await practice.nonce()
    practice.server = after
    reply = await practice.refresh(token, form={"audience": None}, nonce=nonce)
    assert reply.status == 200, reply.body
    assert (await practice.exchange()).status == 200
    current, former = after.admin.pseudonyms(practice.card.telematik_id)
    client = await after.store.get_client(practice.client_id, now=after.clock.now)
    assert client.institution == former
    await after.admin.add_block("institution", former, seconds=60, note="", actor="root", now=after.clock.now)
    assert (await practice.exchange()).refusal == (403, "access_denied")
    await after.admin.remove_block("institution", former, actor="root")
    await after.admin.add_block("institution", current, seconds=60, note="", actor="root", now=after.clock.now)
    assert (await practice.exchange()).refusal == (403, "access_denied")


MakeGuard = Callable[..., Awaitable["Server"]]


@pytest.fixture
def guard_with(make_server: MakeServer, redis: RedisProcess) -> MakeGuard:
    """The same guard, started again on what Redis has kept, with other secrets."""
    store = {"kind": "redis", "url": redis.url, "key_prefix": f"{randomness.token_hex(4)}:"}
    same: dict[str, Any] = {"issuer": "http://127.0.0.1/"}

    async def make(*secrets: bytes) -> Server:
        server = await make_server(secrets=Secrets(secrets), store=store, authorization_server=same)
        same.setdefault("signing_keys", str(server.config.authorization_server.signing_keys))
        return server

    return make


async def login(practice: Any, server: Server) -> str:
    practice.server = server
    reply = await practice.exchange()
    assert reply.status == 200, reply.body
    return str(reply.json["refresh_token"])


async def refresh(practice: Any, server: Server, token: str) -> Any:
    practice.server = server
    return await practice.refresh(token, form={"audience": None})


@pytest.mark.redis
async def test_a_new_secret_in_front_of_the_old_one_keeps_sessions_and_registrations(guard_with: MakeGuard) -> None:
    before = await guard_with(SECRET_A)
    practice = before.practice()
    token = await login(practice, before)
    registered = practice.client_id
    after = await guard_with(SECRET_B, SECRET_A)
    reply = await refresh(practice, after, token)
    assert reply.status == 200, reply.body
    # The session goes on under its new record, and the card logs in anew with the same registration.
    assert (await refresh(practice, after, reply.json["refresh_token"])).status == 200
    await login(practice, after)
    assert practice.client_id == registered
    assert (await practice.register()).json["client_id"] == registered


@pytest.mark.redis
async def test_replicas_restarted_one_by_one_understand_each_other_when_the_new_secret_comes_second_first(
    guard_with: MakeGuard,
) -> None:
    one, other = await guard_with(SECRET_A, SECRET_B), await guard_with(SECRET_B, SECRET_A)
    for first, second in ((one, other), (other, one)):
        practice = first.practice()
        token = await login(practice, first)
        nonce = await practice.nonce()
        assert (await refresh(practice, second, token)).status == 200
        assert (await practice.exchange(nonce=nonce)).status == 200


@pytest.mark.redis
async def test_a_secret_that_is_gone_takes_registrations_with_it_and_clients_come_back_by_themselves(
    guard_with: MakeGuard,
) -> None:
    before = await guard_with(SECRET_A)
    practice = before.practice()
    token = await login(practice, before)
    registered = practice.client_id
    after = await guard_with(SECRET_B)
    # The client hears what makes it register anew, never that its registration belongs to somebody else.
    assert (await refresh(practice, after, token)).refusal == (401, "invalid_client")
    assert (await practice.exchange()).refusal == (401, "invalid_client")
    assert (await practice.register()).status == 201
    assert practice.client_id != registered
    assert (await refresh(practice, after, token)).refusal == (400, "invalid_grant")
    assert (await refresh(practice, after, await login(practice, after))).status == 200
    assert after.admin.pseudonyms(practice.card.telematik_id) != before.admin.pseudonyms(practice.card.telematik_id)


@pytest.mark.redis
async def test_without_the_store_there_is_a_503_with_retry_after_and_never_a_token(
    make_server: MakeServer, tmp_path: Path, redis: RedisProcess
) -> None:
    process = RedisProcess(tmp_path)
    process.start()
    store = {"kind": "redis", "url": process.url, "timeout_ms": 200, "connect_timeout_ms": 200}
    server = await make_server(store=store)
    practice = server.practice()
    granted = (await practice.exchange()).json
    nonces = [await practice.nonce() for _ in range(3)]
    try:
        process.stop()
        # A nonce needs no store, and what cannot be judged is refused without it.
        await practice.nonce()
        assert (await practice.exchange(nonce=nonces[0], signed_proof=lambda token: token[:-2])).status in (400, 503)
        for reply in (
            await practice.exchange(nonce=nonces[1]),
            await practice.refresh(granted["refresh_token"], nonce=nonces[2]),
            await practice.revoke(granted["access_token"]),
            await server.practice().register(),
        ):
            assert reply.refusal == (503, "temporarily_unavailable")
            assert int(reply.headers["Retry-After"]) >= 1
            assert "redis" not in reply.words.lower()
    finally:
        process.stop()
