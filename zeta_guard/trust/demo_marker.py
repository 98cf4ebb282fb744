"""The mark that every certificate of the demo PKI bears (``security`` section 7).

A guard refuses marked certificates, as trust anchors and as leaves, unless ``trust.unsafe_demo_trust`` is set: what was made
for a demonstration must never open a real service, even where somebody copied its trust folder.
"""

from __future__ import annotations

from typing import Final

from cryptography import x509

DEMO_MARKER_OID: Final = x509.ObjectIdentifier("2.999.7.84.1")
"""Below the arc that ITU-T X.660 keeps for examples: no real certificate bears it, and every parser can read its small numbers."""

DEMO_MARKER_VALUE: Final = b"\x0c\x10NOT FOR REAL USE"
"""DER UTF8String; the presence of the extension counts, not its text."""


def bears_demo_marker(certificate: x509.Certificate) -> bool:
    """True when the certificate was made by the demo PKI. Raises ValueError for extensions that cannot be read."""
    return any(extension.oid == DEMO_MARKER_OID for extension in certificate.extensions)
