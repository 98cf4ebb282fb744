"""The XML signature of a trust list: raw bytes in, the verified element out (XML-DSig, ``security`` section 5).

``KeyInfo`` is a hint at most: the signer is one of the configured anchors, or was issued by one for signing trust lists. Only
the element that the signature covers leaves this module, parsed anew from its canonical form.
"""

from __future__ import annotations

import base64
import datetime
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from zeta_guard.errors import GuardError
from zeta_guard.trust.certificate import PARSER_ERRORS, CertificateFormError, extension, refuse_unknown_critical
from zeta_guard.trust.chain import validity
from zeta_guard.trust.signature import is_signing_key, is_strong_digest

if TYPE_CHECKING:
    from lxml.etree import _Element

MAX_LIST_BYTES: Final = 16 << 20
"""Largest trust list; real ones have less than a megabyte."""

TSL: Final = "{http://uri.etsi.org/02231/v2#}"
TSL_SIGNING: Final = x509.ObjectIdentifier("0.4.0.2231.3.0")
"""Extended key usage id-tsl-kp-tslSigning (ETSI TS 119 612 §5.7.1)."""

_DS: Final = "{http://www.w3.org/2000/09/xmldsig#}"
_ENVELOPED: Final = "http://www.w3.org/2000/09/xmldsig#enveloped-signature"
_CANONICAL: Final = frozenset(
    {
        "http://www.w3.org/2001/10/xml-exc-c14n#",
        "http://www.w3.org/TR/2001/REC-xml-c14n-20010315",
        "http://www.w3.org/2006/12/xml-c14n11",
    }
)
_MAX_OWN_REFERENCES: Final = 3
"""References of XAdES to parts of the signature itself (signed properties, KeyInfo); verified, and unused."""

_MAX_KEY_INFO_CERTIFICATES: Final = 4
_SIGNER_EXTENSIONS: Final = frozenset(
    {x509.BasicConstraints.oid, x509.KeyUsage.oid, x509.ExtendedKeyUsage.oid, x509.CertificatePolicies.oid}
)


class TrustListError(GuardError):
    """Why a trust list is not believed. ``reason`` is a stable word for metrics and alarms."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason: Final = reason


def verified_list(raw: bytes, anchors: Sequence[x509.Certificate], *, now: float) -> _Element:
    """Verify the enveloped signature and return the signed TrustServiceStatusList, without its signature.

    Refused: more than 16 MiB, anything but UTF-8, a document type declaration, none or several signatures, a reference
    that is neither the one over the document nor over a part of the signature itself (XAdES), SHA-1, a signer that no
    anchor vouches for or that is not valid at ``now`` (Unix seconds). Raises TrustListError.
    """
    from lxml import etree
    from signxml.algorithms import DigestAlgorithm, SignatureMethod
    from signxml.exceptions import SignXMLException
    from signxml.verifier import SignatureConfiguration, XMLVerifier

    root = _parse(raw)
    signature = _only_signature(root)
    count = _check_signed_info(signature)
    signer = _signer(signature, anchors, now)
    methods = SignatureMethod
    digests = frozenset({DigestAlgorithm.SHA256, DigestAlgorithm.SHA384, DigestAlgorithm.SHA512})
    configuration = SignatureConfiguration(
        location="./",
        expect_references=count,
        signature_methods=frozenset(
            {
                methods.ECDSA_SHA256,
                methods.ECDSA_SHA384,
                methods.ECDSA_SHA512,
                methods.RSA_SHA256,
                methods.RSA_SHA384,
                methods.RSA_SHA512,
                methods.SHA256_RSA_MGF1,
                methods.SHA384_RSA_MGF1,
                methods.SHA512_RSA_MGF1,
            }
        ),
        digest_algorithms=digests,
        verification_time=datetime.datetime.fromtimestamp(now, datetime.UTC),
    )
    try:
        verified = XMLVerifier().verify(root, x509_cert=signer, expect_config=configuration)
    except (
        SignXMLException,
        InvalidSignature,
        etree.LxmlError,
        AttributeError,
        AssertionError,
        *PARSER_ERRORS,
    ) as error:
        raise TrustListError("signature", "the signature of the trust list does not verify") from error
    results = verified if isinstance(verified, list) else [verified]
    signed = [r.signed_xml for r in results if r.signed_xml is not None and r.signed_xml.tag == root.tag]
    if len(signed) != 1 or signed[0].find(f".//{_DS}Signature") is not None:
        raise TrustListError("signature", "the signature does not cover exactly the trust list")
    return signed[0]


def _parse(raw: bytes) -> _Element:
    from lxml import etree

    if len(raw) > MAX_LIST_BYTES:
        raise TrustListError("too_large", f"the trust list has more than {MAX_LIST_BYTES} bytes")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TrustListError("malformed", "the trust list is not UTF-8") from error
    # Looked for before the parser sees it: no declaration, no entity, nothing to expand or to fetch.
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise TrustListError("document_type", "the trust list has a document type declaration")
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, dtd_validation=False, huge_tree=False
    )
    try:
        root = etree.fromstring(raw, parser)
    except (etree.LxmlError, ValueError) as error:
        raise TrustListError("malformed", "the trust list is not well-formed XML") from error
    encoding = root.getroottree().docinfo.encoding or "UTF-8"
    if encoding.upper() not in ("UTF-8", "ASCII", "US-ASCII"):
        raise TrustListError("malformed", "the trust list declares an encoding other than UTF-8")
    if root.tag != f"{TSL}TrustServiceStatusList":
        raise TrustListError("malformed", "the document is not a TrustServiceStatusList")
    return root


def _only_signature(root: _Element) -> _Element:
    signatures = list(root.iter(f"{_DS}Signature"))
    if len(signatures) != 1 or signatures[0].getparent() is not root:
        raise TrustListError("signature", "the trust list does not have exactly one signature below its root element")
    return signatures[0]


def _check_signed_info(signature: _Element) -> int:
    references = signature.findall(f"{_DS}SignedInfo/{_DS}Reference")
    over_document = [reference for reference in references if reference.get("URI") == ""]
    others = [reference for reference in references if reference.get("URI") != ""]
    if len(over_document) != 1 or len(others) > _MAX_OWN_REFERENCES:
        raise TrustListError("signature", "the signature does not have exactly one reference over the document")
    transforms = [t.get("Algorithm") for t in over_document[0].findall(f"{_DS}Transforms/{_DS}Transform")]
    if len(transforms) != 2 or transforms[0] != _ENVELOPED or transforms[1] not in _CANONICAL:
        raise TrustListError("signature", "the reference is not enveloped and canonical")
    own = {element.get("Id") for element in signature.iter() if element is not signature}
    for other in others:
        uri = other.get("URI") or ""
        algorithms = [t.get("Algorithm") for t in other.findall(f"{_DS}Transforms/{_DS}Transform")]
        if uri[:1] != "#" or uri[1:] not in own or any(a not in _CANONICAL for a in algorithms):
            raise TrustListError(
                "signature", "the signature refers to something else than the document and its own parts"
            )
    return len(references)


def _signer(signature: _Element, anchors: Sequence[x509.Certificate], now: float) -> x509.Certificate:
    hints: list[x509.Certificate] = []
    found = signature.findall(f"{_DS}KeyInfo/{_DS}X509Data/{_DS}X509Certificate")
    for element in found[:_MAX_KEY_INFO_CERTIFICATES]:
        try:
            hints.append(x509.load_der_x509_certificate(base64.b64decode("".join((element.text or "").split()))))
        except PARSER_ERRORS as error:
            raise TrustListError("signer", "the certificate in KeyInfo cannot be read") from error
    direct = [anchor for anchor in anchors if may_sign_lists(anchor) and _is_valid(anchor, now)]
    for hint in hints:
        if hint in direct:
            return hint
        if _is_valid(hint, now) and any(_issued_for_lists(hint, anchor, now) for anchor in anchors):
            return hint
    if not hints and len(direct) == 1:
        return direct[0]
    raise TrustListError("signer", "no configured anchor vouches for the signer of the trust list")


def may_sign_lists(anchor: x509.Certificate) -> bool:
    """Whether an anchor can be a signer itself; a CA whose key usage names only keyCertSign can only issue signers."""
    try:
        usage = extension(anchor.extensions, x509.KeyUsage)
        key = anchor.public_key()
    except PARSER_ERRORS:
        return False
    return (usage is None or _signs_documents(usage)) and is_signing_key(key)


def _signs_documents(usage: x509.KeyUsage) -> bool:
    # The signers of the TI have contentCommitment, those of other schemes digitalSignature.
    return usage.digital_signature or usage.content_commitment


def _is_valid(certificate: x509.Certificate, now: float) -> bool:
    begin, end = validity(certificate)
    return begin <= now <= end


def _issued_for_lists(certificate: x509.Certificate, anchor: x509.Certificate, now: float) -> bool:
    try:
        extensions = certificate.extensions
        refuse_unknown_critical(extensions, _SIGNER_EXTENSIONS)
        purposes = extension(extensions, x509.ExtendedKeyUsage)
        usage = extension(extensions, x509.KeyUsage)
        constraints = extension(extensions, x509.BasicConstraints)
        issuing = extension(anchor.extensions, x509.BasicConstraints)
        issuing_usage = extension(anchor.extensions, x509.KeyUsage)
        fit = (
            purposes is not None
            and TSL_SIGNING in purposes
            and usage is not None
            and _signs_documents(usage)
            and not (constraints is not None and constraints.ca)
            and issuing is not None
            and issuing.ca
            and (issuing_usage is None or issuing_usage.key_cert_sign)
            and is_signing_key(certificate.public_key())
            and is_signing_key(anchor.public_key())
            and is_strong_digest(certificate.signature_hash_algorithm)
            and _is_valid(anchor, now)
        )
        if fit:
            certificate.verify_directly_issued_by(anchor)
    except (InvalidSignature, CertificateFormError, *PARSER_ERRORS):
        return False
    return fit
