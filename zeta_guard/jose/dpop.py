"""DPoP proofs (RFC 9449 §4.3, ``wire-contract`` section 6).

This is the hottest code of the guard: one proof per request, each with a signature that no cache can answer. Everything
around the signature is therefore written out; what repeats per client (header and key) is remembered by its exact bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec

from zeta_guard.errors import JsonValue
from zeta_guard.jose.encoding import b64url_decode
from zeta_guard.jose.es256 import ES256, MalformedSignature, der_signature
from zeta_guard.jose.htu import same_url, shown
from zeta_guard.jose.jwk import PublicJwk, parse_public_jwk
from zeta_guard.jose.jws import check_header, split_jws
from zeta_guard.jose.slot import Slot
from zeta_guard.jose.strict_json import parse_object
from zeta_guard.jose.token_hash import TokenHash, token_hash
from zeta_guard.recent import Recent

MAX_PROOF_BYTES: Final = 8192
"""Longest proof."""

MAX_JTI: Final = 256
"""Longest ``jti`` and ``nonce``, in characters."""

# Four thousand clients at once; a header beyond this size is read anew each time, so that memory stays bounded.
_KNOWN_HEADERS: Final = 4096
_LARGEST_KNOWN_HEADER: Final = 768

# What the constructor of a named tuple does, without its call of Python code.
_new: Final = tuple.__new__
_headers: Recent[bytes, PublicJwk] = Recent(_KNOWN_HEADERS)
_slots: Final[dict[int, Slot]] = {}


PROOF_KIND: Final = "dpop"
"""Kind of the claims of proofs."""


def proof_life(*, past: int, ahead: int, difference: int = 15) -> int:
    """For how many seconds a proof must be remembered (see :meth:`DpopProof.claim`)."""
    return past + ahead + difference + 1


class ProofClaim(NamedTuple):
    """What the replay store must remember: ``claim_key(kind, *parts)``, when the proof was made, for how many seconds."""

    kind: str
    parts: tuple[str, str]
    dated: float
    ttl: int


class DpopProof(NamedTuple):
    """A proof that holds for one request. Whether it came before is for the replay store to say.

    ``jkt``: thumbprint of the key. ``issued_at``: claim ``iat`` (Unix seconds). ``nonce``: the claim, not judged here.
    """

    jkt: str
    jti: str
    issued_at: int
    nonce: str | None
    key: ec.EllipticCurvePublicKey

    def claim(self, *, past: int, ahead: int, difference: int = 15) -> ProofClaim:
        """What to claim in the replay store: made of claims, never of signature bytes (ECDSA is malleable).

        ``past`` and ``ahead`` are those of :func:`verify_dpop_proof`; ``difference`` is how far the clocks of two replicas may
        be apart. The record outlives the proof everywhere.
        """
        life = proof_life(past=past, ahead=ahead, difference=difference)
        return ProofClaim(PROOF_KIND, (self.jkt, self.jti), float(self.issued_at), life)


class UnprovenProof(NamedTuple):
    """A proof that holds but for its signature, which nobody has looked at: only :func:`prove` makes a proof of it."""

    claimed: DpopProof
    der: bytes
    signed: bytes
    slot: Slot
    header: bytes
    """Header segment, empty when it is known."""
    jwk: PublicJwk


def verify_dpop_proof(
    values: Sequence[str],
    *,
    method: str,
    url: str,
    now: float,
    past: int,
    ahead: int,
    nonce: Literal["required", "absent-ok"],
    access_token: str | TokenHash | None,
    status: int,
) -> DpopProof:
    """Verify the DPoP header of a request: :func:`check_dpop_proof`, then :func:`prove`."""
    return prove(
        check_dpop_proof(
            values,
            method=method,
            url=url,
            now=now,
            past=past,
            ahead=ahead,
            nonce=nonce,
            access_token=access_token,
            status=status,
        )
    )


def check_dpop_proof(
    values: Sequence[str],
    *,
    method: str,
    url: str,
    now: float,
    past: int,
    ahead: int,
    nonce: Literal["required", "absent-ok"],
    access_token: str | TokenHash | None,
    status: int,
) -> UnprovenProof:
    """Everything about the DPoP header of a request but the signature. Pure: ``now`` is the request's clock reading in Unix
    seconds.

    ``values`` are all DPoP header values, of which exactly one may exist. ``url`` is the public URL of the request. The proof
    may be ``past`` seconds old and ``ahead`` seconds ahead. With ``access_token`` (or its hash), ``ath`` must be its hash. Raises ZetaError
    ``invalid_dpop_proof`` with ``status`` (401 at resources, 400 at the token endpoint), and nothing else.
    """
    slot = _slots.get(status) or _slots.setdefault(status, Slot("DPoP proof", "invalid_dpop_proof", status))
    if len(values) != 1:
        raise slot.refuse("the header DPoP is missing" if not values else f"exactly one expected, {len(values)} came")
    header, payload, signature, signed = _take_apart(values[0], slot)

    known = _headers.young.get(header) or _headers.get(header)
    jwk = known
    if jwk is None:
        jwk = parse_public_jwk(check_header(header, slot, ("dpop+jwt",)).get("jwk"), slot)
    try:
        claims = parse_object(b64url_decode(payload))
    except ValueError:
        raise _explain_payload(payload, slot) from None

    # Every claim is looked at before the signature: it is what costs, and the description is the same either way.
    if claims.get("htm") != method:
        raise slot.refuse(f"'htm' does not match; expected {method}")
    htu = claims.get("htu")
    if htu != url and (not isinstance(htu, str) or not same_url(htu, url)):
        came = shown(htu) if isinstance(htu, str) else "no text"
        raise slot.refuse(f"'htu' does not match; expected {shown(url)}, came {came}")
    issued_at = claims.get("iat")
    if type(issued_at) is not int:
        raise slot.refuse("'iat' must be a whole number (Unix seconds)")
    if not now - past <= issued_at <= now + ahead:
        raise _untimely(issued_at, now, past, ahead, slot)
    jti = claims.get("jti")
    if type(jti) is not str or not 0 < len(jti) <= MAX_JTI:
        raise slot.refuse(f"'jti' must be text of 1 to {MAX_JTI} characters")
    proof_nonce = claims.get("nonce")
    if proof_nonce is None:
        if nonce == "required" or "nonce" in claims:
            raise slot.refuse("'nonce' is missing; expected the value of a fresh nonce")
    elif type(proof_nonce) is not str or not 0 < len(proof_nonce) <= MAX_JTI:
        raise slot.refuse(f"'nonce' must be text of 1 to {MAX_JTI} characters")
    if access_token is not None:
        ath = access_token.ath if isinstance(access_token, TokenHash) else token_hash(access_token).ath
        if claims.get("ath") != ath:
            raise slot.refuse("'ath' does not match; expected the SHA-256 hash of the access token in base64url")
    if "exp" in claims or "nbf" in claims:
        _check_own_times(claims, now, ahead, slot)

    try:
        der = der_signature(signature)
    except MalformedSignature as error:
        raise slot.refuse(str(error)) from None
    proof = _new(DpopProof, (jwk.thumbprint, jti, issued_at, proof_nonce, jwk.key))
    return _new(UnprovenProof, (proof, der, signed, slot, header if known is None else b"", jwk))


def prove(unproven: UnprovenProof) -> DpopProof:
    """The proof, once its signature holds. Raises as :func:`verify_dpop_proof`."""
    proof, der, signed, slot, header, jwk = unproven
    try:
        proof.key.verify(der, signed, ES256)
    except InvalidSignature:
        raise slot.refuse("signature is not valid for the key in 'jwk'") from None
    # Remembered only now: garbage cannot push out the headers of real clients.
    if header and len(header) <= _LARGEST_KNOWN_HEADER:
        _headers.put(header, jwk)
    return proof


def _take_apart(token: str, slot: Slot) -> tuple[bytes, bytes, bytes, bytes]:
    """Header and claims (still encoded), the 64 bytes of the signature, and what was signed."""
    try:
        raw = token.encode("ascii")
        dot = raw.index(b".")
        # A further dot anywhere is no base64url, so that fixed positions from the end say everything.
        end = len(raw) - 87
        if end < MAX_PROOF_BYTES - 86 and dot < end and raw[end] == 0x2E:
            return raw[:dot], raw[dot + 1 : end], b64url_decode(raw[end + 1 :]), raw[:end]
    except (ValueError, IndexError):
        pass
    header, payload, signature = split_jws(token, slot, MAX_PROOF_BYTES)
    return header, payload, signature, header + b"." + payload


def _explain_payload(payload: bytes, slot: Slot) -> Exception:
    try:
        raw = b64url_decode(payload)
    except ValueError:
        return slot.refuse("claims are not canonical base64url without padding")
    try:
        parse_object(raw)
    except ValueError as error:
        return slot.refuse(f"claims: {error}")
    return slot.refuse("claims cannot be read")


def _untimely(issued_at: int, now: float, past: int, ahead: int, slot: Slot) -> Exception:
    here = math.floor(now)
    if issued_at > now:
        return slot.refuse(f"'iat' is {issued_at - here} s ahead; at most {ahead} s allowed, server time is {here}")
    return slot.refuse(f"'iat' is {here - issued_at} s old; at most {past} s allowed, server time is {here}")


def _check_own_times(claims: dict[str, JsonValue], now: float, ahead: int, slot: Slot) -> None:
    # RFC 9449 does not ask for them, but a proof that calls itself expired is not one that its maker wants used.
    for name in ("exp", "nbf"):
        value = claims.get(name)
        if name in claims and type(value) is not int:
            raise slot.refuse(f"'{name}' must be a whole number (Unix seconds)")
        if type(value) is int and (value <= now if name == "exp" else value > now + ahead):
            raise slot.refuse(f"'{name}' does not hold at server time {math.floor(now)}")
