from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from zeta_guard.errors import ZetaError
from zeta_guard.jose.encoding import b64url_encode
from zeta_guard.jose.jws import KeySigner, sign_es256, sign_jws
from zeta_guard.tokens.access_token import AccessToken
from zeta_guard.tokens.key_sets import LocalKeySet
from zeta_guard.tokens.verifier import AccessTokenVerifier, MissingKey

MakeToken = Callable[..., str]
NOW = 1_800_000_000.0
ISSUER = "https://guard.example.de"
FOREIGN = "https://issuer.example.org"


@pytest.fixture
def verifier(key_set: LocalKeySet) -> AccessTokenVerifier:
    return AccessTokenVerifier({ISSUER: key_set}, max_bytes=16_384)


def _accept(verifier: AccessTokenVerifier, token: str, now: float = NOW) -> AccessToken:
    accepted = verifier.verify(token, now=now)
    assert isinstance(accepted, AccessToken)
    return accepted


def test_a_good_token_is_read_completely(verifier: AccessTokenVerifier, make_token: MakeToken) -> None:
    token = _accept(verifier, make_token())
    assert token.issuer == ISSUER
    assert token.telematik_id == "1-2012345678"
    assert token.audience == (ISSUER + "/",)
    assert token.scopes == {"vsdservice", "popp"}
    assert (token.issued_at, token.expires_at) == (int(NOW), int(NOW) + 300)
    assert (token.jti, token.session_id, token.client_id) == ("jti-1", "session-1", "client-1")
    assert token.jkt == "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
    assert (token.acr, token.ip_address) == ("gematik-ehealth-loa-high", "192.0.2.7")
    assert (token.profession_oid, token.common_name) == ("1.2.276.0.76.4.50", "Praxis Dr. Muster")
    assert token.organization_name == "Praxis"
    assert (token.product_id, token.product_version, token.platform) == ("product", "1.0.0", "linux")
    assert token.claims["ver"] == 1


def test_verified_claims_cannot_be_changed(verifier: AccessTokenVerifier, make_token: MakeToken) -> None:
    with pytest.raises(TypeError):
        _accept(verifier, make_token()).claims["sub"] = "x"  # type: ignore[index]


def test_times_audience_and_scope_are_left_to_each_request(
    verifier: AccessTokenVerifier, make_token: MakeToken
) -> None:
    assert _accept(verifier, make_token(exp=1, iat=int(NOW) + 999, aud="other", scope="")).scopes == frozenset()


def test_optional_claims_may_be_absent(verifier: AccessTokenVerifier, make_token: MakeToken) -> None:
    token = _accept(verifier, make_token(without=("organization_name", "ip_address", "ver")))
    assert (token.organization_name, token.ip_address) == (None, None)


@pytest.mark.parametrize(
    "missing",
    ["iss", "sub", "aud", "scope", "client_id", "iat", "exp", "jti", "sid", "cnf", "acr", "profession_oid",
     "common_name", "product_id", "product_version", "platform"],
)  # fmt: skip
def test_a_required_claim_must_be_there(verifier: AccessTokenVerifier, make_token: MakeToken, missing: str) -> None:
    with pytest.raises(ZetaError, match=f"'{missing}'") as caught:
        verifier.verify(make_token(without=(missing,)), now=NOW)
    assert (caught.value.code, caught.value.status) == ("invalid_token", 401)


@pytest.mark.parametrize(
    "claims",
    [
        {"sub": 5}, {"sub": ""}, {"sub": None}, {"aud": []}, {"aud": [5]}, {"aud": None}, {"scope": ["a"]},
        {"scope": None}, {"client_id": {}}, {"iat": True}, {"iat": "5"}, {"exp": 5.5}, {"exp": None}, {"jti": 5},
        {"sid": []}, {"ver": 3}, {"ver": True}, {"ver": "1"}, {"ver": None}, {"cnf": "x"}, {"cnf": {}},
        {"cnf": {"jkt": 5}}, {"acr": 1}, {"ip_address": None}, {"ip_address": 5}, {"profession_oid": []},
        {"common_name": None}, {"organization_name": None}, {"organization_name": ""}, {"product_id": 0},
        {"product_version": 1.0}, {"platform": False},
    ],
)  # fmt: skip
def test_a_claim_of_another_type_is_refused(
    verifier: AccessTokenVerifier, make_token: MakeToken, claims: dict[str, Any]
) -> None:
    with pytest.raises(ZetaError, match="'"):
        verifier.verify(make_token(**claims), now=NOW)


@pytest.mark.parametrize("typ", ["JWT", "refresh+jwt", "dpop+jwt", "AT+JWT", "application/at+jwt", None, 5])
def test_every_other_type_of_jwt_is_refused(verifier: AccessTokenVerifier, make_token: MakeToken, typ: object) -> None:
    with pytest.raises(ZetaError, match="'typ' must be at"):
        verifier.verify(make_token(header={"typ": typ}), now=NOW)


@pytest.mark.parametrize("issuer", ["https://guard.example.de/", "https://GUARD.example.de", FOREIGN, "x"])
def test_the_issuer_is_compared_exactly(verifier: AccessTokenVerifier, make_token: MakeToken, issuer: str) -> None:
    with pytest.raises(ZetaError, match="'iss' is not an issuer that is trusted here"):
        verifier.verify(make_token(iss=issuer), now=NOW)


def test_an_unknown_key_is_reported_and_accepted_once_it_is_there(
    verifier: AccessTokenVerifier, make_token: MakeToken, keys: Any, other_signer: KeySigner
) -> None:
    token = make_token(signer=other_signer)
    assert verifier.verify(token, now=NOW) == MissingKey(ISSUER, other_signer.kid)
    keys.shown.append(other_signer)
    assert _accept(verifier, token)


@pytest.mark.parametrize("kid", [None, "", 5, ["k"]])
def test_a_token_without_the_name_of_its_key_is_refused(
    verifier: AccessTokenVerifier, signer: KeySigner, kid: object
) -> None:
    for header in ({"typ": "at+jwt"}, {"typ": "at+jwt", "kid": kid}):
        token = sign_es256(header, {"iss": ISSUER}, signer.key)  # type: ignore[arg-type]
        with pytest.raises(ZetaError, match="'kid'"):
            verifier.verify(token, now=NOW)


def test_a_foreign_signature_under_a_known_name_is_refused(
    verifier: AccessTokenVerifier, make_token: MakeToken, signer: KeySigner, other_signer: KeySigner
) -> None:
    claims = make_token().split(".")[1]
    header = b64url_encode(orjson.dumps({"typ": "at+jwt", "alg": "ES256", "kid": signer.kid}))
    signed = f"{header}.{claims}"
    with pytest.raises(ZetaError, match="signature is not valid"):
        verifier.verify(f"{signed}.{b64url_encode(other_signer.sign(signed.encode()))}", now=NOW)


def test_two_trusted_issuers_cannot_sign_for_each_other(
    key_set: LocalKeySet, make_token: MakeToken, signer: KeySigner, other_signer: KeySigner
) -> None:
    foreign = LocalKeySet(FOREIGN, lambda: {other_signer.kid: other_signer.key.public_key()})
    verifier = AccessTokenVerifier({ISSUER: key_set, FOREIGN: foreign}, max_bytes=16_384)
    assert _accept(verifier, make_token()).issuer == ISSUER
    assert _accept(verifier, make_token(iss=FOREIGN, signer=other_signer)).issuer == FOREIGN
    assert verifier.verify(make_token(iss=FOREIGN), now=NOW) == MissingKey(FOREIGN, signer.kid)
    assert verifier.verify(make_token(signer=other_signer), now=NOW) == MissingKey(ISSUER, other_signer.kid)


def test_a_further_type_is_accepted_from_the_issuer_it_was_allowed_for_only(
    key_set: LocalKeySet, make_token: MakeToken, other_signer: KeySigner
) -> None:
    foreign = LocalKeySet(FOREIGN, lambda: {other_signer.kid: other_signer.key.public_key()})
    verifier = AccessTokenVerifier(
        {ISSUER: key_set, FOREIGN: foreign}, max_bytes=16_384, extra_types={FOREIGN: ("JWT",)}
    )
    assert _accept(verifier, make_token(header={"typ": "JWT"}, iss=FOREIGN, signer=other_signer))
    assert _accept(verifier, make_token(iss=FOREIGN, signer=other_signer))
    with pytest.raises(ZetaError, match="'typ' must be at"):
        verifier.verify(make_token(header={"typ": "JWT"}), now=NOW)


def test_a_verified_token_is_found_again_for_a_minute(verifier: AccessTokenVerifier, make_token: MakeToken) -> None:
    token = make_token()
    first = _accept(verifier, token)
    assert _accept(verifier, str(token), NOW + 59.9) is first
    later = _accept(verifier, token, NOW + 60)
    assert later is not first
    assert later == first
    assert _accept(verifier, token, NOW + 119) is later
    assert _accept(verifier, token, NOW + 59) is not later


def test_a_changed_key_set_empties_the_memory(
    verifier: AccessTokenVerifier, make_token: MakeToken, keys: Any, signer: KeySigner, other_signer: KeySigner
) -> None:
    token = make_token()
    first = _accept(verifier, token)
    keys.shown.append(other_signer)
    assert _accept(verifier, token) is not first
    keys.shown.remove(signer)
    assert verifier.verify(token, now=NOW) == MissingKey(ISSUER, signer.kid)


def test_forgetting_verifies_anew(verifier: AccessTokenVerifier, make_token: MakeToken) -> None:
    token = make_token()
    first = _accept(verifier, token)
    verifier.forget()
    assert _accept(verifier, token) is not first


def test_a_refused_token_is_not_remembered_as_accepted_under_any_spelling(
    verifier: AccessTokenVerifier, make_token: MakeToken
) -> None:
    token = make_token()
    _accept(verifier, token)
    for other in (token + "=", token + " ", token[:-1], " " + token, token.replace(".", "..", 1)):
        with pytest.raises(ZetaError):
            verifier.verify(other, now=NOW)


def test_the_memory_is_bounded(key_set: LocalKeySet, make_token: MakeToken) -> None:
    verifier = AccessTokenVerifier({ISSUER: key_set}, max_bytes=16_384, cache_entries=4)
    for number in range(12):
        _accept(verifier, make_token(jti=f"jti-{number}"))
    assert len(verifier._verified) <= 4


def test_tokens_of_minutes_ago_are_not_kept_until_there_are_many(key_set: LocalKeySet, make_token: MakeToken) -> None:
    verifier = AccessTokenVerifier({ISSUER: key_set}, max_bytes=16_384)
    for number in range(40):
        _accept(verifier, make_token(jti=f"jti-{number}"), now=NOW + 10 * number)
    # One every ten seconds, each worth something for a minute.
    assert len(verifier._verified) <= 12


def test_a_longer_token_than_permitted_is_refused(key_set: LocalKeySet, make_token: MakeToken) -> None:
    token = make_token()
    assert _accept(AccessTokenVerifier({ISSUER: key_set}, max_bytes=len(token)), token)
    with pytest.raises(ZetaError, match="longer than"):
        AccessTokenVerifier({ISSUER: key_set}, max_bytes=len(token) - 1).verify(token, now=NOW)


def test_a_key_on_another_curve_is_refused(make_token: MakeToken) -> None:
    card_key = ec.generate_private_key(ec.BrainpoolP256R1())
    key_set = LocalKeySet(ISSUER, lambda: {"card": card_key.public_key()})
    token = sign_es256({"typ": "at+jwt", "kid": "card"}, {"iss": ISSUER}, card_key)
    with pytest.raises(ZetaError, match="curve"):
        AccessTokenVerifier({ISSUER: key_set}, max_bytes=16_384).verify(token, now=NOW)


def test_without_issuers_nothing_is_accepted(make_token: MakeToken) -> None:
    with pytest.raises(ZetaError, match="'iss'"):
        AccessTokenVerifier({}, max_bytes=16_384).verify(make_token(), now=NOW)


_KEY = KeySigner(ec.derive_private_key(13, ec.SECP256R1()))
_VERIFIER = AccessTokenVerifier(
    {ISSUER: LocalKeySet(ISSUER, lambda: {_KEY.kid: _KEY.key.public_key()})}, max_bytes=2000
)


@given(st.text(max_size=80) | st.text(alphabet="eyJ0A.-_=\ud800", max_size=200))
def test_garbage_raises_nothing_but_the_refusal(token: str) -> None:
    with pytest.raises(ZetaError):
        _VERIFIER.verify(token, now=NOW)


_JSON: st.SearchStrategy[Any] = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=5)
_NAMES = ["iss", "sub", "aud", "scope", "iat", "exp", "cnf", "ver", "sid"]


@given(
    st.dictionaries(
        st.sampled_from(_NAMES),
        _JSON | st.lists(_JSON, max_size=2) | st.dictionaries(st.just("jkt"), _JSON),
        max_size=5,
    )
)
def test_signed_garbage_raises_nothing_but_the_refusal(claims: dict[str, Any]) -> None:
    token = sign_jws({"typ": "at+jwt"}, {"iss": ISSUER, **claims}, _KEY)
    with contextlib.suppress(ZetaError):
        _VERIFIER.verify(token, now=NOW)
