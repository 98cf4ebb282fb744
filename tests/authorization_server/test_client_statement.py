"""The client statement: bound to key, nonce and first use, fresh, and of a posture that is understood."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeta_guard.authorization_server.client_statement import (
    ClientStatement,
    _recent_products,
    challenge,
    verify_statement,
)
from zeta_guard.authorization_server.nonce import Nonce
from zeta_guard.client.assertions import Product, client_statement
from zeta_guard.client.keys import SoftwareKey
from zeta_guard.errors import ZetaError
from zeta_guard.jose.encoding import b64url_encode

NOW = 1_800_000_000.0
RAW = bytes(range(16))
NONCE = Nonce(b64url_encode(RAW), RAW, int(NOW), int(NOW) + 300)
KEY, OTHER = SoftwareKey.generate(), SoftwareKey.generate()


def statement(within: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = client_statement(client_id="zc_1", client_key=KEY, product=Product(), nonce=RAW, now=NOW)
    for target, wanted in ((made["posture"], within or {}), (made, changes)):
        for name, value in wanted.items():
            if value is ...:
                del target[name]
            else:
                target[name] = value
    return made


def verify(made: dict[str, Any], *, platform: str | None = "linux", required: bool = True) -> ClientStatement:
    return verify_statement(
        made,
        client_id="zc_1",
        platform=platform,
        key=KEY.private_key.public_key(),
        jkt=KEY.thumbprint,
        nonce=NONCE,
        binding_required=required,
        now=NOW,
        oldest=300,
        ahead=15,
    )


def test_the_statement_of_the_sdk_holds() -> None:
    made = verify(statement(), platform=None)
    assert (made.platform, made.posture_type, made.product_id) == ("linux", "software", Product().product_id)
    assert made.bound_to_nonce


def test_pem_is_another_spelling_of_the_same_key() -> None:
    text = base64.encodebytes(KEY.subject_public_key()).decode()
    verify(statement({"public_key": f"-----BEGIN PUBLIC KEY-----\n{text}-----END PUBLIC KEY-----\n"}))


def test_the_member_nonce_may_stand_in_for_the_challenge() -> None:
    assert verify(statement({"attestation_challenge": ..., "nonce": NONCE.text})).bound_to_nonce


def test_empty_words_of_the_integrator_are_no_fault() -> None:
    verify(statement({"platform_product_id": {"platform": "linux", "application_id": ""}, "os_version": ""}))
    verify(statement({"platform_product_id": ...}))
    verify(statement({"arch": "a" * 256}))


def test_without_required_binding_key_and_challenge_may_be_absent_but_not_wrong() -> None:
    made = statement({"public_key": ..., "attestation_challenge": ...})
    assert not verify(made, required=False).bound_to_nonce
    with pytest.raises(ZetaError):
        verify(statement({"public_key": "AAAA"}), required=False)
    with pytest.raises(ZetaError):
        verify(statement({"attestation_challenge": challenge(OTHER.thumbprint, RAW)}), required=False)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (statement(sub="zc_2"), "sub"),
        (statement(sub=...), "sub"),
        (statement({"platform_product_id": ...}, platform="windows"), "platform' is windows"),
        (statement(platform=5), "platform"),
        (statement(posture_type="tpm"), "posture_type"),
        (statement(posture_type="android"), "posture_type"),
        (statement(posture_type=...), "posture_type"),
        (statement({"platform_product_id": {"platform": "windows"}}), "platform_product_id"),
        (statement({"platform_product_id": "linux"}), "platform_product_id"),
        (statement({"public_key": base64.b64encode(OTHER.subject_public_key()).decode()}), "public_key"),
        (statement({"public_key": ...}), "public_key"),
        (statement({"public_key": "not base64"}), "public_key"),
        (statement({"attestation_challenge": challenge(OTHER.thumbprint, RAW)}), "challenge"),
        (statement({"attestation_challenge": challenge(KEY.thumbprint, bytes(16))}), "challenge"),
        (statement({"attestation_challenge": ...}), "challenge"),
        (statement({"attestation_challenge": "ü"}), "challenge"),
        (statement({"nonce": b64url_encode(bytes(16))}), "nonce"),
        (statement({"attestation_challenge": ..., "nonce": b64url_encode(bytes(16))}), "nonce"),
        (statement({"product_id": ""}), "product_id"),
        (statement({"product_id": "x" * 21}), "product_id"),
        (statement({"product_id": "a_b"}), "product_id"),
        (statement({"product_version": ...}), "product_version"),
        (statement({"product_version": "1.0 beta"}), "product_version"),
        (statement({"product_version": "1" * 21}), "product_version"),
        (statement({"os": ...}), "os"),
        (statement({"os_version": 5}), "os_version"),
        (statement({"arch": "a\x00b"}), "arch"),
        (statement({"arch": "a" * 257}), "arch"),
        (statement(attestation_timestamp=...), "attestation_timestamp"),
        (statement(attestation_timestamp="now"), "attestation_timestamp"),
        (statement(attestation_timestamp=True), "attestation_timestamp"),
    ],
)
def test_what_is_wrong_is_named(made: dict[str, Any], words: str) -> None:
    with pytest.raises(ZetaError, match=words) as caught:
        verify(made)
    assert (caught.value.code, caught.value.status) == ("invalid_client", 400)


def test_an_unknown_platform_is_refused_at_the_first_use_too() -> None:
    with pytest.raises(ZetaError, match="platform"):
        verify(statement({"platform_product_id": ...}, platform="beos"), platform=None)


@pytest.mark.parametrize(("offset", "holds"), [(-301, False), (-300, True), (15, True), (16, False)])
def test_the_statement_must_be_fresh(offset: int, holds: bool) -> None:
    made = statement(attestation_timestamp=int(NOW) + offset)
    if holds:
        verify(made)
        return
    with pytest.raises(ZetaError, match="attestation_timestamp"):
        verify(made)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
POSTURE = [*sorted(statement()["posture"]), "nonce"]
MEMBERS = sorted(statement())


@given(st.dictionaries(st.sampled_from(MEMBERS), json_values), st.dictionaries(st.sampled_from(POSTURE), json_values))
def test_no_statement_makes_the_parser_fall_over(changes: dict[str, Any], posture: dict[str, Any]) -> None:
    refusal = None
    try:
        verify(statement(posture, **changes))
    except ZetaError as error:
        refusal = (error.code, error.status)
    assert refusal in (None, ("invalid_client", 400))


@pytest.mark.parametrize("name", ["product_id", "product_version", "os", "os_version", "arch"])
@pytest.mark.parametrize("value", [..., None, 1, True, ["x"], {"x": "y"}, "a\x00b", "ä" * 300])
def test_what_was_said_before_does_not_let_another_word_pass(name: str, value: Any) -> None:
    good = verify(statement())
    with pytest.raises(ZetaError) as caught:
        verify(statement({name: value}))
    assert caught.value.code == "invalid_client"
    assert verify(statement()) == good


def test_words_that_are_remembered_are_bounded() -> None:
    for number in range(3000):
        assert verify(statement({"os_version": str(number)})).os_version == str(number)
    assert len(_recent_products) <= 1024
