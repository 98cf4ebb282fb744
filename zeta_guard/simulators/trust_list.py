"""Writes and signs trust lists (ETSI TS 119 612) in the shape of the TI's, and lists that must be refused."""

from __future__ import annotations

import base64
import datetime
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from lxml import etree

from zeta_guard.simulators.pki import DAY, PROVIDER, SMCB_AUT_POLICY, Authority, DemoPki

NAMESPACE: Final = "http://uri.etsi.org/02231/v2#"
CA: Final = "http://uri.etsi.org/TrstSvc/Svctype/CA/PKC"
OCSP: Final = "http://uri.etsi.org/TrstSvc/Svctype/Certstatus/OCSP"
DS: Final = "{http://www.w3.org/2000/09/xmldsig#}"
XADES: Final = "{http://uri.etsi.org/01903/v1.3.2#}"
ENVELOPED: Final = "http://www.w3.org/2000/09/xmldsig#enveloped-signature"
EXCLUSIVE: Final = "http://www.w3.org/2001/10/xml-exc-c14n#"
ECDSA_SHA256: Final = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha256"
ECDSA_SHA1: Final = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha1"
RSA_SHA256: Final = "http://www.w3.org/2001/04/xmldsig-more#rsa-sha256"
RSA_PSS_SHA256: Final = "http://www.w3.org/2007/05/xmldsig-more#sha256-rsa-MGF1"
SHA256: Final = "http://www.w3.org/2001/04/xmlenc#sha256"
SHA1: Final = "http://www.w3.org/2000/09/xmldsig#sha1"
IN_ACCORD: Final = "http://uri.etsi.org/TrstSvc/Svcstatus/inaccord"
REVOKED: Final = "http://uri.etsi.org/TrstSvc/Svcstatus/revoked"

_HASHES: Final[Mapping[str, hashes.HashAlgorithm]] = {"sha256": hashes.SHA256(), "sha1": hashes.SHA1()}


@dataclass(frozen=True, slots=True)
class Service:
    """One trust service. ``history`` holds earlier (status, since), newest first."""

    certificate: x509.Certificate
    since: float
    kind: str = CA
    status: str = IN_ACCORD
    identifiers: tuple[str, ...] = (SMCB_AUT_POLICY,)
    supply_points: tuple[str, ...] = ()
    history: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Provider:
    """A trust service provider and what it offers."""

    name: str
    services: tuple[Service, ...]


@dataclass(frozen=True, slots=True)
class ListContent:
    """What stands in a list. Times in Unix seconds."""

    providers: tuple[Provider, ...]
    sequence: int
    issued_at: float
    next_update: float


def demo_content(pki: DemoPki, *, sequence: int = 1, next_update: float | None = None) -> ListContent:
    """The demo PKI's list: its SM(C)-B CA with the responder's address, and the responder that only the list authorises."""
    since = pki.now - 30 * DAY
    points = (pki.ocsp_url,) if pki.ocsp_url else ()
    services = (
        Service(pki.smcb_ca.certificate, since, supply_points=points),
        Service(pki.ocsp_service.certificate, since, kind=OCSP, identifiers=(), supply_points=points),
    )
    return ListContent(
        (Provider(PROVIDER, services),),
        sequence,
        pki.now - 3600,
        pki.now + 30 * DAY if next_update is None else next_update,
    )


def list_document(content: ListContent) -> bytes:
    """The list without its signature."""
    namespaces: dict[str, str] = {None: NAMESPACE}  # type: ignore[dict-item]
    root = etree.Element(f"{{{NAMESPACE}}}TrustServiceStatusList", nsmap=namespaces)
    root.set("TSLTag", "http://uri.etsi.org/02231/TSLTag")
    scheme = _add(root, "SchemeInformation")
    _add(scheme, "TSLVersionIdentifier", "3")
    _add(scheme, "TSLSequenceNumber", str(content.sequence))
    _add(scheme, "TSLType", "http://uri.etsi.org/TrstSvc/TSLtype/generic")
    _add(_add(scheme, "SchemeOperatorName"), "Name", "Demo NOT-VALID")
    _add(scheme, "HistoricalInformationPeriod", "0")
    _add(scheme, "ListIssueDateTime", _moment(content.issued_at))
    _add(_add(scheme, "NextUpdate"), "dateTime", _moment(content.next_update))
    providers = _add(root, "TrustServiceProviderList")
    for provider in content.providers:
        _add_provider(providers, provider)
    return etree.tostring(root, xml_declaration=True, encoding="UTF-8")


def sign_list(
    document: bytes,
    signer: Authority,
    *,
    xades: bool = True,
    method: str = ECDSA_SHA256,
    digest: str = SHA256,
    transforms: tuple[str, ...] = (ENVELOPED, EXCLUSIVE),
    key_info: bool = True,
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None,
) -> bytes:
    """Sign a list as the TI does: enveloped, exclusive canonical form, with XAdES signed properties or without.

    Written out here and not left to the library that verifies, so that the two judge each other. ``method`` and ``digest``
    are the algorithm URIs that stand in the signature,
    ``transforms`` those of the reference over the document.
    """
    root = etree.fromstring(document)
    # Without whitespace around it, removing the signature leaves exactly what is digested here.
    references = [_reference("", _digest(root, digest, transforms[-1]), digest, transforms)]
    signature = etree.SubElement(root, f"{DS}Signature", nsmap={"ds": DS[1:-1]})
    signature.set("Id", "Signature-1")
    signed_info = etree.SubElement(signature, f"{DS}SignedInfo")
    value = etree.SubElement(signature, f"{DS}SignatureValue")
    if key_info:
        data = etree.SubElement(etree.SubElement(signature, f"{DS}KeyInfo"), f"{DS}X509Data")
        der = signer.certificate.public_bytes(serialization.Encoding.DER)
        etree.SubElement(data, f"{DS}X509Certificate").text = base64.encodebytes(der).decode()
    if xades:
        properties = _signed_properties(signature)
        references.append(
            _reference(
                "#SignedProperties-1",
                _digest(properties, digest),
                digest,
                (EXCLUSIVE,),
                "http://uri.etsi.org/01903#SignedProperties",
            )
        )
    etree.SubElement(signed_info, f"{DS}CanonicalizationMethod").set("Algorithm", EXCLUSIVE)
    etree.SubElement(signed_info, f"{DS}SignatureMethod").set("Algorithm", method)
    signed_info.extend(references)
    value.text = base64.b64encode(_sign(_canonical(signed_info), key or signer.private_key, method)).decode()
    return etree.tostring(root, xml_declaration=True, encoding="UTF-8")


def _sign(signed: bytes, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, method: str) -> bytes:
    algorithm = _HASHES[method.rsplit("#", 1)[1].replace("-rsa-MGF1", "").rsplit("-", 1)[-1]]
    if isinstance(key, rsa.RSAPrivateKey):
        if "MGF1" in method:
            return key.sign(signed, padding.PSS(padding.MGF1(algorithm), algorithm.digest_size), algorithm)
        return key.sign(signed, padding.PKCS1v15(), algorithm)
    size = (key.key_size + 7) // 8
    r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(algorithm)))
    return r.to_bytes(size, "big") + s.to_bytes(size, "big")


def _reference(
    uri: str, digest: bytes, algorithm: str, transforms: tuple[str, ...], kind: str | None = None
) -> etree._Element:
    reference = etree.Element(f"{DS}Reference", nsmap={"ds": DS[1:-1]})
    reference.set("URI", uri)
    if kind is not None:
        reference.set("Type", kind)
    listed = etree.SubElement(reference, f"{DS}Transforms")
    for transform in transforms:
        etree.SubElement(listed, f"{DS}Transform").set("Algorithm", transform)
    etree.SubElement(reference, f"{DS}DigestMethod").set("Algorithm", algorithm)
    etree.SubElement(reference, f"{DS}DigestValue").text = base64.b64encode(digest).decode()
    return reference


def _signed_properties(signature: etree._Element) -> etree._Element:
    holder = etree.SubElement(signature, f"{DS}Object")
    qualifying = etree.SubElement(holder, f"{XADES}QualifyingProperties", nsmap={"xades": XADES[1:-1]})
    qualifying.set("Target", "#Signature-1")
    properties = etree.SubElement(qualifying, f"{XADES}SignedProperties")
    properties.set("Id", "SignedProperties-1")
    moments = etree.SubElement(properties, f"{XADES}SignedSignatureProperties")
    etree.SubElement(moments, f"{XADES}SigningTime").text = "2026-01-01T00:00:00Z"
    return properties


def _digest(element: etree._Element, algorithm: str, form: str = EXCLUSIVE) -> bytes:
    return hashlib.new(algorithm.rsplit("#", 1)[1], _canonical(element, form)).digest()


def _canonical(element: etree._Element, form: str = EXCLUSIVE) -> bytes:
    exclusive, comments = form.startswith(EXCLUSIVE), form.endswith("WithComments")
    return etree.tostring(element, method="c14n", exclusive=exclusive, with_comments=comments)


def trust_list(pki: DemoPki, *, sequence: int = 1, next_update: float | None = None) -> bytes:
    """The demo PKI's list, signed by its trust-list signer."""
    return sign_list(list_document(demo_content(pki, sequence=sequence, next_update=next_update)), pki.tsl_signer)


def _add_provider(parent: etree._Element, provider: Provider) -> None:
    element = _add(parent, "TrustServiceProvider")
    information = _add(element, "TSPInformation")
    _add(_add(information, "TSPName"), "Name", provider.name)
    _add(_add(information, "TSPTradeName"), "Name", provider.name)
    services = _add(element, "TSPServices")
    for service in provider.services:
        _add_service(services, service)


def _add_service(parent: etree._Element, service: Service) -> None:
    element = _add(parent, "TSPService")
    information = _add(element, "ServiceInformation")
    _fill(information, service, service.status, service.since)
    if service.supply_points:
        points = _add(information, "ServiceSupplyPoints")
        for point in service.supply_points:
            _add(points, "ServiceSupplyPoint", point)
    if service.identifiers:
        extensions = _add(information, "ServiceInformationExtensions")
        for identifier in service.identifiers:
            extension = _add(extensions, "Extension")
            extension.set("Critical", "false")
            _add(extension, "ExtensionOID", identifier)
            _add(extension, "ExtensionValue", "oid_smc_b_aut")
    if service.history:
        history = _add(element, "ServiceHistory")
        for status, since in service.history:
            _fill(_add(history, "ServiceHistoryInstance"), service, status, since)


def _fill(information: etree._Element, service: Service, status: str, since: float) -> None:
    _add(information, "ServiceTypeIdentifier", service.kind)
    _add(_add(information, "ServiceName"), "Name", service.certificate.subject.rfc4514_string())
    identity = _add(_add(information, "ServiceDigitalIdentity"), "DigitalId")
    der = service.certificate.public_bytes(serialization.Encoding.DER)
    _add(identity, "X509Certificate", base64.b64encode(der).decode())
    _add(information, "ServiceStatus", status)
    _add(information, "StatusStartingTime", _moment(since))


def _add(parent: etree._Element, name: str, text: str | None = None) -> etree._Element:
    element = etree.SubElement(parent, f"{{{NAMESPACE}}}{name}")
    element.text = text
    return element


def _moment(seconds: float) -> str:
    return f"{datetime.datetime.fromtimestamp(seconds, datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"
