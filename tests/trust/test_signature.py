"""Which keys and digests may vouch for something."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from zeta_guard.trust.signature import verifies

SIGNED = b"what was signed"


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.BrainpoolP256R1(), ec.BrainpoolP384R1()])
@pytest.mark.parametrize("digest", [hashes.SHA256(), hashes.SHA384(), hashes.SHA512()])
def test_nist_and_brainpool_keys_vouch_with_sha2(curve: ec.EllipticCurve, digest: hashes.HashAlgorithm) -> None:
    key = ec.generate_private_key(curve)
    signature = key.sign(SIGNED, ec.ECDSA(digest))
    assert verifies(key.public_key(), signature, SIGNED, digest)
    assert not verifies(key.public_key(), signature, SIGNED + b"!", digest)
    assert not verifies(key.public_key(), signature[:-1], SIGNED, digest)


@pytest.mark.parametrize("digest", [hashes.SHA1(), hashes.SHA224(), hashes.SHA3_256()])
def test_other_digests_vouch_for_nothing(digest: hashes.HashAlgorithm) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    assert not verifies(key.public_key(), key.sign(SIGNED, ec.ECDSA(digest)), SIGNED, digest)


def test_a_missing_digest_vouches_for_nothing() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    assert not verifies(key.public_key(), key.sign(SIGNED, ec.ECDSA(hashes.SHA256())), SIGNED, None)


@pytest.mark.parametrize("curve", [ec.SECP256K1(), ec.SECP224R1()])
def test_other_curves_vouch_for_nothing(curve: ec.EllipticCurve) -> None:
    key = ec.generate_private_key(curve)
    assert not verifies(key.public_key(), key.sign(SIGNED, ec.ECDSA(hashes.SHA256())), SIGNED, hashes.SHA256())


@pytest.mark.parametrize(("bits", "accepted"), [(2048, True), (1024, False)])
def test_rsa_vouches_from_2048_bits_on(bits: int, accepted: bool) -> None:
    key = rsa.generate_private_key(65537, bits)
    signature = key.sign(SIGNED, padding.PKCS1v15(), hashes.SHA256())
    assert verifies(key.public_key(), signature, SIGNED, hashes.SHA256()) is accepted
    assert not verifies(key.public_key(), signature, SIGNED + b"!", hashes.SHA256())


def test_other_kinds_of_keys_vouch_for_nothing() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    assert not verifies(key.public_key(), key.sign(SIGNED), SIGNED, hashes.SHA256())
