"""PoPP tokens: proof that the patient was present (``wire-contract`` section 7.5; A_26477-01). No I/O.

As with access tokens, what never changes about a token (signature, ``typ``, issuer, form) is remembered by its hash for a
minute at most; age, actor, binding and the rules of the route are looked at for every request.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol

from cryptography.hazmat.primitives.asymmetric import ec

from zeta_guard.config.gateway import PoppRule
from zeta_guard.errors import JsonValue, ZetaError
from zeta_guard.gateway.quarter import earliest_issue
from zeta_guard.jose import claims as claim
from zeta_guard.jose.jws import parse_jws, verify_es256
from zeta_guard.jose.slot import Slot
from zeta_guard.recent import Recent
from zeta_guard.tokens.access_token import AccessToken
from zeta_guard.tokens.verifier import MissingKey

TYPE: Final = "vnd.telematik.popp+jwt"
VERSION: Final = "1.0.0"
SLOT: Final = Slot("PoPP token", "popp_invalid", 403)

_KNOWN_TOKENS: Final = 10_000
_KNOWN_SECONDS: Final = 60


class PoppKeySet(Protocol):
    """The token keys of one PoPP service."""

    @property
    def version(self) -> int:
        """Grows whenever the keys change."""

    def key(self, kid: str, *, now: float) -> ec.EllipticCurvePublicKey | None:
        """The key of this name; None when it is unknown or the whole set is too old to be used."""

    def usable(self, now: float) -> bool:
        """Whether there is a set that is not too old."""


@dataclass(frozen=True, slots=True)
class PoppToken:
    """A PoPP token whose signature, issuer and form were verified. Only :class:`PoppVerifier` makes one.

    Times are Unix seconds. ``jkt`` is set when the token is bound to a key (``cnf.jkt``). ``claims`` is the whole claim set.
    """

    issuer: str
    issued_at: int
    expires_at: int | None
    patient_proof_time: int
    proof_method: str
    actor_id: str
    jkt: str | None
    claims: Mapping[str, JsonValue]


class _Verified(NamedTuple):
    token: PoppToken
    key_set: PoppKeySet
    version: int
    verified_at: float


class PoppVerifier:
    """Says whether a PoPP token was issued by a configured service, and what it says.

    ``key_sets`` by exact issuer; ``max_bytes`` is the longest token; ``skew`` how far ahead (seconds) its clock may be.
    """

    def __init__(self, key_sets: Mapping[str, PoppKeySet], *, max_bytes: int, skew: int) -> None:
        self._key_sets: Final = dict(key_sets)
        self._max_bytes: Final = max_bytes
        self._skew: Final = skew
        self._verified: Final[Recent[bytes, _Verified]] = Recent(_KNOWN_TOKENS, seconds=_KNOWN_SECONDS)

    def check(
        self, values: Sequence[str], rule: PoppRule, holder: AccessToken, *, now: float
    ) -> PoppToken | MissingKey:
        """The token of the header values ``values``, good for this route, this institution and this moment.

        Raises ZetaError 400 ``popp_missing``, 403 ``popp_invalid`` or ``popp_invalid_actor``. The holder's key is the one that
        its proof was made with (the access token's ``cnf.jkt``).
        """
        present = [value for value in values if value.strip()]
        if not present:
            raise ZetaError("popp_missing", "This route needs a PoPP token in the header PoPP.", stage="popp")
        if len(values) != 1:
            raise SLOT.refuse(f"exactly one expected, {len(values)} came")
        token = self._verify(values[0].strip(), now)
        if isinstance(token, MissingKey):
            return token
        if rule.issuers and token.issuer not in rule.issuers:
            raise SLOT.refuse("'iss' is not an issuer that this route accepts")
        self._check_times(token, rule, now)
        if rule.proof_methods and token.proof_method not in rule.proof_methods:
            raise SLOT.refuse(f"'proofMethod' is not accepted here; expected {' or '.join(rule.proof_methods)}")
        if token.actor_id != holder.telematik_id:
            raise ZetaError(
                "popp_invalid_actor",
                "The PoPP token was issued to another institution than the access token.",
                stage="popp",
            )
        if token.jkt is None:
            if rule.require_key_binding:
                raise SLOT.refuse(
                    "'cnf.jkt' is missing; this route accepts tokens only that are bound to the client's key"
                )
        elif token.jkt != holder.jkt:
            raise SLOT.refuse("'cnf.jkt' is not the key of the DPoP proof")
        return token

    def _check_times(self, token: PoppToken, rule: PoppRule, now: float) -> None:
        here = math.floor(now)
        if token.issued_at > now + self._skew:
            raise SLOT.refuse(
                f"'iat' is {token.issued_at - here} s ahead; at most {self._skew} s allowed, server time is {here}"
            )
        if token.expires_at is not None and now >= token.expires_at:
            raise SLOT.refuse(f"expired; server time is {here}")
        if rule.max_age == "quarter":
            if token.issued_at < earliest_issue(now):
                raise SLOT.refuse(f"was issued in an earlier quarter (German time); server time is {here}")
        elif now - token.issued_at > rule.max_age:
            raise SLOT.refuse(
                f"is {here - token.issued_at} s old; at most {rule.max_age} s allowed here, server time is {here}"
            )

    def _verify(self, text: str, now: float) -> PoppToken | MissingKey:
        if len(text) > self._max_bytes:
            raise SLOT.refuse(f"is longer than {self._max_bytes} bytes")
        try:
            digest = hashlib.sha256(text.encode("ascii")).digest()
        except UnicodeEncodeError:
            raise SLOT.refuse("is not a compact JWS (three base64url parts, joined by dots)") from None
        known = self._verified.get(digest)
        if known is not None:
            key_set = known.key_set
            if (
                known.version == key_set.version
                and 0 <= now - known.verified_at < _KNOWN_SECONDS
                and key_set.usable(now)
            ):
                return known.token
            self._verified.drop(digest)
        jws = parse_jws(text, SLOT, typ=TYPE, max_bytes=self._max_bytes)
        issuer = claim.text(jws.claims, "iss", SLOT)
        keys = self._key_sets.get(issuer)
        if keys is None:
            raise SLOT.refuse("'iss' is not a PoPP service that is trusted here")
        kid = claim.text(jws.header, "kid", SLOT)
        version = keys.version
        key = keys.key(kid, now=now)
        if key is None:
            return MissingKey(issuer, kid)
        verify_es256(jws, key, SLOT)
        token = _popp_token(issuer, jws.claims)
        self._verified.put(digest, _Verified(token, keys, version, now), now)
        return token


def _popp_token(issuer: str, claims: dict[str, JsonValue]) -> PoppToken:
    if claims.get("version") != VERSION:
        raise SLOT.refuse(f"'version' must be {VERSION!r}")
    issued_at = claim.integer(claims, "iat", SLOT)
    proof_time = claim.integer(claims, "patientProofTime", SLOT)
    if proof_time > issued_at:
        raise SLOT.refuse("'patientProofTime' is later than 'iat'")
    for name in ("patientId", "insurerId", "actorProfessionOid"):
        claim.text(claims, name, SLOT)
    jkt = None
    if "cnf" in claims:
        jkt = claim.text(claim.member(claims, "cnf", SLOT), "jkt", SLOT)
    return PoppToken(
        issuer=issuer,
        issued_at=issued_at,
        expires_at=claim.optional_integer(claims, "exp", SLOT),
        patient_proof_time=proof_time,
        proof_method=claim.text(claims, "proofMethod", SLOT),
        actor_id=claim.text(claims, "actorId", SLOT),
        jkt=jkt,
        claims=MappingProxyType(claims),
    )
