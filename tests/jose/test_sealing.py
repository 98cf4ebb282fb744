from __future__ import annotations

import base64
import os
import re
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from zeta_guard.errors import ConfigurationError
from zeta_guard.jose.sealing import Pseudonymizer, Sealer, SealingError, Secrets

CURRENT = bytes(range(32))
PREVIOUS = bytes(range(100, 132))


@pytest.mark.parametrize(
    "content",
    [
        CURRENT,
        CURRENT.hex().encode(),
        CURRENT.hex().upper().encode() + b"\n",
        base64.b64encode(CURRENT) + b"\n",
        base64.urlsafe_b64encode(CURRENT).rstrip(b"="),
    ],
)
def test_a_secret_is_32_bytes_raw_hexadecimal_or_base64(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "secret"
    file.write_bytes(content)
    assert Secrets.load([file]).derive("x") == Secrets([CURRENT]).derive("x")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        CURRENT[:31],
        CURRENT + b"x",
        CURRENT.hex().encode()[:-2],
        CURRENT.hex().encode() + b"00",
        b"g" * 64,
        base64.b64encode(CURRENT + b"x"),
        b"\xff" * 5000,
        bytes(32),
        b"0" * 64,
        b"password" * 4,
    ],
)
def test_what_is_no_secret_is_refused_without_showing_it(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "secret"
    file.write_bytes(content)
    good = tmp_path / "good"
    good.write_bytes(PREVIOUS)
    with pytest.raises(ConfigurationError) as caught:
        Secrets.load([good, file])
    assert caught.value.path == "secret_files[1]"
    assert "openssl rand" in caught.value.remedy
    assert content[:5].decode(errors="replace") not in str(caught.value) or not content


def test_missing_and_repeated_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    with pytest.raises(ConfigurationError, match="cannot be read"):
        Secrets.load([file])
    with pytest.raises(ConfigurationError, match="no file"):
        Secrets.load([])
    file.write_bytes(CURRENT)
    with pytest.raises(ConfigurationError, match="twice"):
        Secrets.load([file, file])


def test_keys_are_hkdf_by_label_and_context_with_the_current_secret_first() -> None:
    # The first vector of RFC 5869 shows that the library's HKDF is the one that is meant.
    hkdf = HKDF(hashes.SHA256(), 42, bytes.fromhex("000102030405060708090a0b0c"), bytes.fromhex("f0f1f2f3f4f5f6f7f8f9"))
    assert hkdf.derive(b"\x0b" * 22).hex() == (
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    )
    secrets = Secrets([CURRENT, PREVIOUS])
    keys = secrets.derive("nonce", b"epoch")
    assert [len(key) for key in keys] == [32, 32]
    info = b"zeta-guard\x00\x05nonceepoch"
    assert keys == tuple(HKDF(hashes.SHA256(), 32, None, info).derive(secret) for secret in (CURRENT, PREVIOUS))
    assert keys[0] == Secrets([CURRENT]).derive("nonce", b"epoch")[0]


def test_no_two_purposes_share_a_key() -> None:
    secrets = Secrets([CURRENT])
    purposes = [("a", b""), ("b", b""), ("a", b"b"), ("ab", b""), ("", b"ab"), ("", b"")]
    assert len({secrets.derive(label, context) for label, context in purposes}) == len(purposes)
    assert repr(secrets) == "Secrets(1)"


def test_a_shorter_aes_key_is_no_sealing_key() -> None:
    with pytest.raises(ValueError):
        Sealer([CURRENT[:16]])


@pytest.mark.parametrize("secrets", [[], [b"short"], [CURRENT, b"x"]])
def test_secrets_of_another_length_are_none(secrets: list[bytes]) -> None:
    with pytest.raises(ValueError):
        Secrets(secrets)
    with pytest.raises(ValueError):
        Sealer(secrets)


@given(st.binary(max_size=100), st.binary(max_size=20))
def test_what_was_sealed_opens_where_it_was_sealed(plain: bytes, place: bytes) -> None:
    sealer = Sealer([CURRENT, PREVIOUS])
    sealed = sealer.seal(plain, place)
    assert len(sealed) == len(plain) + 29
    assert sealer.open(sealed, place) == plain
    assert sealer.seal(plain, place) != sealed
    with pytest.raises(SealingError):
        sealer.open(sealed, place + b"x")


@given(st.binary(max_size=20), st.data())
def test_changed_or_invented_bytes_do_not_open(plain: bytes, data: st.DataObject) -> None:
    sealer = Sealer([CURRENT])
    sealed = bytearray(sealer.seal(plain, b"place"))
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= data.draw(st.integers(1, 255))
    for attempt in (bytes(sealed), data.draw(st.binary(max_size=60)), bytes(sealed)[:-1]):
        with pytest.raises(SealingError):
            sealer.open(attempt, b"place")


def test_neither_a_beginning_of_sealed_bytes_nor_another_version_opens() -> None:
    sealer = Sealer([CURRENT])
    sealed = sealer.seal(b"plain", b"place")
    for attempt in [sealed[:end] for end in range(len(sealed))] + [
        bytes((other,)) + sealed[1:] for other in (0, 2, 255)
    ]:
        with pytest.raises(SealingError):
            sealer.open(attempt, b"place")
    assert sealer.open(sealer.seal(b"", b"place"), b"place") == b""


def test_after_a_rotation_the_old_opens_and_the_new_is_sealed_with_the_new_key() -> None:
    old = Sealer([PREVIOUS]).seal(b"plain", b"place")
    rotated = Sealer([CURRENT, PREVIOUS])
    assert rotated.open(old, b"place") == b"plain"
    assert Sealer([CURRENT]).open(rotated.seal(b"plain", b"place"), b"place") == b"plain"
    with pytest.raises(SealingError):
        Sealer([CURRENT]).open(old, b"place")


def test_a_pseudonym_is_stable_keyed_and_tells_nothing() -> None:
    telematik_id = "1-2012345678"
    pseudonymizer = Pseudonymizer(Secrets([CURRENT, PREVIOUS]))
    name = pseudonymizer.pseudonym(telematik_id)
    # A command takes it as it stands: nothing in it looks like an option.
    assert re.fullmatch(r"[0-9a-f]{64}", name)
    assert name == Pseudonymizer(Secrets([CURRENT])).pseudonym(telematik_id)
    assert name != Pseudonymizer(Secrets([os.urandom(32)])).pseudonym(telematik_id)
    assert name != pseudonymizer.pseudonym(telematik_id + "9")
    assert telematik_id not in name
    assert pseudonymizer.pseudonyms(telematik_id) == (
        name,
        Pseudonymizer(Secrets([PREVIOUS])).pseudonym(telematik_id),
    )
