"""A server that answers nonsense or hangs up: everything is a 503 or nothing, nobody wins, and no other error comes out."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import hiredis
import pytest

from zeta_guard.config.store import RedisStore as RedisStoreConfig
from zeta_guard.errors import ConfigurationError, ZetaError
from zeta_guard.simulators.redis_process import RedisProcess
from zeta_guard.store.contract import (
    BindOutcome,
    BindStatus,
    Block,
    Charge,
    Claim,
    ClaimOutcome,
    ClaimStatus,
    Client,
    RotateOutcome,
    RotateStatus,
    Session,
    Store,
)
from zeta_guard.store.redis_scripts import CLAIM as CLAIM_SCRIPT
from zeta_guard.store.redis_scripts import GUARDED, READ_BLOCKS, RETURN_BLOCKS, SPEND

pytestmark = pytest.mark.redis

NOW = 1_750_000_010.0
CLAIM = Claim(hashlib.sha256(b"c").digest(), NOW, 60)
CLIENT = Client("c", "t", {}, "client", int(NOW))
SESSION = Session("s", "c", "i", "k", "j", int(NOW), int(NOW) + 60, b"sealed")
LIES = {
    "nothing": b"$-1\r\n",
    "fine": b"+OK\r\n",
    "one": b":1\r\n",
    "less than nothing": b":-5\r\n",
    "text": b"$3\r\nabc\r\n",
    "a letter": b"$1\r\nL\r\n",
    "binary": b"$2\r\n\xff\x00\r\n",
    "no numbers": b"*2\r\n$3\r\nnan\r\n$3\r\ninf\r\n",
    "one and no number": b"*2\r\n:0\r\n$3\r\nnan\r\n",
    "empty list": b"*0\r\n",
    "list of nothing": b"*3\r\n$-1\r\n$-1\r\n$-1\r\n",
    "numbers": b"*2\r\n:1\r\n:1\r\n",
    "texts": b"*4\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n$1\r\nd\r\n",
    "list of lists": b"*2\r\n*0\r\n*1\r\n$1\r\na\r\n",
    "error": b"-ERR nonsense\r\n",
    "forgetful": b"-NOSCRIPT No matching script\r\n",
}


class Liar:
    """Stands between a store and its server, and answers commands itself once it has a ``lie``: all of them, or those that
    have ``lies_about`` in them. With ``trips_left`` it passes on so many trips and hangs up at the next one; with ``cuts`` it
    hangs up whenever that comes."""

    def __init__(self, server: RedisProcess, path: str) -> None:
        self._server = server
        self._path = path
        self._tasks: set[asyncio.Task[None]] = set()
        self.lie: bytes | None = None
        self.lies_about = b""
        self.trips_left: int | None = None
        self.cuts = b""

    async def start(self) -> asyncio.Server:
        return await asyncio.start_unix_server(self._serve, self._path)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(str(self._server.socket_path))
        back = asyncio.create_task(self._pass_on(far_reader, writer))
        parser = hiredis.Reader()
        with suppress(asyncio.CancelledError):
            while data := await reader.read(65_536):
                if self.cuts and self.cuts in data:
                    break
                if self.trips_left == 0:
                    self.trips_left = None
                    break
                if self.trips_left is not None:
                    self.trips_left -= 1
                parser.feed(data)
                commands = 0
                while parser.gets() is not False:
                    commands += 1
                if self.lie is None or self.lies_about not in data:
                    far_writer.write(data)
                else:
                    writer.write(self.lie * commands)
        back.cancel()
        far_writer.close()
        writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65_536):
                writer.write(data)


@pytest.fixture
async def liar(shared_redis: RedisProcess, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Liar]:
    found = Liar(shared_redis, str(tmp_path_factory.mktemp("liar") / "r.sock"))
    server = await found.start()
    yield found
    server.close()


async def claim_soon(store: Store, **options: Any) -> Any:
    """What the callback hears; None where the other way is to be asked."""
    answered: asyncio.Future[ClaimOutcome | None] = asyncio.get_running_loop().create_future()
    store.claim_soon([CLAIM], ["session:s"], **options, then=answered.set_result)
    async with asyncio.timeout(5):
        outcome = await answered
    return outcome or await store.claim([CLAIM], ["session:s"], **options)


def ask(store: Store) -> dict[str, Callable[[], Awaitable[Any]]]:
    """Everything that a store can be asked."""
    claims: Any = {"owner": "o", "fingerprint": bytes(32), "now": NOW}
    rotation: Any = {"presented_jti": "j", "successor_jti": "k", "jkt": "k", "sealed_answer": b"a", "grace": 10}
    binding: Any = {"institution": "i", "platform": "linux", "ttl": 60, "most": 9, "new_per_hour": 9}
    return {
        "claim": lambda: store.claim([CLAIM], ["session:s"], **claims),
        "claim soon": lambda: claim_soon(store, **claims),
        "spend": lambda: store.spend([CLAIM], ["session:s"], [Charge("b", 60, 1)], **claims),
        "mark": lambda: store.mark_resendable(CLAIM.key, owner="o", fingerprint=bytes(32)),
        "blocks": lambda: store.blocks(now=NOW),
        "block": lambda: store.block(Block("client:c", "emergency", NOW + 60, NOW), now=NOW),
        "unblock": lambda: store.unblock("client:c"),
        "register": lambda: store.register_client(CLIENT, ttl=60, most_pending=10, now=NOW),
        "client": lambda: store.get_client("c", now=NOW),
        "look up": lambda: store.look_up("c", session_id="s", cached=("x",), now=NOW),
        "touch": lambda: store.touch_client("c", ttl=60, now=NOW),
        "bind": lambda: store.bind_client("c", **binding, now=NOW),
        "clients": lambda: store.list_clients("i", now=NOW),
        "delete": lambda: store.delete_client("c", now=NOW),
        "start": lambda: store.start_session(SESSION, now=NOW),
        "session": lambda: store.get_session("s", now=NOW),
        "rotate": lambda: store.rotate_session("s", **rotation, now=NOW),
        "end": lambda: store.end_session("s", reason="revoked", ttl=60, now=NOW),
        "sessions": lambda: store.list_sessions(now=NOW),
        "cached": lambda: store.get_cached("x", now=NOW),
        "cache": lambda: store.put_cached("x", b"v", ttl=60, now=NOW),
        "take": lambda: store.take("b", per_minute=60, burst=1, now=NOW),
        "key": lambda: store.see_key("k", ttl=60, now=NOW),
        "ping": store.ping,
    }


def gained(outcome: Any) -> bool:
    """Whether somebody got through who should not."""
    status = getattr(outcome, "status", None)
    return status in (ClaimStatus.WON, RotateStatus.WON, RotateStatus.SUCCESSOR, BindStatus.ALREADY) or isinstance(
        outcome, Session
    )


@pytest.mark.parametrize("lie", LIES)
async def test_nonsense_is_a_503_or_nothing(lie: str, liar: Liar, open_redis: Callable[..., Awaitable[Store]]) -> None:
    store = await open_redis(RedisStoreConfig(url=f"unix://{liar._path}", timeout_ms=2000, key_prefix="lies:"))
    liar.lie = LIES[lie]
    for name, question in ask(store).items():
        outcome: Any = (await asyncio.gather(question(), return_exceptions=True))[0]
        if isinstance(outcome, BaseException):
            assert isinstance(outcome, ZetaError), f"{name}: {outcome!r}"
            assert outcome.status == 503
        else:
            assert not gained(outcome), name
            # Whoever waits for an outcome has one, or the 503.
            assert outcome is not None or name not in HAS_AN_OUTCOME, name
            assert not LIES[lie].startswith(b"-"), f"{name}: a refusal is no outcome"


HAS_AN_OUTCOME = {
    "claim",
    "claim soon",
    "spend",
    "register",
    "bind",
    "start",
    "rotate",
    "end",
    "take",
    "key",
    "unblock",
}


@pytest.mark.parametrize(
    "lie", ["nothing", "text", "empty list", "numbers", "list of nothing", "list of lists", "error"]
)
async def test_nonsense_does_not_mean_that_nobody_is_blocked(
    lie: str, liar: Liar, open_redis: Callable[..., Awaitable[Store]]
) -> None:
    store = await open_redis(RedisStoreConfig(url=f"unix://{liar._path}", timeout_ms=2000, key_prefix="none:"))
    liar.lie = LIES[lie]
    with pytest.raises(ZetaError) as refused:
        await store.blocks(now=NOW)
    assert refused.value.status == 503


async def settled(question: Callable[[], Awaitable[Any]]) -> Any:
    """The outcome, or the error."""
    return (await asyncio.gather(question(), return_exceptions=True))[0]


async def test_a_server_that_hangs_up_is_a_503_at_every_trip_and_a_claim_is_asked_again(
    liar: Liar, open_redis: Callable[..., Awaitable[Store]]
) -> None:
    store = await open_redis(RedisStoreConfig(url=f"unix://{liar._path}", timeout_ms=2000, key_prefix="hangs-up:"))
    for name, question in ask(store).items():
        for trips in range(9):
            await store.ping()
            liar.trips_left = trips
            outcome = await settled(question)
            if liar.trips_left is not None:
                assert trips > 0
                assert not isinstance(outcome, BaseException), f"{name}, {trips} trips: {outcome!r}"
                break
            if name in ("claim", "claim soon", "spend"):
                assert outcome.status is ClaimStatus.WON, f"{name}, {trips} trips: {outcome!r}"
            else:
                assert isinstance(outcome, ZetaError), f"{name}, {trips} trips: {outcome!r}"
                assert outcome.status == 503
        else:
            pytest.fail(f"{name} never gets through")
        liar.trips_left = None


async def test_a_step_that_never_goes_through_is_a_503_after_some_rounds(
    liar: Liar, open_redis: Callable[..., Awaitable[Store]]
) -> None:
    store = await open_redis(RedisStoreConfig(url=f"unix://{liar._path}", timeout_ms=2000, key_prefix="never:"))
    questions = ask(store)
    await store.register_client(CLIENT, ttl=60, most_pending=10, now=NOW)
    await store.start_session(SESSION, now=NOW)
    liar.lie, liar.lies_about = b":0\r\n", GUARDED.sha.encode()
    other = Client("d", "another key", {}, "client", int(NOW))
    questions["register"] = lambda: store.register_client(other, ttl=60, most_pending=10, now=NOW)
    for name in ("register", "bind", "delete", "rotate", "end", "block"):
        outcome = await settled(questions[name])
        assert isinstance(outcome, ZetaError), f"{name}: {outcome!r}"
        assert outcome.status == 503
    assert await settled(questions["start"]) is False
    liar.lie = None
    bound, rotated = await settled(questions["bind"]), await settled(questions["rotate"])
    assert isinstance(bound, BindOutcome)
    assert isinstance(rotated, RotateOutcome)
    assert (bound.status, rotated.status) == (BindStatus.BOUND, RotateStatus.WON)


async def test_an_answer_that_is_lost_again_is_a_503(liar: Liar, open_redis: Callable[..., Awaitable[Store]]) -> None:
    store = await open_redis(RedisStoreConfig(url=f"unix://{liar._path}", timeout_ms=2000, key_prefix="lost:"))
    for name, script in (("claim", CLAIM_SCRIPT), ("claim soon", CLAIM_SCRIPT), ("spend", SPEND)):
        liar.cuts = script.sha.encode()
        outcome = await settled(ask(store)[name])
        assert isinstance(outcome, ZetaError), f"{name}: {outcome!r}"
        assert outcome.status == 503
        liar.cuts = b""
        await store.ping()
        assert (await settled(ask(store)[name])).status is ClaimStatus.WON


async def test_an_epoch_that_never_holds_is_a_503(liar: Liar, open_redis: Callable[..., Awaitable[Store]]) -> None:
    store = await open_redis(RedisStoreConfig(url=f"unix://{liar._path}", timeout_ms=2000, key_prefix="epochs:"))
    for name, script, lie in (
        ("claim", CLAIM_SCRIPT, b"$1\r\nE\r\n"),
        ("claim soon", CLAIM_SCRIPT, b"$1\r\nE\r\n"),
        ("spend", SPEND, b"$1\r\nE\r\n"),
        ("blocks", READ_BLOCKS, b"*1\r\n$1\r\nE\r\n"),
    ):
        liar.lie, liar.lies_about = lie, script.sha.encode()
        outcome = await settled(ask(store)[name])
        assert isinstance(outcome, ZetaError), f"{name}: {outcome!r}"
        assert outcome.status == 503


async def test_a_server_that_hangs_up_while_a_new_epoch_is_learned_is_a_503(
    start_redis: Callable[..., RedisProcess],
    open_redis: Callable[..., Awaitable[Store]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    server = start_redis()
    between = Liar(server, str(tmp_path_factory.mktemp("liar") / "r.sock"))
    listening = await between.start()
    store = await open_redis(RedisStoreConfig(url=f"unix://{between._path}", timeout_ms=2000), now=NOW)
    # First the answer that the epoch is another one, then what stands there, then the new one.
    for trips in (1, 2):
        server.ask("FLUSHALL")
        between.trips_left = trips
        with pytest.raises(ZetaError) as refused:
            await store.blocks(now=NOW)
        assert refused.value.status == 503
        assert between.trips_left is None
        await store.blocks(now=NOW)
    listening.close()


@pytest.mark.parametrize("written", ["claim", "block"])
@pytest.mark.parametrize("fault", ["refuses", "hangs up"])
async def test_a_new_epoch_is_believed_only_when_what_was_known_is_written_back(
    start_redis: Callable[..., RedisProcess],
    open_redis: Callable[..., Awaitable[Store]],
    tmp_path_factory: pytest.TempPathFactory,
    written: str,
    fault: str,
) -> None:
    server = start_redis()
    between = Liar(server, str(tmp_path_factory.mktemp("liar") / "r.sock"))
    listening = await between.start()
    first = await open_redis(RedisStoreConfig(url=f"unix://{between._path}", timeout_ms=2000), now=NOW)
    second = await open_redis(RedisStoreConfig(url=server.url), now=NOW)
    ahead = Claim(CLAIM.key, NOW + 14, 60)
    won = await first.claim([ahead], (), owner="o", fingerprint=bytes(32), now=NOW)
    assert won.status is ClaimStatus.WON
    await second.block(Block("client:c", "emergency", NOW + 60, NOW), now=NOW)
    await first.blocks(now=NOW)
    server.ask("FLUSHALL")
    assert await second.blocks(now=NOW) == []
    place = b"NX" if written == "claim" else RETURN_BLOCKS.sha.encode()
    if fault == "refuses":
        between.lie, between.lies_about = b"-OOM command not allowed\r\n", place
    else:
        between.cuts = place
    for _ in range(3):
        assert isinstance(await settled(lambda: first.blocks(now=NOW)), ZetaError)
    between.lie, between.cuts = None, b""
    async with asyncio.timeout(5):
        while isinstance(await settled(lambda: first.blocks(now=NOW)), ZetaError):  # noqa: ASYNC110 - asked of the store
            await asyncio.sleep(0.01)
    again = await second.claim([ahead], (), owner="other", fingerprint=bytes(32), now=NOW + 6)
    assert again.status is ClaimStatus.LOST
    assert [block.subject for block in await second.blocks(now=NOW + 6)] == ["client:c"]
    listening.close()


@pytest.mark.parametrize("words", [b"INFO", b"SCRIPT", b"$3\r\nGET\r\n"], ids=["INFO", "SCRIPT", "GET"])
@pytest.mark.parametrize("refusal", [b"-LOADING Redis is loading the dataset in memory\r\n", b"-ERR nonsense\r\n"])
async def test_what_is_refused_while_connecting_is_a_503_at_start(
    liar: Liar, open_redis: Callable[..., Awaitable[Store]], words: bytes, refusal: bytes
) -> None:
    config = RedisStoreConfig(url=f"unix://{liar._path}", timeout_ms=2000)
    liar.lie, liar.lies_about = refusal, words
    with pytest.raises(ZetaError) as refused:
        await open_redis(config)
    assert refused.value.status == 503
    liar.lie = None
    await (await open_redis(config)).ping()


@pytest.mark.parametrize(
    "answer",
    [
        b"*-1\r\n",
        b"-ERR unknown command\r\n",
        b"*0\r\n",
        b"*1\r\n$1\r\na\r\n",
        b"*2\r\n$1\r\na\r\n$1\r\nb\r\n",
        b"*2\r\n$1\r\na\r\n:6379\r\n",
        b"*2\r\n$0\r\n\r\n$4\r\n6379\r\n",
        b"*2\r\n$1\r\na\r\n$5\r\n65536\r\n",
        b"*2\r\n$1\r\na\r\n$1\r\n0\r\n",
        b"*2\r\n$1\r\na\r\n$2\r\n-1\r\n",
        b"*2\r\n$1\r\na\r\n$2\r\n\xff\xb2\r\n",
    ],
)
async def test_a_sentinel_that_names_no_address_is_a_configuration_error(
    liar: Liar, open_redis: Callable[..., Awaitable[Store]], answer: bytes
) -> None:
    liar.lie, liar.lies_about = answer, b"SENTINEL"
    with pytest.raises(ConfigurationError) as refused:
        await open_redis(RedisStoreConfig(url=f"unix://{liar._path}", sentinel_master="guards"))
    assert refused.value.path == "store.sentinel_master"


async def test_whatever_a_server_says_to_a_guard_that_comes_back_the_guard_tries_again(
    liar: Liar, open_redis: Callable[..., Awaitable[Store]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zeta_guard.store.redis_link.FIRST_PAUSE", 0.005)
    store = await open_redis(RedisStoreConfig(url=f"unix://{liar._path}", timeout_ms=2000, key_prefix="again:"))
    for words in (b"INFO", b"$3\r\nGET\r\n"):
        for lie in (*LIES.values(), b"$33\r\nx run_id:1\r\nredis_version:7.2.4\r\n\r\n", b"?\r\n"):
            liar.lie, liar.lies_about, liar.trips_left = lie, words, 0
            # Perhaps the lie does no harm; what matters is what comes after it.
            await settled(store.ping)
            await settled(store.ping)
            liar.lie = None
            async with asyncio.timeout(5):
                while isinstance(await settled(store.ping), ZetaError):  # noqa: ASYNC110 - asked of the store
                    await asyncio.sleep(0.005)
