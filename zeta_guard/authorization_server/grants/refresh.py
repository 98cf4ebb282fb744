"""Refresh: a new token pair within a session, while institution and policy still permit it (A_29377, ``wire-contract`` 4.3)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from zeta_guard.authorization_server.asking import ask_policy
from zeta_guard.authorization_server.audience import Audiences
from zeta_guard.authorization_server.charges import Charges
from zeta_guard.authorization_server.client_assertion import ClientAssertion
from zeta_guard.authorization_server.client_authentication import (
    authenticated,
    charges_of,
    read_token_assertion,
    verify_token_proof,
)
from zeta_guard.authorization_server.client_statement import ClientStatement, verify_statement
from zeta_guard.authorization_server.decision import Permission
from zeta_guard.authorization_server.dependencies import Dependencies, FormRequest
from zeta_guard.authorization_server.grant_type import REFRESH_TOKEN
from zeta_guard.authorization_server.institution import Institution, institution_of, prove_institution
from zeta_guard.authorization_server.issue import Grant, TokenSet, issue
from zeta_guard.authorization_server.nonce import Nonce
from zeta_guard.authorization_server.own_token import (
    REFRESH_SLOT,
    OwnToken,
    named_session,
    parse_refresh_token,
    verify_refresh_token,
)
from zeta_guard.authorization_server.scope import requested_scopes
from zeta_guard.authorization_server.session import SessionContent
from zeta_guard.authorization_server.session_end import end_known_session
from zeta_guard.authorization_server.spending import ended_session, proof_claim, spend
from zeta_guard.authorization_server.successor import open_answer, seal_answer
from zeta_guard.errors import ZetaError
from zeta_guard.jose.dpop import DpopProof
from zeta_guard.jose.jws import CompactJws
from zeta_guard.store.contract import Claim, RotateOutcome, RotateStatus, Session, block_subject
from zeta_guard.trust.certificate import parse_smcb_certificate
from zeta_guard.trust.contract import SmcbCertificate, SmcbIdentity


async def refresh_tokens(deps: Dependencies, request: FormRequest) -> bytes:
    """The answer. Reuse of a refresh token counts only after assertion, proof, client and key have matched."""
    charges = charges_of(deps, request.now)
    try:
        return await _refresh(deps, request, charges)
    except ZetaError:
        await charges.pay()
        raise


async def _refresh(deps: Dependencies, request: FormRequest, charges: Charges) -> bytes:
    config, now, form = deps.config, request.now, request.form

    unverified = read_token_assertion(deps, request)
    parsed = _parsed(deps, request)
    leaf = deps.leaves.get(unverified.client_id)
    found = await deps.store.look_up(
        unverified.client_id,
        session_id=_named(parsed),
        cached=deps.trust.answer_keys(leaf) if leaf is not None else (),
        now=now,
    )
    assertion = authenticated(deps, request, unverified, found.client)
    client = assertion.client
    proof = verify_token_proof(deps, request)
    presented = _presented(deps, request, parsed, client.client_id, proof)
    nonce = deps.mint.check(proof.nonce or "", epoch=deps.store.epoch, now=now)
    statement = _statement(deps, assertion, nonce, now)
    charges.owe(f"client:{client.client_id}", config.rate_limits.token_per_client)

    spend_on = partial(
        spend, deps.store, facts=request.facts, events=deps.events, client_id=client.client_id, charges=charges
    )
    session = found.session
    claims = _claims(deps, request, assertion, proof, nonce, statement)
    subjects: tuple[str, ...] = (
        block_subject("session", presented.session_id),
        block_subject("client", client.client_id),
    )
    if session is None or session.client_id != client.client_id or session.jkt != proof.jkt:
        # Why it is gone, the block says, if there is one.
        await spend_on(claims, subjects)
        raise _gone()
    content = deps.sealer.open(session)
    statement = statement or content.statement
    scopes = requested_scopes(form.get("scope"), allowed=content.scopes, default=content.scopes, what="the session")
    check_target(form, content, deps.audiences)
    certificate = parse_smcb_certificate(content.leaf, REFRESH_SLOT)
    institution = institution_of(deps, certificate, client)
    subjects = (*subjects, *institution.subjects(), block_subject("product", statement.product_id))

    if presented.jti != session.refresh_jti:
        # It was rotated before. The successor is answered again or the session ends; nothing new is granted.
        await spend_on(claims, subjects)
        return await _answer_again(deps, request, session, presented)

    known = found.cached if leaf == certificate.fingerprint else None
    identity = await _prove_again(deps, session, certificate, institution, charges, known, now)
    deps.leaves.put(client.client_id, certificate.fingerprint)
    await spend_on(claims, subjects)
    permission = await _ask_again(deps, request, session, content, identity, institution, statement, scopes)

    audience = _within(permission.audience, content)
    expires_at = min(session.expires_at, int(now) + permission.refresh_ttl)
    grant = Grant(
        certificate=certificate,
        client_id=client.client_id,
        statement=statement,
        session_id=session.session_id,
        jkt=session.jkt,
        audience=audience,
        version=content.target.version,
        scopes=scopes,
        client_address=str(request.client_address),
        access_ttl=permission.access_ttl,
        session_expires_at=expires_at,
    )
    tokens = issue(
        grant, issuer=deps.endpoints.issuer, signer=deps.signing_keys.current(now), recent=deps.recent, now=now
    )
    if deps.audit.enabled:
        deps.audit.record(
            "token_granted",
            grant=REFRESH_TOKEN,
            client_id=client.client_id,
            institution=institution.pseudonym,
            session_id=session.session_id,
            access_jti=tokens.access_jti,
            refresh_jti=tokens.refresh_jti,
            audience=audience,
            scopes=scopes,
            decision_id=permission.decision_id,
            revision=permission.revision,
            request_id=request.facts.request_id,
        )
    return await _rotate(deps, request, session, presented, tokens, found.seen)


def _parsed(deps: Dependencies, request: FormRequest) -> OwnToken | CompactJws | ZetaError:
    """The refresh token taken apart, or why it cannot be: that is said after client and proof have been judged."""
    token = request.form.get("refresh_token")
    if token is None:
        return ZetaError("invalid_request", "'refresh_token' is missing", stage="refresh_token")
    known = deps.recent.recall(token, keys=deps.signing_keys.public(request.now), now=request.now)
    if known is not None:
        return known
    try:
        return parse_refresh_token(token, max_bytes=deps.config.limits.jwt)
    except ZetaError as error:
        return error


def _named(parsed: OwnToken | CompactJws | ZetaError) -> str | None:
    if isinstance(parsed, OwnToken):
        return parsed.session_id
    return named_session(parsed) if isinstance(parsed, CompactJws) else None


def _presented(
    deps: Dependencies,
    request: FormRequest,
    parsed: OwnToken | CompactJws | ZetaError,
    client_id: str,
    proof: DpopProof,
) -> OwnToken:
    if isinstance(parsed, ZetaError):
        raise parsed
    presented = (
        parsed
        if isinstance(parsed, OwnToken)
        else verify_refresh_token(
            parsed, issuer=deps.endpoints.issuer, keys=deps.signing_keys.public(request.now), now=request.now
        )
    )
    if presented.client_id != client_id:
        raise REFRESH_SLOT.refuse("was issued to another client")
    if presented.jkt != proof.jkt:
        deps.events.emit("proof_key_mismatch", client_id=client_id, session_id=presented.session_id)
        raise ZetaError(
            "invalid_dpop_proof",
            "DPoP proof: made with another key than the one that the refresh token is bound to",
            status=401,
            stage="dpop",
        )
    return presented


def _statement(deps: Dependencies, assertion: ClientAssertion, nonce: Nonce, now: float) -> ClientStatement | None:
    # A_29377 lets the client leave it out here; then what it said at the exchange still counts.
    if assertion.statement is None:
        return None
    return verify_statement(
        assertion.statement,
        client_id=assertion.client.client_id,
        platform=assertion.client.platform,
        key=assertion.key,
        jkt=assertion.jkt,
        nonce=nonce,
        binding_required=True,
        now=now,
        oldest=deps.config.authorization_server.lifetimes.attestation_age,
        ahead=deps.config.limits.skew,
    )


def _claims(
    deps: Dependencies,
    request: FormRequest,
    assertion: ClientAssertion,
    proof: DpopProof,
    nonce: Nonce,
    statement: ClientStatement | None,
) -> tuple[Claim, ...]:
    limits, now = deps.config.limits, request.now
    if statement is not None and statement.bound_to_nonce:
        dated = nonce.dated
    else:
        dated = float(assertion.times.issued_at or assertion.times.expires_at - limits.assertion_life)
    return (
        nonce.claim(now=now, skew=limits.skew),
        assertion.claim(now=now, dated=dated),
        proof_claim(proof, past=limits.proof_age, ahead=limits.skew, dated=nonce.dated),
    )


def check_target(form: Mapping[str, str], content: SessionContent, audiences: Audiences) -> None:
    """Raise ZetaError ``invalid_target`` when the form asks for something that the session was not granted."""
    wanted = "audience" if "audience" in form else "resource" if "resource" in form else None
    if wanted is None:
        return
    target = audiences.choose(form)
    inside = (
        set(target.audience) <= set(content.granted_audience)
        if target.version == 1
        else target.resource == content.target.resource
    )
    if not inside:
        raise ZetaError("invalid_target", f"'{wanted}' is not that of the session", stage="target")


def _within(audience: tuple[str, ...], content: SessionContent) -> tuple[str, ...]:
    if audience == content.granted_audience:
        return audience
    found = tuple(name for name in audience if name in content.granted_audience)
    if not found:
        raise ZetaError(
            "invalid_target",
            "the policy now names an audience that is not the session's; exchange anew",
            stage="policy",
        )
    return found


async def _prove_again(
    deps: Dependencies,
    session: Session,
    certificate: SmcbCertificate,
    institution: Institution,
    charges: Charges,
    cached: Mapping[str, bytes] | None,
    now: float,
) -> SmcbIdentity:
    try:
        return await prove_institution(deps, certificate, institution, charges, cached=cached, now=now)
    except ZetaError as error:
        if error.code == "invalid_grant":
            await end_known_session(deps, session, reason="terminated", cause="certificate", now=now)
        raise


async def _ask_again(
    deps: Dependencies,
    request: FormRequest,
    session: Session,
    content: SessionContent,
    identity: SmcbIdentity,
    institution: Institution,
    statement: ClientStatement,
    scopes: tuple[str, ...],
) -> Permission:
    try:
        return await ask_policy(
            deps,
            request,
            grant_type=REFRESH_TOKEN,
            identity=identity,
            institution=institution,
            client_id=session.client_id,
            client_class="registered",
            registered_at=content.registered_at,
            statement=statement,
            target=content.target,
            scopes=scopes,
            previous_address=content.client_address,
        )
    except ZetaError as error:
        if error.code == "access_denied":
            await end_known_session(deps, session, reason="terminated", cause="policy", now=request.now)
        raise


async def _rotate(
    deps: Dependencies, request: FormRequest, session: Session, presented: OwnToken, tokens: TokenSet, seen: object
) -> bytes:
    token = request.form["refresh_token"]
    lifetimes = deps.config.authorization_server.lifetimes
    outcome = await deps.store.rotate_session(
        session.session_id,
        presented_jti=presented.jti,
        successor_jti=tokens.refresh_jti or "",
        jkt=session.jkt,
        sealed_answer=seal_answer(token, tokens.body, session_id=session.session_id),
        grace=lifetimes.refresh_grace,
        seen=seen,
        client_ttl=lifetimes.idle_client,
        now=request.now,
    )
    if outcome.status is RotateStatus.WON:
        return tokens.body
    return _not_won(deps, request, session, outcome)


async def _answer_again(deps: Dependencies, request: FormRequest, session: Session, presented: OwnToken) -> bytes:
    # A refresh token that is not the current one can never become it again: this call cannot win.
    outcome = await deps.store.rotate_session(
        session.session_id,
        presented_jti=presented.jti,
        successor_jti="",
        jkt=session.jkt,
        sealed_answer=b"",
        grace=deps.config.authorization_server.lifetimes.refresh_grace,
        now=request.now,
    )
    return _not_won(deps, request, session, outcome)


def _not_won(deps: Dependencies, request: FormRequest, session: Session, outcome: RotateOutcome) -> bytes:
    fields = {
        "session_id": session.session_id,
        "client_id": session.client_id,
        "request_id": request.facts.request_id,
    }
    if outcome.status is RotateStatus.SUCCESSOR:
        body = open_answer(request.form["refresh_token"], outcome.sealed_answer, session_id=session.session_id)
        deps.audit.record("token_answered_again", **fields)
        return body
    if outcome.status is RotateStatus.REUSED:
        deps.metrics.sessions_ended.labels("reuse").inc()
        deps.events.emit("refresh_reused", **fields)
        deps.audit.record("session_ended", reason="reuse", cause="refresh_token", **fields)
        raise ended_session("reuse")
    if outcome.status is RotateStatus.ENDED:
        raise ended_session(outcome.reason)
    raise _gone()


def _gone() -> ZetaError:
    return ZetaError(
        "invalid_grant", "refresh token: its session is over; make a complete token exchange", stage="session"
    )
