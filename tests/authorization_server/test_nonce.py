"""Nonces: stateless to issue, valid for a while, nobody else's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeta_guard.authorization_server.nonce import NonceMint
from zeta_guard.errors import ZetaError
from zeta_guard.jose.encoding import b64url_decode, b64url_encode
from zeta_guard.jose.sealing import Secrets
from zeta_guard.store.contract import Epoch

NOW = 1_800_000_000.0
EPOCH = Epoch("aaaa", NOW - 100)
OLD, NEW = bytes(range(32)), bytes(range(32, 64))


def mint(*secrets: bytes, lifetime: int = 300) -> NonceMint:
    return NonceMint(Secrets(secrets or (NEW,)), lifetime=lifetime, skew=15)


def refusal(text: str, *, by: NonceMint | None = None, epoch: Epoch = EPOCH, now: float = NOW) -> ZetaError:
    with pytest.raises(ZetaError) as caught:
        (by or mint()).check(text, epoch=epoch, now=now)
    assert (caught.value.code, caught.value.status) == ("invalid_grant", 400)
    return caught.value


def test_nonce_is_sixteen_bytes_in_canonical_base64url() -> None:
    nonce = mint().issue(epoch=EPOCH, now=NOW)
    assert len(nonce) == 22
    assert len(b64url_decode(nonce)) == 16


def test_nonce_that_was_issued_is_accepted_with_its_time() -> None:
    nonce = mint().check(mint().issue(epoch=EPOCH, now=NOW + 0.9), epoch=EPOCH, now=NOW + 1)
    assert nonce.issued_at == NOW
    assert nonce.expires_at == NOW + 300
    assert nonce.dated > NOW + 0.9


def test_no_two_nonces_are_the_same() -> None:
    one = mint()
    assert len({one.issue(epoch=EPOCH, now=NOW) for _ in range(1000)}) == 1000


@pytest.mark.parametrize(("age", "holds"), [(299, True), (300, True), (301, False), (3600, False)])
def test_nonce_lives_exactly_its_lifetime(age: int, holds: bool) -> None:
    text = mint().issue(epoch=EPOCH, now=NOW)
    if holds:
        mint().check(text, epoch=EPOCH, now=NOW + age)
    else:
        assert "old" in refusal(text, now=NOW + age).description


@pytest.mark.parametrize(("ahead", "holds"), [(15, True), (16, False)])
def test_nonce_from_a_replica_whose_clock_runs_ahead_is_accepted_within_the_skew(ahead: int, holds: bool) -> None:
    text = mint().issue(epoch=EPOCH, now=NOW + ahead)
    if holds:
        mint().check(text, epoch=EPOCH, now=NOW)
    else:
        assert "ahead" in refusal(text).description


def test_nonce_under_the_previous_secret_is_accepted() -> None:
    text = mint(OLD).issue(epoch=EPOCH, now=NOW)
    mint(NEW, OLD).check(text, epoch=EPOCH, now=NOW)


def test_nonce_under_a_foreign_secret_is_refused() -> None:
    refusal(mint(OLD).issue(epoch=EPOCH, now=NOW), by=mint(NEW))


def test_nonce_of_an_earlier_epoch_is_refused() -> None:
    text = mint().issue(epoch=Epoch("before", NOW - 900), now=NOW)
    assert "lost its memory" in refusal(text).description


@pytest.mark.parametrize(
    "text", ["", "A" * 21, "A" * 23, "A" * 22 + "==", "!" * 22, "é" * 22, "A" * 21 + "B", " " + "A" * 21]
)
def test_garbage_is_refused(text: str) -> None:
    refusal(text)


@given(st.binary(max_size=40))
def test_bytes_of_another_length_leave_nothing_behind_in_the_cipher(raw: bytes) -> None:
    one = mint()
    good = one.issue(epoch=EPOCH, now=NOW)
    refusal(b64url_encode(raw), by=one)
    one.check(good, epoch=EPOCH, now=NOW)


@given(st.binary(min_size=16, max_size=16))
def test_no_guess_is_a_nonce(raw: bytes) -> None:
    refusal(b64url_encode(raw))


@given(st.integers(min_value=0, max_value=127))
def test_a_flipped_bit_makes_it_no_nonce(bit: int) -> None:
    raw = bytearray(b64url_decode(mint().issue(epoch=EPOCH, now=NOW)))
    raw[bit // 8] ^= 1 << bit % 8
    refusal(b64url_encode(bytes(raw)))


def test_claim_outlives_the_nonce_on_every_replica() -> None:
    nonce = mint().check(mint().issue(epoch=EPOCH, now=NOW), epoch=EPOCH, now=NOW + 10)
    claim = nonce.claim(now=NOW + 10, skew=15)
    assert NOW + 10 + claim.ttl >= nonce.expires_at + 15 + 15
    assert claim.dated > EPOCH.started_at
