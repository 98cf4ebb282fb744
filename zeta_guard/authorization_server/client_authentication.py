"""Who asks: the registered client of a request, and its DPoP key (``wire-contract`` section 4.1 steps 2 and 3)."""

from __future__ import annotations

from zeta_guard.authorization_server.charges import Charges
from zeta_guard.authorization_server.client_assertion import (
    ClientAssertion,
    UnverifiedAssertion,
    read_assertion,
    unknown_client,
    verify_assertion,
)
from zeta_guard.authorization_server.dependencies import Dependencies, FormRequest
from zeta_guard.jose.dpop import DpopProof, verify_dpop_proof
from zeta_guard.store.contract import Client


def read_token_assertion(deps: Dependencies, request: FormRequest) -> UnverifiedAssertion:
    """The assertion of a token request, checked as far as that goes without its key."""
    limits = deps.config.limits
    return read_assertion(
        request.form,
        audiences=(deps.endpoints.token, deps.endpoints.issuer),
        now=request.now,
        skew=limits.skew,
        longest_life=limits.assertion_life,
        max_bytes=limits.jwt,
    )


async def authenticate_client(
    deps: Dependencies, request: FormRequest, assertion: UnverifiedAssertion
) -> ClientAssertion:
    """The registered client behind an assertion. Raises ZetaError ``invalid_client``: 401 when it is unknown, else 400."""
    return authenticated(deps, request, assertion, await deps.store.get_client(assertion.client_id, now=request.now))


def authenticated(
    deps: Dependencies, request: FormRequest, assertion: UnverifiedAssertion, client: Client | None
) -> ClientAssertion:
    """As :func:`authenticate_client`, for a client that was looked up: ``client`` None is an unknown one."""
    if client is None:
        deps.events.emit("unknown_client", request_id=request.facts.request_id)
        raise unknown_client()
    return verify_assertion(assertion, client)


def verify_token_proof(deps: Dependencies, request: FormRequest) -> DpopProof:
    """The proof of a token request; it carries a nonce. Raises ZetaError ``invalid_dpop_proof`` 400."""
    limits = deps.config.limits
    return verify_dpop_proof(
        request.proofs,
        method="POST",
        url=deps.endpoints.token,
        now=request.now,
        past=limits.proof_age,
        ahead=limits.skew,
        nonce="required",
        access_token=None,
        status=400,
    )


def charges_of(deps: Dependencies, now: float) -> Charges:
    """The charges of one request, none yet."""
    return Charges(deps.store, deps.config.rate_limits, deps.events, now=now)
