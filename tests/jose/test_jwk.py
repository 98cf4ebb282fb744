from __future__ import annotations

import contextlib
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from zeta_guard.errors import ZetaError
from zeta_guard.jose.encoding import b64url_decode, b64url_encode
from zeta_guard.jose.jwk import parse_public_jwk, public_jwk, thumbprint
from zeta_guard.jose.slot import Slot

SLOT = Slot("DPoP proof", "invalid_dpop_proof")
# RFC 9449 section 4.1: the key of the example proof; its thumbprint stands in section 6.1.
RFC_9449 = {
    "kty": "EC",
    "x": "l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs",
    "y": "9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA",
    "crv": "P-256",
}


def test_the_key_and_thumbprint_of_rfc_9449_are_read() -> None:
    parsed = parse_public_jwk(RFC_9449, SLOT)
    assert parsed.thumbprint == "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
    assert thumbprint(parsed.key) == parsed.thumbprint
    assert public_jwk(parsed.key)["x"] == RFC_9449["x"]


def test_extra_members_change_neither_key_nor_thumbprint(key: ec.EllipticCurvePrivateKey) -> None:
    full = public_jwk(key.public_key())
    bare = {name: full[name] for name in ("kty", "crv", "x", "y")}
    parsed = parse_public_jwk({**full, "kid": 7, "x5t": [], "key_ops": None}, SLOT)
    assert parsed.thumbprint == parse_public_jwk(bare, SLOT).thumbprint == full["kid"]
    assert parsed.key.public_numbers() == key.public_key().public_numbers()


@pytest.mark.parametrize(
    "change",
    [
        {"d": "AAAA"},
        {"d": None},
        {"kty": "OKP"},
        {"kty": "RSA"},
        {"kty": ["EC"]},
        {"kty": None},
        {"crv": "Ed25519"},
        {"crv": "P-384"},
        {"crv": "p-256"},
        {"crv": "secp256k1"},
        {"crv": "BP-256"},
        {"use": "enc"},
        {"use": None},
        {"alg": "ES384"},
        {"alg": "RS256"},
        {"x": None},
        {"x": 5},
        {"y": ["l8tF"]},
        {"x": ""},
        {"x": RFC_9449["x"] + "="},
        {"x": RFC_9449["x"][:-1]},
        {"x": RFC_9449["x"] + "A"},
        {"x": RFC_9449["x"][:-1] + "t"},
        {"y": RFC_9449["y"].replace("_", "/")},
        {"y": RFC_9449["x"]},
        {"x": b64url_encode(bytes(32)), "y": b64url_encode(bytes(32))},
        {"x": b64url_encode(b"\xff" * 32)},
        {"x": "é" * 43},
    ],
)
def test_every_other_key_is_refused(change: dict[str, Any]) -> None:
    parse_public_jwk(RFC_9449, SLOT)
    with pytest.raises(ZetaError) as caught:
        parse_public_jwk({**RFC_9449, **change}, SLOT)
    assert caught.value.code == "invalid_dpop_proof"


@pytest.mark.parametrize("missing", ["kty", "crv", "x", "y"])
def test_a_required_member_must_be_there(missing: str) -> None:
    with pytest.raises(ZetaError):
        parse_public_jwk({name: value for name, value in RFC_9449.items() if name != missing}, SLOT)


@pytest.mark.parametrize("value", [None, "jwk", 7, [], [RFC_9449], {}])
def test_what_is_no_object_is_refused(value: object) -> None:
    with pytest.raises(ZetaError):
        parse_public_jwk(value, SLOT)


def test_coordinates_with_a_leading_zero_keep_their_32_bytes() -> None:
    for secret in range(1, 2000):
        key = ec.derive_private_key(secret, ec.SECP256R1()).public_key()
        if key.public_numbers().x < 2**248:
            break
    jwk = public_jwk(key)
    assert b64url_decode(jwk["x"])[0] == 0
    assert parse_public_jwk(jwk, SLOT).key.public_numbers() == key.public_numbers()
    short = {**jwk, "x": b64url_encode(b64url_decode(jwk["x"]).lstrip(b"\0"))}
    with pytest.raises(ZetaError):
        parse_public_jwk(short, SLOT)


@pytest.mark.parametrize("border", [31, 33])
def test_coordinates_that_share_64_bytes_unevenly_are_refused(border: int) -> None:
    point = b64url_decode(RFC_9449["x"]) + b64url_decode(RFC_9449["y"])
    jwk = {**RFC_9449, "x": b64url_encode(point[:border]), "y": b64url_encode(point[border:])}
    with pytest.raises(ZetaError, match="32 bytes each"):
        parse_public_jwk(jwk, SLOT)


def test_a_jwk_is_made_of_p256_keys_only(card_key: ec.EllipticCurvePrivateKey) -> None:
    with pytest.raises(ValueError, match="brainpoolP256r1"):
        public_jwk(card_key.public_key())
    with pytest.raises(ValueError, match="brainpoolP256r1"):
        thumbprint(card_key.public_key())


_JSON = st.none() | st.booleans() | st.integers() | st.text(max_size=50)


@given(
    st.dictionaries(
        st.sampled_from(["kty", "crv", "x", "y", "d", "use", "alg"]),
        _JSON | st.sampled_from(["EC", "P-256", "sig", "ES256", RFC_9449["x"], RFC_9449["y"]]),
    )
)
def test_garbage_raises_nothing_but_the_refusal(value: dict[str, Any]) -> None:
    with contextlib.suppress(ZetaError):
        parse_public_jwk(value, SLOT)
