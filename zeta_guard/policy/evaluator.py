"""One active bundle at work: instances, deadline, strict answers."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Final

import orjson

from zeta_guard.errors import JsonValue
from zeta_guard.policy.activation import ActivePolicy
from zeta_guard.policy.answer import MalformedAnswerError, read_decision
from zeta_guard.policy.contract import Decision, Question
from zeta_guard.policy.input_reads import reads_time
from zeta_guard.policy.memory import DecisionMemory
from zeta_guard.policy.probe import PROBES
from zeta_guard.policy.wasm import EvaluationError, WasmInstance

INLINE_SECONDS: Final = 0.000_5
"""A question whose 99th percentile at activation is below this (computing time) is answered inline: a change of threads and
back costs twice what the shipped policies need."""

INLINE_LIMIT: Final = 0.001
"""Longest evaluation on the event loop in seconds; what needs longer is asked again in the policy thread."""

_MOST_SLOW: Final = 16
"""So many questions that were too much for the event loop, and this bundle is asked in the policy thread only."""

_MAX_GROWTH: Final = 32 * 1024 * 1024
_LEAST_PACE: Final = 1e9
_MOST_PACE: Final = 2e10
"""Fuel per second of a slow and of an impossibly fast machine."""
_PACE_COUNT: Final = 10
_VARIANT: Final = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
_PROBE_COUNT: Final = 100
_PROBE_ROUNDS: Final = 3
"""The best round counts: the first one fills caches."""


class Evaluator:
    """Decides with one bundle. Two instances at most: one of the policy thread, one of the event loop.

    ``deadline`` is in seconds of computing: it becomes the fuel that this machine burns in that time, as measured when the
    bundle is warmed up. :meth:`inline` says which questions are answered on the event loop.
    """

    def __init__(self, policy: ActivePolicy, decisions: Mapping[Question, str], *, deadline: float) -> None:
        self.policy: Final = policy
        self._decisions = {
            question: policy.policy.entrypoints[name]
            for question, name in decisions.items()
            if name in policy.policy.entrypoints
        }
        self._deadline = deadline
        self._fuel = int(deadline * _LEAST_PACE)
        self._threaded: WasmInstance | None = None
        self._inline: WasmInstance | None = None
        self._fast: frozenset[Question] = frozenset()
        self._slow_left = _MOST_SLOW
        self._may_cache = not reads_time(policy.bundle, decisions.get("request", ""))
        self._memory = DecisionMemory(policy.bundle, decisions.get("token", ""))

    def memory(self, question: Question) -> DecisionMemory | None:
        """What was decided before; None where every question is a new one (a request says the time)."""
        return self._memory if question == "token" else None

    def answers(self, question: Question) -> bool:
        """Whether the bundle has an entry point for the question."""
        return question in self._decisions

    def warm_up(self) -> None:
        """Load the data, answer the first questions so that no client waits for it, and measure. Policy thread only."""
        for question in self._decisions:
            document = orjson.dumps(PROBES[question])
            self._ask_threaded(question, document)
            self._fuel = max(self._fuel, int(self._deadline * self._pace(question, document)))

    def _pace(self, question: Question, document: bytes) -> float:
        """Fuel per second. The fastest of some runs: the others measured what else the machine was doing."""
        instance = self._threaded
        if instance is None:
            return _LEAST_PACE
        fastest = _LEAST_PACE
        for _ in range(_PACE_COUNT):
            start = time.perf_counter()
            instance.evaluate(self._entrypoint(question), document, fuel=self._fuel)
            fastest = max(fastest, (self._fuel - instance.fuel_left) / (time.perf_counter() - start))
        return min(fastest, _MOST_PACE)

    def prepare_inline(self) -> None:
        """Measure each question; keep an instance for the event loop for those that are fast. Policy thread, after warm-up."""
        self._fast = frozenset(question for question in self._decisions if self._is_fast(question))
        self.provide_inline()

    def _is_fast(self, question: Question) -> bool:
        probe = orjson.dumps(PROBES[question])
        return any(self._is_fast_now(question, probe) for _ in range(_PROBE_ROUNDS))

    def _is_fast_now(self, question: Question, probe: bytes) -> bool:
        slow = 0
        for _ in range(_PROBE_COUNT):
            # Time of this thread alone: on a busy machine the clock on the wall measures the neighbours.
            start = time.thread_time()
            self._ask_threaded(question, probe)
            slow += time.thread_time() - start >= INLINE_SECONDS
            if slow > _PROBE_COUNT // 100:
                return False
        return True

    def inline(self, question: Question) -> bool:
        """Whether the question may be asked on the event loop now."""
        return self._inline is not None and question in self._fast

    def lacks_inline(self, question: Question) -> bool:
        """Whether the question could be asked on the event loop if :meth:`provide_inline` were called."""
        return self._inline is None and question in self._fast

    def provide_inline(self) -> None:
        """Make the instance of the event loop, where one is wanted and missing. Policy thread only."""
        if self._inline is not None or not self._fast:
            return
        if self._fast.issuperset(self._decisions):
            # Nothing is left for the thread to do: one copy of the data is enough.
            self._inline, self._threaded = self._threaded, None
        if self._inline is None:
            self._inline = self.policy.policy.instance()

    def decide(self, question: Question, document: bytes) -> Decision:
        """Policy thread only. Raises SandboxError and MalformedAnswerError."""
        start = time.perf_counter()
        return self._decision(self._ask_threaded(question, document), start)

    def decide_inline(self, question: Question, document: bytes) -> Decision:
        """Event loop only; at most some 1 ms. Raises EvaluationError when that does not suffice: ask :meth:`decide` then."""
        start = time.perf_counter()
        instance = self._inline
        if instance is None:
            raise EvaluationError("no inline instance is at hand")
        self._inline = None
        fuel = min(self._fuel, int(self._fuel * INLINE_LIMIT / self._deadline))
        try:
            found = instance.evaluate(self._entrypoint(question), document, fuel=fuel)
        except EvaluationError:
            self._slow_left -= 1
            if self._slow_left <= 0:
                self._fast = frozenset()
            raise
        if instance.grown_bytes <= _MAX_GROWTH:
            self._inline = instance
        return self._decision(found, start)

    def _ask_threaded(self, question: Question, document: bytes) -> list[JsonValue]:
        entrypoint = self._entrypoint(question)
        instance = self._threaded or self.policy.policy.instance()
        # Forgotten while it runs: whatever goes wrong, a broken instance is never asked again.
        self._threaded = None
        found = instance.evaluate(entrypoint, document, fuel=self._fuel)
        if instance.grown_bytes <= _MAX_GROWTH:
            self._threaded = instance
        return found

    def _entrypoint(self, question: Question) -> int:
        entrypoint = self._decisions.get(question)
        if entrypoint is None:
            raise MalformedAnswerError(f"the bundle has no entry point for the {question} question")
        return entrypoint

    def _decision(self, found: list[JsonValue], start: float) -> Decision:
        if len(found) != 1:
            raise MalformedAnswerError("the decision is undefined")
        return read_decision(
            found[0],
            decision_id=new_decision_id(),
            revision=self.policy.revision,
            milliseconds=(time.perf_counter() - start) * 1000,
            may_cache=self._may_cache,
        )


def new_decision_id() -> str:
    """A random UUID (RFC 9562 §5.4)."""
    name = os.urandom(16).hex()
    return f"{name[:8]}-{name[8:12]}-4{name[13:16]}-{_VARIANT[name[16]]}{name[17:20]}-{name[20:]}"
