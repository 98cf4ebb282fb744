"""Signing keys: shown before they sign, shown until their last token has died."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.hazmat.primitives.serialization.pkcs12 import PKCS12PrivateKeyTypes, serialize_key_and_certificates
from hypothesis import given, settings
from hypothesis import strategies as st

from zeta_guard.authorization_server.key_folder import read_keys, rotate
from zeta_guard.authorization_server.pkcs12_key import read_container, read_key_password
from zeta_guard.authorization_server.signing_keys import KeyState, SigningKeys
from zeta_guard.config.authorization_server import Lifetimes
from zeta_guard.errors import ConfigurationError
from zeta_guard.jose.jws import KeySigner, parse_jws, sign_jws, verify_es256
from zeta_guard.jose.slot import Slot
from zeta_guard.simulators.pki import DemoPki
from zeta_guard.trust.der import elements, sequence

NOW = 1_800_000_000.0
LIFETIMES = Lifetimes(jwks_max_age=300, access_token_cap=900, refresh_token_cap=3600)
NOTICE = 600
AFTERLIFE = 600 + 3600


def started(directory: Path, now: float = NOW) -> SigningKeys:
    keys = SigningKeys(directory, LIFETIMES)
    keys.start(now)
    return keys


def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def test_first_key_signs_at_once(tmp_path: Path) -> None:
    written = rotate(tmp_path / "keys", NOW)
    keys = started(tmp_path / "keys")
    assert keys.current(NOW).kid == written.kid
    assert list(keys.public(NOW)) == [written.kid]


def test_the_file_is_named_by_its_time_and_private(tmp_path: Path) -> None:
    written = rotate(tmp_path, NOW)
    assert written.path.name == "2027-01-15T080000Z.pem"
    assert stat.S_IMODE(written.path.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [written.path.name]
    assert b"BEGIN PRIVATE KEY" in written.path.read_bytes()


def test_the_only_key_signs_even_before_its_time(tmp_path: Path) -> None:
    written = rotate(tmp_path, NOW + 5000)
    assert started(tmp_path).current(NOW).kid == written.kid


def test_next_key_is_shown_before_it_signs(tmp_path: Path) -> None:
    first = rotate(tmp_path, NOW - 50_000)
    keys = started(tmp_path)
    second = rotate(tmp_path, NOW, lead=NOTICE + 60)
    assert keys.reload(NOW)
    assert set(keys.public(NOW)) == {first.kid, second.kid}
    assert keys.current(NOW).kid == first.kid
    assert keys.current(NOW + NOTICE + 59).kid == first.kid
    assert keys.current(NOW + NOTICE + 60).kid == second.kid


def test_a_key_dropped_in_with_a_past_name_waits_until_it_was_shown(tmp_path: Path) -> None:
    first = rotate(tmp_path, NOW - 50_000)
    keys = started(tmp_path)
    second = rotate(tmp_path, NOW - 10, lead=0)
    assert keys.reload(NOW)
    assert keys.current(NOW + NOTICE - 1).kid == first.kid
    assert keys.current(NOW + NOTICE).kid == second.kid


def test_after_a_restart_the_names_decide(tmp_path: Path) -> None:
    rotate(tmp_path, NOW - 50_000)
    second = rotate(tmp_path, NOW - 1000, lead=NOTICE)
    assert started(tmp_path).current(NOW).kid == second.kid


def test_old_key_is_shown_until_its_last_token_has_died(tmp_path: Path) -> None:
    first = rotate(tmp_path, NOW - 50_000)
    keys = started(tmp_path)
    rotate(tmp_path, NOW, lead=NOTICE)
    keys.reload(NOW)
    handover = NOW + NOTICE
    assert first.kid in keys.public(handover + AFTERLIFE - 1)
    assert first.kid not in keys.public(handover + AFTERLIFE)


def test_states_are_told(tmp_path: Path) -> None:
    for at in (NOW - 90_000, NOW - 3000, NOW - 700, NOW):
        rotate(tmp_path, at, lead=NOTICE)
    entries = started(tmp_path).entries(NOW + 1)
    assert [entry.state for entry in entries] == [KeyState.FORMER, KeyState.FORMER, KeyState.CURRENT, KeyState.NEXT]
    assert started(tmp_path).entries(NOW + 10 * AFTERLIFE)[0].state is KeyState.OVER
    assert entries[-1].until is None


def test_a_removed_key_is_gone_after_the_reload(tmp_path: Path) -> None:
    first = rotate(tmp_path, NOW - 50_000)
    second = rotate(tmp_path, NOW - 1000, lead=0)
    keys = started(tmp_path)
    first.path.unlink()
    assert keys.reload(NOW)
    assert list(keys.public(NOW)) == [second.kid]


def test_reload_without_change_says_so(tmp_path: Path) -> None:
    rotate(tmp_path, NOW)
    assert not started(tmp_path).reload(NOW)


@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_a_folder_with_a_mistake_changes_nothing(tmp_path: Path, content: bytes) -> None:
    first = rotate(tmp_path, NOW)
    keys = started(tmp_path)
    (tmp_path / "2027-01-16T080000Z.pem").write_bytes(content)
    assert not keys.reload(NOW)
    assert keys.current(NOW).kid == first.kid


async def test_reload_in_background_reads_the_folder(tmp_path: Path) -> None:
    rotate(tmp_path, NOW)
    keys = started(tmp_path)
    second = rotate(tmp_path, NOW + 1)
    assert await keys.reload_in_background(NOW)
    assert second.kid in keys.public(NOW)


def test_jwks_holds_what_verifies(tmp_path: Path) -> None:
    rotate(tmp_path, NOW)
    keys = started(tmp_path)
    jws = parse_jws(
        sign_jws({"typ": "at+jwt"}, {"a": 1}, keys.current(NOW)), Slot("token", "invalid_token"), typ="at+jwt"
    )
    kid = str(jws.header["kid"])
    verify_es256(jws, keys.public(NOW)[kid], Slot("token", "invalid_token"))
    shown = keys.jwks(NOW)["keys"]
    assert isinstance(shown, list)
    assert isinstance(shown[0], dict)
    assert set(shown[0]) == {"kid", "kty", "alg", "use", "crv", "x", "y"}
    assert shown[0]["kid"] == kid


def test_two_rotations_in_one_second_do_not_replace_each_other(tmp_path: Path) -> None:
    rotate(tmp_path, NOW)
    second = rotate(tmp_path, NOW)
    content = second.path.read_bytes()
    with pytest.raises(ConfigurationError, match="same second"):
        rotate(tmp_path, NOW)
    assert second.path.read_bytes() == content


def test_hidden_and_other_files_are_passed_over(tmp_path: Path) -> None:
    rotate(tmp_path, NOW)
    (tmp_path / ".2027-01-15T080000Z.pem.half").write_bytes(b"half")
    (tmp_path / "README").write_text("keys")
    assert len(read_keys(tmp_path)) == 1


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no key"):
        read_keys(tmp_path)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_keys(tmp_path / "nowhere")


PASSWORD = b"correct horse"


def p256() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def container(key: PKCS12PrivateKeyTypes, password: bytes | None = PASSWORD) -> bytes:
    protection = NoEncryption() if password is None else BestAvailableEncryption(password)
    return serialize_key_and_certificates(b"token", key, None, None, protection)


def certificate_only() -> bytes:
    certificate = next(iter(DemoPki(now=NOW).issue_smcb("1-no-key").chain))
    return serialize_key_and_certificates(None, None, certificate, None, BestAvailableEncryption(PASSWORD))


def with_two_keys() -> bytes:
    """A container whose key bag stands in it twice (its MAC is wrong then, which nobody comes to see)."""
    outer = sequence(container(p256()))
    safe = next(elements(next(elements(sequence(outer[1].encoded)[1].content)).content))
    (content,) = elements(safe.content)
    bags = next(elements(sequence(content.encoded)[1].content))
    bag = next(elements(sequence(bags.content)[0].encoded))
    doubled = der(0x30, bag.encoded * 2)
    data = sequence(content.encoded)[0].encoded
    inner = der(0x30, der(0x30, data + der(0xA0, der(0x04, doubled))))
    return der(0x30, outer[0].encoded + der(0x30, data + der(0xA0, der(0x04, inner))) + outer[2].encoded)


def der(tag: int, content: bytes) -> bytes:
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    size = (length.bit_length() + 7) // 8
    return bytes((tag, 0x80 | size)) + length.to_bytes(size, "big") + content


def refused(directory: Path, password: bytes | None = PASSWORD) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        read_keys(directory, password)
    return caught.value


@pytest.mark.parametrize("suffix", ["p12", "pfx"])
def test_a_pkcs12_file_is_a_key_of_the_folder_beside_pem_files(tmp_path: Path, suffix: str) -> None:
    later, first = p256(), rotate(tmp_path, NOW)
    (tmp_path / f"2027-01-16T080000Z.{suffix}").write_bytes(container(later))
    keys = read_keys(tmp_path, PASSWORD)
    assert [key.kid for key in keys] == [first.kid, KeySigner(later).kid]
    assert keys[1].not_before == int(NOW) + 86_400


def test_keys_are_ordered_by_time_whatever_their_kind(tmp_path: Path) -> None:
    for day, suffix in ((16, "p12"), (15, "pfx"), (17, "pem")):
        content = pem(p256()) if suffix == "pem" else container(p256())
        (tmp_path / f"2027-01-{day}T080000Z.{suffix}").write_bytes(content)
    assert [key.path.suffix for key in read_keys(tmp_path, PASSWORD)] == [".pfx", ".p12", ".pem"]


def test_a_rotation_under_a_password_writes_pkcs12_that_needs_it(tmp_path: Path) -> None:
    written = rotate(tmp_path, NOW, password=PASSWORD)
    assert written.path.name == "2027-01-15T080000Z.p12"
    assert stat.S_IMODE(written.path.stat().st_mode) == 0o600
    assert [key.kid for key in read_keys(tmp_path, PASSWORD)] == [written.kid]
    assert refused(tmp_path, b"wrong horse").path == "authorization_server.signing_keys/2027-01-15T080000Z.p12"
    rotate(tmp_path, NOW, password=PASSWORD)
    assert len(read_keys(tmp_path, PASSWORD)) == 2


def test_the_next_key_of_a_started_folder_is_of_its_kind_and_in_time(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text(PASSWORD.decode() + "\n")
    folder = tmp_path / "keys"
    rotate(folder, NOW - 50_000, password=PASSWORD)
    keys = SigningKeys(folder, LIFETIMES, password_file=secret)
    keys.start(NOW)
    written = keys.write_next(NOW)
    assert written.path.suffix == ".p12"
    assert written.not_before == NOW + NOTICE + 60
    assert keys.reload(NOW)
    assert keys.current(NOW + NOTICE + 60).kid == written.kid
    secret.write_text("another")
    assert not keys.reload(NOW)
    assert keys.current(NOW + NOTICE + 60).kid == written.kid


def test_a_pkcs12_file_without_a_password_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "2027-01-15T080000Z.p12").write_bytes(container(p256()))
    mistake = refused(tmp_path, None)
    assert mistake.path == "authorization_server.signing_key_password_file"
    assert "--password-file" in mistake.remedy


def test_an_unprotected_pkcs12_file_does_not_pass_for_a_protected_one(tmp_path: Path) -> None:
    (tmp_path / "2027-01-15T080000Z.p12").write_bytes(container(p256(), None))
    assert "another password" in str(refused(tmp_path))


@pytest.mark.parametrize(
    ("content", "seen", "remedy"),
    [
        (container(p256(), b"wrong horse"), "another password", "openssl pkcs12 -in"),
        (container(ec.generate_private_key(ec.SECP384R1())), "another kind of key", "keys rotate"),
        (container(rsa.generate_private_key(65537, 2048)), "another kind of key", "keys rotate"),
        (with_two_keys(), "2 keys", "-nocerts"),
        (certificate_only(), "no private key", "-nocerts"),
        (b"", "no PKCS#12", "openssl pkcs12 -export"),
        (b"garbage", "no PKCS#12", "openssl pkcs12 -export"),
        (pem(p256()), "no PKCS#12", "openssl pkcs12 -export"),
        (container(p256())[:-1], "no PKCS#12", "openssl pkcs12 -export"),
        (der(0x30, b""), "no PKCS#12", "openssl pkcs12 -export"),
        (
            der(0x30, der(0x02, b"\x03") + der(0x30, der(0x06, b"\x2a") + der(0xA0, der(0x04, b"")))),
            "no PKCS#12",
            "-export",
        ),
        (container(p256()) + bytes(65_536), "no PKCS#12", "openssl pkcs12 -export"),
    ],
)
def test_a_wrong_pkcs12_file_is_named_with_a_remedy(tmp_path: Path, content: bytes, seen: str, remedy: str) -> None:
    (tmp_path / "2027-01-15T080000Z.p12").write_bytes(content)
    mistake = refused(tmp_path)
    assert mistake.path == "authorization_server.signing_keys/2027-01-15T080000Z.p12"
    assert seen in str(mistake)
    assert remedy in mistake.remedy
    assert PASSWORD.decode() not in str(mistake)


@pytest.mark.filterwarnings("ignore:PKCS#12 bundle could not be parsed as DER")
@settings(max_examples=40)
@given(st.binary(max_size=200), st.integers(0, 400), st.integers(0, 255))
def test_a_damaged_container_is_a_mistake_of_the_configuration(tail: bytes, position: int, value: int) -> None:
    whole = bytearray(_CONTAINER)
    whole[position % len(whole)] = value
    for raw in (bytes(whole), _CONTAINER[:position] + tail, tail):
        try:
            read_container(raw, PASSWORD, "key")
        except ConfigurationError:
            continue


_CONTAINER = container(p256())


def test_the_password_is_the_first_line_of_its_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    assert read_key_password(None) is None
    file.write_text("  correct horse \r\nsecond line")
    assert read_key_password(file) == PASSWORD
    for content in (b"", b"\nlater", b"\xff\xfe"):
        file.write_bytes(content)
        with pytest.raises(ConfigurationError, match=r"signing_key_password_file.*first line"):
            read_key_password(file)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_key_password(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("key.p12", b"", "no time"),
        ("key.pem", pem(ec.generate_private_key(ec.SECP256R1())), "no time"),
        ("2027-13-15T080000Z.pem", pem(ec.generate_private_key(ec.SECP256R1())), "no time"),
        ("2027-01-15T080000Z.pem", pem(ec.generate_private_key(ec.SECP384R1())), "P-256"),
        ("2027-01-15T080000Z.pem", pem(rsa.generate_private_key(65537, 2048)), "P-256"),
        ("2027-01-15T080000Z.pem", b"x" * 10_000, "no private key"),
        (
            "2027-01-15T080000Z.pem",
            ec.generate_private_key(ec.SECP256R1()).private_bytes(
                Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
            ),
            "no private key",
        ),
    ],
)
def test_a_wrong_key_file_is_refused_by_name(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigurationError, match=expected):
        read_keys(tmp_path)


def test_a_key_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "2027-01-15T080000Z.pem").mkdir()
    with pytest.raises(ConfigurationError, match="unreadable") as caught:
        read_keys(tmp_path)
    assert caught.value.path == "authorization_server.signing_keys/2027-01-15T080000Z.pem"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot be written"):
        rotate(tmp_path / "file" / "keys", NOW)


def test_a_folder_full_of_files_is_refused(tmp_path: Path) -> None:
    rotate(tmp_path, NOW)
    for number in range(31):
        (tmp_path / f"{number}.txt").touch()
    assert len(read_keys(tmp_path)) == 1
    (tmp_path / "31.txt").touch()
    with pytest.raises(ConfigurationError, match="33 files"):
        read_keys(tmp_path)


def test_the_same_key_twice_is_refused(tmp_path: Path) -> None:
    content = pem(ec.generate_private_key(ec.SECP256R1()))
    for name in ("2027-01-15T080000Z.pem", "2027-01-16T080000Z.pem"):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigurationError, match="same key"):
        read_keys(tmp_path)


def test_asking_before_the_start_is_a_programming_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        SigningKeys(tmp_path, LIFETIMES).current(NOW)
