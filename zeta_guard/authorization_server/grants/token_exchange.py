"""Token exchange: a registered client with a subject token signed by the SM(C)-B (A_29376, ``wire-contract`` section 4.1)."""

from __future__ import annotations

from zeta_guard.authorization_server.asking import ask_policy
from zeta_guard.authorization_server.charges import Charges
from zeta_guard.authorization_server.client_authentication import (
    authenticated,
    charges_of,
    read_token_assertion,
    verify_token_proof,
)
from zeta_guard.authorization_server.client_statement import SLOT as STATEMENT_SLOT
from zeta_guard.authorization_server.client_statement import verify_statement
from zeta_guard.authorization_server.dependencies import Dependencies, FormRequest
from zeta_guard.authorization_server.grant_type import TOKEN_EXCHANGE
from zeta_guard.authorization_server.institution import bind, institution_of, is_bound, prove_institution
from zeta_guard.authorization_server.issue import Grant, TokenSet, issue
from zeta_guard.authorization_server.scope import requested_scopes
from zeta_guard.authorization_server.session import SessionContent, new_session_id
from zeta_guard.authorization_server.spending import proof_claim, spend
from zeta_guard.authorization_server.subject_token import verify_subject_token
from zeta_guard.errors import ZetaError
from zeta_guard.store.contract import Session, block_subject


async def exchange_token(deps: Dependencies, request: FormRequest) -> TokenSet:
    """Every step takes what is verified so far; the network comes after everything pure, changes of state come last."""
    charges = charges_of(deps, request.now)
    try:
        return await _exchange(deps, request, charges)
    except ZetaError:
        await charges.pay()
        raise


async def _exchange(deps: Dependencies, request: FormRequest, charges: Charges) -> TokenSet:
    config, now, form = deps.config, request.now, request.form
    limits, server = config.limits, config.authorization_server

    unverified = read_token_assertion(deps, request)
    leaf = deps.leaves.get(unverified.client_id)
    found = await deps.store.look_up(
        unverified.client_id, cached=deps.trust.answer_keys(leaf) if leaf is not None else (), now=now
    )
    assertion = authenticated(deps, request, unverified, found.client)
    client = assertion.client
    proof = verify_token_proof(deps, request)
    subject = verify_subject_token(
        form,
        client_id=client.client_id,
        client_jkt=client.key_thumbprint,
        dpop_jkt=proof.jkt,
        nonce=proof.nonce,
        audience=deps.endpoints.token,
        now=now,
        skew=limits.skew,
        max_bytes=limits.jwt,
    )
    nonce = deps.mint.check(proof.nonce or "", epoch=deps.store.epoch, now=now)
    if assertion.statement is None:
        raise STATEMENT_SLOT.refuse("'client_statement' is missing in the client assertion")
    statement = verify_statement(
        assertion.statement,
        client_id=client.client_id,
        platform=client.platform,
        key=assertion.key,
        jkt=assertion.jkt,
        nonce=nonce,
        binding_required=True,
        now=now,
        oldest=server.lifetimes.attestation_age,
        ahead=limits.skew,
    )
    target = deps.audiences.choose(form)
    scopes = requested_scopes(form.get("scope"), allowed=server.scopes, default=server.scopes, what="the metadata")
    institution = institution_of(deps, subject.certificate, client)

    charges.owe(f"client:{client.client_id}", config.rate_limits.token_per_client)
    identity = await prove_institution(
        deps,
        subject.certificate,
        institution,
        charges,
        cached=found.cached if leaf == subject.certificate.fingerprint else None,
        now=now,
    )
    deps.leaves.put(client.client_id, subject.certificate.fingerprint)

    await spend(
        deps.store,
        (
            nonce.claim(now=now, skew=limits.skew),
            assertion.claim(now=now, dated=nonce.dated),
            proof_claim(proof, past=limits.proof_age, ahead=limits.skew, dated=nonce.dated),
        ),
        (
            block_subject("client", client.client_id),
            *institution.subjects(),
            block_subject("product", statement.product_id),
        ),
        facts=request.facts,
        events=deps.events,
        client_id=client.client_id,
        charges=charges,
    )
    permission = await ask_policy(
        deps,
        request,
        grant_type=TOKEN_EXCHANGE,
        identity=identity,
        institution=institution,
        client_id=client.client_id,
        client_class="registered",
        registered_at=client.registered_at,
        statement=statement,
        target=target,
        scopes=scopes,
    )

    confirmed = is_bound(client, institution, statement)
    if not confirmed:
        await bind(deps, client, institution, subject.certificate, statement, now=now)
    session_id = new_session_id()
    grant = Grant(
        certificate=subject.certificate,
        client_id=client.client_id,
        statement=statement,
        session_id=session_id,
        jkt=proof.jkt,
        audience=permission.audience,
        version=target.version,
        scopes=scopes,
        client_address=str(request.client_address),
        access_ttl=permission.access_ttl,
        session_expires_at=int(now) + permission.refresh_ttl,
    )
    tokens = issue(
        grant, issuer=deps.endpoints.issuer, signer=deps.signing_keys.current(now), recent=deps.recent, now=now
    )
    if deps.audit.enabled:
        deps.audit.record(
            "token_granted",
            grant=TOKEN_EXCHANGE,
            client_id=client.client_id,
            institution=institution.pseudonym,
            session_id=session_id,
            access_jti=tokens.access_jti,
            refresh_jti=tokens.refresh_jti,
            audience=permission.audience,
            scopes=scopes,
            decision_id=permission.decision_id,
            revision=permission.revision,
            request_id=request.facts.request_id,
        )
    content = SessionContent(
        leaf=subject.certificate.der,
        statement=statement,
        scopes=scopes,
        target=target,
        granted_audience=permission.audience,
        client_address=str(request.client_address),
        registered_at=client.registered_at,
    )
    session = Session(
        session_id=session_id,
        client_id=client.client_id,
        institution=institution.pseudonym,
        jkt=proof.jkt,
        refresh_jti=tokens.refresh_jti or "",
        started_at=int(now),
        expires_at=int(now) + permission.refresh_ttl,
        sealed=deps.sealer.seal(content, session_id=session_id, client_id=client.client_id, jkt=proof.jkt),
        product_id=statement.product_id,
    )
    # A binding that stands is confirmed by the step that writes the session: it holds only while the client is as it was.
    seen = found.seen if confirmed else None
    if not await deps.store.start_session(session, seen=seen, client_ttl=server.lifetimes.idle_client, now=now):
        await bind(deps, client, institution, subject.certificate, statement, now=now)
        await deps.store.start_session(session, now=now)
    return tokens
