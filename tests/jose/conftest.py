"""Keys and hand-made JWS: what a careful signer would never write must be writable here."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from zeta_guard.jose.dpop import DpopProof, verify_dpop_proof
from zeta_guard.jose.encoding import b64url_encode
from zeta_guard.jose.es256 import sign_raw
from zeta_guard.jose.jwk import public_jwk
from zeta_guard.jose.slot import Slot

URL = "https://guard.example.de/vsdservice/v1/vsdmbundle"
NOW = 1_800_000_000.0


@pytest.fixture(scope="session")
def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture(scope="session")
def other_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture(scope="session")
def card_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.BrainpoolP256R1())


@pytest.fixture
def slot() -> Slot:
    return Slot("client assertion", "invalid_client")


MakeJws = Callable[..., str]


@pytest.fixture(scope="session")
def make_jws(key: ec.EllipticCurvePrivateKey) -> MakeJws:
    """``make_jws(header, claims, key=…)``; header and claims are dictionaries or raw bytes."""

    def make(
        header: dict[str, Any] | bytes, claims: dict[str, Any] | bytes, key: ec.EllipticCurvePrivateKey = key
    ) -> str:
        parts = [part if isinstance(part, bytes) else orjson.dumps(part) for part in (header, claims)]
        signing_input = ".".join(map(b64url_encode, parts))
        return f"{signing_input}.{b64url_encode(sign_raw(key, signing_input.encode()))}"

    return make


MakeProof = Callable[..., str]


@pytest.fixture(scope="session")
def make_proof(make_jws: MakeJws, key: ec.EllipticCurvePrivateKey) -> MakeProof:
    """``make_proof(header={…}, token=…, without=(…), **claims)``: a good proof with these changes."""

    def make(
        header: dict[str, Any] | None = None,
        key: ec.EllipticCurvePrivateKey = key,
        token: str | None = None,
        without: tuple[str, ...] = (),
        **claims: Any,
    ) -> str:
        whole = {"jti": "jti-1", "htm": "GET", "htu": URL, "iat": int(NOW)}
        if token is not None:
            whole["ath"] = b64url_encode(hashlib.sha256(token.encode()).digest())
        whole.update(claims)
        head = {"typ": "dpop+jwt", "alg": "ES256", "jwk": public_jwk(key.public_key()), **(header or {})}
        return make_jws(
            {name: value for name, value in head.items() if name not in without},
            {name: value for name, value in whole.items() if name not in without},
            key,
        )

    return make


Check = Callable[..., DpopProof]


@pytest.fixture(scope="session")
def check() -> Check:
    """``check(*values, **changes)``: verify as the gateway does, with these parameters changed."""

    def run(*values: str, **changes: Any) -> DpopProof:
        parameters: dict[str, Any] = {
            "method": "GET",
            "url": URL,
            "now": NOW,
            "past": 60,
            "ahead": 15,
            "nonce": "absent-ok",
            "access_token": None,
            "status": 401,
        }
        return verify_dpop_proof(values, **{**parameters, **changes})

    return run
