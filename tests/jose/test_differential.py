"""PyJWT as the second opinion: whatever is accepted here, PyJWT accepts and reads the same way."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import jwt
import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from zeta_guard.errors import ZetaError
from zeta_guard.jose.dpop import verify_dpop_proof
from zeta_guard.jose.encoding import b64url_decode, b64url_encode
from zeta_guard.jose.es256 import der_signature, sign_raw
from zeta_guard.jose.jwk import public_jwk
from zeta_guard.jose.jws import parse_jws, sign_es256, verify_es256
from zeta_guard.jose.slot import Slot

SLOT = Slot("token", "invalid_token")
KEY = ec.derive_private_key(3, ec.SECP256R1())
PUBLIC = KEY.public_key()
NOW = 1_800_000_000
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

_SCALARS: st.SearchStrategy[Any] = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=6)
_HEADERS = st.fixed_dictionaries(
    {"alg": st.sampled_from(["ES256"] * 6 + ["none", "HS256", "ES384", "es256", None])},
    optional={"typ": st.sampled_from(["JWT", "JWT", "jwt", None]), "kid": _SCALARS, "crit": st.sampled_from([[], ["x"]]),
              "b64": st.booleans(), "jwk": st.just(dict(public_jwk(PUBLIC)))},
)  # fmt: skip
_CLAIMS = st.dictionaries(
    st.sampled_from(["sub", "iat", "exp", "jti", "a", "ü"]), _SCALARS | st.lists(_SCALARS, max_size=2)
)
_SPELLINGS = st.sampled_from(["as it is"] * 5 + ["padded", "newline", "unused bits", "extra dot", "standard alphabet"])
_SIGNATURES = st.sampled_from(["good"] * 5 + ["other s", "der", "short", "zero", "foreign", "empty"])


def _signature(kind: str, signed: bytes) -> bytes:
    raw = sign_raw(KEY, signed)
    if kind == "other s":
        return raw[:32] + (ORDER - int.from_bytes(raw[32:], "big")).to_bytes(32, "big")
    if kind == "der":
        return der_signature(raw)
    if kind == "foreign":
        return sign_raw(ec.derive_private_key(4, ec.SECP256R1()), signed)
    return {"good": raw, "short": raw[:-1], "zero": bytes(64), "empty": b""}[kind]


def _spell(token: str, spelling: str) -> str:
    header, claims, signature = token.split(".")
    match spelling:
        case "padded":
            claims += "=" * (-len(claims) % 4 or 4)
        case "newline":
            signature += "\n"
        case "unused bits" if signature:
            last = signature[-1]
            signature = signature[:-1] + chr(ord(last) + 1)
        case "extra dot":
            signature += "."
        case "standard alphabet":
            signature = signature.replace("-", "+").replace("_", "/")
    return f"{header}.{claims}.{signature}"


def _token(header: dict[str, Any], claims: bytes, signature: str, spelling: str) -> str:
    signed = f"{b64url_encode(orjson.dumps(header))}.{b64url_encode(claims)}"
    return _spell(f"{signed}.{b64url_encode(_signature(signature, signed.encode()))}", spelling)


def _accepted_here(token: str) -> dict[str, Any] | None:
    try:
        jws = parse_jws(token, SLOT, typ="JWT")
        verify_es256(jws, PUBLIC, SLOT)
    except ZetaError:
        return None
    return dict(jws.claims)


def _accepted_there(token: str, **options: Any) -> dict[str, Any]:
    checks = {"verify_exp": False, "verify_nbf": False, "verify_iat": False, "verify_aud": False, "verify_iss": False}
    checks |= {"verify_sub": False, "verify_jti": False} | options
    return jwt.decode(token, PUBLIC, algorithms=["ES256"], options=checks, leeway=15)  # type: ignore[arg-type]


@settings(max_examples=300)
@example({"alg": "ES256", "typ": "JWT"}, {"a": 1}, "good", "as it is")
@example({"alg": "ES256", "typ": "JWT"}, {"a": 1}, "other s", "as it is")
@given(_HEADERS, _CLAIMS, _SIGNATURES, _SPELLINGS)
def test_a_token_accepted_here_is_accepted_by_pyjwt_with_the_same_claims(
    header: dict[str, Any], claims: dict[str, Any], signature: str, spelling: str
) -> None:
    token = _token(header, orjson.dumps(claims), signature, spelling)
    here = _accepted_here(token)
    if here is not None:
        if not isinstance(header.get("kid", ""), str):
            # PyJWT refuses such a name; here each slot that uses the name checks it.
            header = {**header, "kid": "k"}
            token = _token(header, orjson.dumps(claims), signature, spelling)
        assert _accepted_there(token) == here == claims


@pytest.mark.parametrize("signature", ["good", "other s"])
def test_both_accept_the_plain_case(signature: str) -> None:
    token = _token({"alg": "ES256", "typ": "JWT"}, b'{"sub":"a"}', signature, "as it is")
    assert _accepted_here(token) == _accepted_there(token) == {"sub": "a"}


@given(st.binary(max_size=40) | st.sampled_from([b'{"a":1,"a":2}', b"[]", b'{"a":NaN}', b"{}", b'{"a":1e999}']))
def test_raw_claims_accepted_here_are_accepted_by_pyjwt(claims: bytes) -> None:
    token = _token({"alg": "ES256", "typ": "JWT"}, claims, "good", "as it is")
    here = _accepted_here(token)
    if here is not None:
        assert _accepted_there(token) == here


_TIMES: st.SearchStrategy[Any] = st.integers(NOW - 100, NOW + 100) | _SCALARS
_PROOF_CLAIMS = st.fixed_dictionaries(
    {"htm": st.just("GET"), "htu": st.just("https://guard.example.de/a"), "iat": _TIMES,
     "jti": st.just("j") | _SCALARS},
    optional={"exp": _TIMES, "nbf": _TIMES, "nonce": _SCALARS},
)  # fmt: skip


@settings(max_examples=300)
@given(_PROOF_CLAIMS)
def test_a_proof_accepted_here_has_times_that_pyjwt_accepts(claims: dict[str, Any]) -> None:
    token = sign_es256({"typ": "dpop+jwt", "jwk": dict(public_jwk(PUBLIC))}, claims, KEY)
    with contextlib.suppress(ZetaError):
        verify_dpop_proof(
            [token],
            method="GET",
            url="https://guard.example.de/a",
            now=float(NOW),
            past=60,
            ahead=15,
            nonce="absent-ok",
            access_token=None,
            status=401,
        )
        # PyJWT reads the wall clock; times are therefore moved there before it is asked.
        shift = int(time.time()) - NOW
        moved = {name: value + shift if name in ("iat", "exp", "nbf") else value for name, value in claims.items()}
        token = sign_es256({"typ": "dpop+jwt"}, moved, KEY)
        assert _accepted_there(token, verify_exp=True, verify_nbf=True, verify_iat=True, verify_jti=True)


def test_pyjwt_and_we_agree_on_the_key_of_a_jwk() -> None:
    there = jwt.PyJWK(dict(public_jwk(PUBLIC)), algorithm="ES256").key
    assert there.public_numbers() == PUBLIC.public_numbers()
    raw = b64url_decode(sign_es256({"typ": "JWT"}, {}, KEY).split(".")[2])
    assert len(raw) == 64
