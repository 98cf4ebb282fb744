"""The embedded engine: OPA's own compiled policy, in this process, in a sandbox (``policy-contract`` section 4)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import orjson

from zeta_guard.config.policy import EmbeddedEngine as EngineConfig
from zeta_guard.errors import ConfigurationError, JsonValue, unavailable
from zeta_guard.http.outbound import Outbound
from zeta_guard.policy.activation import ActivePolicy, Gatekeeper
from zeta_guard.policy.answer import MalformedAnswerError
from zeta_guard.policy.bundle import BundleError
from zeta_guard.policy.contract import Decision, Question
from zeta_guard.policy.evaluator import Evaluator, new_decision_id
from zeta_guard.policy.fetched import Fetched
from zeta_guard.policy.kept_bundle import KeptBundle
from zeta_guard.policy.metrics import PolicyMetrics
from zeta_guard.policy.signature import load_verification_keys
from zeta_guard.policy.source import PackagedSource, open_source
from zeta_guard.policy.wasm import EvaluationError, SandboxError, WasmPolicy, compile_ahead
from zeta_guard.telemetry.logging import log_event
from zeta_guard.telemetry.security_events import SecurityEvents

_logger = logging.getLogger("zeta_guard.policy")

_MAX_WAITING: Final = 512
_LEAST_WAIT: Final = 2.0
_QUEUE_FACTOR: Final = 10
"""A question waits for others before it: at most ten deadlines, at least two seconds."""
_Answer = TypeVar("_Answer")

# What the constructor of a named tuple does, without its call of Python code.
_new: Final = tuple.__new__


class EmbeddedEngine:
    """One source of bundles, the active one, and the thread in which it decides.

    ``decisions`` maps the questions that this engine may be asked to entry points. The first of them must exist in the
    bundle; a question without an entry point is answered with 503. ``name`` is a metrics label (``token``, ``shadow`` …),
    ``where`` the path of the section in the configuration.
    """

    def __init__(
        self,
        config: EngineConfig,
        decisions: Mapping[Question, str],
        *,
        name: str,
        where: str,
        outbound: Outbound,
        clock: Callable[[], float],
        metrics: PolicyMetrics,
        events: SecurityEvents | None = None,
    ) -> None:
        self._config = config
        self._events = events
        self._decisions = dict(decisions)
        self._name = name
        self._where = where
        self._clock = clock
        self._metrics = metrics
        self._source = open_source(config, where=where, outbound=outbound)
        keys = load_verification_keys(config.verification_keys, f"{where}.verification_keys")
        self._gatekeeper = Gatekeeper(config, keys, packaged=self._source.packaged)
        self._kept = KeptBundle(config.state_file, f"{where}.state_file") if config.state_file is not None else None
        self._active: Evaluator | None = None
        self._confirmed_at = 0.0
        self._trouble = ""
        self._refused = ""
        self._waiting = 0
        self._longest_wait = max(_LEAST_WAIT, _QUEUE_FACTOR * config.deadline_ms / 1000)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"policy-{name}")
        self._poller: asyncio.Task[None] | None = None
        if isinstance(self._source, PackagedSource):
            # Compiling needs no interpreter lock: it happens while the other rooms are imported and wired. Code from
            # elsewhere is compiled after its signatures were verified.
            self._thread.submit(_compile_ahead, self._source)

    @property
    def revision(self) -> str:
        """Revision of the active bundle, empty before start."""
        return self._active.policy.revision if self._active else ""

    @property
    def active(self) -> ActivePolicy | None:
        """The active bundle, for administration and explanation."""
        return self._active.policy if self._active else None

    def answers(self, question: Question) -> bool:
        """Whether the active bundle has an entry point for the question."""
        return self._active is not None and self._active.answers(question)

    async def start(self) -> None:
        """Load the bundle; falls back to the last good one of ``state_file``. Raises ConfigurationError."""
        kept = self._kept.load() if self._kept else None
        if kept is not None:
            self._gatekeeper.remember(kept.highest)
        try:
            await self.look()
        except BundleError as error:
            if kept is None or kept.fetched is None:
                self._thread.shutdown(wait=False)
                raise ConfigurationError(
                    f"{self._where}.bundle", f"{self._config.bundle}: {error}", "a bundle that may decide", error.remedy
                ) from error
            try:
                await self._activate(kept.fetched)
            except BundleError as second:
                self._thread.shutdown(wait=False)
                raise ConfigurationError(
                    f"{self._where}.state_file",
                    f"source: {error}; last good bundle: {second}",
                    "a bundle that may decide",
                    error.remedy,
                ) from second
            self._confirmed_at = kept.confirmed_at
            self._note_trouble(error)
        if self._source.polled:
            self._poller = asyncio.get_running_loop().create_task(self._poll(), name=f"policy-poll-{self._name}")

    async def look(self) -> bool:
        """Look at the source once; True when a new bundle became active. Raises BundleError, the active bundle stays."""
        fetched = await self._source.fetch()
        if fetched is not None:
            replaced = self.revision if self._active is not None else None
            try:
                await self._activate(fetched)
            except BundleError as error:
                self._metrics.activations.labels(self._name, "refused").inc()
                if str(error) != self._refused:
                    self._tell("bundle_refused", reason=str(error))
                self._refused = str(error)
                raise
            self._refused = ""
            if replaced is not None:
                self._tell("bundle_updated", revision=self.revision, replaced=replaced)
            if self._kept is not None:
                await asyncio.to_thread(self._kept.save, fetched, self._gatekeeper.highest, self._clock())
        self._confirmed_at = self._clock()
        self._metrics.confirmed.labels(self._name).set(self._confirmed_at)
        # A source is asked for what is new: that it has nothing new does not make good what was refused.
        self._trouble = self._refused
        return fetched is not None

    def _tell(self, name: str, **fields: str) -> None:
        if self._events is not None:
            self._events.emit(name, engine=self._name, **fields)

    async def _activate(self, fetched: Fetched) -> None:
        loop = asyncio.get_running_loop()
        self._active = await loop.run_in_executor(self._thread, self._prepare, fetched)
        unsigned = not (self._source.packaged or self._active.policy.signed_by)
        self._metrics.unsigned.labels(self._name).set(int(unsigned))
        self._metrics.activations.labels(self._name, "activated").inc()
        log_event(
            _logger,
            logging.WARNING if unsigned else logging.INFO,
            "policy_bundle_activated",
            engine=self._name,
            revision=self._active.policy.revision,
            digest=self._active.policy.bundle.digest,
            signed_by=list(self._active.policy.signed_by),
            unsafe_unsigned=unsigned,
        )

    def _prepare(self, fetched: Fetched) -> Evaluator:
        policy = self._gatekeeper.admit(fetched.bundle, self._require_entrypoints)
        try:
            evaluator = Evaluator(policy, self._decisions, deadline=self._config.deadline_ms / 1000)
            evaluator.warm_up()
            evaluator.prepare_inline()
        except SandboxError as error:
            raise BundleError(str(error)) from error
        return evaluator

    def _require_entrypoints(self, policy: WasmPolicy) -> None:
        first = next(iter(self._decisions.values()))
        if first not in policy.entrypoints:
            raise BundleError(
                f"bundle has no entry point {first!r}, only {', '.join(map(repr, sorted(policy.entrypoints)))}",
                "Name one of them in 'decision', or build the bundle with that rule.",
            )

    def _note_trouble(self, error: BundleError) -> None:
        if str(error) != self._trouble:
            log_event(
                _logger,
                logging.ERROR,
                "policy_bundle_refused",
                engine=self._name,
                active_revision=self.revision,
                detail=str(error),
                remedy=error.remedy,
            )
        self._trouble = str(error)

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self._config.poll)
            try:
                await self.look()
            except BundleError as error:
                self._note_trouble(error)
            except Exception as error:  # noqa: BLE001
                log_event(_logger, logging.ERROR, "policy_poll_failed", engine=self._name, exc_info=error)

    def _too_old(self, now: float) -> bool:
        oldest = self._config.max_age
        return oldest is not None and self._source.polled and now - self._confirmed_at > oldest

    async def decide(self, question: Question, document: Mapping[str, JsonValue], *, now: float) -> Decision:
        """Answer from the active bundle. Raises ZetaError 503 for everything that is no valid answer."""
        active = self._active
        if active is None:
            raise unavailable("no policy is loaded", stage="policy")
        if self._config.max_age_action == "deny" and self._too_old(now):
            raise unavailable("the policy is older than permitted", retry_after=30, stage="policy")
        memory = active.memory(question)
        if memory is None:
            return await self._evaluate(active, question, orjson.dumps(document))
        start = time.perf_counter()
        raw = memory.question(document)
        key = memory.key(raw)
        known = memory.recall(key)
        if known is not None:
            # Made before, given now: it has a name and a time of its own in log and audit.
            spent = (time.perf_counter() - start) * 1000
            return _new(Decision, (known.allow, new_decision_id(), *known[2:-1], spent))
        decision = await self._evaluate(active, question, raw)
        memory.remember(key, decision)
        return decision

    async def _evaluate(self, active: Evaluator, question: Question, raw: bytes) -> Decision:
        try:
            if active.inline(question):
                try:
                    return active.decide_inline(question, raw)
                except EvaluationError:
                    # Too much for the event loop: the thread has the whole deadline.
                    pass
            try:
                return await self._in_thread(lambda: active.decide(question, raw))
            finally:
                if active.lacks_inline(question):
                    # Loading long lists takes a while: behind the answer. A closed engine needs no instance any more.
                    with contextlib.suppress(RuntimeError):
                        self._thread.submit(active.provide_inline)
        except (SandboxError, MalformedAnswerError, BundleError) as error:
            log_event(
                _logger, logging.ERROR, "policy_no_answer", question=question, revision=self.revision, detail=str(error)
            )
            raise unavailable("the policy gave no valid answer", stage="policy") from error

    async def _in_thread(self, work: Callable[[], _Answer]) -> _Answer:
        """In the policy thread, one after the other. The evaluation itself ends with its fuel; the wait is bounded too."""
        if self._waiting >= _MAX_WAITING:
            raise unavailable("too many policy questions are waiting", retry_after=1, stage="policy")
        self._waiting += 1
        try:
            async with asyncio.timeout(self._longest_wait):
                return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except TimeoutError:
            raise unavailable("the policy did not answer in time", retry_after=1, stage="policy") from None
        finally:
            self._waiting -= 1

    async def readiness(self) -> str | None:
        """None when it decides with a bundle that is young enough."""
        if self._active is None:
            return "no policy bundle is active"
        if self._too_old(self._clock()):
            return f"policy bundle {self.revision}: its source was not reached for more than {self._config.max_age} s"
        if self._trouble:
            return f"policy bundle {self.revision} decides; a newer one cannot be used: {self._trouble}"
        return None

    async def close(self) -> None:
        """Stop polling and release the thread."""
        if self._poller is not None:
            self._poller.cancel()
            await asyncio.gather(self._poller, return_exceptions=True)
            self._poller = None
        self._thread.shutdown(wait=False, cancel_futures=True)


def _compile_ahead(source: PackagedSource) -> None:
    code = source.read().bundle.code
    if code is not None:
        compile_ahead(code)
