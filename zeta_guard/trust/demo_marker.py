"""The mark that every certificate of the demo PKI bears (``security`` section 7).

A guard refuses marked certificates, as trust anchors and as leaves, unless ``trust.unsafe_demo_trust`` is set: what was made
for a demonstration must never open a real service, even where somebody copied its trust folder.
"""

from __future__ import annotations

from typing import Final

from cryptography import x509

DEMO_MARKER_OID: Final = x509.ObjectIdentifier("2.25.140478855129619007574256236261238091177")
"""A UUID-based object identifier (ITU-T X.667), so that it collides with nobody's."""

DEMO_MARKER_VALUE: Final = b"\x0c\x10NOT FOR REAL USE"
"""DER UTF8String; the presence of the extension counts, not its text."""


def bears_demo_marker(certificate: x509.Certificate) -> bool:
    """True when the certificate was made by the demo PKI. Raises ValueError for extensions that cannot be read."""
    return any(extension.oid == DEMO_MARKER_OID for extension in certificate.extensions)
