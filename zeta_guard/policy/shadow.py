"""A candidate policy that answers the same questions beside the active one and never reaches a client."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final, Literal, Protocol

from zeta_guard.errors import JsonValue, ZetaError
from zeta_guard.policy.contract import Decision, PolicyEngine, Question
from zeta_guard.policy.metrics import PolicyMetrics

Difference = Literal["same", "newly_deny", "newly_allow", "reasons", "lifetimes", "audience", "no_answer"]

_LARGEST_SUMMARY: Final = 2000
_OTHER: Final = "(other)"


class ShadowEngine(PolicyEngine, Protocol):
    """An engine that says which questions it can answer."""

    def answers(self, question: Question) -> bool:
        """Whether the candidate has a rule for the question."""


def difference(active: Decision, candidate: Decision) -> Difference:
    """What a client would notice first if the candidate decided."""
    if active.allow and not candidate.allow:
        return "newly_deny"
    if candidate.allow and not active.allow:
        return "newly_allow"
    if _names(active) != _names(candidate):
        return "reasons"
    lifetimes = [(d.access_token_ttl, d.refresh_token_ttl) for d in (active, candidate)]
    if lifetimes[0] != lifetimes[1]:
        return "lifetimes"
    return "same" if set(active.audience) == set(candidate.audience) else "audience"


def _names(decision: Decision) -> set[str]:
    return {reason.code or reason.message for reason in decision.reasons}


class Shadow:
    """Asks the candidate, compares, counts; keeps a bounded summary by rule and product for administration.

    The summary begins anew when another candidate or another active bundle decides: figures of two pairs say nothing.
    """

    def __init__(self, engine: ShadowEngine, metrics: PolicyMetrics, clock: Callable[[], float]) -> None:
        self.engine: Final = engine
        self._metrics = metrics
        self._clock = clock
        self._begin("")

    def _begin(self, active_revision: str) -> None:
        self._revisions = (active_revision, self.engine.revision)
        self._since = self._clock()
        self._asked: Counter[str] = Counter()
        self._found: Counter[str] = Counter()
        self._counts: Counter[tuple[str, str, str, str]] = Counter()

    async def compare(
        self, question: Question, document: Mapping[str, JsonValue], active: Decision, *, now: float
    ) -> dict[str, JsonValue] | None:
        """The shadow member of the decision log; None when the candidate has no rule for the question."""
        if not self.engine.answers(question):
            return None
        try:
            candidate = await self.engine.decide(question, document, now=now)
        except ZetaError:
            self._note(question, "no_answer", [""], document, active)
            return {"revision": self.engine.revision, "difference": "no_answer"}
        found = difference(active, candidate)
        changed = sorted(_names(active) ^ _names(candidate)) or [""]
        self._note(question, found, [] if found == "same" else changed, document, active)
        entry: dict[str, JsonValue] = {
            "revision": candidate.revision,
            "difference": found,
            "allow": candidate.allow,
            "milliseconds": round(candidate.milliseconds, 3),
        }
        if candidate.reasons:
            entry["reasons"] = list[JsonValue](sorted(_names(candidate)))
        return entry

    def skipped(self, question: Question) -> None:
        """The candidate was not asked because too many of its answers were outstanding."""
        self._metrics.shadow.labels(question, "skipped").inc()
        self._found["skipped"] += 1

    def _note(
        self, question: Question, found: str, rules: list[str], document: Mapping[str, JsonValue], active: Decision
    ) -> None:
        if self._revisions != (active.revision, self.engine.revision):
            self._begin(active.revision)
        self._metrics.shadow.labels(question, found).inc()
        self._asked[question] += 1
        self._found[found] += 1
        product = _product(document) if rules else ""
        for rule in rules:
            key = (question, found, rule, product)
            if key not in self._counts and len(self._counts) >= _LARGEST_SUMMARY:
                key = (question, found, rule if len(self._counts) < 2 * _LARGEST_SUMMARY else _OTHER, _OTHER)
            self._counts[key] += 1

    def summary(self) -> dict[str, JsonValue]:
        """Of this pair of bundles ``since`` (Unix seconds): how many questions the candidate answered, how many ``counts`` of
        each kind that makes, and every difference by rule and product, most frequent first. A decision with two changed
        reasons counts once in ``counts`` and under both rules."""
        return {
            "revision": self.engine.revision,
            "active_revision": self._revisions[0],
            "since": self._since,
            "asked": dict(self._asked),
            "counts": dict(self._found),
            "differences": [
                {"question": question, "difference": found, "rule": rule, "product": product, "count": count}
                for (question, found, rule, product), count in self._counts.most_common()
            ],
        }


def _product(document: Mapping[str, JsonValue]) -> str:
    for name in ("client_registration_data", "client"):
        section = document.get(name)
        if isinstance(section, dict):
            return f"{section.get('product_id', '')} {section.get('product_version', '')}"[:200].strip()
    return ""
