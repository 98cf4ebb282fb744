"""A signing key in a PKCS#12 container (RFC 7292): how key stores and other tools hand it out, protected by a password."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption
from cryptography.hazmat.primitives.serialization.pkcs12 import (
    PKCS12PrivateKeyTypes,
    load_pkcs12,
    serialize_key_and_certificates,
)

from zeta_guard.errors import ConfigurationError
from zeta_guard.trust.der import OBJECT_IDENTIFIER, Element, elements, sequence

PASSWORD_SETTING: Final = "authorization_server.signing_key_password_file"  # noqa: S105 - a name
LARGEST_CONTAINER: Final = 65_536

_DATA: Final = bytes.fromhex("2a864886f70d010701")
_KEY_BAGS: Final = frozenset(
    (bytes.fromhex("2a864886f70d010c0a0101"), bytes.fromhex("2a864886f70d010c0a0102"))  # keyBag, pkcs8ShroudedKeyBag
)
_REMEDY: Final = "Export the one key anew: openssl pkcs12 -export -inkey KEY.pem -nocerts -out FILE.p12"


def read_key_password(file: Path | None) -> bytes | None:
    """The password of the containers: first line of the file; None without a file. Raises ConfigurationError."""
    if file is None:
        return None
    expected = "a readable file with the password in its first line"
    try:
        password = file.read_text().split("\n", 1)[0].strip()
    except (OSError, UnicodeDecodeError):
        raise ConfigurationError(PASSWORD_SETTING, f"{file.name} cannot be read", expected) from None
    if not password:
        raise ConfigurationError(PASSWORD_SETTING, f"nothing in the first line of {file.name}", expected)
    return password.encode()


def read_container(raw: bytes, password: bytes | None, setting: str) -> PrivateKeyTypes:
    """The one private key of a container; certificates in it are ignored. Raises ConfigurationError with ``setting``."""
    keys = _count_keys(raw)
    if keys is None:
        raise ConfigurationError(setting, "no PKCS#12 container in DER", "a PKCS#12 file with one key", _REMEDY)
    if keys > 1:
        raise ConfigurationError(setting, f"{keys} keys", "one key in each file", _REMEDY)
    if password is None:
        raise ConfigurationError(
            PASSWORD_SETTING,
            "nothing, and there is a PKCS#12 file",
            "a file with the password of the PKCS#12 files",
            "Name the file there, or with --password-file.",
        )
    try:
        key = load_pkcs12(raw, password).key
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigurationError(
            setting,
            "another password, an encryption that is not supported, or a damaged file",
            f"the password of {PASSWORD_SETTING}, and PBES2 with AES",
            "Compare with: openssl pkcs12 -in FILE -noout",
        ) from None
    if key is None:
        raise ConfigurationError(setting, "no private key", "one key in each file", _REMEDY)
    return key


def write_container(key: PKCS12PrivateKeyTypes, password: bytes) -> bytes:
    """A container with nothing but the key, AES-256 under the password."""
    return serialize_key_and_certificates(None, key, None, None, BestAvailableEncryption(password))


def _count_keys(raw: bytes) -> int | None:
    """Keys that stand in the container in plain sight, encrypted or not; None when it is no container.

    OpenSSL reads the first key and is silent about others. A key inside an encrypted bag of bags is not counted.
    """
    try:
        members = sequence(raw)
        safe = _octets(_data(members[1].encoded))
        return sum(_keys_in(content) for content in sequence(safe))
    except (ValueError, IndexError):
        return None


def _keys_in(content: Element) -> int:
    kind, *rest = sequence(content.encoded)
    if kind.content != _DATA:
        return 0
    (inner,) = elements(rest[0].content)
    bags = sequence(_octets(inner))
    names = [sequence(bag.encoded)[0] for bag in bags]
    return sum(name.tag == OBJECT_IDENTIFIER and name.content in _KEY_BAGS for name in names)


def _data(content_info: bytes) -> Element:
    """The value of a ContentInfo of type ``data``."""
    kind, value = sequence(content_info)
    if kind.content != _DATA:
        raise ValueError("not of type data")
    (inner,) = elements(value.content)
    return inner


def _octets(element: Element) -> bytes:
    if element.tag != 0x04:
        raise ValueError("no OCTET STRING")
    return element.content
