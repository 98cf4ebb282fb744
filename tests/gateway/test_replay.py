"""A proof is good once, whatever else about the request or about its signature is different the second time."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from zeta_guard.jose.encoding import b64url_decode, b64url_encode

if TYPE_CHECKING:
    from tests.gateway.conftest import MakeWorld, RawBackend, World

To = Callable[..., dict[str, Any]]
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@pytest.fixture
async def world(make_world: MakeWorld, backend: RawBackend, to: To) -> World:
    return await make_world([to(backend)])


def turned(token: str) -> str:
    """The other valid signature ``(r, n - s)`` over the same bytes: anybody can make it without the key."""
    signed, _, signature = token.rpartition(".")
    raw = b64url_decode(signature)
    return f"{signed}.{b64url_encode(raw[:32] + (P256_ORDER - int.from_bytes(raw[32:], 'big')).to_bytes(32, 'big'))}"


async def test_a_proof_with_the_other_valid_signature_is_a_replay(world: World, backend: RawBackend) -> None:
    token = world.issuer.token(world.client)
    proof = world.client.proof(token)
    assert (await world.send(world.head(token=token, proof=turned(proof)))).status == 200
    reply = await world.send(world.head(token=token, proof=proof))
    assert (reply.status, json.loads(reply.body)["error"]) == (401, "invalid_dpop_proof")
    assert len(backend.heads) == 1


async def test_a_proof_with_the_same_jti_is_a_replay_whatever_it_says_beside(world: World) -> None:
    token = world.issuer.token(world.client)
    assert (await world.send(world.head(token=token, proof=world.client.proof(token, jti="j")))).status == 200
    for claims in ({"iat": int(world.clock.now) - 1}, {"nonce": "n"}, {"htu": "https://guard.example/vsd/x?y"}):
        again = world.client.proof(token, jti="j", **claims)
        assert (await world.send(world.head(token=token, proof=again))).status == 401


async def test_the_query_makes_no_fresh_proof(world: World) -> None:
    token = world.issuer.token(world.client)
    proof = world.client.proof(token)
    assert (await world.send(world.head("/vsd/x?a=1", token=token, proof=proof))).status == 200
    assert (await world.send(world.head("/vsd/x?a=2", token=token, proof=proof))).status == 401


async def test_the_other_signature_of_the_token_needs_a_proof_of_its_own(world: World) -> None:
    token = world.issuer.token(world.client)
    proof = world.client.proof(token)
    assert (await world.send(world.head(token=turned(token), proof=proof))).status == 401
    assert (await world.send(world.head(token=token, proof=proof))).status == 200


async def test_of_many_requests_with_one_proof_at_once_exactly_one_passes(world: World, backend: RawBackend) -> None:
    token = world.issuer.token(world.client)
    proof = world.client.proof(token)
    heads = [world.head(token=token, proof=spelling) for spelling in (proof, turned(proof)) for _ in range(10)]
    replies = await asyncio.gather(*(world.send(head) for head in heads))
    assert Counter(reply.status for reply in replies) == {200: 1, 401: 19}
    assert len(backend.heads) == 1
