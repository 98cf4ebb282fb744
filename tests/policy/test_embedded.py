"""The embedded engine at work: threads, deadlines, and no answer that is a yes by mistake."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import wasmtime
from prometheus_client import CollectorRegistry

from zeta_guard.config.outbound import Outbound as OutboundConfig
from zeta_guard.config.policy import Policy
from zeta_guard.errors import ConfigurationError, ZetaError
from zeta_guard.http.outbound import Outbound
from zeta_guard.policy.bundle import Bundle, BundleError, read_bundle
from zeta_guard.policy.embedded import EmbeddedEngine
from zeta_guard.policy.evaluator import Evaluator
from zeta_guard.policy.probe import PROBES
from zeta_guard.policy.service import PolicyService
from zeta_guard.policy.wasm import EvaluationError

Any3 = Callable[..., Any]
DEMO = {"token": {"engine": "embedded", "bundle": "package:demo"}}


@pytest.fixture
def in_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """No policy is fast enough for the event loop."""
    monkeypatch.setattr("zeta_guard.policy.evaluator.INLINE_SECONDS", 0.0)


@pytest.fixture
def on_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every policy is fast enough, and the limit of one evaluation far away."""
    monkeypatch.setattr("zeta_guard.policy.evaluator.INLINE_SECONDS", 10.0)


def evaluator_of(service: Any) -> Evaluator:
    """The token engine's active bundle at work."""
    engine = service._token
    assert isinstance(engine, EmbeddedEngine)
    assert engine._active is not None
    return engine._active


async def until_the_thread_is_idle(service: Any) -> None:
    await asyncio.get_running_loop().run_in_executor(service._token._thread, lambda: None)


async def test_the_request_question_is_answered_by_the_same_bundle(run_policy: Any3) -> None:
    async with run_policy(DEMO) as service:
        decision = await service.request.decide("request", PROBES["request"], now=0)
        assert decision.allow
        probe: dict[str, Any] = dict(PROBES["request"])
        denied = {**probe, "request": {**probe["request"], "method": "TRACE"}}
        decision = await service.request.decide("request", denied, now=0)
        assert [reason.code for reason in decision.reasons] == ["method_not_allowed"]


async def test_a_bundle_without_request_rules_has_no_answer_to_a_request(run_policy: Any3) -> None:
    async with run_policy({"token": {"engine": "embedded", "bundle": "package:template"}}) as service:
        with pytest.raises(ZetaError) as refused:
            await service.request.decide("request", PROBES["request"], now=0)
        assert (refused.value.status, refused.value.stage) == (503, "policy")


async def test_an_engine_that_was_not_started_answers_nothing(practice: Any3) -> None:
    outbound = Outbound(OutboundConfig())
    service = PolicyService(
        Policy.model_validate(DEMO), outbound=outbound, clock=lambda: 0.0, registry=CollectorRegistry(), pseudonym=None
    )
    with pytest.raises(ZetaError) as refused:
        await service.token.decide("token", practice(), now=0)
    assert (refused.value.status, refused.value.stage) == (503, "policy")
    await service.close()
    await outbound.close()


@pytest.mark.usefixtures("in_the_thread")
async def test_a_slow_policy_has_nothing_on_the_event_loop_that_could_be_asked(run_policy: Any3) -> None:
    async with run_policy(DEMO) as service:
        for question in ("token", "request"):
            with pytest.raises(EvaluationError, match="no inline instance"):
                evaluator_of(service).decide_inline(question, b"{}")


async def test_a_request_engine_of_its_own_asks_its_own_rule(run_policy: Any3) -> None:
    async with run_policy({**DEMO, "request": {"engine": "embedded", "bundle": "package:vsdm"}}) as service:
        decision = await service.request.decide("request", PROBES["request"], now=0)
        assert decision.revision == "vsdm-1"
        assert service.token.revision == "demo-1"


async def test_many_questions_at_once_are_all_answered(run_policy: Any3, practice: Any3) -> None:
    async with run_policy(DEMO) as service:
        answers = await asyncio.gather(
            *(service.token.decide("token", practice(scopes=["popp"] * (n % 2)), now=0) for n in range(300))
        )
        assert [answer.allow for answer in answers] == [bool(n % 2) for n in range(300)]
        assert len({answer.decision_id for answer in answers}) == 300


@pytest.mark.usefixtures("in_the_thread")
async def test_a_flood_of_questions_is_refused_not_queued_without_end(
    run_policy: Any3, practice: Any3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zeta_guard.policy.embedded._MAX_WAITING", 10)
    async with run_policy(DEMO) as service:
        answers = await asyncio.gather(
            *(service.token.decide("token", practice(), now=0) for _ in range(50)), return_exceptions=True
        )
        refused = [answer for answer in answers if isinstance(answer, ZetaError)]
        assert len(refused) == 40
        assert all(error.status == 503 for error in refused)
        assert (await service.token.decide("token", practice(), now=0)).allow


@pytest.mark.usefixtures("in_the_thread")
async def test_a_question_that_waits_too_long_behind_others_is_503(
    run_policy: Any3, practice: Any3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zeta_guard.policy.embedded._LEAST_WAIT", 0.05)
    monkeypatch.setattr("zeta_guard.policy.embedded._QUEUE_FACTOR", 0)
    async with run_policy(DEMO) as service:
        others_are_done = threading.Event()
        service._token._thread.submit(others_are_done.wait)
        try:
            with pytest.raises(ZetaError) as refused:
                await service.token.decide("token", practice(), now=0)
        finally:
            others_are_done.set()
        assert (refused.value.status, refused.value.stage) == (503, "policy")
        await until_the_thread_is_idle(service)
        monkeypatch.setattr(service._token, "_longest_wait", 30.0)
        assert (await service.token.decide("token", practice(), now=0)).allow


async def turns_during(work: Any) -> int:
    """How often the event loop turned meanwhile."""
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(turn())
    await work
    task.cancel()
    return turns


@pytest.mark.usefixtures("in_the_thread")
async def test_the_event_loop_goes_on_while_a_slow_policy_decides(run_policy: Any3, practice: Any3) -> None:
    async with run_policy(DEMO) as service:
        assert await turns_during(service.token.decide("token", practice(), now=0)) > 1


@pytest.mark.usefixtures("on_the_loop")
async def test_a_fast_policy_answers_both_questions_without_a_change_of_threads(
    run_policy: Any3, practice: Any3
) -> None:
    async with run_policy(DEMO) as service:
        assert await turns_during(service.token.decide("token", practice(), now=0)) == 0
        assert await turns_during(service.request.decide("request", PROBES["request"], now=0)) == 0


async def test_the_shipped_policies_are_fast_even_on_a_busy_machine(run_policy: Any3) -> None:
    """Computing time counts, not the time on the wall: p99 is below half a millisecond."""
    for name in ("demo", "vsdm", "popp"):
        async with run_policy({"token": {"engine": "embedded", "bundle": f"package:{name}"}}) as service:
            assert evaluator_of(service).inline("token")
            assert evaluator_of(service).inline("request")


@pytest.mark.usefixtures("on_the_loop")
async def test_a_bundle_that_is_fast_in_all_its_questions_is_in_memory_once(run_policy: Any3) -> None:
    async with run_policy(DEMO) as service:
        assert evaluator_of(service)._threaded is None


def stand_in(demo: Bundle, evaluate: str, result: str = "[]", *, at: str = " ") -> Bundle:
    """The demo bundle with a module that does what the test wants at the question, and answers the warm-up. The question is
    what ends with ``at``."""
    text = json.dumps(result)
    code = wasmtime.wat2wasm(
        f"""(module
          (import "env" "memory" (memory 2))
          (global (export "opa_wasm_abi_version") i32 (i32.const 1))
          (global (export "opa_wasm_abi_minor_version") i32 (i32.const 3))
          (data (i32.const 100) "{{}}")
          (data (i32.const 200) "{{\\"policies/zeta/authz/decision\\":0}}")
          (data (i32.const 600) {text})
          (func (export "builtins") (result i32) i32.const 100)
          (func (export "entrypoints") (result i32) i32.const 200)
          (func (export "opa_json_dump") (param i32) (result i32) local.get 0)
          (func (export "opa_malloc") (param i32) (result i32) i32.const 2048)
          (func (export "opa_json_parse") (param i32 i32) (result i32) i32.const 1)
          (func (export "opa_heap_ptr_get") (result i32) i32.const 65536)
          (func (export "opa_heap_ptr_set") (param i32))
          (func (export "opa_eval") (param i32 i32 i32 i32 i32 i32 i32) (result i32)
            ;; a question whose last byte is a blank is not the warm-up
            (if (result i32) (i32.eq (i32.load8_u (i32.add (i32.const 65535) (local.get 4))) (i32.const {ord(at)}))
              (then {evaluate}) (else i32.const 600))))"""
    )
    return read_bundle({**demo.files, "policy.wasm": bytes(code)})


@pytest.mark.parametrize(
    "result",
    [
        "[]",
        '[{"result":true}]',
        '[{"result":{"allow":"yes"}}]',
        '[{"result":{"allow":true}},{"result":{"allow":true}}]',
        '[{"result":{"allow":true,"ttl":{"access_token":true}}}]',
        "[1]",
    ],
)
async def test_what_is_no_decision_is_503(
    run_policy: Any3, practice: Any3, demo: Bundle, pack: Any3, tmp_path: Path, result: str
) -> None:
    path = tmp_path / "policy.tar.gz"
    path.write_bytes(pack(stand_in(demo, "unreachable", result)))
    registry = CollectorRegistry()
    section = {"engine": "embedded", "bundle": str(path), "unsafe_unsigned": True}
    async with run_policy({"token": section}, registry=registry) as service:
        with pytest.raises(ZetaError) as refused:
            await service.token.decide("token", practice(), now=0)
        assert (refused.value.code, refused.value.status) == ("temporarily_unavailable", 503)
        assert "Retry-After" in refused.value.headers
    labels = {"question": "token", "outcome": "unavailable"}
    assert registry.get_sample_value("zeta_guard_policy_decisions_total", labels) == 1


@pytest.mark.parametrize("where", ["in_the_thread", "on_the_loop"])
@pytest.mark.parametrize("evaluate", ["unreachable", "(loop br 0) unreachable"])
async def test_a_broken_instance_is_never_asked_again(
    run_policy: Any3, practice: Any3, demo: Bundle, pack: Any3, tmp_path: Path, evaluate: str, where: str,
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    request.getfixturevalue(where)
    path = tmp_path / "policy.tar.gz"
    path.write_bytes(pack(stand_in(demo, evaluate, '[{"result":{"allow":true}}]')))
    section = {"engine": "embedded", "bundle": str(path), "unsafe_unsigned": True, "deadline_ms": 20}
    async with run_policy({"token": section}) as service:
        active = evaluator_of(service)
        before = {active._threaded, active._inline} - {None}
        assert len(before) == 1
        assert (await service.token.decide("token", practice(), now=0)).allow
        dumps = monkeypatch.context()
        with dumps as patch:
            patch.setattr(
                "zeta_guard.policy.embedded.orjson.dumps", lambda document: json.dumps(document).encode() + b" "
            )
            with pytest.raises(ZetaError) as refused:
                await service.token.decide("token", practice(), now=0)
        assert refused.value.status == 503
        await until_the_thread_is_idle(service)
        assert not before & {active._threaded, active._inline}
        assert (await service.token.decide("token", practice(scopes=["popp"]), now=0)).allow


async def test_a_bundle_that_fails_at_its_first_trial_is_refused_and_the_one_before_decides_on(
    run_policy: Any3, practice: Any3, demo: Bundle, pack: Any3, tmp_path: Path
) -> None:
    path = tmp_path / "policy.tar.gz"
    section = {"engine": "embedded", "bundle": str(path), "unsafe_unsigned": True}
    path.write_bytes(pack(demo))
    async with run_policy({"token": section}) as service:
        # Every document ends so, those of the warm-up too.
        path.write_bytes(pack(stand_in(demo, "unreachable", at="}")))
        with pytest.raises(BundleError):
            await service._token.look()
        assert (await service.token.decide("token", practice(), now=0)).allow
        assert not await service._token.look()
        assert "cannot be used" in (await service.readiness() or "")
    with pytest.raises(ConfigurationError) as refused:
        async with run_policy({"token": section}):
            pass
    assert refused.value.path == "policy.token.bundle"


async def test_a_slow_policy_does_not_run_on_the_event_loop(run_policy: Any3, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, inline in ((10.0, True), (0.0, False)):
        monkeypatch.setattr("zeta_guard.policy.evaluator.INLINE_SECONDS", limit)
        async with run_policy(DEMO) as service:
            assert (await service.request.decide("request", PROBES["request"], now=0)).allow
            assert evaluator_of(service).inline("request") is inline
            assert evaluator_of(service).inline("token") is inline


@pytest.mark.usefixtures("on_the_loop")
async def test_a_question_that_is_too_much_for_the_event_loop_is_answered_in_the_thread(
    run_policy: Any3, practice: Any3, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with run_policy(DEMO) as service:
        active = evaluator_of(service)
        first = active._inline
        monkeypatch.setattr("zeta_guard.policy.evaluator.INLINE_LIMIT", 0.0)
        assert (await service.token.decide("token", practice(), now=0)).allow
        await until_the_thread_is_idle(service)
        second = active._inline
        assert second is not None
        assert second is not first
        monkeypatch.setattr("zeta_guard.policy.evaluator.INLINE_LIMIT", 10.0)
        assert await turns_during(service.token.decide("token", practice(scopes=["popp"]), now=0)) == 0
        assert active._inline is second


@pytest.mark.usefixtures("on_the_loop")
async def test_what_is_too_much_for_the_event_loop_again_and_again_is_no_longer_tried_there(
    run_policy: Any3, practice: Any3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zeta_guard.policy.evaluator._MOST_SLOW", 2)
    monkeypatch.setattr("zeta_guard.policy.evaluator.INLINE_LIMIT", 0.0)
    async with run_policy(DEMO) as service:
        for scope in ("popp", "vsdservice"):
            assert (await service.token.decide("token", practice(scopes=[scope]), now=0)).allow
            await until_the_thread_is_idle(service)
        assert not evaluator_of(service).inline("token")
        monkeypatch.setattr("zeta_guard.policy.evaluator.INLINE_LIMIT", 10.0)
        assert await turns_during(service.token.decide("token", practice(), now=0)) > 0


@pytest.mark.usefixtures("on_the_loop")
async def test_a_memory_that_has_grown_is_let_go_of_and_the_next_question_but_one_is_answered_inline(
    run_policy: Any3, practice: Any3, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with run_policy(DEMO) as service:
        active = evaluator_of(service)
        monkeypatch.setattr("zeta_guard.policy.evaluator._MAX_GROWTH", -1)
        assert (await service.token.decide("token", practice(), now=0)).allow
        assert active._inline is None
        monkeypatch.setattr("zeta_guard.policy.evaluator._MAX_GROWTH", 1 << 25)
        assert (await service.token.decide("token", practice(scopes=["popp"]), now=0)).allow
        await until_the_thread_is_idle(service)
        assert active.inline("token")


@pytest.mark.usefixtures("in_the_thread")
async def test_a_memory_that_has_grown_in_the_thread_is_let_go_of(
    run_policy: Any3, practice: Any3, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with run_policy(DEMO) as service:
        active = evaluator_of(service)
        monkeypatch.setattr("zeta_guard.policy.evaluator._MAX_GROWTH", -1)
        for scopes in (["popp"], ["vsdservice"]):
            assert (await service.token.decide("token", practice(scopes=scopes), now=0)).allow
            assert active._threaded is None
        monkeypatch.setattr("zeta_guard.policy.evaluator._MAX_GROWTH", 1 << 25)
        assert (await service.token.decide("token", practice(), now=0)).allow
        assert active._threaded is not None


async def test_a_clock_that_stands_nearly_still_gives_no_question_more_time_than_the_fastest_machine_needs(
    run_policy: Any3, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = count(1)
    monkeypatch.setattr("zeta_guard.policy.evaluator.time.perf_counter", lambda: next(moments) * 1e-12)
    async with run_policy({"token": {**DEMO["token"], "deadline_ms": 100}}) as service:
        assert evaluator_of(service)._fuel == 2_000_000_000


@pytest.mark.usefixtures("on_the_loop")
async def test_an_answer_that_comes_while_the_engine_closes_is_still_one(
    run_policy: Any3, practice: Any3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zeta_guard.policy.evaluator.INLINE_LIMIT", 0.0)
    async with run_policy(DEMO) as service:
        asked = asyncio.create_task(service.token.decide("token", practice(), now=0))
        await asyncio.sleep(0)
        service._token._thread.shutdown(wait=False)
        assert (await asked).allow


async def test_a_policy_that_nobody_analysed_may_not_be_remembered(
    run_policy: Any3, variant: Any3, pack: Any3, tmp_path: Path
) -> None:
    bundle = variant(lambda data: data["requests"].update(cache_seconds=5))
    manifest = json.loads(bundle.files[".manifest"])
    path = tmp_path / "policy.tar.gz"
    section = {"engine": "embedded", "bundle": str(path), "unsafe_unsigned": True}
    path.write_bytes(pack(bundle))
    async with run_policy({"token": section}) as service:
        assert (await service.request.decide("request", PROBES["request"], now=0)).cache_seconds == 5
    own = manifest["metadata"]["zeta_guard"]
    for reads in (None, {**own["reads"], "policies/zeta/request/decision": ["time"]}):
        own["reads"] = reads
        path.write_bytes(pack(bundle, {".manifest": json.dumps(manifest).encode()}))
        async with run_policy({"token": section}) as service:
            assert (await service.request.decide("request", PROBES["request"], now=0)).cache_seconds == 0
