"""``POST /revoke`` (RFC 7009): a client ends its own session with any of its tokens (``wire-contract`` section 4.5)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from aiohttp import web

from zeta_guard.authorization_server.client_assertion import read_assertion
from zeta_guard.authorization_server.client_authentication import authenticate_client, charges_of
from zeta_guard.authorization_server.dependencies import Dependencies, FormRequest
from zeta_guard.authorization_server.institution import institution_of, prove_institution
from zeta_guard.authorization_server.institution_assertion import (
    as_client_fault,
    is_institution_assertion,
    verify_institution_assertion,
)
from zeta_guard.authorization_server.own_token import OwnToken, verify_revocable_token
from zeta_guard.authorization_server.session_end import end_session
from zeta_guard.authorization_server.spending import proof_claim, spend
from zeta_guard.authorization_server.token_endpoint import read_form
from zeta_guard.errors import JsonValue, ZetaError
from zeta_guard.http.facts import RequestFacts
from zeta_guard.jose.dpop import verify_dpop_proof
from zeta_guard.store.contract import Claim


@dataclass(frozen=True, slots=True)
class _Owner:
    """Who asks. ``institutions``: pseudonyms that its sessions must carry; empty when the client id alone says enough."""

    client_id: str
    institutions: Collection[str]
    claim: Claim


async def answer_revocation(deps: Dependencies, request: web.BaseRequest, facts: RequestFacts) -> web.Response:
    """200 whatever the token was, once the client has proved itself; 401 ``invalid_client`` when it has not."""
    outcome = "nothing"
    try:
        form = await read_form(deps, request, facts)
        token = form.form.get("token")
        if token is None:
            raise ZetaError("invalid_request", "'token' is missing", stage="form")
        owner = await _authenticate(deps, form)
        claims = [owner.claim]
        if form.proofs:
            claims.append(_proof_claim(deps, form))
        await _spend(deps, form, claims, owner.client_id)
        own = _own_token(deps, token, form.now)
        if own is not None and await _revoke(deps, own, owner, form):
            outcome = "ended"
    except ZetaError as error:
        outcome = error.code
        raise
    finally:
        deps.metrics.revocations.labels(outcome).inc()
    return web.Response(status=200, headers={"Cache-Control": "no-store"})


async def _authenticate(deps: Dependencies, request: FormRequest) -> _Owner:
    try:
        return await _owner(deps, request)
    except ZetaError as error:
        # RFC 7009 §2.1 with RFC 6749 §5.2: whatever failed, the client is not authenticated.
        raise error.with_status(401) if error.code == "invalid_client" else error from None


async def _owner(deps: Dependencies, request: FormRequest) -> _Owner:
    limits, now = deps.config.limits, request.now
    assertion = read_assertion(
        request.form,
        audiences=(deps.endpoints.token, deps.endpoints.revocation, deps.endpoints.issuer),
        now=now,
        skew=limits.skew,
        longest_life=limits.assertion_life,
        max_bytes=limits.jwt,
    )
    if is_institution_assertion(assertion):
        card = verify_institution_assertion(assertion, products=deps.config.authorization_server.products)
        institution = institution_of(deps, card.certificate, None)
        try:
            await prove_institution(deps, card.certificate, institution, charges_of(deps, now), now=now)
        except ZetaError as error:
            raise as_client_fault(error) from None
        claim = card.claim(now=now, dated=float(card.times.issued_at or 0))
        return _Owner(card.product_id, institution.pseudonyms, claim)
    client = await authenticate_client(deps, request, assertion)
    dated = _made_at(client.statement)
    if client.times.issued_at is not None:
        dated = client.times.issued_at
    if dated is None:
        dated = client.times.expires_at - limits.assertion_life
    return _Owner(client.client.client_id, (), client.claim(now=now, dated=float(dated)))


def _made_at(statement: dict[str, JsonValue] | None) -> int | None:
    # Signed by the same key as an 'iat' would be, and worth as much: it only says when the assertion was made.
    moment = statement.get("attestation_timestamp") if statement is not None else None
    return moment if type(moment) is int else None


def _proof_claim(deps: Dependencies, request: FormRequest) -> Claim:
    limits = deps.config.limits
    proof = verify_dpop_proof(
        request.proofs,
        method="POST",
        url=deps.endpoints.revocation,
        now=request.now,
        past=limits.proof_age,
        ahead=limits.skew,
        nonce="absent-ok",
        access_token=None,
        status=400,
    )
    return proof_claim(proof, past=limits.proof_age, ahead=limits.skew)


async def _spend(deps: Dependencies, request: FormRequest, claims: list[Claim], client_id: str) -> None:
    try:
        # No block hinders an ending.
        await spend(deps.store, claims, (), facts=request.facts, events=deps.events, client_id=client_id)
    except ZetaError as error:
        raise error.with_status(401) if error.code == "invalid_client" else error from None


def _own_token(deps: Dependencies, token: str, now: float) -> OwnToken | None:
    try:
        return verify_revocable_token(
            token,
            issuer=deps.endpoints.issuer,
            keys=deps.signing_keys.public(now),
            now=now,
            max_bytes=deps.config.limits.jwt,
        )
    except ZetaError:
        # RFC 7009 §2.2: unknown and expired tokens are no error; there is nothing to end.
        return None


async def _revoke(deps: Dependencies, own: OwnToken, owner: _Owner, request: FormRequest) -> bool:
    if own.client_id != owner.client_id:
        return False
    now = request.now
    session = await deps.store.get_session(own.session_id, now=now)
    if owner.institutions and (session is None or session.institution not in owner.institutions):
        return False
    expires_at = session.expires_at if session is not None else None
    await end_session(
        deps, own.session_id, reason="revoked", cause="revocation endpoint", now=now, expires_at=expires_at
    )
    return True
