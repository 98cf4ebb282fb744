from __future__ import annotations

from typing import Any

import pytest

from zeta_guard.errors import JsonValue, ZetaError
from zeta_guard.jose import claims as claim
from zeta_guard.jose.slot import Slot

SLOT = Slot("client assertion", "invalid_client", 401)


@pytest.mark.parametrize(
    ("value", "seen"), [(None, "null"), (True, "boolean"), (1, "number"), (1.5, "number"), ("", "empty"),
                        ([], "array"), ({}, "object")]
)  # fmt: skip
def test_text_is_text_and_not_empty(value: Any, seen: str) -> None:
    for read in (claim.text, claim.optional_text):
        with pytest.raises(ZetaError, match=f"'sub' is .*{seen}"):
            read({"sub": value}, "sub", SLOT)
    assert claim.text({"sub": "a"}, "sub", SLOT) == claim.optional_text({"sub": "a"}, "sub", SLOT) == "a"


@pytest.mark.parametrize("value", [None, True, False, 1.0, 1.5, "1", "", [1], {}])
def test_a_whole_number_is_neither_boolean_nor_text_nor_fraction(value: Any) -> None:
    for read in (claim.integer, claim.optional_integer):
        with pytest.raises(ZetaError, match="expected a whole number"):
            read({"iat": value}, "iat", SLOT)
    assert claim.integer({"iat": 0}, "iat", SLOT) == claim.optional_integer({"iat": 0}, "iat", SLOT) == 0


def test_the_description_says_what_came_without_quoting_it() -> None:
    seen_by_value: list[tuple[JsonValue, str]] = [
        ("secret", "is text"),
        ("", "is empty"),
        (False, "is a boolean"),
        (2.5, "is a number"),
    ]
    for value, seen in seen_by_value:
        with pytest.raises(ZetaError) as caught:
            claim.integer({"iat": value}, "iat", SLOT)
        assert caught.value.description == f"client assertion: 'iat' {seen}; expected a whole number"


def test_only_optional_claims_may_be_absent() -> None:
    assert claim.optional_text({}, "sub", SLOT) is None
    assert claim.optional_integer({}, "iat", SLOT) is None
    for read in (claim.text, claim.integer, claim.member):
        with pytest.raises(ZetaError, match="is missing") as caught:
            read({}, "sub", SLOT)
        assert (caught.value.code, caught.value.status) == ("invalid_client", 401)


@pytest.mark.parametrize("value", [None, True, 1, "x", []])
def test_a_member_is_an_object(value: Any) -> None:
    with pytest.raises(ZetaError, match="expected an object"):
        claim.member({"cnf": value}, "cnf", SLOT)
    assert claim.member({"cnf": {"jkt": "x"}}, "cnf", SLOT) == {"jkt": "x"}


@pytest.mark.parametrize("value", [None, True, 1, "", [], [""], ["a", 1], ["a", None], [["a"]], {"a": "a"}])
def test_an_audience_is_text_or_texts(value: Any) -> None:
    for read in (claim.audience, claim.single_audience):
        with pytest.raises(ZetaError, match="'aud'"):
            read({"aud": value}, SLOT)
        with pytest.raises(ZetaError, match="'aud' is missing"):
            read({}, SLOT)


def test_a_single_audience_is_one_value() -> None:
    assert claim.audience({"aud": "a"}, SLOT) == ("a",)
    assert claim.audience({"aud": ["a", "b"]}, SLOT) == ("a", "b")
    assert claim.single_audience({"aud": "a"}, SLOT) == claim.single_audience({"aud": ["a"]}, SLOT) == "a"
    with pytest.raises(ZetaError, match="names 2 receivers"):
        claim.single_audience({"aud": ["a", "b"]}, SLOT)
