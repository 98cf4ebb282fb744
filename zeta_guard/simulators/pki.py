"""A throw-away PKI shaped like that of the Telematikinfrastruktur, made in memory in a few milliseconds.

Every certificate bears the demo marker (:mod:`zeta_guard.trust.demo_marker`), so that no guard believes it by accident.
"""

from __future__ import annotations

import datetime
import ipaddress
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

from zeta_guard.simulators.card import Card
from zeta_guard.trust.demo_marker import DEMO_MARKER_OID, DEMO_MARKER_VALUE

Curve = Literal["brainpoolP256r1", "secp256r1"]
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
ExtraExtension = tuple[x509.ExtensionType, bool]

DAY: Final = 86_400
PROVIDER: Final = "Demo Vertrauensdienst NOT-VALID"
FOREIGN_PROVIDER: Final = "Anderer Vertrauensdienst NOT-VALID"
SMCB_AUT_POLICY: Final = "1.2.276.0.76.4.77"
GEMATIK_POLICY: Final = "1.2.276.0.76.4.163"
TSL_SIGNING: Final = x509.ObjectIdentifier("0.4.0.2231.3.0")
"""Extended key usage of a trust list's signer (ETSI TS 119 612)."""

PRACTICE_OF_PHYSICIAN: Final = "1.2.276.0.76.4.50"


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate with its key that signs others, answers or lists; ``chain`` are its issuers."""

    certificate: x509.Certificate
    private_key: ec.EllipticCurvePrivateKey
    chain: tuple[x509.Certificate, ...] = ()


@dataclass(frozen=True, slots=True)
class LeafProfile:
    """What stands in an SM(C)-B leaf. The defaults are right (C.HCI.AUT); tests change one thing at a time."""

    policies: tuple[str, ...] = (GEMATIK_POLICY, SMCB_AUT_POLICY)
    digital_signature: bool = True
    key_usage: bool = True
    extended_key_usage: tuple[x509.ObjectIdentifier, ...] = (ExtendedKeyUsageOID.CLIENT_AUTH,)
    ca: bool = False
    registration_number: bool = True
    admissions: int = 1
    extra: tuple[ExtraExtension, ...] = ()
    authority_key_identifier: bytes | None = None
    key: PrivateKey | None = None
    marked: bool = True
    subject: x509.Name | None = None
    serial_number: int | None = None


def new_key(curve: Curve = "secp256r1") -> ec.EllipticCurvePrivateKey:
    """A fresh key on one of the two curves."""
    return ec.generate_private_key(ec.BrainpoolP256R1() if curve == "brainpoolP256r1" else ec.SECP256R1())


def moment(seconds: float) -> datetime.datetime:
    """Unix seconds as the whole UTC second that X.509 can hold."""
    return datetime.datetime.fromtimestamp(int(seconds), datetime.UTC)


def distinguished_name(common_name: str, organization: str | None = PROVIDER, unit: str | None = None) -> x509.Name:
    """A subject in the order of the TI: C, O, OU, CN."""
    attributes = [x509.NameAttribute(NameOID.COUNTRY_NAME, "DE")]
    if organization is not None:
        attributes.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    if unit is not None:
        attributes.append(x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit))
    attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, common_name))
    return x509.Name(attributes)


def key_usage(*names: str) -> x509.KeyUsage:
    """Key usage with exactly these bits."""
    bits = dict.fromkeys(
        (
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "key_cert_sign",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    bits.update(dict.fromkeys(names, True))
    return x509.KeyUsage(**bits)


def admission(telematik_id: str | None, profession_oid: str, item: str = "Betriebsstätte Arzt") -> x509.Admission:
    """One admission with one profession, as in C.HCI.AUT certificates."""
    profession = x509.ProfessionInfo(None, [item], [x509.ObjectIdentifier(profession_oid)], telematik_id, None)
    return x509.Admission(None, None, [profession])


@dataclass(repr=False, eq=False)
class DemoPki:
    """Root, SM(C)-B CA (brainpoolP256r1), component CA (P-256, self-signed), OCSP and trust-list signers, and strangers.

    ``now`` is the moment around which everything is valid (Unix seconds, default: the clock). ``ocsp_url`` and ``crl_url``
    go into certificates issued afterwards; :class:`~zeta_guard.simulators.ocsp_responder.OcspResponder` sets them.
    """

    now: float = field(default_factory=time.time)
    ocsp_url: str | None = None
    crl_url: str | None = None
    marked: bool = True
    issued: dict[int, x509.Certificate] = field(default_factory=dict)
    """Every leaf by serial number; what is not here is *unknown* to the responder."""

    # authorities

    @cached_property
    def root(self) -> Authority:
        """The root; nothing but the SM(C)-B CA and the trust-list CA hangs from it."""
        return self.authority("DEMO.RCA1 NOT-VALID", unit="Zentrale Root-CA der Telematikinfrastruktur")

    @cached_property
    def smcb_ca(self) -> Authority:
        """Issues SM(C)-B certificates."""
        return self.authority("DEMO.SMCB-CA1 NOT-VALID", issuer=self.root, curve="brainpoolP256r1", unit="SMCB-CA")

    @cached_property
    def component_ca(self) -> Authority:
        """Issues TLS and PoPP token certificates; self-signed, so that one PEM file is a complete trust anchor."""
        return self.authority("DEMO.KOMP-CA1 NOT-VALID", unit="Komponenten-CA")

    @cached_property
    def foreign_ca(self) -> Authority:
        """Another key under the very name of the SM(C)-B CA; no guard trusts it."""
        return self.authority("DEMO.SMCB-CA1 NOT-VALID", curve="brainpoolP256r1", unit="SMCB-CA")

    @cached_property
    def expired_ca(self) -> Authority:
        """An SM(C)-B CA whose validity ended an hour before ``now``."""
        return self.authority(
            "DEMO.SMCB-CA0 NOT-VALID", issuer=self.root, curve="brainpoolP256r1", not_after=self.now - 3600
        )

    @cached_property
    def ocsp_signer(self) -> Authority:
        """Delegate of the SM(C)-B CA (extended key usage OCSPSigning)."""
        return self.signer("DEMO.OCSP1 NOT-VALID", self.smcb_ca, ExtendedKeyUsageOID.OCSP_SIGNING, "brainpoolP256r1")

    @cached_property
    def ocsp_service(self) -> Authority:
        """OCSP signer that only the trust list authorises: issued by the component CA."""
        return self.signer("DEMO.OCSP2 NOT-VALID", self.component_ca, ExtendedKeyUsageOID.OCSP_SIGNING)

    @cached_property
    def foreign_ocsp_signer(self) -> Authority:
        """A delegate of the foreign CA."""
        return self.signer("DEMO.OCSP1 NOT-VALID", self.foreign_ca, ExtendedKeyUsageOID.OCSP_SIGNING)

    @cached_property
    def tsl_ca(self) -> Authority:
        """Issues the signers of trust lists; what a guard pins."""
        return self.authority("DEMO.TSL-CA1 NOT-VALID", curve="brainpoolP256r1", unit="TSL-Signer-CA")

    @cached_property
    def tsl_signer(self) -> Authority:
        """Signs trust lists."""
        return self.signer("DEMO TSL Signing Unit 1 NOT-VALID", self.tsl_ca, TSL_SIGNING, "brainpoolP256r1")

    # making certificates

    def authority(
        self,
        common_name: str,
        *,
        issuer: Authority | None = None,
        curve: Curve = "secp256r1",
        organization: str = PROVIDER,
        unit: str | None = None,
        not_before: float | None = None,
        not_after: float | None = None,
        ca: bool = True,
        usage: x509.KeyUsage | None = None,
        key: ec.EllipticCurvePrivateKey | None = None,
    ) -> Authority:
        """A CA certificate, self-signed without ``issuer``."""
        key = key or new_key(curve)
        certificate = self.certify(
            distinguished_name(common_name, organization, unit),
            key.public_key(),
            issuer=issuer,
            signing_key=issuer.private_key if issuer else key,
            not_before=self.now - 2 * DAY if not_before is None else not_before,
            not_after=self.now + 365 * DAY if not_after is None else not_after,
            extensions=[
                (x509.BasicConstraints(ca, 0 if issuer and ca else None), True),
                (usage or key_usage("key_cert_sign", "crl_sign"), True),
            ],
        )
        return Authority(certificate, key, (issuer.certificate, *issuer.chain) if issuer else ())

    def signer(
        self,
        common_name: str,
        issuer: Authority,
        purpose: x509.ObjectIdentifier,
        curve: Curve = "secp256r1",
        *,
        not_after: float | None = None,
        organization: str = PROVIDER,
        key: ec.EllipticCurvePrivateKey | None = None,
    ) -> Authority:
        """An end-entity certificate for one purpose (OCSPSigning, trust-list signing)."""
        key = key or new_key(curve)
        certificate = self.certify(
            distinguished_name(common_name, organization),
            key.public_key(),
            issuer=issuer,
            signing_key=issuer.private_key,
            not_before=self.now - DAY,
            not_after=self.now + 90 * DAY if not_after is None else not_after,
            extensions=[
                (x509.BasicConstraints(False, None), True),
                (key_usage("digital_signature"), True),
                (x509.ExtendedKeyUsage([purpose]), False),
            ],
        )
        return Authority(certificate, key, (issuer.certificate, *issuer.chain))

    def certify(
        self,
        subject: x509.Name,
        public_key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey,
        *,
        issuer: Authority | None,
        signing_key: ec.EllipticCurvePrivateKey,
        not_before: float,
        not_after: float,
        extensions: Iterable[ExtraExtension],
        marked: bool | None = None,
        serial_number: int | None = None,
        authority_key_identifier: bytes | None = None,
    ) -> x509.Certificate:
        """One certificate with subject and authority key identifier, signed with ECDSA and SHA-256."""
        issuer_key = issuer.certificate.public_key() if issuer else public_key
        assert isinstance(issuer_key, ec.EllipticCurvePublicKey)
        authority = (
            x509.AuthorityKeyIdentifier(authority_key_identifier, None, None)
            if authority_key_identifier is not None
            else x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key)
        )
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer.certificate.subject if issuer else subject)
            .public_key(public_key)
            .serial_number(serial_number or x509.random_serial_number())
            .not_valid_before(moment(not_before))
            .not_valid_after(moment(not_after))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), False)
            .add_extension(authority, False)
        )
        for value, critical in extensions:
            builder = builder.add_extension(value, critical)
        if self.marked if marked is None else marked:
            builder = builder.add_extension(x509.UnrecognizedExtension(DEMO_MARKER_OID, DEMO_MARKER_VALUE), False)
        return builder.sign(signing_key, hashes.SHA256())

    # leaves

    def issue_smcb(
        self,
        telematik_id: str,
        profession_oid: str = PRACTICE_OF_PHYSICIAN,
        common_name: str = "Praxis Dr. Beispiel NOT-VALID",
        organization: str | None = None,
        *,
        curve: Curve = "brainpoolP256r1",
        not_before: float | None = None,
        not_after: float | None = None,
        ocsp_url: str | None = None,
        issuer: Authority | None = None,
        profile: LeafProfile | None = None,
    ) -> Card:
        """An SM(C)-B (C.HCI.AUT) of the SM(C)-B CA or of ``issuer``; ``profile`` for certificates that must be refused.

        ``ocsp_url`` defaults to that of the PKI; an empty string leaves the authority information access out.
        """
        profile = profile or LeafProfile()
        issuer = issuer or self.smcb_ca
        key = profile.key or new_key(curve)
        subject = profile.subject or distinguished_name(common_name, organization)
        certificate = self.certify(
            subject,
            key.public_key(),
            issuer=issuer,
            signing_key=issuer.private_key,
            not_before=self.now - DAY if not_before is None else not_before,
            not_after=self.now + 30 * DAY if not_after is None else not_after,
            extensions=self._leaf_extensions(telematik_id, profession_oid, ocsp_url, profile),
            marked=self.marked and profile.marked,
            serial_number=profile.serial_number,
            authority_key_identifier=profile.authority_key_identifier,
        )
        self.issued[certificate.serial_number] = certificate
        # An RSA key exists only in certificates that must be refused before anybody asks the card to sign.
        signing_key = key if isinstance(key, ec.EllipticCurvePrivateKey) else new_key()
        return Card(certificate, signing_key, (issuer.certificate, *issuer.chain))

    def _leaf_extensions(
        self, telematik_id: str, profession_oid: str, ocsp_url: str | None, profile: LeafProfile
    ) -> list[ExtraExtension]:
        extensions: list[ExtraExtension] = [(x509.BasicConstraints(profile.ca, None), True)]
        if profile.key_usage:
            names = ("digital_signature",) if profile.digital_signature else ("content_commitment",)
            extensions.append((key_usage(*names), True))
        if profile.extended_key_usage:
            extensions.append((x509.ExtendedKeyUsage(profile.extended_key_usage), False))
        if profile.policies:
            policies = [x509.PolicyInformation(x509.ObjectIdentifier(oid), None) for oid in profile.policies]
            extensions.append((x509.CertificatePolicies(policies), False))
        if profile.admissions:
            number = telematik_id if profile.registration_number else None
            entries = [admission(number, profession_oid) for _ in range(profile.admissions)]
            extensions.append((x509.Admissions(None, entries), False))
        url = self.ocsp_url if ocsp_url is None else ocsp_url
        if url:
            description = x509.AccessDescription(
                AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier(url)
            )
            extensions.append((x509.AuthorityInformationAccess([description]), False))
        extensions.extend(profile.extra)
        return extensions

    def issue_component(
        self, common_name: str, extensions: Sequence[ExtraExtension] = (), *, not_after: float | None = None
    ) -> Card:
        """A P-256 end-entity certificate of the component CA, with the CRL's address when it is known."""
        key = new_key()
        extras: list[ExtraExtension] = [
            (x509.BasicConstraints(False, None), True),
            (key_usage("digital_signature"), True),
            *extensions,
        ]
        if self.crl_url:
            point = x509.DistributionPoint([x509.UniformResourceIdentifier(self.crl_url)], None, None, None)
            extras.append((x509.CRLDistributionPoints([point]), False))
        certificate = self.certify(
            distinguished_name(common_name),
            key.public_key(),
            issuer=self.component_ca,
            signing_key=self.component_ca.private_key,
            not_before=self.now - DAY,
            not_after=self.now + 30 * DAY if not_after is None else not_after,
            extensions=extras,
        )
        return Card(certificate, key, (self.component_ca.certificate,))

    def issue_tls(self, hosts: Sequence[str]) -> tuple[bytes, bytes]:
        """A TLS server certificate (leaf and CA, PEM) and its key (PEM); host names and IP addresses become SANs."""
        names: list[x509.GeneralName] = []
        for host in hosts:
            try:
                names.append(x509.IPAddress(ipaddress.ip_address(host)))
            except ValueError:
                names.append(x509.DNSName(host))
        card = self.issue_component(
            hosts[0],
            [
                (x509.SubjectAlternativeName(names), False),
                (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
            ],
        )
        return card.certificate_pem(), card.key_pem()

    def issue_popp_signer(self, common_name: str = "DEMO.POPP-TOKEN NOT-VALID") -> Card:
        """The certificate under which a PoPP service signs its tokens (P-256)."""
        return self.issue_component(common_name)

    # publications

    def ca_pem(self) -> bytes:
        """The component CA in PEM: the trust anchor of TLS clients."""
        return self.component_ca.certificate.public_bytes(serialization.Encoding.PEM)

    def crl(self, revoked: Iterable[int] = (), *, now: float | None = None) -> bytes:
        """A revocation list of the component CA (DER), valid for a week."""
        now = self.now if now is None else now
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.component_ca.certificate.subject)
            .last_update(moment(now - 60))
            .next_update(moment(now + 7 * DAY))
            .add_extension(x509.CRLNumber(int(now)), False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.component_ca.private_key.public_key()), False
            )
        )
        for serial in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(moment(now - 60)).build()
            builder = builder.add_revoked_certificate(entry)
        return builder.sign(self.component_ca.private_key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)

    def write_trust_directory(self, directory: Path) -> Path:
        """The folder form of the trust anchors: the SM(C)-B CA, and in ``ocsp`` the responders beside its delegates."""
        (directory / "ocsp").mkdir(parents=True, exist_ok=True)
        pem = serialization.Encoding.PEM
        (directory / "smcb-ca.pem").write_bytes(self.smcb_ca.certificate.public_bytes(pem))
        (directory / "ocsp" / "ocsp-service.pem").write_bytes(self.ocsp_service.certificate.public_bytes(pem))
        return directory
