"""Just enough DER (X.690) to look where ``cryptography`` does not let us look.

Definite lengths in their shortest form, single-byte tags; everything else is a ValueError. Nothing here decodes values.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

SEQUENCE: Final = 0x30
OCTET_STRING: Final = 0x04
OBJECT_IDENTIFIER: Final = 0x06
EXPLICIT_VERSION: Final = 0xA0


class Element(NamedTuple):
    """One tag-length-value. ``encoded`` is all of it, ``content`` the value's bytes."""

    tag: int
    content: bytes
    encoded: bytes


def elements(raw: bytes) -> Iterator[Element]:
    """The elements that stand in ``raw`` one after the other. Raises ValueError when one is malformed."""
    position = 0
    while position < len(raw):
        start = position
        if position + 2 > len(raw):
            raise ValueError("DER element is cut off")
        tag, length = raw[position], raw[position + 1]
        position += 2
        if tag & 0x1F == 0x1F:
            raise ValueError("DER tag of more than one byte")
        if length & 0x80:
            count = length & 0x7F
            if not 1 <= count <= 4 or position + count > len(raw):
                raise ValueError("DER length is malformed")
            length = int.from_bytes(raw[position : position + count], "big")
            if length < 0x80 or raw[position] == 0:
                raise ValueError("DER length is not in its shortest form")
            position += count
        end = position + length
        if end > len(raw):
            raise ValueError("DER element is cut off")
        yield Element(tag, raw[position:end], raw[start:end])
        position = end


def sequence(raw: bytes) -> list[Element]:
    """The members of the one SEQUENCE that ``raw`` is. Raises ValueError when it is anything else."""
    outer = list(elements(raw))
    if len(outer) != 1 or outer[0].tag != SEQUENCE:
        raise ValueError("not one DER SEQUENCE")
    return list(elements(outer[0].content))


def key_algorithm(tbs_certificate: bytes) -> bytes:
    """The AlgorithmIdentifier of the subject's key, as it is encoded in a TBSCertificate (RFC 5280 §4.1)."""
    members = sequence(tbs_certificate)
    offset = 1 if members and members[0].tag == EXPLICIT_VERSION else 0
    if len(members) < offset + 6:
        raise ValueError("TBSCertificate has too few members")
    key = sequence(members[offset + 5].encoded)
    if not key:
        raise ValueError("SubjectPublicKeyInfo is empty")
    return key[0].encoded
