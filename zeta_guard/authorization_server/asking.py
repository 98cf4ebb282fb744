"""Asking the policy whether an institution may have a token (A_28837, ``wire-contract`` section 4.1 step 8)."""

from __future__ import annotations

from collections.abc import Sequence

from zeta_guard.authorization_server.audience import Target
from zeta_guard.authorization_server.client_statement import ClientStatement
from zeta_guard.authorization_server.decision import Permission, permission
from zeta_guard.authorization_server.dependencies import Dependencies, FormRequest
from zeta_guard.authorization_server.institution import Institution
from zeta_guard.authorization_server.issue import ACR, AMR
from zeta_guard.policy import document
from zeta_guard.trust.contract import SmcbIdentity


async def ask_policy(
    deps: Dependencies,
    request: FormRequest,
    *,
    grant_type: str,
    identity: SmcbIdentity,
    institution: Institution,
    client_id: str,
    client_class: document.ClientClass,
    registered_at: int | None,
    statement: ClientStatement,
    target: Target,
    scopes: Sequence[str],
    previous_address: str | None = None,
    dpop_key: document.DpopKey | None = None,
) -> Permission:
    """The permission. Raises ZetaError 403 ``access_denied`` (recorded), 503 when there is no valid answer."""
    certificate = identity.certificate
    question = document.token_document(
        grant_type=grant_type,
        scopes=scopes,
        audience=target.audience,
        resource=target.resource,
        client_address=request.client_address,
        previous_address=previous_address,
        acr=ACR,
        amr=AMR,
        client=document.Client(
            client_id=client_id,
            client_class=client_class,
            platform=statement.platform,
            posture_type=statement.posture_type,
            product_id=statement.product_id,
            product_version=statement.product_version,
            registered_at=registered_at,
            attested_at=statement.attested_at,
            os=statement.os,
            os_version=statement.os_version,
            architecture=statement.architecture,
            # The key in the statement (or, without one, the DPoP key of cnf) was compared before.
            binding_verified=True,
            dpop_key=dpop_key,
        ),
        institution=document.Institution(
            telematik_id=certificate.telematik_id,
            profession_oid=certificate.profession_oid,
            common_name=certificate.common_name,
            organization_name=certificate.organization_name,
        ),
    )
    decision = await deps.policy.decide("token", question, now=request.now)
    if not decision.allow:
        record = {
            "grant": grant_type,
            "client_id": client_id,
            "institution": institution.pseudonym,
            "decision_id": decision.decision_id,
            "revision": decision.revision,
            "reasons": [reason.code or reason.message for reason in decision.reasons],
            "request_id": request.facts.request_id,
        }
        deps.events.emit("policy_denied", **record)
        deps.audit.record("token_denied", **record)
    server = deps.config.authorization_server
    return permission(
        decision,
        target,
        audiences=deps.audiences,
        lifetimes=server.lifetimes,
        show_reasons=server.show_reasons,
    )
