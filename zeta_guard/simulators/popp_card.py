"""A simulated eGK G2.1: it answers the commands of the PoPP scenarios as a real card plausibly would."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

from zeta_guard.simulators.insured import Insured
from zeta_guard.simulators.pki import DAY, Authority, DemoPki, key_usage, new_key

EGK_AUT_POLICY: Final = "1.2.276.0.76.4.70"
INSURED_OID: Final = "1.2.276.0.76.4.49"
AID_EGK: Final = "d2760001448000"
AID_DF_ESIGN: Final = "a000000167455349474e"
BRAINPOOL_OID: Final = bytes.fromhex("2b2403030208010107")

_OK: Final = bytes.fromhex("9000")
_NOT_FOUND: Final = bytes.fromhex("6a82")
_NOT_SATISFIED: Final = bytes.fromhex("6985")
_NOT_SUPPORTED: Final = bytes.fromhex("6d00")


def tlv(tag: int, *parts: bytes) -> bytes:
    """One BER-TLV object; tags of one or two bytes."""
    content = b"".join(parts)
    size = len(content)
    length = bytes([size]) if size < 0x80 else bytes([0x82]) + size.to_bytes(2, "big")
    return tag.to_bytes(2 if tag > 0xFF else 1, "big") + length + content


def objects(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """The BER-TLV objects in ``raw``. Raises ValueError for what is none."""
    at = 0
    while at < len(raw):
        try:
            tag = raw[at]
            at += 1
            if tag & 0x1F == 0x1F:
                tag = tag << 8 | raw[at]
                at += 1
            length = raw[at]
            at += 1
            if length & 0x80:
                width = length & 0x7F
                length, at = int.from_bytes(raw[at : at + width], "big"), at + width
        except IndexError:
            raise ValueError("truncated TLV") from None
        if at + length > len(raw):
            raise ValueError("truncated TLV")
        yield tag, raw[at : at + length]
        at += length


def find(raw: bytes, *path: int) -> bytes:
    """The content of the object under a path of tags. Raises ValueError when it is not there."""
    for tag in path:
        content = next((content for found, content in objects(raw) if found == tag), None)
        if content is None:
            raise ValueError(f"no object {tag:x}")
        raw = content
    return raw


def point(key: ec.EllipticCurvePublicKey) -> bytes:
    """Uncompressed point, 65 bytes."""
    return key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)


def egk_authority(pki: DemoPki) -> Authority:
    """A CA for eGK certificates under the root of the demo PKI."""
    return pki.authority(
        "DEMO.EGK-CA1 NOT-VALID",
        issuer=pki.root,
        curve="brainpoolP256r1",
        unit="Elektronische Gesundheitskarte-CA der Telematikinfrastruktur",
    )


def _cvc(reference: bytes, holder: bytes, key: ec.EllipticCurvePublicKey, signer: ec.EllipticCurvePrivateKey) -> bytes:
    body = tlv(
        0x7F4E,
        tlv(0x5F29, b"\x70"),
        tlv(0x42, reference),
        tlv(0x7F49, tlv(0x06, BRAINPOOL_OID), tlv(0x86, point(key))),
        tlv(0x5F20, holder),
        tlv(0x7F4C, tlv(0x06, bytes.fromhex("2a8214004c048118")), tlv(0x53, bytes(7))),
        tlv(0x5F25, bytes.fromhex("020500010001")),
        tlv(0x5F24, bytes.fromhex("030500010001")),
    )
    return tlv(0x7F21, body, tlv(0x5F37, _raw(signer.sign(body, ec.ECDSA(hashes.SHA256())))))


class SimulatedEgk:
    """One card in a reader.

    ``status_words`` overrides answers, by the hex prefix of the command: ``{"00b084": "6a82"}``. ``version`` is the object
    system version (G2.1: ``040400`` to ``040700``).
    """

    def __init__(
        self,
        pki: DemoPki,
        insured: Insured,
        *,
        issuer: Authority | None = None,
        iccsn: str = "80276883110000012345",
        version: str = "040502",
        not_after: float | None = None,
        status_words: dict[str, str] | None = None,
    ) -> None:
        self.insured = insured
        self.issuer = issuer or egk_authority(pki)
        self.status_words = status_words or {}
        self._version = version
        self._holder = bytes.fromhex("000a") + bytes.fromhex(iccsn)
        self._cvc_key = new_key("brainpoolP256r1")
        ca_holder = b"DEGXX\x86\x02\x21"
        self._ca_cvc = _cvc(b"DEGXX\x82\x02\x16", ca_holder, self._cvc_key.public_key(), self.issuer.private_key)
        self._cvc = _cvc(ca_holder, self._holder, self._cvc_key.public_key(), self.issuer.private_key)
        self._certificate = self._certify(pki, not_after)
        self._selected = ""
        self._key_selected = False
        self._channel_open = False

    def _certify(self, pki: DemoPki, not_after: float | None) -> bytes:
        insured = self.insured
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.COUNTRY_NAME, "DE"),
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, f"{insured.insurer_name} NOT-VALID"),
                x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, insured.insurer_id),
                x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, insured.kvnr),
                x509.NameAttribute(NameOID.SURNAME, insured.family),
                x509.NameAttribute(NameOID.GIVEN_NAME, " ".join(insured.given)),
                x509.NameAttribute(NameOID.COMMON_NAME, f"{' '.join(insured.given)} {insured.family}TEST-ONLY"),
            ]
        )
        profession = x509.ProfessionInfo(None, ["Versicherte/-r"], [x509.ObjectIdentifier(INSURED_OID)], None, None)
        policy = x509.PolicyInformation(x509.ObjectIdentifier(EGK_AUT_POLICY), None)
        certificate = pki.certify(
            subject,
            new_key("brainpoolP256r1").public_key(),
            issuer=self.issuer,
            signing_key=self.issuer.private_key,
            not_before=pki.now - DAY,
            not_after=pki.now + 30 * DAY if not_after is None else not_after,
            extensions=[
                (x509.BasicConstraints(False, None), True),
                (key_usage("digital_signature"), True),
                (x509.CertificatePolicies([policy]), False),
                (x509.Admissions(None, [x509.Admission(None, None, [profession])]), False),
            ],
        )
        return certificate.public_bytes(serialization.Encoding.DER)

    def transmit(self, command: bytes) -> bytes:
        """Response APDU for a command APDU: data and two status bytes."""
        text = command.hex()
        for prefix, word in self.status_words.items():
            if text.startswith(prefix):
                return bytes.fromhex(word)
        if text.startswith("00a4040c"):
            return self._select(text[10 : 10 + 2 * command[4]])
        for prefix, answer in (
            ("00b091", tlv(0xEF, tlv(0xC0, b"\x02"), tlv(0xC1, bytes.fromhex(self._version))) + _OK),
            ("00b087", self._ca_cvc + _OK),
            ("00b086", self._cvc + _OK),
            ("80ca0100", tlv(0xE0, tlv(0x83, b"DEGXX\x82\x02\x16")) + _OK),
            ("002281b6", _OK),
            ("002a00be", _OK),
        ):
            if text.startswith(prefix):
                return answer
        if text.startswith("002241a4"):
            self._key_selected = True
            return _OK
        if text.startswith(("10860000", "00860000")):
            return self._authenticate(command)
        if text.startswith("0088000018"):
            return self._sign(command[5:29])
        if text.startswith("00b084"):
            return self._certificate + _OK if self._selected == AID_DF_ESIGN else _NOT_FOUND
        if text == "f0ee000000":
            return f"KVNR:{self.insured.kvnr}|IKNR:{self.insured.insurer_id}".encode() + _OK
        return _NOT_SUPPORTED

    def _select(self, aid: str) -> bytes:
        if aid not in (AID_EGK, AID_DF_ESIGN):
            return _NOT_FOUND
        self._selected = aid
        self._key_selected = False
        return _OK

    def _authenticate(self, command: bytes) -> bytes:
        if command[0] == 0x10:
            if not self._key_selected:
                return _NOT_SATISFIED
            self._channel_open = True
            return tlv(0x7C, tlv(0x85, point(new_key("brainpoolP256r1").public_key()))) + _OK
        return _OK if self._channel_open else _NOT_SATISFIED

    def _sign(self, nonce: bytes) -> bytes:
        if not self._key_selected:
            return _NOT_SATISFIED
        return _raw(self._cvc_key.sign(nonce, ec.ECDSA(hashes.SHA256()))) + _OK


def _raw(signature: bytes) -> bytes:
    r, s = decode_dss_signature(signature)
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")
