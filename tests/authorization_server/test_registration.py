"""The registration request: what passes, what is refused and why."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from zeta_guard.authorization_server.registration import (
    CLIENT_ID_PREFIX,
    LARGEST_RECORD,
    check_product_ids,
    read_metadata,
)
from zeta_guard.client.keys import SoftwareKey
from zeta_guard.client.registration import registration_request
from zeta_guard.config.authorization_server import AuthorizationServer
from zeta_guard.errors import ConfigurationError, ZetaError

KEY = SoftwareKey.generate()


def request(**changes: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(registration_request(KEY, "sdk-client"))
    for name, value in changes.items():
        if value is ...:
            body.pop(name, None)
        else:
            body[name] = value
    return body


def refusal(body: dict[str, Any]) -> str:
    with pytest.raises(ZetaError) as caught:
        read_metadata(body)
    assert (caught.value.code, caught.value.status) == ("invalid_client_metadata", 400)
    return caught.value.description


def test_the_request_of_the_sdk_passes() -> None:
    metadata = read_metadata(request())
    assert metadata.thumbprint == KEY.thumbprint
    assert metadata.jwk == KEY.jwk
    assert metadata.client_name == "sdk-client"
    assert metadata.redirect_uris == ()


def test_absent_members_get_what_is_offered() -> None:
    metadata = read_metadata(request(grant_types=..., response_types=..., client_name=...))
    assert metadata.grant_types == ("urn:ietf:params:oauth:grant-type:token-exchange", "refresh_token")
    assert metadata.response_types == ("token",)
    assert metadata.client_name is None


def test_unknown_members_are_ignored() -> None:
    read_metadata(request(software_statement="x.y.z", scope="a b", contacts=["x"], tos_uri=5))


def test_the_own_kid_of_a_client_is_kept_but_does_not_change_the_thumbprint() -> None:
    metadata = read_metadata(request(jwks={"keys": [{**KEY.jwk, "kid": "mine"}]}))
    assert metadata.jwk["kid"] == "mine"
    assert metadata.thumbprint == KEY.thumbprint


def test_the_required_members_of_a_key_suffice() -> None:
    bare = {name: KEY.jwk[name] for name in ("kty", "crv", "x", "y")}
    assert read_metadata(request(jwks={"keys": [bare]})).jwk == KEY.jwk


P384 = ec.generate_private_key(ec.SECP384R1()).public_key().public_numbers()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"token_endpoint_auth_method": ...}, "private_key_jwt"),
        ({"token_endpoint_auth_method": "client_secret_basic"}, "private_key_jwt"),
        ({"token_endpoint_auth_method": ["private_key_jwt"]}, "private_key_jwt"),
        ({"attestation_type": "tpm"}, "attestation_type"),
        ({"jwks_uri": "https://client.example/jwks"}, "jwks_uri"),
        ({"jwks": ...}, "jwks"),
        ({"jwks": []}, "jwks"),
        ({"jwks": {"keys": {}}}, "jwks"),
        ({"jwks": {"keys": []}}, "0 keys"),
        ({"jwks": {"keys": [KEY.jwk, SoftwareKey.generate().jwk]}}, "2 keys"),
        ({"jwks": {"keys": ["key"]}}, "jwk"),
        ({"jwks": {"keys": [{**KEY.jwk, "d": "AAAA"}]}}, "private"),
        ({"jwks": {"keys": [{**KEY.jwk, "kty": "RSA"}]}}, "EC"),
        ({"jwks": {"keys": [{**KEY.jwk, "crv": "P-384"}]}}, "P-256"),
        ({"jwks": {"keys": [{**KEY.jwk, "use": "enc"}]}}, "use"),
        ({"jwks": {"keys": [{**KEY.jwk, "alg": "ES384"}]}}, "alg"),
        ({"jwks": {"keys": [{**KEY.jwk, "x": KEY.jwk["y"]}]}}, "point"),
        ({"jwks": {"keys": [{**KEY.jwk, "kid": ""}]}}, "kid"),
        ({"jwks": {"keys": [{**KEY.jwk, "kid": "a\nb"}]}}, "kid"),
        ({"jwks": {"keys": [{**KEY.jwk, "kid": "k" * 129}]}}, "kid"),
        ({"jwks": {"keys": [{**KEY.jwk, "kid": 5}]}}, "kid"),
        ({"client_name": ""}, "client_name"),
        ({"client_name": None}, "client_name"),
        ({"client_name": "a\u0000b"}, "client_name"),
        ({"client_name": "n" * 129}, "client_name"),
        ({"grant_types": []}, "grant_types"),
        ({"grant_types": "refresh_token"}, "grant_types"),
        ({"grant_types": ["refresh_token", 5]}, "grant_types"),
        ({"grant_types": ["client_credentials"]}, "grant_types"),
        ({"grant_types": ["refresh_token", "refresh_token"]}, "grant_types"),
        ({"response_types": ["code"]}, "response_types"),
        ({"response_types": None}, "response_types"),
        ({"redirect_uris": None}, "redirect_uris"),
        ({"redirect_uris": ["/relative"]}, "redirect_uris"),
        ({"redirect_uris": ["https://client.example/#x"]}, "redirect_uris"),
        ({"redirect_uris": ["https://client.example/" + "x" * 300]}, "redirect_uris"),
        ({"redirect_uris": [f"https://client.example/{n}" for n in range(5)]}, "redirect_uris"),
        ({"redirect_uris": [5]}, "redirect_uris"),
        ({"client_name": "𝕏" * 128, "redirect_uris": ["https://" + "a" * 240] * 4}, "too long"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], words: str) -> None:
    assert words in refusal(request(**changes))


def uri(length: int) -> str:
    return "https://client.example/".ljust(length, "x")


@pytest.mark.parametrize(
    "changes",
    [
        {"client_name": "n" * 128},
        {"jwks": {"keys": [{**KEY.jwk, "kid": "k" * 128}]}},
        {"jwks": {"keys": [{**KEY.jwk, "kid": "k"}]}},
        {"redirect_uris": [uri(256)]},
        {"redirect_uris": [f"https://client.example/{n}" for n in range(4)]},
    ],
)
def test_what_is_as_long_as_it_may_be_passes(changes: dict[str, Any]) -> None:
    assert read_metadata(request(**changes)).thumbprint == KEY.thumbprint


def test_name_key_and_uris_fill_a_record_to_its_last_byte() -> None:
    uris, key = [uri(256)] * 4, {**KEY.jwk, "kid": "k" * 128}
    sizes = []
    # Characters of four bytes, so that a name of permitted length reaches the limit.
    for name in ("𝕏" * 40 + "n" * length for length in range(88)):
        body = request(client_name=name, redirect_uris=uris, jwks={"keys": [key]})
        size = len(orjson.dumps([name, key, uris]))
        if size > LARGEST_RECORD - 512:
            assert "too long together" in refusal(body)
        else:
            assert read_metadata(body).client_name == name
        sizes.append(size)
    assert min(sizes) < LARGEST_RECORD - 512 < max(sizes)


def outcome(body: dict[str, Any]) -> str:
    try:
        return read_metadata(body).thumbprint
    except ZetaError as error:
        return error.code


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.sampled_from(["jwks", "client_name", "grant_types", "response_types", "redirect_uris", "attestation_type"]),
    json_values,
)
def test_no_value_of_a_member_makes_the_parser_fall_over(name: str, value: object) -> None:
    assert outcome(request(**{name: value})) in (KEY.thumbprint, "invalid_client_metadata")


@given(st.dictionaries(st.sampled_from(["kid", "kty", "alg", "use", "crv", "x", "y", "d"]), json_values, max_size=4))
def test_no_key_makes_the_parser_fall_over(changes: dict[str, Any]) -> None:
    found = outcome(request(jwks={"keys": [{**KEY.jwk, **changes}]}))
    assert found in (KEY.thumbprint, "invalid_client_metadata")


@pytest.mark.parametrize("product_id", [CLIENT_ID_PREFIX + "mine", "with blank", "", "ü", "p" * 129])
def test_a_product_id_that_could_be_a_client_id_is_a_mistake_of_the_configuration(product_id: str) -> None:
    server = AuthorizationServer.model_validate(
        {
            "signing_keys": "/nowhere",
            "scopes": ["popp"],
            "products": {product_id: {"audiences": ["https://guard.example/"], "scopes": ["popp"]}},
        }
    )
    with pytest.raises(ConfigurationError, match="products"):
        check_product_ids(server)
