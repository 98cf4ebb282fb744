"""What a client signs, compared with what the ZETA SDK was seen to send."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from zeta_guard.client import assertions
from zeta_guard.client.assertions import Product, UnsignedJwt
from zeta_guard.client.keys import SoftwareKey
from zeta_guard.jose.encoding import b64url_decode, b64url_encode
from zeta_guard.simulators.card import Card

NOW = 1_800_000_000.7
NONCE = bytes(range(16))


def _parts(token: str) -> tuple[dict[str, object], dict[str, object], bytes, bytes]:
    header, claims, signature = token.split(".")
    signing_input = f"{header}.{claims}".encode()
    return json.loads(b64url_decode(header)), json.loads(b64url_decode(claims)), b64url_decode(signature), signing_input


def _verify(key: ec.EllipticCurvePublicKey, signature: bytes, signing_input: bytes) -> None:
    assert len(signature) == 64
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    key.verify(encode_dss_signature(r, s), signing_input, ec.ECDSA(hashes.SHA256()))


def _assertion(key: SoftwareKey) -> UnsignedJwt:
    statement = assertions.client_statement(client_id="c1", client_key=key, product=Product(), nonce=NONCE, now=NOW)
    return assertions.client_assertion(
        client_id="c1", audience="https://a/token", client_key=key, statement=statement, now=NOW
    )


def test_client_assertion_has_the_members_of_the_sdk_in_its_order() -> None:
    key = SoftwareKey.generate()
    header, claims, signature, signing_input = _parts(_assertion(key).signed(key.sign))
    assert list(header) == ["typ", "alg", "jwk"]
    assert header["typ"] == "JWT"
    assert header["alg"] == "ES256"
    assert list(header["jwk"]) == ["kid", "kty", "alg", "use", "crv", "x", "y"]  # type: ignore[call-overload]
    assert list(claims) == ["iss", "sub", "aud", "exp", "jti", "client_statement"]
    assert claims["aud"] == ["https://a/token"]
    assert claims["exp"] == 1_800_000_030
    _verify(key.private_key.public_key(), signature, signing_input)


def test_client_statement_binds_key_and_nonce() -> None:
    key = SoftwareKey.generate()
    statement = _assertion(key).claims["client_statement"]
    assert isinstance(statement, dict)
    assert list(statement) == ["sub", "platform", "posture_type", "posture", "attestation_timestamp"]
    posture = statement["posture"]
    assert isinstance(posture, dict)
    expected = hashlib.sha256(b64url_decode(key.thumbprint) + NONCE).digest()
    assert posture["attestation_challenge"] == b64url_encode(expected)
    spki = serialization.load_der_public_key(base64.b64decode(str(posture["public_key"])))
    assert spki == key.private_key.public_key()


def test_subject_token_is_labelled_es256_although_the_card_has_a_brainpool_key(card: Card) -> None:
    unsigned = assertions.subject_token(
        client_id="c1",
        telematik_id="1-2012345678",
        certificate_der=card.der,
        audience="https://a/token",
        nonce=NONCE,
        client_jkt="k1",
        dpop_jkt="k2",
        now=NOW,
    )
    header, claims, signature, signing_input = _parts(unsigned.signed(card.sign))
    assert list(header) == ["typ", "kid", "x5c", "alg"]
    assert header["alg"] == "ES256"
    assert header["kid"] == b64url_encode(hashlib.sha256(card.der).digest())
    assert header["x5c"] == [base64.b64encode(card.der).decode()]
    assert list(claims) == ["iss", "exp", "aud", "sub", "iat", "nonce", "jti", "typ", "client_key", "dpop_key"]
    assert claims["nonce"] == b64url_encode(NONCE)
    assert claims["typ"] == "Bearer"
    public_key = x509.load_der_x509_certificate(card.der).public_key()
    assert isinstance(public_key, ec.EllipticCurvePublicKey)
    assert public_key.curve.name == "brainpoolP256r1"
    _verify(public_key, signature, signing_input)


def test_dpop_proof_carries_a_nonce_at_the_token_endpoint_and_a_token_hash_at_resources() -> None:
    key = SoftwareKey.generate()
    at_token = assertions.dpop_proof(key=key, method="post", url="https://a/token", now=NOW, nonce=NONCE)
    assert list(at_token.header) == ["typ", "jwk", "alg"]
    assert list(at_token.claims) == ["iat", "jti", "htm", "htu", "nonce"]
    assert at_token.claims["htm"] == "POST"
    at_resource = assertions.dpop_proof(key=key, method="GET", url="https://a/r", now=NOW, access_token="at")
    assert list(at_resource.claims) == ["iat", "jti", "htm", "htu", "ath"]
    assert at_resource.claims["ath"] == b64url_encode(hashlib.sha256(b"at").digest())


@pytest.mark.parametrize(
    ("url", "htu"),
    [
        ("https://a/vsd?profileVersion=1.0", "https://a/vsd"),
        ("wss://a:8443/ws#x", "https://a:8443/ws"),
        ("ws://a/ws?y#x", "http://a/ws"),
        ("https://A/%7Cx", "https://A/%7Cx"),
    ],
)
def test_proof_url_is_cut_and_nothing_else(url: str, htu: str) -> None:
    assert assertions.proof_url(url) == htu


def test_every_signed_object_gets_a_jti_of_its_own() -> None:
    key = SoftwareKey.generate()
    assert _assertion(key).claims["jti"] != _assertion(key).claims["jti"]


def test_an_unsigned_jwt_can_be_changed_without_touching_the_original() -> None:
    original = UnsignedJwt({"alg": "ES256"}, {"a": 1, "b": 2})
    changed = original.with_claims(a=3).without_claims("b").with_header(alg="none")
    assert (changed.header, changed.claims) == ({"alg": "none"}, {"a": 3})
    assert (original.header, original.claims) == ({"alg": "ES256"}, {"a": 1, "b": 2})
