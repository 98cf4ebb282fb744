"""What a client signs: client assertion with its statement, subject token, DPoP proof, institution assertion.

One function per object, every input explicit, members in the order in which the ZETA SDK 1.2 writes them. Each gives an
:class:`UnsignedJwt`, so that a test can change any part before it is signed.
"""

from __future__ import annotations

import base64
import hashlib
import json
import platform as machine
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from zeta_guard.client.keys import SoftwareKey
from zeta_guard.errors import JsonValue
from zeta_guard.jose.encoding import b64url_decode, b64url_encode


@dataclass(frozen=True, slots=True)
class UnsignedJwt:
    """Header and claims of a JWT before its signature (RFC 7515 §7.1); the order of the members is kept."""

    header: Mapping[str, JsonValue]
    claims: Mapping[str, JsonValue]

    def signed(self, sign: Callable[[bytes], bytes]) -> str:
        """Compact serialisation; ``sign`` gives the raw signature over the signing input."""
        signing_input = f"{_encoded(self.header)}.{_encoded(self.claims)}"
        return f"{signing_input}.{b64url_encode(sign(signing_input.encode()))}"

    def with_claims(self, **changes: JsonValue) -> UnsignedJwt:
        """The same with other claims."""
        return UnsignedJwt(self.header, {**self.claims, **changes})

    def without_claims(self, *names: str) -> UnsignedJwt:
        """The same without these claims."""
        return UnsignedJwt(self.header, {name: value for name, value in self.claims.items() if name not in names})

    def with_header(self, **changes: JsonValue) -> UnsignedJwt:
        """The same with other header parameters."""
        return UnsignedJwt({**self.header, **changes}, self.claims)


@dataclass(frozen=True, slots=True)
class Product:
    """What the client says about itself. ``product_id`` has at most 20 characters ``[0-9a-zA-Z-]``
    (A_25338-01); the default is the product that test environments know."""

    product_id: str = "ZETA-Test-Client"
    product_version: str = "1.0.0"
    client_name: str = "zeta-guard client"
    platform: str = "linux"
    platform_product_id: Mapping[str, JsonValue] = field(
        default_factory=lambda: {
            "platform": "linux",
            "packaging_type": "wheel",
            "application_id": "zeta-guard",
            "version": "0.1.0",
        }
    )


def client_statement(
    *, client_id: str, client_key: SoftwareKey, product: Product, nonce: bytes, now: float
) -> dict[str, JsonValue]:
    """Self-disclosure of a software client; ``attestation_challenge`` binds key and nonce."""
    challenge = hashlib.sha256(b64url_decode(client_key.thumbprint) + nonce).digest()
    return {
        "sub": client_id,
        "platform": product.platform,
        "posture_type": "software",
        "posture": {
            "platform_product_id": dict(product.platform_product_id),
            "product_id": product.product_id,
            "product_version": product.product_version,
            "os": machine.system(),
            "os_version": machine.release(),
            "arch": machine.machine(),
            "public_key": base64.b64encode(client_key.subject_public_key()).decode(),
            "attestation_challenge": b64url_encode(challenge),
        },
        "attestation_timestamp": int(now),
    }


def client_assertion(
    *,
    client_id: str,
    audience: str,
    client_key: SoftwareKey,
    statement: Mapping[str, JsonValue] | None,
    now: float,
    lifetime: int = 30,
    jti: str | None = None,
) -> UnsignedJwt:
    """RFC 7523 client authentication. Like the SDK's: no ``iat``, no ``nbf``, no ``kid`` in the header."""
    claims: dict[str, JsonValue] = {
        "iss": client_id,
        "sub": client_id,
        "aud": [audience],
        "exp": int(now) + lifetime,
        "jti": jti or str(uuid.uuid4()),
    }
    if statement is not None:
        claims["client_statement"] = dict(statement)
    return UnsignedJwt({"typ": "JWT", "alg": "ES256", "jwk": dict(client_key.jwk)}, claims)


def subject_token(
    *,
    client_id: str,
    telematik_id: str,
    certificate_der: bytes,
    audience: str,
    nonce: bytes,
    client_jkt: str,
    dpop_jkt: str,
    now: float,
    lifetime: int = 30,
    jti: str | None = None,
) -> UnsignedJwt:
    """The institution's word, to be signed by the SM(C)-B. The label is ``ES256`` on a brainpool key too."""
    return UnsignedJwt(
        _card_header(certificate_der),
        {
            "iss": client_id,
            "exp": int(now) + lifetime,
            "aud": [audience],
            "sub": telematik_id,
            "iat": int(now),
            "nonce": b64url_encode(nonce),
            "jti": jti or str(uuid.uuid4()),
            "typ": "Bearer",
            "client_key": {"jkt": client_jkt},
            "dpop_key": {"jkt": dpop_jkt},
        },
    )


def dpop_proof(
    *,
    key: SoftwareKey,
    method: str,
    url: str,
    now: float,
    nonce: bytes | None = None,
    access_token: str | None = None,
    jti: str | None = None,
) -> UnsignedJwt:
    """RFC 9449 §4.2. ``nonce`` at the token endpoint, ``ath`` of ``access_token`` at resources."""
    claims: dict[str, JsonValue] = {
        "iat": int(now),
        "jti": jti or str(uuid.uuid4()),
        "htm": method.upper(),
        "htu": proof_url(url),
    }
    if nonce is not None:
        claims["nonce"] = b64url_encode(nonce)
    if access_token is not None:
        claims["ath"] = b64url_encode(hashlib.sha256(access_token.encode()).digest())
    return UnsignedJwt({"typ": "dpop+jwt", "jwk": dict(key.jwk), "alg": "ES256"}, claims)


def institution_assertion(
    *,
    product_id: str,
    audience: str,
    certificate_der: bytes,
    nonce: bytes,
    dpop_jkt: str,
    statement: Mapping[str, JsonValue],
    now: float,
    lifetime: int = 60,
    jti: str | None = None,
) -> UnsignedJwt:
    """Client assertion signed by the SM(C)-B itself (grant ``client_credentials``, no registration)."""
    return UnsignedJwt(
        _card_header(certificate_der),
        {
            "iss": product_id,
            "sub": product_id,
            "aud": [audience],
            "iat": int(now),
            "exp": int(now) + lifetime,
            "jti": jti or str(uuid.uuid4()),
            "nonce": b64url_encode(nonce),
            "cnf": {"jkt": dpop_jkt},
            "client_statement": dict(statement),
        },
    )


def proof_url(url: str) -> str:
    """``htu`` as the SDK writes it: cut at the first ``?`` or ``#``, ``wss`` → ``https``, nothing else changed."""
    bare = url.split("#", 1)[0].split("?", 1)[0]
    for scheme, http in (("wss://", "https://"), ("ws://", "http://")):
        if bare.startswith(scheme):
            return http + bare.removeprefix(scheme)
    return bare


def _card_header(certificate_der: bytes) -> dict[str, JsonValue]:
    return {
        "typ": "JWT",
        "kid": b64url_encode(hashlib.sha256(certificate_der).digest()),
        "x5c": [base64.b64encode(certificate_der).decode()],
        "alg": "ES256",
    }


def _encoded(members: Mapping[str, JsonValue]) -> str:
    return b64url_encode(json.dumps(dict(members), separators=(",", ":"), ensure_ascii=False).encode())
