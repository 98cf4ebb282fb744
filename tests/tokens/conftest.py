"""An issuer that signs what it is told, and the key set of its keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from zeta_guard.jose.jws import KeySigner, sign_jws
from zeta_guard.tokens.key_sets import LocalKeySet

NOW = 1_800_000_000
ISSUER = "https://guard.example.de"


@pytest.fixture(scope="session")
def signer() -> KeySigner:
    return KeySigner(ec.generate_private_key(ec.SECP256R1()))


@pytest.fixture(scope="session")
def other_signer() -> KeySigner:
    return KeySigner(ec.generate_private_key(ec.SECP256R1()))


MakeToken = Callable[..., str]


@pytest.fixture(scope="session")
def make_token(signer: KeySigner) -> MakeToken:
    """``make_token(header={…}, signer=…, without=(…), **claims)``: a good access token with these changes."""

    def make(
        header: dict[str, Any] | None = None, signer: KeySigner = signer, without: tuple[str, ...] = (), **claims: Any
    ) -> str:
        whole: dict[str, Any] = {
            "iss": ISSUER,
            "sub": "1-2012345678",
            "aud": [ISSUER + "/"],
            "scope": "vsdservice popp",
            "client_id": "client-1",
            "iat": NOW,
            "exp": NOW + 300,
            "jti": "jti-1",
            "sid": "session-1",
            "ver": 1,
            "cnf": {"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"},
            "acr": "gematik-ehealth-loa-high",
            "ip_address": "192.0.2.7",
            "profession_oid": "1.2.276.0.76.4.50",
            "common_name": "Praxis Dr. Muster",
            "organization_name": "Praxis",
            "product_id": "product",
            "product_version": "1.0.0",
            "platform": "linux",
            **claims,
        }
        whole = {name: value for name, value in whole.items() if name not in without}
        return sign_jws({"typ": "at+jwt", **(header or {})}, whole, signer)

    return make


class Keys:
    """The own keys as they change."""

    def __init__(self, *signers: KeySigner) -> None:
        self.shown = list(signers)

    def __call__(self) -> dict[str, ec.EllipticCurvePublicKey]:
        return {signer.kid: signer.key.public_key() for signer in self.shown}


@pytest.fixture
def keys(signer: KeySigner) -> Keys:
    return Keys(signer)


@pytest.fixture
def key_set(keys: Keys) -> LocalKeySet:
    return LocalKeySet(ISSUER, keys)
