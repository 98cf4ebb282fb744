"""A refresh token that this process signed is believed by its bytes, and for nothing that may have changed since."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from zeta_guard.authorization_server.own_token import OwnToken
from zeta_guard.authorization_server.recent_token import RecentRefreshTokens
from zeta_guard.jose.jws import CompactJws, verify_es256
from zeta_guard.jose.slot import Slot

if TYPE_CHECKING:
    from tests.authorization_server.conftest import Server

OWN = OwnToken("c1", "s1", "j1", "jkt", 1000, "kid")
TOKEN = "header.claims.signature"
KEYS = frozenset({"kid", "other"})


@pytest.fixture
def recent() -> RecentRefreshTokens:
    memory = RecentRefreshTokens()
    memory.note(TOKEN, OWN)
    return memory


def test_the_same_bytes_are_known(recent: RecentRefreshTokens) -> None:
    assert recent.recall(TOKEN, keys=KEYS, now=999.9) is OWN


@pytest.mark.parametrize("other", ["", TOKEN[:-1], TOKEN + "=", TOKEN.upper(), " " + TOKEN, "\ud800", TOKEN + "\ud800"])
def test_other_bytes_are_not(recent: RecentRefreshTokens, other: str) -> None:
    assert recent.recall(other, keys=KEYS, now=0) is None


def test_an_expired_token_is_not_known_any_more(recent: RecentRefreshTokens) -> None:
    assert recent.recall(TOKEN, keys=KEYS, now=1000) is None


def test_a_token_of_a_key_that_is_over_is_not_known_any_more(recent: RecentRefreshTokens) -> None:
    assert recent.recall(TOKEN, keys={"other"}, now=0) is None


def test_memory_is_bounded(recent: RecentRefreshTokens) -> None:
    for number in range(20_000):
        recent.note(str(number), OWN)
    assert len(recent._tokens) <= 8192
    assert recent.recall(TOKEN, keys=KEYS, now=0) is None


async def test_what_this_process_signed_is_not_verified_again_and_what_another_signed_is(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def verify(jws: CompactJws, key: ec.EllipticCurvePublicKey, slot: Slot) -> None:
        seen.append(str(jws.claims["jti"]))
        verify_es256(jws, key, slot)

    monkeypatch.setattr("zeta_guard.authorization_server.own_token.verify_es256", verify)
    practice = server.practice()
    token = str((await practice.exchange()).json["refresh_token"])
    reply = await practice.refresh(token)
    assert (reply.status, seen) == (200, [])
    token = str(reply.json["refresh_token"])
    # As after a restart, or at another replica.
    server.app.dependencies.recent._tokens.clear()
    assert (await practice.refresh(token)).status == 200
    assert len(seen) == 1


async def test_a_token_is_refused_once_its_key_is_over_though_this_process_signed_it(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    practice = server.practice()
    token = str((await practice.exchange()).json["refresh_token"])
    monkeypatch.setattr(server.app.dependencies.signing_keys, "public", lambda now: {})
    reply = await practice.refresh(token)
    assert reply.refusal == (400, "invalid_grant")
    assert "by a key that is over" in reply.words


async def test_an_expired_token_is_refused_though_this_process_signed_it(server: Server) -> None:
    practice = server.practice()
    reply = await practice.exchange()
    server.clock.advance(reply.json["refresh_expires_in"])
    refused = await practice.refresh(str(reply.json["refresh_token"]))
    assert refused.refusal == (400, "invalid_grant")
    assert "expired" in refused.words


async def test_another_client_cannot_use_it(server: Server) -> None:
    token = str((await server.practice().exchange()).json["refresh_token"])
    other = server.practice(server.card("1-2013-andere-praxis"))
    assert (await other.exchange()).status == 200
    refused = await other.refresh(token)
    assert refused.refusal == (400, "invalid_grant")
    assert "another client" in refused.words
