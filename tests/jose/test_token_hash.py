from __future__ import annotations

import base64
import hashlib

from hypothesis import given
from hypothesis import strategies as st

from zeta_guard.jose.token_hash import token_hash


@given(st.lists(st.text(max_size=20), min_size=1, max_size=5))
def test_the_hash_is_that_of_the_token_whatever_was_asked_before(tokens: list[str]) -> None:
    for token in tokens + tokens:
        digest = hashlib.sha256(token.encode()).digest()
        assert (
            token_hash(token)
            == token_hash(token)
            == (
                digest,
                base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
            )
        )


def test_a_header_with_stray_bytes_has_a_hash_too() -> None:
    assert token_hash("\udcff").digest != token_hash("\udcfe").digest
