"""Client credentials: an unregistered client whose assertion the SM(C)-B itself signed (RFC 7523, ``wire-contract`` 4.2)."""

from __future__ import annotations

import math
from typing import Final

from zeta_guard.authorization_server.asking import ask_policy
from zeta_guard.authorization_server.audience import Target
from zeta_guard.authorization_server.client_assertion import SLOT
from zeta_guard.authorization_server.client_authentication import (
    charges_of,
    read_token_assertion,
    verify_token_proof,
)
from zeta_guard.authorization_server.client_statement import SLOT as STATEMENT_SLOT
from zeta_guard.authorization_server.client_statement import ClientStatement, verify_statement
from zeta_guard.authorization_server.dependencies import Dependencies, FormRequest
from zeta_guard.authorization_server.grant_type import CLIENT_CREDENTIALS
from zeta_guard.authorization_server.institution import institution_of, prove_institution
from zeta_guard.authorization_server.institution_assertion import (
    InstitutionAssertion,
    as_client_fault,
    verify_institution_assertion,
)
from zeta_guard.authorization_server.issue import Grant, TokenSet, issue
from zeta_guard.authorization_server.nonce import Nonce
from zeta_guard.authorization_server.scope import requested_scopes
from zeta_guard.authorization_server.session import SessionContent, new_session_id
from zeta_guard.authorization_server.spending import proof_claim, spend
from zeta_guard.config.authorization_server import Product
from zeta_guard.errors import ZetaError
from zeta_guard.jose.dpop import DpopProof
from zeta_guard.policy.document import DpopKey
from zeta_guard.store.contract import Session, block_subject

_SHORTEST_MEMORY: Final = 86_400
"""Seconds after its last use for which a DPoP key is remembered at least."""


async def grant_client_credentials(deps: Dependencies, request: FormRequest) -> TokenSet:
    """The same steps as the token exchange, with one assertion in the place of two. There is no refresh token."""
    config, now, form = deps.config, request.now, request.form
    limits = config.limits

    assertion = verify_institution_assertion(
        read_token_assertion(deps, request), products=config.authorization_server.products
    )
    proof = verify_token_proof(deps, request)
    nonce = _bound_nonce(deps, assertion, proof, now)
    statement = _statement(deps, assertion, proof, nonce, now)
    target = _target(deps, request, assertion.product)
    scopes = requested_scopes(
        form.get("scope"), allowed=assertion.product.scopes, default=assertion.product.scopes, what="the product"
    )
    institution = institution_of(deps, assertion.certificate, None)
    try:
        identity = await prove_institution(deps, assertion.certificate, institution, charges_of(deps, now), now=now)
    except ZetaError as error:
        raise as_client_fault(error) from None

    await spend(
        deps.store,
        (
            nonce.claim(now=now, skew=limits.skew),
            assertion.claim(now=now, dated=nonce.dated),
            proof_claim(proof, past=limits.proof_age, ahead=limits.skew, dated=nonce.dated),
        ),
        (
            block_subject("client", assertion.product_id),
            *institution.subjects(),
            block_subject("product", assertion.product_id),
            block_subject("product", statement.product_id),
        ),
        facts=request.facts,
        events=deps.events,
        client_id=assertion.product_id,
    )
    key = await _see_key(deps, proof, now)
    permission = await ask_policy(
        deps,
        request,
        grant_type=CLIENT_CREDENTIALS,
        identity=identity,
        institution=institution,
        client_id=assertion.product_id,
        client_class="product",
        registered_at=None,
        statement=statement,
        target=target,
        scopes=scopes,
        dpop_key=key,
    )
    audience = _product_audience(deps, permission.audience, assertion.product)

    session_id = new_session_id()
    grant = Grant(
        certificate=assertion.certificate,
        client_id=assertion.product_id,
        statement=statement,
        session_id=session_id,
        jkt=proof.jkt,
        audience=audience,
        version=target.version,
        scopes=scopes,
        client_address=str(request.client_address),
        access_ttl=permission.access_ttl,
        session_expires_at=None,
    )
    tokens = issue(
        grant, issuer=deps.endpoints.issuer, signer=deps.signing_keys.current(now), recent=deps.recent, now=now
    )
    deps.audit.record(
        "token_granted",
        grant=CLIENT_CREDENTIALS,
        client_id=assertion.product_id,
        institution=institution.pseudonym,
        session_id=session_id,
        access_jti=tokens.access_jti,
        audience=audience,
        scopes=scopes,
        decision_id=permission.decision_id,
        revision=permission.revision,
        request_id=request.facts.request_id,
    )
    content = SessionContent(
        leaf=assertion.certificate.der,
        statement=statement,
        scopes=scopes,
        target=target,
        granted_audience=audience,
        client_address=str(request.client_address),
        registered_at=None,
    )
    # Kept while the access token lives, so that operators see the session and can end it.
    await deps.store.start_session(
        Session(
            session_id=session_id,
            client_id=assertion.product_id,
            institution=institution.pseudonym,
            jkt=proof.jkt,
            refresh_jti="",
            started_at=int(now),
            expires_at=int(now) + permission.access_ttl,
            sealed=deps.sealer.seal(content, session_id=session_id, client_id=assertion.product_id, jkt=proof.jkt),
            product_id=statement.product_id,
        ),
        now=now,
    )
    return tokens


def _bound_nonce(deps: Dependencies, assertion: InstitutionAssertion, proof: DpopProof, now: float) -> Nonce:
    if assertion.jkt != proof.jkt:
        raise SLOT.refuse("'cnf.jkt' is not the thumbprint of the DPoP proof's key")
    if assertion.nonce != proof.nonce:
        raise ZetaError("invalid_grant", "the nonces of client assertion and DPoP proof differ", stage="nonce")
    return deps.mint.check(assertion.nonce, epoch=deps.store.epoch, now=now)


def _statement(
    deps: Dependencies, assertion: InstitutionAssertion, proof: DpopProof, nonce: Nonce, now: float
) -> ClientStatement:
    if assertion.statement is None:
        raise STATEMENT_SLOT.refuse("'client_statement' is missing in the client assertion")
    return verify_statement(
        assertion.statement,
        client_id=assertion.product_id,
        platform=None,
        key=proof.key,
        jkt=proof.jkt,
        nonce=nonce,
        binding_required=False,
        now=now,
        oldest=deps.config.authorization_server.lifetimes.attestation_age,
        ahead=deps.config.limits.skew,
    )


def _target(deps: Dependencies, request: FormRequest, product: Product) -> Target:
    if "audience" not in request.form and "resource" not in request.form:
        configured = deps.audiences.configured(product.audiences[0])
        if configured is None:
            raise ZetaError("invalid_target", "the product's audience is not one of this guard", stage="target")
        return Target(1, (configured,))
    target = deps.audiences.choose(request.form)
    if target.version == 1:
        _product_audience(deps, target.audience, product)
    return target


def _product_audience(deps: Dependencies, audience: tuple[str, ...], product: Product) -> tuple[str, ...]:
    allowed = {deps.audiences.configured(name) for name in product.audiences}
    found = tuple(name for name in audience if name in allowed)
    if len(found) != len(audience):
        raise ZetaError("invalid_target", "the product may not have tokens for this audience", stage="target")
    return found


async def _see_key(deps: Dependencies, proof: DpopProof, now: float) -> DpopKey:
    oldest = deps.config.authorization_server.dpop_key_max_age
    # Remembered long beyond its age: a key that was forgotten would be young again.
    seen = await deps.store.see_key(proof.jkt, ttl=max(10 * (oldest or 0), _SHORTEST_MEMORY), now=now)
    age = max(0, math.floor(now - seen.first_seen))
    if oldest is not None and now - seen.first_seen > oldest:
        raise ZetaError(
            "invalid_dpop_proof",
            f"DPoP proof: its key is {age} s old; at most {oldest} s allowed, make a new key",
            status=401,
            stage="dpop_proof",
        )
    return DpopKey(int(seen.first_seen), int(seen.last_seen), age)
