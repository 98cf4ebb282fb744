from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeta_guard.jose.encoding import b64_decode, b64url_decode, b64url_encode


@given(st.binary(max_size=200))
def test_what_was_encoded_decodes_to_itself(raw: bytes) -> None:
    text = b64url_encode(raw)
    assert "=" not in text
    assert b64url_decode(text) == b64url_decode(text.encode()) == raw
    assert base64.urlsafe_b64encode(raw).rstrip(b"=").decode() == text


@given(st.one_of(st.text(max_size=12), st.text(alphabet="AQgwZz09-_+/= \n.", max_size=12)))
def test_every_accepted_text_is_the_only_spelling_of_its_bytes(text: str) -> None:
    try:
        raw = b64url_decode(text)
    except ValueError:
        return
    assert b64url_encode(raw) == text


@pytest.mark.parametrize(
    "text",
    [
        "Q",
        "QR",
        "QUJ",
        "QQ==",
        "QQ=",
        "Q Q",
        "QQ\n",
        "+/8",
        "-_8=",
        "QUFB.",
        "QUFBQ",
        "é",
        "QQ\0",
        "=",
        "Q===",
        "\ud800",
    ],
)
def test_padding_space_foreign_letters_and_unused_bits_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        b64url_decode(text)


def test_both_letters_of_the_url_alphabet_are_read() -> None:
    assert b64url_decode("-_8") == b"\xfb\xff"


@given(st.binary(max_size=100))
def test_standard_base64_is_read(raw: bytes) -> None:
    assert b64_decode(base64.b64encode(raw).decode()) == raw


@pytest.mark.parametrize(
    "text",
    [
        "QQ",
        "QR==",
        "QUJ=",
        "QQ==\n",
        " QQ==",
        "-_8=",
        "QQ===",
        "QcEE=",
        "QcEE====",
        "Q=Q=",
        "QQ==QQ==",
        "A===",
        "é",
        "=",
    ],
)
def test_other_spellings_of_standard_base64_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        b64_decode(text)


@given(st.text("ABCDwxyzQg01+/=-_ \n", max_size=12))
def test_standard_base64_has_one_spelling_of_every_value(text: str) -> None:
    try:
        decoded = b64_decode(text)
    except ValueError:
        return
    assert base64.b64encode(decoded).decode() == text
