from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeta_guard.http.header import fold, is_reserved


@pytest.mark.parametrize(
    "name",
    [b"ZETA-User-Info", b"zeta_user_info", b"Zeta.User", b"zEtA~x", b"zeta-", b"ZETA_", b"zeta!a", b"zeta\xe4x"],
)
def test_name_that_a_backend_may_read_as_zeta_is_reserved(name: bytes) -> None:
    assert is_reserved(name)


@pytest.mark.parametrize("name", [b"x-zeta-user", b"zetaphone", b"zeta", b"beta-x", b"z-eta-x", b""])
def test_other_names_are_not_reserved(name: bytes) -> None:
    assert not is_reserved(name)


@given(st.binary(max_size=40))
def test_folding_is_idempotent_and_has_letters_digits_and_hyphens_only(name: bytes) -> None:
    folded = fold(name)
    assert set(folded) <= set(string.ascii_lowercase + string.digits + "-")
    assert fold(folded.encode()) == folded
    assert len(folded) == len(name)


@given(st.text("zetaZETA", min_size=4, max_size=4), st.sampled_from(b"-_.!~+*'#$%&^`|"), st.binary(max_size=10))
def test_every_separator_and_case_is_caught(word: str, separator: int, rest: bytes) -> None:
    name = word.encode() + bytes([separator]) + rest
    assert is_reserved(name) == (word.lower() == "zeta")
