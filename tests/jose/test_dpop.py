from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from zeta_guard.errors import ZetaError
from zeta_guard.jose import dpop
from zeta_guard.jose.dpop import DpopProof, verify_dpop_proof
from zeta_guard.jose.encoding import b64url_decode, b64url_encode
from zeta_guard.jose.es256 import der_signature
from zeta_guard.jose.jwk import public_jwk, thumbprint
from zeta_guard.jose.jws import sign_es256

MakeProof = Callable[..., str]
Check = Callable[..., DpopProof]
NOW = 1_800_000_000
TOKEN = "eyJ.token.x"

# RFC 9449 sections 4.1 and 7.1.
RFC_9449_PROOF = (
    "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQy"
    "VVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19"
    ".eyJqdGkiOiItQndDM0VTYzZhY2MybFRjIiwiaHRtIjoiUE9TVCIsImh0dSI6Imh0dHBzOi8vc2VydmVyLmV4YW1wbGUuY29tL3Rva2VuIiwiaWF0Ijox"
    "NTYyMjYyNjE2fQ"
    ".2-GxA6T8lP4vfrg8v-FdWP0A0zdrj8igiMLvqRMUvwnQg4PtFLbdLXiOSsX0x7NVY-FNyJK70nfbV37xRZT3Lg"
)
RFC_9449_RESOURCE_PROOF = (
    RFC_9449_PROOF.split(".")[0]
    + ".eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIjoiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9yZy9wcm90ZWN0ZWRyZXNv"
    "dXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNFc05yV0JiMHhXWG9hTnk1OUlpS0NBcWtzbVFFbyJ9"
    ".2oW9RP35yRqzhrtNP86L-Ey71EOptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA"
)
RFC_9449_TOKEN = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"
RFC_9449_JKT = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"


def test_the_proof_of_rfc_9449_section_4_verifies(check: Check) -> None:
    proof = check(RFC_9449_PROOF, method="POST", url="https://server.example.com/token", now=1562262616.0)
    assert proof[:4] == (RFC_9449_JKT, "-BwC3ESc6acc2lTc", 1562262616, None)


def test_the_proof_of_rfc_9449_section_7_verifies_with_its_token_only(check: Check) -> None:
    at_resource: dict[str, Any] = {"url": "https://resource.example.org/protectedresource", "now": 1562262620.0}
    assert check(RFC_9449_RESOURCE_PROOF, access_token=RFC_9449_TOKEN, **at_resource).jkt == RFC_9449_JKT
    with pytest.raises(ZetaError, match="'ath'"):
        check(RFC_9449_RESOURCE_PROOF, access_token=RFC_9449_TOKEN + "x", **at_resource)


def test_a_good_proof_says_who_made_it_and_when(
    make_proof: MakeProof, check: Check, key: ec.EllipticCurvePrivateKey
) -> None:
    proof = check(make_proof(nonce="n-1"))
    assert proof.jkt == thumbprint(key.public_key())
    assert (proof.jti, proof.issued_at, proof.nonce) == ("jti-1", NOW, "n-1")
    assert proof.key.public_numbers() == key.public_key().public_numbers()


def test_what_is_claimed_is_made_of_key_and_jti_and_outlives_the_proof(make_proof: MakeProof, check: Check) -> None:
    proof = check(make_proof())
    claim = proof.claim(past=60, ahead=15)
    assert claim.parts == (proof.jkt, "jti-1")
    assert (claim.kind, claim.dated) == ("dpop", float(NOW))
    assert claim.ttl >= 60 + 15 + 15
    again = check(_other_signature(make_proof()))
    assert again.claim(past=60, ahead=15) == claim


def _other_signature(proof: str) -> str:
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    signed, _, signature = proof.rpartition(".")
    raw = b64url_decode(signature)
    s = order - int.from_bytes(raw[32:], "big")
    return f"{signed}.{b64url_encode(raw[:32] + s.to_bytes(32, 'big'))}"


def test_high_and_low_s_are_valid(make_proof: MakeProof, check: Check) -> None:
    proof = make_proof()
    assert check(proof) == check(_other_signature(proof))


@pytest.mark.parametrize(("count", "words"), [(0, "missing"), (2, "exactly one expected, 2"), (3, "exactly one")])
def test_exactly_one_header_is_expected(make_proof: MakeProof, check: Check, count: int, words: str) -> None:
    with pytest.raises(ZetaError, match=words):
        check(*[make_proof()] * count)


@pytest.mark.parametrize("status", [400, 401])
def test_the_status_is_that_of_the_place(check: Check, status: int) -> None:
    with pytest.raises(ZetaError) as caught:
        check("x", status=status)
    assert (caught.value.code, caught.value.status) == ("invalid_dpop_proof", status)
    assert caught.value.description.startswith("DPoP proof: ")


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"alg": "none"}, "'alg' must be ES256"),
        ({"alg": "HS256"}, "'alg' must be ES256"),
        ({"alg": "RS256"}, "'alg' must be ES256"),
        ({"alg": "ES384"}, "'alg' must be ES256"),
        ({"alg": "es256"}, "'alg' must be ES256"),
        ({"typ": "JWT"}, r"'typ' must be dpop\+jwt"),
        ({"typ": "DPOP+JWT"}, "'typ' must be"),
        ({"typ": "at+jwt"}, "'typ' must be"),
        ({"crit": ["exp"]}, "critical"),
        ({"b64": False}, "critical"),
        ({"jwk": None}, "'jwk' must be a JSON object"),
        ({"jwk": "text"}, "'jwk' must be a JSON object"),
        ({"jwk": {"kty": "OKP", "crv": "Ed25519", "x": "AA"}}, "kty EC and crv P-256"),
    ],
)
def test_every_other_header_is_refused(make_proof: MakeProof, check: Check, header: dict[str, Any], words: str) -> None:
    with pytest.raises(ZetaError, match=words):
        check(make_proof(header=header))


def test_a_header_without_jwk_is_refused(make_proof: MakeProof, check: Check) -> None:
    with pytest.raises(ZetaError, match="'jwk' must be"):
        check(make_proof(without=("jwk",)))
    with pytest.raises(ZetaError, match="'typ' must be"):
        check(make_proof(without=("typ",)))


def test_a_private_key_in_the_header_is_refused(
    make_proof: MakeProof, check: Check, key: ec.EllipticCurvePrivateKey
) -> None:
    with pytest.raises(ZetaError, match="private key"):
        check(make_proof(header={"jwk": {**public_jwk(key.public_key()), "d": "AAAA"}}))


def test_a_proof_signed_with_another_key_than_its_own_is_refused(
    make_proof: MakeProof, check: Check, other_key: ec.EllipticCurvePrivateKey
) -> None:
    check(make_proof())
    with pytest.raises(ZetaError, match="signature is not valid"):
        check(make_proof(header={"jwk": public_jwk(other_key.public_key())}))


def test_a_brainpool_key_is_refused_even_with_a_p256_label(
    make_proof: MakeProof, check: Check, key: ec.EllipticCurvePrivateKey, card_key: ec.EllipticCurvePrivateKey
) -> None:
    numbers = card_key.public_key().public_numbers()
    jwk = {
        **public_jwk(key.public_key()),
        "x": b64url_encode(numbers.x.to_bytes(32, "big")),
        "y": b64url_encode(numbers.y.to_bytes(32, "big")),
    }
    with pytest.raises(ZetaError, match="not a point on P-256"):
        check(make_proof(header={"jwk": jwk}))


@pytest.mark.parametrize("htm", ["POST", "get", "GET ", "", None, 5, ["GET"]])
def test_the_method_is_compared_exactly(make_proof: MakeProof, check: Check, htm: object) -> None:
    with pytest.raises(ZetaError, match="'htm' does not match; expected GET"):
        check(make_proof(htm=htm))


@pytest.mark.parametrize(
    "htu",
    ["https://GUARD.example.de:443/vsdservice/v1/vsdmbundle?x=1#y", "wss://guard.example.de/vsdservice/v1/vsdmbundle"],
)
def test_another_spelling_of_the_url_is_accepted(make_proof: MakeProof, check: Check, htu: str) -> None:
    assert check(make_proof(htu=htu)).jti == "jti-1"


def test_a_proof_for_another_url_is_refused_and_both_are_named_without_query(
    make_proof: MakeProof, check: Check
) -> None:
    with pytest.raises(ZetaError) as caught:
        check(make_proof(htu="https://u:p@guard.example.de/other?patient=X110411675"))
    assert caught.value.description == (
        "DPoP proof: 'htu' does not match; expected https://guard.example.de/vsdservice/v1/vsdmbundle, "
        "came https://guard.example.de/other"
    )


@pytest.mark.parametrize("htu", [None, 5, "", ["https://guard.example.de/vsdservice/v1/vsdmbundle"], {}])
def test_a_url_that_is_no_text_is_refused(make_proof: MakeProof, check: Check, htu: object) -> None:
    with pytest.raises(ZetaError, match="'htu' does not match"):
        check(make_proof(htu=htu))


@pytest.mark.parametrize("age", [-15, 0, 60])
def test_a_proof_within_its_time_is_accepted(make_proof: MakeProof, check: Check, age: int) -> None:
    assert check(make_proof(iat=NOW - age)).issued_at == NOW - age


@pytest.mark.parametrize(
    ("age", "words"),
    [
        (61, "61 s old; at most 60 s allowed, server time is 1800000000"),
        (-16, "16 s ahead; at most 15 s allowed, server"),
    ],
)
def test_an_old_or_early_proof_is_refused_with_server_time_and_limit(
    make_proof: MakeProof, check: Check, age: int, words: str
) -> None:
    with pytest.raises(ZetaError, match=words):
        check(make_proof(iat=NOW - age))


def test_limits_hold_to_the_fraction_of_a_second(make_proof: MakeProof, check: Check) -> None:
    assert check(make_proof(iat=NOW), now=NOW + 60.0)
    with pytest.raises(ZetaError, match="60 s old"):
        check(make_proof(iat=NOW), now=NOW + 60.5)


@pytest.mark.parametrize("iat", [True, None, "1800000000", 1800000000.0, 1.5, [NOW], -(2**60), 2**53])
def test_iat_is_a_whole_number_in_reach(make_proof: MakeProof, check: Check, iat: object) -> None:
    with pytest.raises(ZetaError, match=r"'iat'|claims"):
        check(make_proof(iat=iat))


@pytest.mark.parametrize("length", [1, 256])
def test_jti_of_permitted_length_is_accepted(make_proof: MakeProof, check: Check, length: int) -> None:
    assert check(make_proof(jti="j" * length)).jti == "j" * length


@pytest.mark.parametrize("jti", ["", "j" * 257, None, 5, True, ["j"]])
def test_every_other_jti_is_refused(make_proof: MakeProof, check: Check, jti: object) -> None:
    with pytest.raises(ZetaError, match="'jti' must be text of 1 to 256 characters"):
        check(make_proof(jti=jti))


@pytest.mark.parametrize("missing", ["htm", "htu", "iat", "jti"])
def test_a_required_claim_must_be_there(make_proof: MakeProof, check: Check, missing: str) -> None:
    with pytest.raises(ZetaError, match=f"'{missing}'"):
        check(make_proof(without=(missing,)))


def test_a_nonce_is_demanded_where_it_is_required_only(make_proof: MakeProof, check: Check) -> None:
    assert check(make_proof()).nonce is None
    assert check(make_proof(nonce="n"), nonce="required").nonce == "n"
    with pytest.raises(ZetaError, match="'nonce' is missing"):
        check(make_proof(), nonce="required")


@pytest.mark.parametrize("mode", ["required", "absent-ok"])
@pytest.mark.parametrize("nonce", ["", "n" * 257, None, 5, False, ["n"]])
def test_a_nonce_that_is_no_text_is_refused(make_proof: MakeProof, check: Check, nonce: object, mode: str) -> None:
    with pytest.raises(ZetaError, match="'nonce'"):
        check(make_proof(nonce=nonce), nonce=mode)


def test_the_hash_of_the_token_must_be_there_and_be_right(make_proof: MakeProof, check: Check) -> None:
    assert check(make_proof(token=TOKEN), access_token=TOKEN)
    assert check(make_proof(token=TOKEN))
    for bad in (make_proof(), make_proof(token="other"), make_proof(ath=None), make_proof(ath=""), make_proof(ath=5)):
        with pytest.raises(ZetaError, match="'ath' does not match") as caught:
            check(bad, access_token=TOKEN)
        assert TOKEN not in caught.value.description


@pytest.mark.parametrize("times", [{"exp": NOW}, {"nbf": NOW + 16}, {"exp": "x"}, {"nbf": None}, {"exp": 2.5}])
def test_a_proof_that_calls_itself_expired_is_not_used(
    make_proof: MakeProof, check: Check, times: dict[str, Any]
) -> None:
    assert check(make_proof(exp=NOW + 1, nbf=NOW + 15))
    assert check(make_proof(exp=NOW + 1))
    assert check(make_proof(nbf=NOW))
    with pytest.raises(ZetaError, match=r"'(exp|nbf)'"):
        check(make_proof(**times))


def test_a_proof_has_a_size_limit(make_proof: MakeProof, check: Check) -> None:
    with pytest.raises(ZetaError, match="longer than 8192 bytes"):
        check(make_proof(pad="x" * 8192))


@pytest.mark.parametrize("separator", ["A", "-", " ", ":", "é", ""])
def test_nothing_but_a_dot_stands_between_the_parts(make_proof: MakeProof, check: Check, separator: str) -> None:
    header, claims, signature = make_proof().split(".")
    assert check(f"{header}.{claims}.{signature}")
    for proof in (f"{header}.{claims}{separator}{signature}", f"{header}{separator}{claims}.{signature}"):
        with pytest.raises(ZetaError):
            check(proof)


def test_der_in_place_of_the_raw_signature_is_refused(make_proof: MakeProof, check: Check) -> None:
    signed, _, signature = make_proof().rpartition(".")
    with pytest.raises(ZetaError, match="64 bytes"):
        check(f"{signed}.{b64url_encode(der_signature(b64url_decode(signature)))}")


@pytest.mark.parametrize("raw", [bytes(64), b"\xff" * 64, bytes(32) + b"\x01" * 32, b"\x01" * 32 + bytes(32)])
def test_integers_out_of_range_are_refused(make_proof: MakeProof, check: Check, raw: bytes) -> None:
    with pytest.raises(ZetaError, match="out of range"):
        check(f"{make_proof().rpartition('.')[0]}.{b64url_encode(raw)}")


@pytest.mark.parametrize("claims", [b'{"jti":"a","jti":"a"}', b"[]", b"", b"\xff", b'{"iat":NaN}', b"[" * 1000])
def test_ambiguous_claims_are_refused(
    make_jws: Callable[..., str], check: Check, key: ec.EllipticCurvePrivateKey, claims: bytes
) -> None:
    header = {"typ": "dpop+jwt", "alg": "ES256", "jwk": public_jwk(key.public_key())}
    with pytest.raises(ZetaError, match="claims: "):
        check(make_jws(header, claims))


def test_headers_are_remembered_only_when_their_signature_held(
    make_proof: MakeProof, check: Check, other_key: ec.EllipticCurvePrivateKey
) -> None:
    dpop._headers.clear()
    good = make_proof()
    with pytest.raises(ZetaError):
        check(good[:-1] + ("A" if good[-1] != "A" else "Q"))
    with pytest.raises(ZetaError):
        check(make_proof(header={"jwk": public_jwk(other_key.public_key())}))
    assert len(dpop._headers) == 0
    check(good)
    check(make_proof(jti="jti-2"))
    assert len(dpop._headers) == 1
    check(make_proof(header={"pad": "x" * 1000}))
    assert len(dpop._headers) == 1


def test_a_remembered_header_saves_no_check_of_the_rest(make_proof: MakeProof, check: Check) -> None:
    check(make_proof())
    signed, _, _ = make_proof(jti="a").rpartition(".")
    _, _, signature = make_proof(jti="b").rpartition(".")
    with pytest.raises(ZetaError, match="signature is not valid"):
        check(f"{signed}.{signature}")


_KEY = ec.derive_private_key(11, ec.SECP256R1())
_FIXED: dict[str, Any] = {
    "method": "GET", "url": "https://guard.example.de/a", "now": float(NOW), "past": 60, "ahead": 15,
    "nonce": "absent-ok", "access_token": None, "status": 401,
}  # fmt: skip


@given(st.lists(st.text(max_size=40) | st.text(alphabet="eyJ0A.-_=", max_size=200), max_size=3))
def test_garbage_raises_nothing_but_the_refusal(values: list[str]) -> None:
    with contextlib.suppress(ZetaError):
        verify_dpop_proof(values, **_FIXED)


@settings(max_examples=200)
@given(st.data())
def test_no_changed_proof_verifies(data: st.DataObject) -> None:
    claims = {"jti": "a", "htm": "GET", "htu": "https://guard.example.de/a", "iat": NOW}
    proof = dpop_proof(claims)
    assert verify_dpop_proof([proof], **_FIXED)
    position = data.draw(st.integers(0, len(proof) - 1))
    character = data.draw(st.characters() | st.sampled_from("ABCabc019-_.=+/ "))
    changed = data.draw(
        st.sampled_from(
            [proof[:position] + character + proof[position + 1 :], proof[:position] + character + proof[position:],
             proof[:position] + proof[position + 1 :]]
        )
    )  # fmt: skip
    if changed != proof:
        with pytest.raises(ZetaError):
            verify_dpop_proof([changed], **_FIXED)


def dpop_proof(claims: dict[str, Any]) -> str:
    return sign_es256({"typ": "dpop+jwt", "jwk": dict(public_jwk(_KEY.public_key()))}, claims, _KEY)


_NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
_VALUES: st.SearchStrategy[Any] = st.none() | st.booleans() | _NUMBERS | st.text(max_size=5) | st.sampled_from([{}, []])


@given(st.dictionaries(st.sampled_from(["jti", "htm", "htu", "iat", "nonce", "ath", "exp", "nbf"]), _VALUES))
def test_signed_garbage_raises_nothing_but_the_refusal(claims: dict[str, Any]) -> None:
    good = {"jti": "a", "htm": "GET", "htu": "https://guard.example.de/a", "iat": NOW}
    proof = dpop_proof({**good, **claims})
    with contextlib.suppress(ZetaError):
        verify_dpop_proof([proof], **_FIXED)
