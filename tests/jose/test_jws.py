from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from zeta_guard.errors import ZetaError
from zeta_guard.jose.encoding import b64url_encode
from zeta_guard.jose.es256 import der_signature
from zeta_guard.jose.jwk import thumbprint
from zeta_guard.jose.jws import (
    CARD_CURVES,
    KeySigner,
    parse_jws,
    sign_es256,
    sign_jws,
    verify_es256,
)
from zeta_guard.jose.slot import Slot

SLOT = Slot("client assertion", "invalid_client")
GOOD: dict[str, Any] = {"typ": "JWT", "alg": "ES256"}
MakeJws = Callable[..., str]


def _verify(token: str, key: ec.EllipticCurvePublicKey, **parameters: Any) -> dict[str, Any]:
    jws = parse_jws(token, SLOT, typ="JWT")
    verify_es256(jws, key, SLOT, **parameters)
    return dict(jws.claims)


def test_what_was_signed_verifies(key: ec.EllipticCurvePrivateKey) -> None:
    token = sign_es256({"typ": "JWT"}, {"sub": "a", "n": [1, {"ü": True}]}, key)
    assert _verify(token, key.public_key()) == {"sub": "a", "n": [1, {"ü": True}]}


def test_a_signer_puts_its_name_into_the_header(key: ec.EllipticCurvePrivateKey) -> None:
    signer = KeySigner(key)
    token = sign_jws({"typ": "at+jwt", "alg": "none", "kid": "other"}, {"sub": "a"}, signer)
    jws = parse_jws(token, SLOT, typ="at+jwt")
    assert jws.header == {"typ": "at+jwt", "alg": "ES256", "kid": thumbprint(key.public_key())}
    verify_es256(jws, key.public_key(), SLOT)
    assert "key" not in repr(signer)


def test_another_key_does_not_verify(key: ec.EllipticCurvePrivateKey, other_key: ec.EllipticCurvePrivateKey) -> None:
    with pytest.raises(ZetaError, match="signature is not valid"):
        _verify(sign_es256({"typ": "JWT"}, {}, key), other_key.public_key())


def test_a_card_signature_on_brainpool_verifies_only_where_cards_are_expected(
    card_key: ec.EllipticCurvePrivateKey,
) -> None:
    token = sign_es256({"typ": "JWT"}, {"sub": "a"}, card_key)
    assert _verify(token, card_key.public_key(), curves=CARD_CURVES) == {"sub": "a"}
    with pytest.raises(ZetaError, match="curve"):
        _verify(token, card_key.public_key())


@pytest.mark.parametrize("curve", [ec.SECP256K1(), ec.SECP384R1()])
def test_keys_on_other_curves_are_refused(key: ec.EllipticCurvePrivateKey, curve: ec.EllipticCurve) -> None:
    with pytest.raises(ZetaError, match="curve"):
        _verify(sign_es256({"typ": "JWT"}, {}, key), ec.generate_private_key(curve).public_key(), curves=CARD_CURVES)


@pytest.mark.parametrize(
    "alg",
    ["none", "None", "HS256", "RS256", "PS256", "ES384", "ES512", "ES256K", "EdDSA", "es256", "", None, 256, ["ES256"]],
)
def test_every_other_algorithm_is_refused(make_jws: MakeJws, alg: object) -> None:
    with pytest.raises(ZetaError, match="'alg' must be ES256"):
        parse_jws(make_jws({**GOOD, "alg": alg}, {}), SLOT, typ="JWT")


@pytest.mark.parametrize("header", [{"typ": "JWT"}, {"alg": "ES256"}])
def test_algorithm_and_type_must_be_there(make_jws: MakeJws, header: dict[str, Any]) -> None:
    with pytest.raises(ZetaError, match="must be"):
        parse_jws(make_jws(header, {}), SLOT, typ="JWT")


@pytest.mark.parametrize("typ", ["jwt", "at+jwt", "application/JWT", "JWT ", None, 5, ["JWT"], {"JWT": 1}])
def test_every_other_type_is_refused(make_jws: MakeJws, typ: object) -> None:
    with pytest.raises(ZetaError, match="'typ' must be JWT"):
        parse_jws(make_jws({**GOOD, "typ": typ}, {}), SLOT, typ="JWT")


def test_a_slot_may_take_several_types(make_jws: MakeJws) -> None:
    token = make_jws({**GOOD, "typ": "b+jwt"}, {})
    assert parse_jws(token, SLOT, typ=("a+jwt", "b+jwt")).header["typ"] == "b+jwt"
    with pytest.raises(ZetaError, match=r"a\+jwt or c\+jwt"):
        parse_jws(token, SLOT, typ=("a+jwt", "c+jwt"))


@pytest.mark.parametrize("extension", [{"crit": ["exp"]}, {"crit": []}, {"crit": None}, {"b64": False}, {"b64": True}])
def test_critical_extensions_are_refused(make_jws: MakeJws, extension: dict[str, Any]) -> None:
    with pytest.raises(ZetaError, match="critical"):
        parse_jws(make_jws({**GOOD, **extension}, {}), SLOT, typ="JWT")


def test_the_limit_counts_bytes_and_holds_exactly(make_jws: MakeJws) -> None:
    token = make_jws(GOOD, {"pad": "x" * 100})
    assert parse_jws(token, SLOT, typ="JWT", max_bytes=len(token))
    with pytest.raises(ZetaError, match=f"longer than {len(token) - 1} bytes"):
        parse_jws(token, SLOT, typ="JWT", max_bytes=len(token) - 1)


def test_der_in_place_of_the_raw_signature_is_refused(make_jws: MakeJws) -> None:
    head, claims, signature = make_jws(GOOD, {}).split(".")
    der = b64url_encode(der_signature(bytes.fromhex("7f" * 64)))
    with pytest.raises(ZetaError, match="64 bytes"):
        parse_jws(f"{head}.{claims}.{der}", SLOT, typ="JWT")
    assert len(signature) == 86


@pytest.mark.parametrize("signature", [bytes(64), b"\xff" * 64, bytes(32) + b"\x01" * 32, b"\x01" * 32 + bytes(32)])
def test_integers_out_of_range_are_refused_before_verifying(
    make_jws: MakeJws, key: ec.EllipticCurvePrivateKey, signature: bytes
) -> None:
    head, claims, _ = make_jws(GOOD, {}).split(".")
    with pytest.raises(ZetaError, match="out of range"):
        _verify(f"{head}.{claims}.{b64url_encode(signature)}", key.public_key())


@pytest.mark.parametrize("mangle", [
    lambda h, c, s: f"{h}.{c}",
    lambda h, c, s: f"{h}.{c}.{s}.",
    lambda h, c, s: f"{h}..{c}.{s}",
    lambda h, c, s: f".{c}.{s}",
    lambda h, c, s: f"{h}..{s}",
    lambda h, c, s: f"{h}.{c}.",
    lambda h, c, s: f"{h}.{c}.{s}=",
    lambda h, c, s: f" {h}.{c}.{s}",
    lambda h, c, s: f"{h}.{c}.{s}\n",
    lambda h, c, s: f"{h}=.{c}.{s}",
    lambda h, c, s: f"{h}.{c}=.{s}",
    lambda h, c, s: f"{h}.{c[:-1]}.{s}",
    lambda h, c, s: f"{h}.{c}.{s[:-1]}B",
    lambda h, c, s: f"{h}.{c}.{s[:-1]}é",
    lambda h, c, s: f"{h}.{c}.{s[:-1]}\ud800",
    lambda h, c, s: "",
    lambda h, c, s: "..",
])  # fmt: skip
def test_other_spellings_are_refused(make_jws: MakeJws, mangle: Callable[[str, str, str], str]) -> None:
    with pytest.raises(ZetaError):
        parse_jws(mangle(*make_jws(GOOD, {"a": "bcd"}).split(".")), SLOT, typ="JWT")


@pytest.mark.parametrize("raw", [b'{"typ":"JWT","alg":"ES256","alg":"ES256"}', b"[]", b"", b"null"])
def test_ambiguous_headers_are_refused(make_jws: MakeJws, raw: bytes) -> None:
    with pytest.raises(ZetaError):
        parse_jws(make_jws(raw, {}), SLOT, typ="JWT")


@pytest.mark.parametrize("raw", [b'{"a":1,"a":1}', b"[]", b"", b'"claims"', b'{"a":NaN}'])
def test_ambiguous_claims_are_refused(make_jws: MakeJws, raw: bytes) -> None:
    with pytest.raises(ZetaError):
        parse_jws(make_jws(GOOD, raw), SLOT, typ="JWT")


@given(st.text(max_size=60) | st.text(alphabet="eyJ0A.-_=", max_size=120))
def test_garbage_raises_nothing_but_the_refusal(token: str) -> None:
    with contextlib.suppress(ZetaError):
        parse_jws(token, SLOT, typ="JWT")


@given(st.data())
def test_no_changed_token_verifies(data: st.DataObject) -> None:
    key = ec.derive_private_key(7, ec.SECP256R1())
    token = sign_es256({"typ": "JWT", "kid": "k"}, {"sub": "abc", "iat": 5}, key)
    position = data.draw(st.integers(0, len(token) - 1))
    character = data.draw(st.characters() | st.sampled_from("ABCabc019-_.=+/ "))
    changed = data.draw(
        st.sampled_from(
            [token[:position] + character + token[position + 1 :], token[:position] + character + token[position:],
             token[:position] + token[position + 1 :]]
        )
    )  # fmt: skip
    if changed != token:
        with pytest.raises(ZetaError):
            _verify(changed, key.public_key())


def test_each_signer_and_type_has_a_header_of_its_own_however_often_it_signs() -> None:
    signers = [KeySigner(ec.generate_private_key(ec.SECP256R1())) for _ in range(2)]
    for _ in range(2):
        for signer in signers:
            for typ in ("at+jwt", "refresh+jwt"):
                header = parse_jws(sign_jws({"typ": typ}, {"a": 1}, signer), SLOT, typ=typ).header
                assert header == {"typ": typ, "alg": "ES256", "kid": signer.kid}
            more = sign_jws({"typ": "at+jwt", "x": 1}, {"a": 1}, signer)
            assert parse_jws(more, SLOT, typ="at+jwt").header["x"] == 1
