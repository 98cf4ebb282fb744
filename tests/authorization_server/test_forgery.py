"""Forged signatures, changed characters and ambiguous JSON in every signed part of a token request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import hmac as keyed

from zeta_guard.client.keys import SoftwareKey
from zeta_guard.jose.encoding import b64url_decode, b64url_encode

if TYPE_CHECKING:
    from tests.authorization_server.conftest import Server

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def keyed_with_public_key(key: SoftwareKey) -> Any:
    def fold(token: str) -> str:
        signing_input = token.rpartition(".")[0]
        code = keyed.HMAC(key.subject_public_key(), hashes.SHA256())
        code.update(signing_input.encode())
        return f"{signing_input}.{b64url_encode(code.finalize() * 2)}"

    return fold


def signature(raw: bytes) -> Any:
    return lambda token: f"{token.rpartition('.')[0]}.{b64url_encode(raw)}"


def der_signature(token: str) -> str:
    return f"{token.rpartition('.')[0]}.{b64url_encode(b'0' + bytes(70))}"


def truncated(token: str) -> str:
    return token[:-2]


PARTS = [
    ("signed_assertion", (400, "invalid_client")),
    ("signed_subject", (400, "invalid_grant")),
    ("signed_proof", (400, "invalid_dpop_proof")),
]
FORGERIES = {
    "zeros": signature(bytes(64)),
    "order": signature(P256_ORDER.to_bytes(32, "big") * 2),
    "beyond": signature(b"\xff" * 64),
    "der": der_signature,
    "truncated": truncated,
    "absent": lambda token: token.rpartition(".")[0] + ".",
    "two parts": lambda token: token.rpartition(".")[0],
    "four parts": lambda token: token + ".AAAA",
    "padded": lambda token: token + "=",
    "garbage": lambda token: "garbage",
    "not ascii": lambda token: token + "ü",
    "json": lambda token: '{"payload":"x"}',
}


@pytest.mark.parametrize(("part", "refusal"), PARTS)
@pytest.mark.parametrize("forgery", FORGERIES)
async def test_a_forged_signature_is_refused(server: Server, part: str, refusal: tuple[int, str], forgery: str) -> None:
    forged: dict[str, Any] = {part: FORGERIES[forgery]}
    reply = await server.practice().exchange(**forged)
    assert reply.refusal == refusal


@pytest.mark.parametrize(("part", "refusal"), PARTS)
@pytest.mark.parametrize("position", [0, 1, 2])
async def test_a_changed_character_is_noticed(
    server: Server, part: str, refusal: tuple[int, str], position: int
) -> None:
    changed: dict[str, Any] = {part: lambda token: server.tampered(token, position, 20)}
    reply = await server.practice().exchange(**changed)
    assert reply.refusal == refusal


async def test_hmac_with_the_public_key_is_no_signature(server: Server) -> None:
    practice = server.practice()
    fold = keyed_with_public_key(practice.instance_key)
    assert (await practice.exchange(signed_assertion=fold)).refusal == (400, "invalid_client")


@pytest.mark.parametrize(("part", "refusal"), PARTS)
@pytest.mark.parametrize(
    "raw",
    [
        b'{"exp":1,"exp":2}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":123456789012345678901234567890}',
        b'{"a":' + b"[" * 500 + b"]" * 500 + b"}",
        b'{"a":"\xff"}',
        b'{"a":"\\ud800"}',
        b"[]",
        b"",
    ],
)
async def test_claims_without_a_single_reading_are_refused(
    server: Server, part: str, refusal: tuple[int, str], raw: bytes
) -> None:
    practice = server.practice()
    signers = {
        "signed_assertion": practice.instance_key.sign,
        "signed_subject": practice.card.sign,
        "signed_proof": practice.dpop_key.sign,
    }

    def fold(token: str) -> str:
        return server.raw_jws(b64url_decode(token.split(".")[0]), raw, signers[part])

    changed: dict[str, Any] = {part: fold}
    assert (await practice.exchange(**changed)).refusal == refusal
