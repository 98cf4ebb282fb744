"""The floor: bare cryptographic operations, timed on the core that the guard runs on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec


def microseconds_of(operation: Callable[[], object], *, core: int, repeat: int = 2000, rounds: int = 5) -> float:
    """CPU time of one operation on ``core``: the best of some rounds, since a floor is what is looked for."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        for _ in range(repeat // 10):
            operation()
        best = float("inf")
        for _ in range(rounds):
            started = time.process_time()
            for _ in range(repeat):
                operation()
            best = min(best, (time.process_time() - started) / repeat)
    finally:
        os.sched_setaffinity(0, before)
    return best * 1e6


def es256_verify_microseconds(core: int) -> float:
    """One bare ES256 verification (P-256, SHA-256) of a 300 byte message."""
    return _verify(ec.SECP256R1(), core, 2000)


def brainpool_verify_microseconds(core: int) -> float:
    """One bare verification on brainpoolP256r1."""
    return _verify(ec.BrainpoolP256R1(), core, 500)


def _verify(curve: ec.EllipticCurve, core: int, repeat: int) -> float:
    key = ec.generate_private_key(curve)
    message = os.urandom(300)
    algorithm = ec.ECDSA(hashes.SHA256())
    signature = key.sign(message, algorithm)
    public = key.public_key()
    return microseconds_of(lambda: public.verify(signature, message, algorithm), core=core, repeat=repeat)


def es256_sign_microseconds(core: int) -> float:
    """One bare ES256 signature."""
    key = ec.generate_private_key(ec.SECP256R1())
    message = os.urandom(300)
    algorithm = ec.ECDSA(hashes.SHA256())
    return microseconds_of(lambda: key.sign(message, algorithm), core=core)
