"""What would a candidate have decided? Recorded decisions, asked again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final

from zeta_guard.errors import JsonValue
from zeta_guard.http.address import ip_prefixes
from zeta_guard.policy.bundle import BundleError
from zeta_guard.policy.input_reads import read_members
from zeta_guard.policy.recorded import Recorded, Unreadable
from zeta_guard.policy.shadow import difference
from zeta_guard.policy.workbench import DECISIONS, Workbench

_EXAMPLES = 100
_ADDRESS: Final = ip_address("192.0.2.1")
_STAND_INS: Final[Mapping[str, JsonValue]] = {
    "ip_address": str(_ADDRESS),
    "ip_prefixes": list[JsonValue](ip_prefixes(_ADDRESS)),
    "identifier": "masked",
    "path": ["masked"],
    "query": {},
}


@dataclass(slots=True)
class Replay:
    """The outcome: counts by difference (``same``, ``newly_deny`` … ``undecidable``, ``unreadable``), rules and examples.

    ``apparent`` and ``apparent_rules`` are about the undecidable lines alone: what the candidate would say if no masked address
    or institution is on a list. They prove nothing and count nowhere else.
    """

    counts: Counter[str] = field(default_factory=Counter)
    rules: Counter[tuple[str, str]] = field(default_factory=Counter)
    hidden: Counter[str] = field(default_factory=Counter)
    apparent: Counter[str] = field(default_factory=Counter)
    apparent_rules: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: list[dict[str, JsonValue]] = field(default_factory=list)

    @property
    def unchanged(self) -> bool:
        """Whether every line was decided, and as before."""
        return not any(count for name, count in self.counts.items() if name != "same")

    def as_json(self) -> dict[str, JsonValue]:
        """For scripts."""
        return {
            "counts": dict(self.counts),
            "rules": _by_rule(self.rules),
            "hidden": dict(self.hidden),
            "apparent": {"counts": dict(self.apparent), "rules": _by_rule(self.apparent_rules)},
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
        _guess(outcome, line, candidate)
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
    outcome.rules.update((found, rule) for rule in before ^ after)
    _example(
        outcome,
        {
            **known,
            "difference": found,
            "before": list[JsonValue](sorted(before)),
            "after": list[JsonValue](sorted(after)),
        },
    )


def _guess(outcome: Replay, line: Recorded, candidate: Workbench) -> None:
    """What the candidate says about a line with stand-ins for what is masked, where there was a decision to compare with."""
    document = {name: dict(value) if isinstance(value, dict) else value for name, value in line.document.items()}
    for member in line.hidden:
        section, _, name = member.partition("/")
        inner = document.get(section)
        if isinstance(inner, dict) and name in _STAND_INS:
            inner.setdefault(name, _STAND_INS[name])
    try:
        decision = candidate.decide(line.question, document)
    except BundleError:
        return
    if line.decision is None:
        return
    found = difference(line.decision, decision)
    outcome.apparent[found] += 1
    before, after = ({each.code or each.message for each in one.reasons} for one in (line.decision, decision))
    outcome.apparent_rules.update((found, rule) for rule in before ^ after)


def _by_rule(rules: Counter[tuple[str, str]]) -> list[JsonValue]:
    return [{"difference": found, "rule": rule, "count": count} for (found, rule), count in rules.most_common()]


def _example(outcome: Replay, example: dict[str, JsonValue]) -> None:
    if len(outcome.examples) < _EXAMPLES:
        outcome.examples.append(example)
