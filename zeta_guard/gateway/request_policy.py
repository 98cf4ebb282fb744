"""The request question (``policy-contract`` sections 1 and 2): asked per request on routes that name it."""

from __future__ import annotations

import hashlib
from typing import Final, NamedTuple

import orjson

from zeta_guard.errors import JsonValue, ZetaError
from zeta_guard.gateway.access import Grant
from zeta_guard.http.facts import RequestFacts
from zeta_guard.policy.contract import Decision, PolicyEngine
from zeta_guard.policy.document import request_document
from zeta_guard.recent import Recent

LONGEST_CACHE: Final = 60
"""Seconds after which a decision is asked for again, whatever the policy allows."""

_KNOWN_DECISIONS: Final = 10_000


class _Known(NamedTuple):
    decision: Decision
    until: float


class RequestPolicy:
    """Asks, and remembers decisions that may be remembered: never past the token's end, never under another bundle."""

    def __init__(self, engine: PolicyEngine, *, show_reasons: bool) -> None:
        self._engine: Final = engine
        self._show_reasons: Final = show_reasons
        self._known: Final[Recent[bytes, _Known]] = Recent(_KNOWN_DECISIONS, seconds=LONGEST_CACHE)
        self._revision = ""

    async def check(self, grant: Grant, facts: RequestFacts, *, websocket: bool) -> None:
        """Raises ZetaError 403 ``access_denied`` (with ``reasons`` and ``decision_id``), 503 when there is no decision."""
        holder = grant.holder
        if holder is None:
            raise ValueError("the request question is about a token holder")
        document = request_document(
            method=facts.method,
            path=facts.path.segments,
            query=facts.query,
            route=grant.route.name,
            client_address=facts.client_address,
            websocket=websocket,
            token=holder.token,
            popp=None if grant.popp is None else grant.popp.claims,
            now=facts.now,
        )
        if self._engine.revision != self._revision:
            self._known.clear()
            self._revision = self._engine.revision
        key = _key(document)
        known = self._known.get(key)
        if known is not None and facts.now < known.until:
            decision = known.decision
        else:
            decision = await self._engine.decide("request", document, now=facts.now)
            seconds = min(decision.cache_seconds, LONGEST_CACHE)
            if seconds > 0 and decision.revision == self._revision:
                until = min(facts.now + seconds, float(holder.token.expires_at))
                self._known.put(key, _Known(decision, until), facts.now)
        if not decision.allow:
            raise self._denial(decision)

    def _denial(self, decision: Decision) -> ZetaError:
        members: dict[str, JsonValue] = {"decision_id": decision.decision_id}
        description = "The policy does not allow this request."
        if self._show_reasons and decision.reasons:
            members["reasons"] = decision.reasons_map()
            description = "The policy does not allow this request: " + "; ".join(
                reason.message for reason in decision.reasons
            )
        return ZetaError("access_denied", description, members=members, stage="request_policy")


def _key(document: dict[str, JsonValue]) -> bytes:
    """Hash of the whole input without ``time``."""
    timeless = {name: value for name, value in document.items() if name != "time"}
    return hashlib.sha256(orjson.dumps(timeless, option=orjson.OPT_SORT_KEYS)).digest()
