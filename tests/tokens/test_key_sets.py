from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from zeta_guard.config.outbound import Outbound as OutboundConfig
from zeta_guard.errors import ZetaError
from zeta_guard.http.outbound import Outbound
from zeta_guard.jose.encoding import b64url_encode
from zeta_guard.jose.jwk import public_jwk
from zeta_guard.tokens.key_sets import (
    MAX_KEYS,
    MAX_SET_BYTES,
    STALE_SECONDS,
    UNKNOWN_KID_SECONDS,
    KeySetError,
    LocalKeySet,
    RemoteKeySet,
    parse_key_set,
)

ISSUER = "https://issuer.example.org"
NOW = 1_800_000_000.0
ONE, TWO, THREE = (dict(public_jwk(ec.derive_private_key(number, ec.SECP256R1()).public_key())) for number in (1, 2, 3))


def _document(*keys: dict[str, Any]) -> bytes:
    return orjson.dumps({"keys": list(keys)})


class JwksServer:
    """An issuer's JWKS endpoint on loopback: what it answers is set by the test, what it was asked is counted."""

    def __init__(self) -> None:
        self.body = _document(ONE)
        self.status = 200
        self.headers: dict[str, str] = {}
        self.asked: list[web.Request] = []
        self.gate: asyncio.Event | None = None
        self.url = ""
        self._asked = asyncio.Condition()

    async def was_asked(self, times: int) -> None:
        """Wait until this many requests came."""
        async with self._asked:
            await self._asked.wait_for(lambda: len(self.asked) >= times)

    async def answer(self, request: web.Request) -> web.Response:
        async with self._asked:
            self.asked.append(request)
            self._asked.notify_all()
        if self.gate is not None:
            await self.gate.wait()
        if "ETag" in self.headers and request.headers.get("If-None-Match") == self.headers["ETag"]:
            return web.Response(status=304, headers=self.headers)
        return web.Response(body=self.body, status=self.status, headers=self.headers)


@pytest.fixture
async def server() -> AsyncIterator[JwksServer]:
    server = JwksServer()
    runner = web.ServerRunner(web.Server(server.answer))  # type: ignore[arg-type]
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/jwks"
    yield server
    if server.gate is not None:
        server.gate.set()
    await runner.cleanup()


@pytest.fixture
async def outbound() -> AsyncIterator[Outbound]:
    outbound = Outbound(OutboundConfig(timeout_ms=2000))
    yield outbound
    await outbound.close()


@pytest.fixture
def remote(server: JwksServer, outbound: Outbound) -> RemoteKeySet:
    return RemoteKeySet(ISSUER, server.url, outbound)


async def test_keys_are_fetched_and_found_by_name(server: JwksServer, remote: RemoteKeySet) -> None:
    server.body = _document(ONE, TWO)
    assert remote.key(ONE["kid"]) is None
    assert remote.readiness() is not None
    await remote.refresh(now=NOW)
    key = remote.key(TWO["kid"])
    assert key is not None
    assert public_jwk(key) == TWO
    assert remote.key("unknown") is None
    assert remote.readiness() is None
    assert remote.issuer == ISSUER


async def test_the_version_changes_with_the_keys_only(server: JwksServer, remote: RemoteKeySet) -> None:
    versions = [remote.version]
    for offset, keys in enumerate([(ONE,), (ONE,), (ONE, TWO), (TWO, ONE), (TWO,), ({**ONE, "kid": TWO["kid"]},)]):
        server.body = _document(*keys)
        await remote.refresh(now=NOW + 100 * offset)
        versions.append(remote.version)
    assert [later - earlier for earlier, later in itertools.pairwise(versions)] == [1, 0, 1, 0, 1, 1]


async def test_a_set_is_fetched_at_most_once_in_a_cooldown(server: JwksServer, remote: RemoteKeySet) -> None:
    await remote.refresh(now=NOW)
    await remote.refresh(now=NOW + 9.9)
    await remote.refresh(now=NOW + 9.9, kid="new")
    assert len(server.asked) == 1
    await remote.refresh(now=NOW + 10)
    assert len(server.asked) == 2


async def test_all_who_wait_share_one_fetch(server: JwksServer, remote: RemoteKeySet) -> None:
    server.gate = asyncio.Event()
    waiting = [asyncio.create_task(remote.refresh(now=NOW, kid=ONE["kid"])) for _ in range(20)]
    await server.was_asked(1)
    server.gate.set()
    await asyncio.gather(*waiting)
    assert len(server.asked) == 1
    assert remote.key(ONE["kid"]) is not None


async def test_a_slow_fetch_is_not_joined_by_a_second_one_after_the_cooldown(
    server: JwksServer, remote: RemoteKeySet
) -> None:
    server.gate = asyncio.Event()
    first = asyncio.create_task(remote.refresh(now=NOW))
    await server.was_asked(1)
    second = asyncio.create_task(remote.refresh(now=NOW + 11))
    server.gate.set()
    await asyncio.gather(first, second)
    assert len(server.asked) == 1


async def test_a_caller_that_goes_away_leaves_the_fetch_to_the_others(server: JwksServer, remote: RemoteKeySet) -> None:
    server.gate = asyncio.Event()
    impatient = asyncio.create_task(remote.refresh(now=NOW, kid=ONE["kid"]))
    patient = asyncio.create_task(remote.refresh(now=NOW, kid=ONE["kid"]))
    await server.was_asked(1)
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    server.gate.set()
    await patient
    assert remote.key(ONE["kid"]) is not None


async def test_a_name_sought_in_vain_causes_no_further_fetch_for_a_while(
    server: JwksServer, remote: RemoteKeySet
) -> None:
    await remote.refresh(now=NOW, kid="nobody")
    assert len(server.asked) == 1
    await remote.refresh(now=NOW + UNKNOWN_KID_SECONDS - 1, kid="nobody")
    assert len(server.asked) == 1
    await remote.refresh(now=NOW + UNKNOWN_KID_SECONDS, kid="nobody")
    assert len(server.asked) == 2
    await remote.refresh(now=NOW + 100, kid="n" * 257)
    assert len(server.asked) == 2


async def test_a_key_that_is_new_after_the_cooldown_is_found_although_it_was_asked_for_before(
    server: JwksServer, remote: RemoteKeySet
) -> None:
    await remote.refresh(now=NOW)
    server.body = _document(ONE, TWO)
    await remote.refresh(now=NOW + 5, kid=TWO["kid"])
    assert remote.key(TWO["kid"]) is None
    await remote.refresh(now=NOW + 10, kid=TWO["kid"])
    assert remote.key(TWO["kid"]) is not None


async def test_a_changed_set_gives_names_sought_in_vain_another_chance(
    server: JwksServer, remote: RemoteKeySet
) -> None:
    await remote.refresh(now=NOW, kid=THREE["kid"])
    server.body = _document(ONE, TWO)
    await remote.refresh(now=NOW + 10, kid=TWO["kid"])
    server.body = _document(ONE, TWO, THREE)
    await remote.refresh(now=NOW + 20, kid=THREE["kid"])
    assert remote.key(THREE["kid"]) is not None


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, _document(TWO)),
        (404, b"not found"),
        (302, b""),
        (204, b""),
        (200, b""),
        (200, b"<html>"),
        (200, b"[]"),
        (200, b"{}"),
        (200, b'{"keys":{}}'),
        (200, b'{"keys":[],"keys":[]}'),
        (200, _document()),
        (200, _document({**TWO, "kid": ""})),
        (200, _document({**TWO, "use": "enc"})),
        (200, _document(TWO, {**THREE, "kid": TWO["kid"]})),
        (200, _document(TWO, TWO)),
        (200, b'{"keys":[' + b" " * MAX_SET_BYTES + b"]}"),
    ],
)
async def test_an_error_or_an_unusable_set_never_replaces_a_good_one(
    server: JwksServer, remote: RemoteKeySet, status: int, body: bytes
) -> None:
    await remote.refresh(now=NOW)
    version = remote.version
    server.status, server.body = status, body
    await remote.refresh(now=NOW + 10)
    assert len(server.asked) == 2
    assert remote.key(ONE["kid"]) is not None
    assert remote.version == version
    line = remote.readiness()
    assert line is not None
    assert "old ones serve" in line
    # Nobody may take a key that cannot be fetched now for a key that does not exist.
    with pytest.raises(ZetaError) as caught:
        await remote.refresh(now=NOW + 11, kid=TWO["kid"])
    assert (caught.value.code, caught.value.status) == ("temporarily_unavailable", 503)
    await remote.refresh(now=NOW + 11, kid=ONE["kid"])
    server.status, server.body = 200, _document(ONE, TWO)
    await remote.refresh(now=NOW + 20, kid=TWO["kid"])
    assert remote.key(TWO["kid"]) is not None
    assert remote.readiness() is None


async def test_a_stale_set_serves_a_day_past_its_time_and_not_longer(server: JwksServer, remote: RemoteKeySet) -> None:
    server.headers = {"Cache-Control": "max-age=600", "ETag": '"one"'}
    await remote.refresh(now=NOW)
    end = NOW + 600 + STALE_SECONDS
    server.status, server.headers = 500, {}
    await remote.refresh(now=end - 1, kid=ONE["kid"])
    assert remote.key(ONE["kid"]) is not None
    version = remote.version
    with pytest.raises(ZetaError) as caught:
        await remote.refresh(now=end + 9, kid=ONE["kid"])
    assert (caught.value.code, caught.value.status) == ("temporarily_unavailable", 503)
    assert remote.key(ONE["kid"]) is None
    # What was verified with these keys is not believed from memory either.
    assert remote.version > version
    line = remote.readiness()
    assert line is not None
    assert "24 h" in line
    # The issuer is back with the set of before: it must not be taken for known.
    server.status, server.headers = 200, {"ETag": '"one"'}
    await remote.refresh(now=end + 19, kid=ONE["kid"])
    assert remote.key(ONE["kid"]) is not None
    assert remote.readiness() is None


async def test_an_unchanged_set_is_not_stale(server: JwksServer, remote: RemoteKeySet) -> None:
    server.headers = {"Cache-Control": "max-age=600", "ETag": '"one"'}
    await remote.refresh(now=NOW)
    await remote.refresh(now=NOW + STALE_SECONDS)
    server.status, server.headers = 500, {}
    await remote.refresh(now=NOW + STALE_SECONDS + 700)
    assert remote.key(ONE["kid"]) is not None


@pytest.mark.parametrize("kid", [None, "any"])
async def test_without_any_set_the_answer_is_503(outbound: Outbound, kid: str | None) -> None:
    # Port 9 of loopback refuses.
    remote = RemoteKeySet(ISSUER, "http://127.0.0.1:9/jwks", outbound)
    for offset in (0, 1, 20):
        with pytest.raises(ZetaError) as caught:
            await remote.refresh(now=NOW + offset, kid=kid)
        assert caught.value.status == 503
        assert "Retry-After" in caught.value.headers
        assert "127.0.0.1" not in caught.value.description


async def test_an_unchanged_set_is_not_sent_again(server: JwksServer, remote: RemoteKeySet) -> None:
    server.headers["ETag"] = '"one"'
    await remote.refresh(now=NOW)
    await remote.refresh(now=NOW + 10)
    assert [request.headers.get("If-None-Match") for request in server.asked] == [None, '"one"']
    assert remote.key(ONE["kid"]) is not None
    assert remote.readiness() is None
    assert remote.loaded_at == NOW + 10
    server.headers["ETag"] = '"two"'
    server.body = _document(TWO)
    await remote.refresh(now=NOW + 20)
    assert remote.key(ONE["kid"]) is None
    assert remote.key(TWO["kid"]) is not None


def test_a_document_beyond_the_limit_is_refused_before_it_is_read() -> None:
    document = _document(ONE)
    assert parse_key_set(document + b" " * (MAX_SET_BYTES - len(document))).keys() == {ONE["kid"]}
    with pytest.raises(KeySetError, match="larger"):
        parse_key_set(document + b" " * (MAX_SET_BYTES - len(document) + 1))


async def test_not_modified_without_a_set_is_an_error(server: JwksServer, remote: RemoteKeySet) -> None:
    server.status = 304
    with pytest.raises(ZetaError):
        await remote.refresh(now=NOW)
    assert remote.due_at == NOW + 10


async def test_the_etag_of_an_unusable_set_is_not_remembered(server: JwksServer, remote: RemoteKeySet) -> None:
    server.headers["ETag"] = '"bad"'
    server.body = _document()
    with pytest.raises(ZetaError):
        await remote.refresh(now=NOW)
    server.body = _document(ONE)
    await remote.refresh(now=NOW + 10)
    assert server.asked[1].headers.get("If-None-Match") is None
    assert remote.key(ONE["kid"]) is not None


@pytest.mark.parametrize(
    ("cache_control", "seconds"),
    [
        (None, 300),
        ("public, max-age=600", 600),
        ("max-age=600, public", 600),
        ("Public,Max-Age=600", 600),
        ("max-age=1", 30),
        ("max-age=999999", 3600),
        ("no-store", 30),
        ("no-cache, max-age=600", 30),
        ("s-maxage=600", 300),
        ("max-age=soon", 300),
    ],
)
async def test_the_set_is_due_again_when_cache_control_says_so(
    server: JwksServer, remote: RemoteKeySet, cache_control: str | None, seconds: int
) -> None:
    if cache_control is not None:
        server.headers["Cache-Control"] = cache_control
    await remote.refresh(now=NOW)
    assert remote.due_at == NOW + seconds


async def test_after_a_failure_the_set_is_due_after_the_cooldown(server: JwksServer, remote: RemoteKeySet) -> None:
    server.status = 500
    with pytest.raises(ZetaError):
        await remote.refresh(now=NOW)
    assert remote.due_at == NOW + 10


async def test_the_loop_fetches_when_the_set_is_due_and_goes_on_after_failures(
    server: JwksServer, outbound: Outbound
) -> None:
    remote = RemoteKeySet(ISSUER, server.url, outbound, cooldown=0.01)
    clock = NOW

    def read_clock() -> float:
        # Between two readings every set becomes outdated.
        nonlocal clock
        clock += 10_000
        return clock

    server.status = 500
    loop = asyncio.create_task(remote.keep_fresh(read_clock))
    await server.was_asked(2)
    server.status = 200
    # When a further question comes, the answer to the one before has been taken.
    await server.was_asked(4)
    assert remote.key(ONE["kid"]) is not None
    server.body = _document(TWO)
    await server.was_asked(6)
    assert remote.key(TWO["kid"]) is not None
    loop.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await loop
    await remote.close()


async def test_closing_cancels_a_fetch_under_way(server: JwksServer, remote: RemoteKeySet) -> None:
    await remote.close()
    server.gate = asyncio.Event()
    waiting = asyncio.create_task(remote.refresh(now=NOW))
    await server.was_asked(1)
    await remote.close()
    with pytest.raises(ZetaError):
        await asyncio.wait_for(waiting, 1)


def test_only_ec_p256_signing_keys_with_a_name_are_taken(key_set: LocalKeySet) -> None:
    numbers = rsa.generate_private_key(65537, 2048).public_key().public_numbers()
    rsa_key = {
        "kty": "RSA",
        "kid": "rsa",
        "use": "sig",
        "e": "AQAB",
        "n": b64url_encode(numbers.n.to_bytes(256, "big")),
    }
    ignored = [
        rsa_key,
        {**rsa_key, "kid": ONE["kid"]},
        {**TWO, "kid": None},
        {name: value for name, value in TWO.items() if name != "kid"},
        {**TWO, "kid": 5},
        {**TWO, "kid": "enc", "use": "enc"},
        {**TWO, "kid": "es384", "alg": "ES384"},
        {**TWO, "kid": "sign", "key_ops": ["sign"]},
        {**TWO, "kid": "ops", "key_ops": "verify"},
        {**TWO, "kid": "private", "d": "AAAA"},
        {**TWO, "kid": "off", "x": TWO["y"]},
        {"kty": "OKP", "crv": "Ed25519", "kid": "okp", "x": TWO["x"]},
        {"kty": "oct", "kid": "oct", "k": "AAAA"},
        "text",
        None,
        [],
    ]
    document = orjson.dumps({"keys": [*ignored, ONE, {**THREE, "kid": "own", "key_ops": ["verify"]}], "more": 1})
    assert set(parse_key_set(document)) == {ONE["kid"], "own"}


def test_a_set_has_a_limited_number_of_keys() -> None:
    keys = [{**ONE, "kid": f"key-{number}"} for number in range(MAX_KEYS)]
    assert len(parse_key_set(_document(*keys))) == MAX_KEYS
    with pytest.raises(KeySetError):
        parse_key_set(_document(*keys, ONE))


@given(st.binary(max_size=50) | st.sampled_from([b'{"keys":[1]}', b'{"keys":[{"kid":{}}]}', b'{"keys":null}']))
def test_garbage_is_a_key_set_error(document: bytes) -> None:
    with pytest.raises(KeySetError):
        parse_key_set(document)


async def test_the_own_keys_are_never_behind(key_set: LocalKeySet, keys: Any) -> None:
    (kid,) = keys()
    before = key_set.version
    assert key_set.key(kid) is not None
    assert key_set.key("other") is None
    assert key_set.version == before
    await key_set.refresh(now=NOW, kid="other")
    keys.shown.clear()
    assert key_set.version > before
    assert key_set.key(kid) is None
