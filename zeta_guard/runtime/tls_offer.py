"""What OpenSSL of this process will agree to, where Python has no call for it: groups and TLS 1.3 suites.

An OpenSSL configuration file (``OPENSSL_CONF``, as the image sets it) holds for every context of the process. A context of the
client's kind says what it would offer in its first message, which is read here.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

_SUPPORTED_GROUPS: Final = 10
_GROUP_NAMES: Final = {
    23: "P-256",
    24: "P-384",
    25: "P-521",
    26: "brainpoolP256r1",
    27: "brainpoolP384r1",
    28: "brainpoolP512r1",
    29: "X25519",
    30: "X448",
    31: "brainpoolP256r1tls13",
    32: "brainpoolP384r1tls13",
    33: "brainpoolP512r1tls13",
    256: "ffdhe2048",
    257: "ffdhe3072",
    258: "ffdhe4096",
    259: "ffdhe6144",
    260: "ffdhe8192",
    4588: "X25519MLKEM768",
}
_SUITE_NAMES: Final = {
    0x1301: "TLS_AES_128_GCM_SHA256",
    0x1302: "TLS_AES_256_GCM_SHA384",
    0x1303: "TLS_CHACHA20_POLY1305_SHA256",
}
_ALLOWED_GROUPS: Final = frozenset(_GROUP_NAMES[number] for number in (23, 24, 26, 27, 28, 31, 32, 33))
_ALLOWED_SUITES: Final = frozenset({"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384"})


@dataclass(frozen=True, slots=True)
class TlsOffer:
    """Names in the order of preference."""

    groups: tuple[str, ...]
    suites13: tuple[str, ...]

    @property
    def excess(self) -> tuple[str, ...]:
        """What gemSpec_Krypt does not name (``wire-contract`` section 8.1)."""
        return tuple(
            [name for name in self.groups if name not in _ALLOWED_GROUPS]
            + [name for name in self.suites13 if name not in _ALLOWED_SUITES]
        )


def tls_offer() -> TlsOffer:
    """The offer of this process."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    outgoing = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost").do_handshake()
    return read_client_hello(outgoing.read())


def read_client_hello(record: bytes) -> TlsOffer:
    """Groups and TLS 1.3 suites of one TLS record that holds a whole ClientHello (RFC 8446 §4.1.2) of our own OpenSSL."""
    # Record header 5, handshake header 4, version 2, random 32.
    position = 5 + 4 + 2 + 32
    position += 1 + record[position]
    end = position + 2 + _number(record, position)
    suites = [_number(record, at) for at in range(position + 2, end, 2)]
    position = end
    position += 1 + record[position]
    end = position + 2 + _number(record, position)
    position += 2
    groups: list[int] = []
    while position < end:
        kind, length = _number(record, position), _number(record, position + 2)
        if kind == _SUPPORTED_GROUPS:
            groups = [_number(record, at) for at in range(position + 6, position + 4 + length, 2)]
        position += 4 + length
    return TlsOffer(
        tuple(_GROUP_NAMES.get(number, f"group {number:#06x}") for number in groups),
        tuple(_SUITE_NAMES.get(number, f"suite {number:#06x}") for number in suites if number >> 8 == 0x13),
    )


def _number(raw: bytes, at: int) -> int:
    return int.from_bytes(raw[at : at + 2], "big")
