"""Why a policy says no, in words: for each reason the rule, its file and line, and the values it saw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from zeta_guard.errors import ConfigurationError, JsonValue
from zeta_guard.policy.bundle import ReasonSource
from zeta_guard.policy.contract import Decision, Question, Reason
from zeta_guard.policy.rule_trace import RuleTrace, Seen
from zeta_guard.policy.workbench import DECISIONS, Workbench


@dataclass(frozen=True, slots=True)
class ExplainedReason:
    """One reason. ``source`` is None when the bundle does not say where it comes from."""

    reason: Reason
    source: ReasonSource | None
    seen: tuple[Seen, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision and what led to it. ``traced`` is False where ``opa`` is not at hand: then no values are shown."""

    decision: Decision
    reasons: tuple[ExplainedReason, ...]
    traced: bool

    def as_json(self) -> dict[str, JsonValue]:
        """For scripts."""
        return {
            "allow": self.decision.allow,
            "revision": self.decision.revision,
            "traced": self.traced,
            "reasons": [_reason_json(each) for each in self.reasons],
        }


def explain(workbench: Workbench, question: Question, document: Mapping[str, JsonValue]) -> Explanation:
    """Decide and explain. Raises BundleError when the policy gives no valid answer."""
    decision = workbench.decide(question, document)
    trace: RuleTrace | None = None
    if not decision.allow:
        try:
            trace = RuleTrace(workbench.bundle, DECISIONS[question], document)
        except ConfigurationError:
            trace = None
    return Explanation(
        decision,
        tuple(each for reason in decision.reasons for each in _explained(workbench, reason, trace)),
        trace is not None,
    )


def _explained(workbench: Workbench, reason: Reason, trace: RuleTrace | None) -> list[ExplainedReason]:
    """A code that stands in several rules is explained by those that fired, or by all when there is no trace."""
    sources = [source for source in workbench.bundle.manifest.reasons if source.code == reason.code]
    if not sources:
        return [ExplainedReason(reason, None, ())]
    if trace is None:
        return [ExplainedReason(reason, source, ()) for source in sources]
    explained = [ExplainedReason(reason, source, tuple(trace.seen(source.file, source.line))) for source in sources]
    fired = [each for each in explained if each.seen]
    return fired or explained


def _reason_json(each: ExplainedReason) -> dict[str, JsonValue]:
    found: dict[str, JsonValue] = {"code": each.reason.code, "message": each.reason.message, "spec": each.reason.spec}
    if each.source is not None:
        found |= {"file": each.source.file, "line": each.source.line, "description": each.source.description}
    found["seen"] = [
        {
            "file": seen.file,
            "line": seen.line,
            "source": seen.source,
            "failed": seen.failed,
            "values": dict(seen.values),
        }
        for seen in each.seen
    ]
    return found
