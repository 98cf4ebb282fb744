"""The certificate in the header of a JWT that an SM(C)-B signed (RFC 7515 §4.1.6)."""

from __future__ import annotations

from typing import Final

from zeta_guard.jose.encoding import b64_decode
from zeta_guard.jose.jws import CARD_CURVES, CompactJws, verify_es256
from zeta_guard.jose.slot import Slot
from zeta_guard.trust.certificate import parse_smcb_certificate
from zeta_guard.trust.contract import SmcbCertificate

MOST_CERTIFICATES: Final = 8


def verify_with_leaf(jws: CompactJws, slot: Slot) -> SmcbCertificate:
    """The leaf of ``x5c``, once the signature was checked with its key, on its own curve.

    Only the first entry counts: issuers come from the trust anchors, never from the client. Nobody is proven yet. Raises the
    refusal of ``slot``.
    """
    chain = jws.header.get("x5c")
    if not isinstance(chain, list) or not chain:
        raise slot.refuse("header 'x5c' must be an array that begins with the SM(C)-B certificate")
    if len(chain) > MOST_CERTIFICATES or not all(isinstance(entry, str) for entry in chain):
        raise slot.refuse(f"header 'x5c' must hold 1 to {MOST_CERTIFICATES} certificates as texts")
    try:
        der = b64_decode(str(chain[0]))
    except ValueError:
        raise slot.refuse("header 'x5c' must hold standard base64 with padding (RFC 7515 §4.1.6)") from None
    certificate = parse_smcb_certificate(der, slot)
    verify_es256(jws, certificate.public_key, slot, curves=CARD_CURVES)
    return certificate
