"""Software keys of a client: ECDSA on P-256, signatures as JOSE wants them."""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from zeta_guard.jose.jwk import public_jwk


def sign_raw(key: ec.EllipticCurvePrivateKey, signing_input: bytes) -> bytes:
    """ECDSA with SHA-256 as 64 bytes ``r || s`` (RFC 7518 §3.4), on P-256 or brainpoolP256r1."""
    r, s = decode_dss_signature(key.sign(signing_input, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


class SoftwareKey:
    """A P-256 key in memory: the client instance key or the DPoP key."""

    def __init__(self, private_key: ec.EllipticCurvePrivateKey) -> None:
        self.private_key = private_key
        self.jwk: dict[str, str] = public_jwk(private_key.public_key())
        self.thumbprint = self.jwk["kid"]

    @classmethod
    def generate(cls) -> SoftwareKey:
        """A fresh key."""
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def from_pem(cls, pem: bytes) -> SoftwareKey:
        """A key kept by :meth:`to_pem`. Raises ValueError for anything else."""
        key = serialization.load_pem_private_key(pem, None)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
            raise ValueError("not an EC P-256 key")
        return cls(key)

    def to_pem(self) -> bytes:
        """PKCS#8, not encrypted: where it is written, the file mode protects it."""
        return self.private_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def sign(self, signing_input: bytes) -> bytes:
        """64 bytes ``r || s``."""
        return sign_raw(self.private_key, signing_input)

    def subject_public_key(self) -> bytes:
        """SubjectPublicKeyInfo, DER: what the posture's ``public_key`` holds."""
        return self.private_key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def __repr__(self) -> str:
        return f"SoftwareKey({self.thumbprint})"
