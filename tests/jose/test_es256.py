from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from hypothesis import given
from hypothesis import strategies as st

from zeta_guard.jose.encoding import b64url_decode
from zeta_guard.jose.es256 import (
    CARD_CURVES,
    P256_ONLY,
    MalformedSignature,
    der_signature,
    order_of,
    sign_raw,
    verify_raw,
)
from zeta_guard.jose.jwk import parse_public_jwk
from zeta_guard.jose.slot import Slot

N_P256 = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
N_BRAINPOOL = 0xA9FB57DBA1EEA9BC3E660A909D838D718C397AA3B561A6F7901E0E82974856A7


def _raw(r: int, s: int) -> bytes:
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def _order(n: int) -> bytes:
    return n.to_bytes(32, "big")


def test_the_example_of_rfc_7515_a3_verifies() -> None:
    jwk = {
        "kty": "EC",
        "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    }
    signed = (
        b"eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFt"
        b"cGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
    )
    signature = b64url_decode("DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q")
    key = parse_public_jwk(jwk, Slot("example", "invalid_token")).key
    assert verify_raw(key, signature, signed)
    assert not verify_raw(key, signature, signed + b"x")


@given(st.integers(1, N_P256 - 1) | st.integers(1, 2**140), st.integers(1, N_P256 - 1) | st.integers(1, 2**140))
def test_the_der_form_is_that_of_the_library(r: int, s: int) -> None:
    assert der_signature(_raw(r, s)) == encode_dss_signature(r, s)


@pytest.mark.parametrize("n", [N_P256, N_BRAINPOOL])
def test_integers_outside_of_the_group_are_malformed(n: int) -> None:
    for r, s in [(0, 1), (1, 0), (n, 1), (1, n), (n + 1, 1), (2**256 - 1, 1), (1, 2**256 - 1)]:
        with pytest.raises(MalformedSignature):
            der_signature(_raw(r, s), _order(n))
    for r, s in [(1, 1), (n - 1, n - 1)]:
        assert der_signature(_raw(r, s), _order(n)) == encode_dss_signature(r, s)


@pytest.mark.parametrize("length", [0, 1, 63, 65, 70, 96])
def test_only_64_bytes_are_a_signature(length: int) -> None:
    with pytest.raises(MalformedSignature):
        der_signature(b"\x01" * length)


def test_der_in_place_of_raw_is_malformed(key: ec.EllipticCurvePrivateKey) -> None:
    raw = sign_raw(key, b"text")
    with pytest.raises(MalformedSignature):
        verify_raw(key.public_key(), der_signature(raw), b"text")


@pytest.mark.parametrize(("fixture", "n"), [("key", N_P256), ("card_key", N_BRAINPOOL)])
def test_low_and_high_s_are_both_valid(fixture: str, n: int, request: pytest.FixtureRequest) -> None:
    key: ec.EllipticCurvePrivateKey = request.getfixturevalue(fixture)
    raw = sign_raw(key, b"text")
    r, s = int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")
    for variant in (s, n - s):
        assert verify_raw(key.public_key(), _raw(r, variant), b"text", _order(n))
        assert not verify_raw(key.public_key(), _raw(r, variant), b"other", _order(n))


def test_the_orders_are_those_of_the_curves() -> None:
    # The largest private key is order - 1; the library refuses the order itself.
    for curve, n in ((ec.SECP256R1(), N_P256), (ec.BrainpoolP256R1(), N_BRAINPOOL)):
        assert order_of(ec.derive_private_key(n - 1, curve), CARD_CURVES) == _order(n)
        with pytest.raises(ValueError):
            ec.derive_private_key(n, curve)


def test_a_curve_is_accepted_only_where_the_caller_names_it(
    key: ec.EllipticCurvePrivateKey, card_key: ec.EllipticCurvePrivateKey
) -> None:
    assert order_of(key, P256_ONLY) is not None
    assert order_of(card_key, P256_ONLY) is None
    assert order_of(card_key, CARD_CURVES) is not None
    assert order_of(key, frozenset({"brainpoolP256r1"})) is None
    for foreign in (ec.SECP256K1(), ec.SECP384R1(), ec.BrainpoolP384R1()):
        assert order_of(ec.generate_private_key(foreign), CARD_CURVES) is None
        with pytest.raises(ValueError):
            sign_raw(ec.generate_private_key(foreign), b"text")
