"""Spending what may be used once: nonce, assertion and proof in one trip, with a look at the blocks (``security`` section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from zeta_guard.authorization_server.charges import Charges
from zeta_guard.errors import ZetaError
from zeta_guard.http.facts import RequestFacts
from zeta_guard.jose.dpop import DpopProof
from zeta_guard.store.claim_key import claim_key
from zeta_guard.store.contract import Claim, ClaimOutcome, ClaimStatus, Store
from zeta_guard.telemetry.security_events import SecurityEvents

_EVENTS = {"nonce": "nonce_replayed", "assertion": "assertion_replayed", "proof": "proof_replayed"}

# What the constructor of a named tuple does, without its call of Python code.
_new: Final = tuple.__new__
_NEVER_AGAIN: Final = bytes(32)
"""No request at these endpoints is marked as one that may come again, and no fingerprint of another looks like this."""


def proof_claim(proof: DpopProof, *, past: int, ahead: int, dated: float | None = None) -> Claim:
    """The claim of a proof. ``dated``: when it carries a nonce, the nonce's date; else its own ``iat``."""
    parts = proof.claim(past=past, ahead=ahead)
    when = parts.dated if dated is None else dated
    return _new(Claim, (claim_key(parts.kind, *parts.parts), when, parts.ttl, "proof"))


async def spend(
    store: Store,
    claims: Sequence[Claim],
    subjects: Sequence[str],
    *,
    facts: RequestFacts,
    events: SecurityEvents,
    client_id: str,
    charges: Charges | None = None,
) -> None:
    """Pay what is owed, then claim all or nothing, in one trip.

    Raises the refusal of the bucket, claim or block that decided; 503 when the store is away.
    """
    owed = charges.take_over() if charges is not None else ()
    outcome = await store.spend(claims, subjects, owed, owner=facts.request_id, fingerprint=_NEVER_AGAIN, now=facts.now)
    if outcome.status is ClaimStatus.WON:
        return
    if charges is not None and outcome.status is ClaimStatus.EMPTY and outcome.bucket is not None:
        raise charges.refusal(owed[outcome.index], outcome.bucket)
    if outcome.status is ClaimStatus.BLOCKED:
        kind = subjects[outcome.index].partition(":")[0]
        events.emit("blocked", kind=kind, reason=outcome.reason, client_id=client_id)
        raise blocked(kind, outcome.reason)
    what = claims[outcome.index].what
    if outcome.status is ClaimStatus.LOST:
        events.emit(_EVENTS[what], client_id=client_id, request_id=facts.request_id)
    raise _refused_claim(what, outcome)


def _refused_claim(what: str, outcome: ClaimOutcome) -> ZetaError:
    stale = outcome.status is ClaimStatus.STALE
    if what == "nonce":
        words = "was issued before the guard lost its memory" if stale else "was used before"
        return ZetaError("invalid_grant", f"the nonce {words}; fetch a fresh one", status=400, stage="claim")
    if what == "assertion":
        words = "was made before the guard lost its memory" if stale else "was used before (jti)"
        return ZetaError("invalid_client", f"client assertion: {words}; make a fresh one", status=400, stage="claim")
    words = "was made before the guard lost its memory" if stale else "was used before (jti)"
    return ZetaError("invalid_dpop_proof", f"DPoP proof: {words}; make a fresh one", status=400, stage="claim")


def blocked(kind: str, reason: str) -> ZetaError:
    """The refusal of a blocked ``session``, ``client``, ``institution`` or ``product``."""
    if kind == "session":
        return ended_session(reason)
    if kind == "client" and reason == "client_vanished":
        return ZetaError(
            "invalid_client", "the client's registration has vanished; register again", status=401, stage="claim"
        )
    return ZetaError("access_denied", f"this {kind} is blocked by the operator", stage="claim")


def ended_session(reason: str) -> ZetaError:
    """The refusal of a refresh in a session that was ended; ``reason`` is that of its block."""
    if reason == "revoked":
        return ZetaError(
            "refresh_token_revoked", "the session of this refresh token was ended by a revocation", stage="session"
        )
    if reason == "reuse":
        return ZetaError(
            "invalid_grant",
            "the session was ended because a refresh token was used twice; make a complete token exchange",
            status=400,
            stage="session",
        )
    if reason == "client_vanished":
        return blocked("client", reason)
    return ZetaError("session_terminated", "the session was ended by an administrator or by policy", stage="session")
