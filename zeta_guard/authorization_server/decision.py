"""From the policy's answer to what is granted (``policy-contract`` section 3, ``security`` section 6)."""

from __future__ import annotations

from typing import Final, NamedTuple

from zeta_guard.authorization_server.audience import Audiences, Target
from zeta_guard.config.authorization_server import Lifetimes
from zeta_guard.errors import JsonValue, ZetaError, unavailable
from zeta_guard.policy.contract import Decision

LONGEST_DESCRIPTION: Final = 512


class Permission(NamedTuple):
    """A yes, within what is configured. Lifetimes in seconds."""

    decision_id: str
    revision: str
    audience: tuple[str, ...]
    access_ttl: int
    refresh_ttl: int


def permission(
    decision: Decision, target: Target, *, audiences: Audiences, lifetimes: Lifetimes, show_reasons: bool
) -> Permission:
    """What an answer permits. Pure.

    Raises ZetaError 403 ``access_denied`` for a no, 503 for a yes that is no answer (an audience that is not configured).
    """
    if not decision.allow:
        raise denial(decision, show_reasons=show_reasons)
    return Permission(
        decision_id=decision.decision_id,
        revision=decision.revision,
        audience=_audience(decision, target, audiences),
        access_ttl=min(decision.access_token_ttl or lifetimes.access_token, lifetimes.access_token_cap),
        refresh_ttl=min(decision.refresh_token_ttl or lifetimes.refresh_token, lifetimes.refresh_token_cap),
    )


def _audience(decision: Decision, target: Target, audiences: Audiences) -> tuple[str, ...]:
    if target.version == 1:
        return target.audience
    configured = [audiences.configured(audience) for audience in decision.audience]
    found = tuple(dict.fromkeys(audience for audience in configured if audience is not None))
    if not configured or len(found) != len(set(decision.audience)):
        raise unavailable("the policy named no audience that this guard protects", stage="policy")
    return found


def denial(decision: Decision, *, show_reasons: bool) -> ZetaError:
    """The refusal of a no: reasons in the description and as members, unless they are not to be shown."""
    members: dict[str, JsonValue] = {"decision_id": decision.decision_id}
    description = "the policy said no"
    if show_reasons:
        members["reasons"] = decision.reasons_map()
        reasons = "; ".join(reason.message for reason in decision.reasons)
        if reasons:
            description = f"{description}: {reasons}"
    if len(description) > LONGEST_DESCRIPTION:
        description = description[: LONGEST_DESCRIPTION - 1] + "…"
    return ZetaError("access_denied", description, members=members, stage="policy")
