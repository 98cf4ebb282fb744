"""The card scenarios of a PoPP service: which commands a card must answer, and what the answers prove.

A scenario run is a generator: it yields a :class:`Scenario`, is sent the response APDUs, and returns whose card it was.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.x509.oid import NameOID

from zeta_guard.simulators.pki import moment, new_key
from zeta_guard.simulators.popp_card import AID_DF_ESIGN, AID_EGK, EGK_AUT_POLICY, find, point, tlv

POPP_HOLDER: Final = bytes.fromhex("000a80276001011699902101")
"""CHR of the service's own card-verifiable certificate; all its flags are zero."""
_KVNR: Final = re.compile(r"[A-Z][0-9]{9}")
_IK: Final = re.compile(r"[0-9]{9}")

ERROR_NAMES: Final = {
    79100: "79100",
    79116: "ErrorEgkHandling",
    79117: "ErrorEgkBlocked",
    79118: "ErrorEgkHandling",
    79206: "79206",
    79401: "79401",
    79500: "ErrorEgkHandling",
    79502: "ErrorEgkBlocked",
    79504: "ErrorEgkHandling",
    79506: "ErrorEgkHandling",
    79507: "ErrorEgkHandling",
    79508: "ErrorEgkHandling",
    79509: "ErrorEgkHandling",
    79510: "WarningUnknownCertificates",
    79511: "InvalidMessage",
    79513: "UnsupportedWorkflow",
}
"""``errorCode`` of the real service by its internal number; where it has no public name, the number."""


class CardFault(Exception):
    """The conversation cannot go on; ``code`` is the internal number (BDE)."""

    def __init__(self, code: int, detail: str = "") -> None:
        super().__init__(f"{code} {detail}")
        self.code: Final = code
        self.detail: Final = detail


@dataclass(frozen=True, slots=True)
class Command:
    """One command APDU and the status words that are as they should be."""

    apdu: bytes
    expected: tuple[str, ...] = ("9000",)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One message of commands. ``fault`` is the code for an unexpected status word; ``time_span`` in ms, 0 for the last."""

    name: str
    commands: tuple[Command, ...]
    fault: int
    time_span: int = 5000


@dataclass(frozen=True, slots=True)
class CardHolder:
    """What the authenticated certificate says."""

    kvnr: str
    insurer_id: str


Run = Generator[Scenario, Sequence[bytes], CardHolder]


def _hex(text: str, *expected: str) -> Command:
    return Command(bytes.fromhex(text), expected or ("9000",))


_OPEN_EGK: Final = Scenario("SCE_OPEN_EGK", (_hex(f"00a4040c07{AID_EGK}00"), _hex("00b0910000", "9000", "6281")), 79506)
_READ_CVC: Final = Scenario("SCE_READ_CVC", (_hex("00b0870000"), _hex("00b0860000"), _hex("80ca0100000000")), 79507)


def contact(issuers: Sequence[x509.Certificate], now: float) -> Run:
    """Contact: trusted channel by card-to-card authentication, then an authentic read of C.CH.AUT."""
    yield from _open()
    _, end_entity, _ = yield _READ_CVC
    holder = _holder_of(end_entity)
    key = new_key("brainpoolP256r1")
    own = tlv(0x7F21, tlv(0x7F4E, tlv(0x5F20, POPP_HOLDER)))
    challenge = yield Scenario(
        "SCE_TC_1",
        (
            _hex("002241a406840109800154"),
            _hex("002281b60a8308" + b"DEGXX\x82\x02\x16".hex()),
            Command(bytes.fromhex("002a00be") + bytes([len(own)]) + own),
            _hex(f"10860000107c0ec30c{holder.hex()}00"),
        ),
        79509,
    )
    try:
        find(challenge[-1][:-2], 0x7C, 0x85)
    except ValueError:
        raise CardFault(79500, "no ephemeral key in the answer") from None
    answers = yield Scenario(
        "SCE_READ_X509",
        (
            _hex("00860000457c438541" + point(key.public_key()).hex()),
            _hex(f"00a4040c0a{AID_DF_ESIGN}"),
            _hex("00b08400000000"),
        ),
        79508,
        0,
    )
    return _card_holder(answers[-1][:-2], issuers, now)


def contactless(issuers: Sequence[x509.Certificate], now: float) -> Run:
    """Contactless: the card signs a nonce with the key of its card-verifiable certificate."""
    yield from _open()
    nonce = os.urandom(24)
    answers = yield Scenario(
        "AUTH_G2",
        (
            _hex("00b0870000"),
            _hex("00b0860000"),
            _hex(f"00a4040c0a{AID_DF_ESIGN}"),
            _hex("002241a406840109800100"),
            _hex("00b08400000000"),
            Command(bytes.fromhex("0088000018") + nonce + b"\0"),
        ),
        79504,
        0,
    )
    _verify_nonce(answers[1][:-2], nonce, answers[-1][:-2])
    return _card_holder(answers[4][:-2], issuers, now)


def _open() -> Generator[Scenario, Sequence[bytes], None]:
    _, version = yield _OPEN_EGK
    try:
        object_system = find(version[:-2], 0xEF, 0xC1).hex()
    except ValueError:
        raise CardFault(79502, "no object system version") from None
    if not ("040400" <= object_system <= "040700" or object_system == "050000"):
        raise CardFault(79502, "object system not supported")


def _holder_of(cvc: bytes) -> bytes:
    try:
        holder = find(cvc[:-2], 0x7F21, 0x7F4E, 0x5F20)
    except ValueError:
        raise CardFault(79116, "card-verifiable certificate unreadable") from None
    if len(holder) != 12:
        raise CardFault(79116, "card holder reference has the wrong length")
    return holder


def _verify_nonce(cvc: bytes, nonce: bytes, signature: bytes) -> None:
    try:
        encoded = find(cvc, 0x7F21, 0x7F4E, 0x7F49, 0x86)
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.BrainpoolP256R1(), encoded)
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
        key.verify(encode_dss_signature(r, s), nonce, ec.ECDSA(hashes.SHA256()))
    except ValueError:
        raise CardFault(79116, "card-verifiable certificate unreadable") from None
    except InvalidSignature:
        raise CardFault(79500, "the card did not sign the nonce") from None


def _card_holder(der: bytes, issuers: Sequence[x509.Certificate], now: float) -> CardHolder:
    try:
        certificate = x509.load_der_x509_certificate(der)
        policies = certificate.extensions.get_extension_for_class(x509.CertificatePolicies).value
    except (ValueError, x509.ExtensionNotFound):
        raise CardFault(79117, "C.CH.AUT unreadable") from None
    if EGK_AUT_POLICY not in {policy.policy_identifier.dotted_string for policy in policies}:
        raise CardFault(79117, "not an eGK certificate")
    if not any(_issued_by(certificate, issuer) for issuer in issuers):
        raise CardFault(79117, "unknown issuer")
    if not certificate.not_valid_before_utc <= moment(now) <= certificate.not_valid_after_utc:
        raise CardFault(79117, "certificate not valid now")
    units = [str(unit.value) for unit in certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)]
    kvnr = next((unit for unit in units if _KVNR.fullmatch(unit)), None)
    insurer = next((unit for unit in units if _IK.fullmatch(unit)), None)
    if kvnr is None or insurer is None:
        raise CardFault(79117, "no KVNR or IK in the certificate")
    return CardHolder(kvnr, insurer)


def _issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
