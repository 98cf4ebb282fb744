"""``POST /token``: reads the form, picks the grant, answers (``wire-contract`` section 4)."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from aiohttp import web

from zeta_guard.authorization_server.dependencies import Dependencies, FormRequest
from zeta_guard.authorization_server.grant_type import (
    ACCESS_TOKEN_TYPE,
    CLIENT_CREDENTIALS,
    JWT_TYPE,
    REFRESH_TOKEN,
    REFRESH_TOKEN_TYPE,
    TOKEN_EXCHANGE,
    offered_grants,
)
from zeta_guard.authorization_server.grants.client_credentials import grant_client_credentials
from zeta_guard.authorization_server.grants.refresh import refresh_tokens
from zeta_guard.authorization_server.grants.token_exchange import exchange_token
from zeta_guard.errors import ZetaError
from zeta_guard.http.facts import RequestFacts
from zeta_guard.http.limits import parse_form, read_body
from zeta_guard.http.written import Unkept
from zeta_guard.telemetry.logging import log_event

if TYPE_CHECKING:
    from zeta_guard.telemetry.tracing import Span

_LOGGER: Final = logging.getLogger("zeta_guard.authorization_server")
# What the constructor of a named tuple does, without its call of Python code.
_new: Final = tuple.__new__
_REQUESTED: Final = (ACCESS_TOKEN_TYPE, REFRESH_TOKEN_TYPE, JWT_TYPE)
_LABELS: Final = {
    TOKEN_EXCHANGE: "token_exchange",
    REFRESH_TOKEN: REFRESH_TOKEN,
    CLIENT_CREDENTIALS: CLIENT_CREDENTIALS,
}


async def read_form(deps: Dependencies, request: web.BaseRequest, facts: RequestFacts) -> FormRequest:
    """The form of ``/token`` or ``/revoke``, strictly single-valued. Raises ZetaError ``invalid_request``."""
    limits = deps.config.limits
    raw = await read_body(request, limit=limits.token_form, idle_seconds=limits.body_timeout_ms / 1000)
    try:
        form = parse_form(raw, request.headers.get("Content-Type"))
    except ZetaError as error:
        # RFC 6749 §5.2 knows 400 only for a malformed request, its media type included.
        raise error.with_status(400) if error.status == 415 else error from None
    return _new(FormRequest, (form, tuple(request.headers.getall("DPoP", ())), facts, facts.now))


def _grant(deps: Dependencies, request: FormRequest) -> str:
    # Before anything dear: without an address there is no token, whatever the form says.
    _ = request.client_address
    form = request.form
    grant = form.get("grant_type")
    offered = offered_grants(deps.config.authorization_server)
    if grant is None:
        raise ZetaError("invalid_request", f"'grant_type' is missing; offered: {', '.join(offered)}", stage="form")
    if grant not in offered:
        raise ZetaError("unsupported_grant_type", f"'grant_type' is not offered; offered: {', '.join(offered)}")
    # The SDK asks for a refresh token by type and expects an access token with it: any type of ours is fine.
    if form.get("requested_token_type", ACCESS_TOKEN_TYPE) not in _REQUESTED:
        raise ZetaError(
            "invalid_request", f"'requested_token_type' must be one of {', '.join(_REQUESTED)}", stage="form"
        )
    if "actor_token" in form:
        raise ZetaError("invalid_request", "'actor_token' is not supported", stage="form")
    return grant


async def answer_token_request(
    deps: Dependencies, request: web.BaseRequest, facts: RequestFacts, span: Span | None = None
) -> Unkept:
    """The tokens, or the refusal of the step that refused. ``span`` gets grant and outcome, nothing of anybody."""
    label, outcome, started = "unknown", "issued", time.perf_counter()
    try:
        form = await read_form(deps, request, facts)
        grant = _grant(deps, form)
        label = _LABELS[grant]
        if grant == TOKEN_EXCHANGE:
            body = (await exchange_token(deps, form)).body
        elif grant == REFRESH_TOKEN:
            body = await refresh_tokens(deps, form)
        else:
            body = (await grant_client_credentials(deps, form)).body
    except ZetaError as error:
        outcome = error.code
        raise
    finally:
        deps.metrics.token_answered(label, outcome, time.perf_counter() - started)
        if span is not None:
            span.set("zeta_guard.grant", label)
            span.set("zeta_guard.outcome", outcome)
    log_event(_LOGGER, logging.DEBUG, "token_answered", grant=label, request_id=facts.request_id)
    return Unkept(b"application/json", body)
