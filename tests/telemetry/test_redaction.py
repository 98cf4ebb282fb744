from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeta_guard.telemetry.redaction import MASK, mask

TOKEN = "eyJhbGciOiJFUzI1NiIsInR5cCI6ImF0K2p3dCJ9.eyJzdWIiOiIxLTIuNTgifQ.c2lnbmF0dXJl-_"


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f"token {TOKEN} refused", TOKEN),
        (f"token {TOKEN[:30]}", TOKEN[:30]),
        ("Authorization: DPoP c29tZS1vcGFxdWU", "c29tZS1vcGFxdWU"),
        ("bearer abcdefgh12345678", "abcdefgh12345678"),
        ("Basic dXNlcjpwYXNzd29ydA==", "dXNlcjpwYXNzd29ydA=="),
        ("patient X110411675 read", "X110411675"),
        ("patient x110411675", "x110411675"),
        ("/Patient/X110411675/_history", "X110411675"),
        ("5-2-KHAUS-001", "2-KHAUS-001"),
        ("sub 1-2.58.00000040.", "2.58.00000040"),
        ("(3-SMC-B-Testkarte-883110000123456)", "SMC-B-Testkarte-883110000123456"),
        ("10-1.2.345678", "1.2.345678"),
    ],
)
def test_what_must_not_be_logged_is_masked(text: str, secret: str) -> None:
    masked = mask(text)
    assert secret not in masked
    assert MASK in masked


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-22T10:00:00.123Z",
        "01M824YT4W5GQF0STG2AAJ0Q4S",
        "DPoP proof was already used (jti 3f2a)",
        "3f2a9c1e-1b2c-4d5e-8f90-123456789abc",
        "/vsdservice/v1/vsdmbundle",
        "zeta-guard-7c9f8-xk2lp",
        "status 200 in 12.5 ms",
        "basic checks",
        "1234567890",
    ],
)
def test_harmless_text_stays(text: str) -> None:
    assert mask(text) == text


_TEXT = st.text(st.characters(codec="utf-8"), max_size=20)


@given(st.dictionaries(_TEXT, _TEXT | st.integers(0, 2**60) | st.just(TOKEN), max_size=6))
def test_masked_json_stays_json(fields: dict[str, str | int]) -> None:
    masked = mask(orjson.dumps(fields).decode())
    assert TOKEN not in masked
    assert isinstance(orjson.loads(masked), dict)


@given(st.from_regex(r"[A-Za-z][0-9]{9}", fullmatch=True), st.text(" ,;:/\"'()", max_size=3))
def test_no_insurant_number_survives(number: str, around: str) -> None:
    assert number not in mask(f"{around}{number}{around}")


@given(st.text(max_size=200))
def test_masking_twice_changes_nothing_more(text: str) -> None:
    assert mask(mask(text)) == mask(text)
