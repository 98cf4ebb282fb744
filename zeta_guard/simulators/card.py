"""A software SM(C)-B: certificate, key and what a client does with them."""

from __future__ import annotations

import base64
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import pkcs12


@dataclass(frozen=True, slots=True)
class Card:
    """An SM(C)-B whose key lies in memory. ``chain`` holds the issuers of ``certificate``, nearest first."""

    certificate: x509.Certificate
    private_key: ec.EllipticCurvePrivateKey
    chain: tuple[x509.Certificate, ...] = ()

    @classmethod
    def from_p12(cls, raw: bytes, password: str) -> Card:
        """Read a PKCS#12 file. Raises ValueError when it cannot be opened or holds no EC key with its certificate."""
        key, certificate, issuers = pkcs12.load_key_and_certificates(raw, password.encode())
        if certificate is None or not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError("the PKCS#12 file does not hold an EC key with its certificate")
        return cls(certificate, key, tuple(issuers))

    @classmethod
    def from_pem(cls, certificates: bytes, private_key: bytes, password: str | None = None) -> Card:
        """Read PEM: the leaf first, then its issuers; the key as PKCS#8 or SEC 1. Raises ValueError."""
        chain = x509.load_pem_x509_certificates(certificates)
        key = serialization.load_pem_private_key(private_key, password.encode() if password else None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError("the key is not an EC key")
        return cls(chain[0], key, tuple(chain[1:]))

    @property
    def der(self) -> bytes:
        """The certificate in DER."""
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def x5c(self) -> list[str]:
        """The header ``x5c`` as real clients send it: the leaf alone, in standard base64 (RFC 7515 §4.1.6)."""
        return [base64.b64encode(self.der).decode()]

    @property
    def telematik_id(self) -> str:
        """Registration number of the admission extension, empty when there is none."""
        try:
            admissions = self.certificate.extensions.get_extension_for_class(x509.Admissions).value
        except x509.ExtensionNotFound:
            return ""
        return next((p.registration_number or "" for a in admissions for p in a.profession_infos), "")

    @property
    def profession_oid(self) -> str:
        """First profession OID of the admission extension, empty when there is none."""
        try:
            admissions = self.certificate.extensions.get_extension_for_class(x509.Admissions).value
        except x509.ExtensionNotFound:
            return ""
        oids = (oid for a in admissions for p in a.profession_infos for oid in p.profession_oids or ())
        return next((oid.dotted_string for oid in oids), "")

    def sign(self, signing_input: bytes) -> bytes:
        """ECDSA with SHA-256 over the input: raw ``r || s``, 64 bytes, on the card's own curve (RFC 7518 §3.4)."""
        r, s = decode_dss_signature(self.private_key.sign(signing_input, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    def to_p12(self, password: str, alias: str = "alias") -> bytes:
        """PKCS#12 with key, leaf and chain under ``alias`` as friendly name (readable by Java's key stores)."""
        return pkcs12.serialize_key_and_certificates(
            alias.encode(),
            self.private_key,
            self.certificate,
            self.chain,
            serialization.BestAvailableEncryption(password.encode()),
        )

    def certificate_pem(self) -> bytes:
        """Leaf and chain in PEM."""
        return b"".join(c.public_bytes(serialization.Encoding.PEM) for c in (self.certificate, *self.chain))

    def key_pem(self) -> bytes:
        """The private key as PKCS#8 PEM, not encrypted."""
        return self.private_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
