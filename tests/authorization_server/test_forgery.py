"""Forged signatures, changed characters and ambiguous JSON in every signed part of a token request."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import hmac as keyed
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from zeta_guard.jose.encoding import b64url_decode, b64url_encode

if TYPE_CHECKING:
    from tests.authorization_server.conftest import Server

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def keyed_with(secret: bytes) -> Callable[[bytes], bytes]:
    def sign(signing_input: bytes) -> bytes:
        code = keyed.HMAC(secret, hashes.SHA256())
        code.update(signing_input)
        return code.finalize()

    return sign


def relabelled(alg: str, sign: Callable[[bytes], bytes]) -> Any:
    """The same claims under another algorithm, correctly signed with it."""

    def fold(token: str) -> str:
        header, claims, _ = token.split(".")
        changed = {**json.loads(b64url_decode(header)), "alg": alg}
        signing_input = f"{b64url_encode(json.dumps(changed).encode())}.{claims}"
        return f"{signing_input}.{b64url_encode(sign(signing_input.encode()))}"

    return fold


def signature(raw: bytes) -> Any:
    return lambda token: f"{token.rpartition('.')[0]}.{b64url_encode(raw)}"


def der_signature(token: str) -> str:
    """The good signature, as ASN.1 has it."""
    signed, _, raw = token.rpartition(".")
    r, s = (int.from_bytes(half, "big") for half in (b64url_decode(raw)[:32], b64url_decode(raw)[32:]))
    return f"{signed}.{b64url_encode(encode_dss_signature(r, s))}"


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


@pytest.mark.parametrize(("part", "refusal"), PARTS)
@pytest.mark.parametrize("form", ["der", "pem", "jwk"])
async def test_hmac_with_the_public_key_is_no_signature(
    server: Server, part: str, refusal: tuple[int, str], form: str
) -> None:
    practice = server.practice()
    keys: dict[str, Any] = {
        "signed_assertion": practice.instance_key.private_key.public_key(),
        "signed_subject": practice.card.certificate.public_key(),
        "signed_proof": practice.dpop_key.private_key.public_key(),
    }
    encodings = {
        "der": keys[part].public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "pem": keys[part].public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "jwk": json.dumps(practice.instance_key.jwk).encode(),
    }
    forged: dict[str, Any] = {part: relabelled("HS256", keyed_with(encodings[form]))}
    assert (await practice.exchange(**forged)).refusal == refusal


@pytest.mark.parametrize(("part", "refusal"), PARTS)
@pytest.mark.parametrize("alg", ["none", "RS256", "ES384", "ES256K", "EdDSA", "PS256", "es256", ""])
async def test_another_algorithm_is_refused_even_when_its_signature_is_right(
    server: Server, part: str, refusal: tuple[int, str], alg: str
) -> None:
    practice = server.practice()
    signers: dict[str, Any] = {
        "signed_assertion": practice.instance_key.sign,
        "signed_subject": practice.card.sign,
        "signed_proof": practice.dpop_key.sign,
    }
    sign = signers[part] if alg != "none" else lambda _: b""
    forged: dict[str, Any] = {part: relabelled(alg, sign)}
    assert (await practice.exchange(**forged)).refusal == refusal


@pytest.mark.parametrize(("part", "refusal"), PARTS)
@pytest.mark.parametrize(
    ("more", "status"),
    [
        (b'"a":9007199254740991', 200),
        (b'"exp":1,"exp":2', 400),
        (b'"a":1,"a":1', 400),
        (b'"a":{"b":1,"b":2}', 400),
        (b'"a":NaN', 400),
        (b'"a":Infinity', 400),
        (b'"a":123456789012345678901234567890', 400),
        (b'"a":' + b"[" * 500 + b"]" * 500, 400),
        (b'"a":"\xff"', 400),
        (b'"a":"\\ud800"', 400),
        (b'"a":01', 400),
    ],
)
async def test_claims_without_a_single_reading_are_refused(
    server: Server, part: str, refusal: tuple[int, str], more: bytes, status: int
) -> None:
    practice = server.practice()
    signers = {
        "signed_assertion": practice.instance_key.sign,
        "signed_subject": practice.card.sign,
        "signed_proof": practice.dpop_key.sign,
    }

    def fold(token: str) -> str:
        # Everything else is as it should be: what is added alone decides.
        header, claims = (b64url_decode(text) for text in token.split(".")[:2])
        return server.raw_jws(header, claims[:-1] + b"," + more + b"}", signers[part])

    changed: dict[str, Any] = {part: fold}
    reply = await practice.exchange(**changed)
    assert reply.status == status
    if status != 200:
        assert reply.refusal == refusal


@pytest.mark.parametrize(("part", "refusal"), PARTS)
@pytest.mark.parametrize("raw", [b"[]", b"", b"null", b'"text"', b"{", b"{}garbage"])
async def test_claims_that_are_no_object_are_refused(
    server: Server, part: str, refusal: tuple[int, str], raw: bytes
) -> None:
    practice = server.practice()
    signers = {
        "signed_assertion": practice.instance_key.sign,
        "signed_subject": practice.card.sign,
        "signed_proof": practice.dpop_key.sign,
    }
    changed: dict[str, Any] = {
        part: lambda token: server.raw_jws(b64url_decode(token.split(".")[0]), raw, signers[part])
    }
    assert (await practice.exchange(**changed)).refusal == refusal
