"""What a PoPP service publishes and signs: entity statement, signed key set, PoPP tokens (I_PoPP_Token_Generation 3)."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from zeta_guard.errors import JsonValue
from zeta_guard.jose.jwk import public_jwk
from zeta_guard.jose.jws import sign_es256
from zeta_guard.simulators.card import Card

ENTITY_STATEMENT: Final = "entity-statement+jwt"
SIGNED_JWKS: Final = "jwk-set+jwt"
POPP_TOKEN: Final = "vnd.telematik.popp+jwt"
DAY: Final = 86_400


@dataclass(frozen=True, slots=True)
class CareContext:
    """Which insured person was at which institution: what a PoPP token states."""

    patient_id: str
    insurer_id: str
    actor_id: str
    actor_profession_oid: str
    proof_method: str = "ehc-practitioner-trustedchannel"


@dataclass
class PoppIssuer:
    """Keys and documents of a PoPP service. ``issuer`` is a URL without path; ``signer`` certifies the token key.

    ``organization`` and ``authority_hints`` only fill the statement. Documents are made anew at each call and live a day.
    """

    issuer: str
    signer: Card
    clock: Callable[[], float] = time.time
    organization: str = "Demo PoPP-Dienst"
    authority_hints: tuple[str, ...] = ("https://federation-master.example",)
    entity_key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    retired: list[Card] = field(default_factory=list)
    """Signers before the last rotation; their keys stay in the set."""

    @property
    def entity_key_thumbprint(self) -> str:
        """RFC 7638 thumbprint of the entity key: what a guard pins."""
        return public_jwk(self.entity_key.public_key())["kid"]

    @property
    def kid(self) -> str:
        """Key id of the token key."""
        return public_jwk(self.signer.private_key.public_key())["kid"]

    def rotate(self, signer: Card) -> None:
        """Sign with another key from now on; the old one stays published."""
        self.retired.append(self.signer)
        self.signer = signer

    def entity_statement(self, signed_jwks_uri: str, **changes: JsonValue) -> str:
        """OpenID Federation entity configuration, signed with the entity key."""
        now = int(self.clock())
        jwk = public_jwk(self.entity_key.public_key())
        claims: dict[str, JsonValue] = {
            "iss": self.issuer,
            "sub": self.issuer,
            "iat": now,
            "exp": now + DAY,
            "authority_hints": list(self.authority_hints),
            "metadata": {
                "federation_entity": {"organization_name": self.organization},
                "oauth_resource": {"signed_jwks_uri": signed_jwks_uri},
            },
            "jwks": {"keys": [dict(jwk)]},
        }
        return sign_es256({"typ": ENTITY_STATEMENT, "kid": jwk["kid"]}, {**claims, **changes}, self.entity_key)

    def signed_jwks(self, **changes: JsonValue) -> str:
        """The token keys, signed with the entity key."""
        now = int(self.clock())
        claims: dict[str, JsonValue] = {"iss": self.issuer, "iat": now, "exp": now + DAY, "keys": self.keys()}
        header = {"typ": SIGNED_JWKS, "kid": self.entity_key_thumbprint}
        return sign_es256(header, {**claims, **changes}, self.entity_key)

    def keys(self) -> list[JsonValue]:
        """JWKs of the current and the retired token keys, with their certificates."""
        return [
            {**public_jwk(card.private_key.public_key()), "x5c": [base64.b64encode(card.der).decode()]}
            for card in (self.signer, *self.retired)
        ]

    def mint(
        self,
        context: CareContext,
        *,
        issued_at: int | None = None,
        patient_proof_time: int | None = None,
        header: Mapping[str, JsonValue] | None = None,
        claims: Mapping[str, JsonValue] | None = None,
        omit: Iterable[str] = (),
        key: ec.EllipticCurvePrivateKey | None = None,
    ) -> str:
        """A PoPP token. ``header``, ``claims``, ``omit`` and ``key`` forge one thing at a time, for tests."""
        issued_at = int(self.clock()) if issued_at is None else issued_at
        content: dict[str, JsonValue] = {
            "version": "1.0.0",
            "iss": self.issuer,
            "iat": issued_at,
            "proofMethod": context.proof_method,
            "patientProofTime": issued_at if patient_proof_time is None else patient_proof_time,
            "patientId": context.patient_id,
            "insurerId": context.insurer_id,
            "actorId": context.actor_id,
            "actorProfessionOid": context.actor_profession_oid,
            **(claims or {}),
        }
        for name in omit:
            content.pop(name, None)
        return sign_es256(
            {"typ": POPP_TOKEN, "kid": self.kid, **(header or {})}, content, key or self.signer.private_key
        )
