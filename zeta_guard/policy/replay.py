"""What would a candidate have decided? Recorded decisions, asked again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from zeta_guard.errors import JsonValue
from zeta_guard.policy.bundle import BundleError
from zeta_guard.policy.input_reads import read_members
from zeta_guard.policy.recorded import Recorded, Unreadable
from zeta_guard.policy.shadow import difference
from zeta_guard.policy.workbench import DECISIONS, Workbench

_EXAMPLES = 100


@dataclass(slots=True)
class Replay:
    """The outcome: counts by difference (``same``, ``newly_deny`` … ``undecidable``, ``unreadable``), rules and examples."""

    counts: Counter[str] = field(default_factory=Counter)
    rules: Counter[tuple[str, str]] = field(default_factory=Counter)
    hidden: Counter[str] = field(default_factory=Counter)
    examples: list[dict[str, JsonValue]] = field(default_factory=list)

    @property
    def unchanged(self) -> bool:
        """Whether every line was decided, and as before."""
        return not any(count for name, count in self.counts.items() if name != "same")

    def as_json(self) -> dict[str, JsonValue]:
        """For scripts."""
        return {
            "counts": dict(self.counts),
            "rules": [
                {"difference": found, "rule": rule, "count": count} for (found, rule), count in self.rules.most_common()
            ],
            "hidden": dict(self.hidden),
            "examples": list[JsonValue](self.examples),
        }


def replay(lines: Iterable[Recorded | Unreadable], candidate: Workbench) -> Replay:
    """Ask ``candidate`` every recorded question that it can be asked fairly.

    A line whose masked members the candidate reads is ``undecidable``, never *unchanged*: nobody knows what it would have said.
    """
    outcome = Replay()
    for line in lines:
        if isinstance(line, Unreadable):
            outcome.counts["unreadable"] += 1
            _example(outcome, {"line": line.number, "difference": "unreadable", "why": line.why})
        else:
            _one(outcome, line, candidate)
    return outcome


def _one(outcome: Replay, line: Recorded, candidate: Workbench) -> None:
    known: dict[str, JsonValue] = {"line": line.number, "decision_id": line.decision_id, "question": line.question}
    blind = read_members(candidate.bundle, DECISIONS[line.question], line.hidden)
    if blind:
        outcome.counts["undecidable"] += 1
        outcome.hidden.update(blind)
        return
    try:
        decision = candidate.decide(line.question, line.document)
    except BundleError as error:
        outcome.counts["no_answer"] += 1
        _example(outcome, {**known, "difference": "no_answer", "why": str(error)})
        return
    if line.decision is None:
        outcome.counts["newly_answered"] += 1
        _example(outcome, {**known, "difference": "newly_answered", "allow": decision.allow})
        return
    found = difference(line.decision, decision)
    outcome.counts[found] += 1
    if found == "same":
        return
    before = {reason.code or reason.message for reason in line.decision.reasons}
    after = {reason.code or reason.message for reason in decision.reasons}
    for rule in sorted(before ^ after):
        outcome.rules[found, rule] += 1
    _example(
        outcome,
        {
            **known,
            "difference": found,
            "before": list[JsonValue](sorted(before)),
            "after": list[JsonValue](sorted(after)),
        },
    )


def _example(outcome: Replay, example: dict[str, JsonValue]) -> None:
    if len(outcome.examples) < _EXAMPLES:
        outcome.examples.append(example)
