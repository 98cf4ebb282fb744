"""Why a policy says no, in words: for each reason the rule, its file and line, and the values it saw."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from zeta_guard.errors import ConfigurationError, JsonValue
from zeta_guard.policy.bundle import Bundle, ReasonSource
from zeta_guard.policy.contract import Decision, Question, Reason
from zeta_guard.policy.input_reads import read_members
from zeta_guard.policy.recorded import Recorded
from zeta_guard.policy.rule_trace import RuleTrace, Seen
from zeta_guard.policy.workbench import DECISIONS, Workbench

_PACKAGE: Final = re.compile(rb"^package\s+([\w.]+)", re.MULTILINE)
_NAMED: Final = re.compile(rb"\bdata\.([A-Za-z_][\w.]*)")


@dataclass(frozen=True, slots=True)
class ExplainedReason:
    """One reason. ``source`` is None when the bundle does not say where it comes from."""

    reason: Reason
    source: ReasonSource | None
    seen: tuple[Seen, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision and what led to it. ``traced`` is False where ``opa`` is not at hand: then no values are shown.

    ``doubtful`` are reasons that were not recorded when the question was asked, ``hidden`` what the log masks and the rules read.
    """

    decision: Decision
    reasons: tuple[ExplainedReason, ...]
    traced: bool
    doubtful: tuple[Reason, ...] = ()
    hidden: tuple[str, ...] = ()

    def as_json(self) -> dict[str, JsonValue]:
        """For scripts."""
        return {
            "allow": self.decision.allow,
            "revision": self.decision.revision,
            "traced": self.traced,
            "reasons": [_reason_json(each) for each in self.reasons],
            "doubtful": [reason.code or reason.message for reason in self.doubtful],
            "hidden": list[JsonValue](self.hidden),
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
    reasons = [each for reason in decision.reasons for each in _explained(workbench, question, reason, trace)]
    return Explanation(decision, tuple(reasons), trace is not None)


def explain_recorded(workbench: Workbench, recorded: Recorded) -> Explanation:
    """Explain a line of the decision log. What the log masks can hide reasons and make new ones: where the same bundle
    decided, the recorded decision is what is explained, and no other. Raises BundleError."""
    found = explain(workbench, recorded.question, recorded.document)
    hidden = tuple(read_members(workbench.bundle, DECISIONS[recorded.question], recorded.hidden))
    if recorded.decision is None or not hidden:
        return replace(found, hidden=hidden)
    known = {_name(reason) for reason in recorded.decision.reasons}
    sure = tuple(each for each in found.reasons if _name(each.reason) in known)
    doubtful = tuple(reason for reason in found.decision.reasons if _name(reason) not in known)
    if recorded.decision.revision != workbench.evaluator.policy.revision:
        return replace(found, doubtful=doubtful, hidden=hidden)
    seen_again = {_name(each.reason) for each in sure}
    lost = [reason for reason in recorded.decision.reasons if _name(reason) not in seen_again]
    again = tuple(each for reason in lost for each in _explained(workbench, recorded.question, reason, None))
    return replace(found, decision=recorded.decision, reasons=sure + again, doubtful=doubtful, hidden=hidden)


def _name(reason: Reason) -> str:
    return reason.code or reason.message


def _explained(
    workbench: Workbench, question: Question, reason: Reason, trace: RuleTrace | None
) -> list[ExplainedReason]:
    """A code that stands in several rules is explained by those that fired, or by all of the question when there is no trace."""
    everywhere = [source for source in workbench.bundle.manifest.reasons if source.code == reason.code]
    files = _files_behind(workbench.bundle, DECISIONS[question])
    sources = [source for source in everywhere if source.file in files] or everywhere
    if not sources:
        return [ExplainedReason(reason, None, ())]
    if trace is None:
        return [ExplainedReason(reason, source, ()) for source in sources]
    explained = [ExplainedReason(reason, source, tuple(trace.seen(source.file, source.line))) for source in sources]
    fired = [each for each in explained if each.seen]
    return fired or explained


def _files_behind(bundle: Bundle, entrypoint: str) -> set[str]:
    """Rule files that an entry point can reach, by the packages that they name."""
    packages: dict[str, set[str]] = {}
    named: dict[str, set[str]] = {}
    for file, content in bundle.files.items():
        package = _PACKAGE.search(content) if file.endswith(".rego") else None
        if package is not None:
            packages.setdefault(package[1].decode(), set()).add(file)
            named[file] = {reference.decode() for reference in _NAMED.findall(content)}
    wanted, found = {entrypoint.rpartition("/")[0].replace("/", ".")}, set[str]()
    while wanted:
        files = packages.pop(wanted.pop(), set()) - found
        found |= files
        references = {reference for file in files for reference in named[file]}
        wanted |= {package for package in packages if any(f"{each}.".startswith(f"{package}.") for each in references)}
    return found


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
