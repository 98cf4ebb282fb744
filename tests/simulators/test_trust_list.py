"""Trust lists of the demo PKI, judged by a library that did not write them."""

from __future__ import annotations

import datetime

import pytest
from lxml import etree
from signxml.exceptions import InvalidDigest
from signxml.verifier import SignatureConfiguration, XMLVerifier

from zeta_guard.simulators.pki import DAY, DemoPki
from zeta_guard.simulators.trust_list import NAMESPACE, demo_content, list_document, sign_list, trust_list

PATH = f"{{{NAMESPACE}}}"


@pytest.mark.parametrize("xades", [True, False])
def test_the_signature_holds(xades: bool) -> None:
    pki = DemoPki()
    raw = sign_list(list_document(demo_content(pki)), pki.tsl_signer, xades=xades)
    expected = SignatureConfiguration(expect_references=2 if xades else 1, verification_time=_moment(pki))
    XMLVerifier().verify(raw, x509_cert=pki.tsl_signer.certificate, expect_config=expected)
    with pytest.raises(InvalidDigest):
        XMLVerifier().verify(
            raw.replace(b"inaccord", b"revoked"), x509_cert=pki.tsl_signer.certificate, expect_config=expected
        )


def _moment(pki: DemoPki) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(pki.now, datetime.UTC)


def test_the_list_says_what_it_was_told() -> None:
    pki = DemoPki(now=1_800_000_000, ocsp_url="http://127.0.0.1:1/ocsp")
    root = etree.fromstring(trust_list(pki, sequence=7, next_update=pki.now + DAY))
    assert root.findtext(f".//{PATH}TSLSequenceNumber") == "7"
    assert root.findtext(f".//{PATH}NextUpdate/{PATH}dateTime") == "2027-01-16T08:00:00Z"
    assert root.findtext(f".//{PATH}ServiceSupplyPoint") == "http://127.0.0.1:1/ocsp"
    assert len(root.findall(f".//{PATH}TSPService")) == 2
