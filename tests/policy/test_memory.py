"""A decision is remembered by the question and the bundle, and by nothing less."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zeta_guard.policy.bundle import Bundle, read_bundle
from zeta_guard.policy.contract import Decision, Reason
from zeta_guard.policy.document import Client, Institution
from zeta_guard.policy.embedded import EmbeddedEngine
from zeta_guard.policy.evaluator import Evaluator
from zeta_guard.policy.memory import DecisionMemory

Any3 = Callable[..., Any]
DEMO = {"token": {"engine": "embedded", "bundle": "package:demo"}}
TOKEN = "policies/zeta/authz/decision"


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The questions that really came to the sandbox."""
    seen: list[bytes] = []
    real = Evaluator.decide_inline

    def decide(self: Evaluator, question: Any, document: bytes) -> Decision:
        seen.append(document)
        return real(self, question, document)

    monkeypatch.setattr(Evaluator, "decide_inline", decide)
    monkeypatch.setattr("zeta_guard.policy.evaluator.INLINE_SECONDS", 10.0)
    return seen


def client(**changes: Any) -> Client:
    members: dict[str, Any] = {"attested_at": 1_700_000_000, "registered_at": 1_600_000_000}
    return Client("client-1", "registered", "linux", "software", "demo_client", "0.1.0", **(members | changes))


async def test_the_same_question_is_decided_once_and_each_answer_has_a_name_of_its_own(
    run_policy: Any3, practice: Any3, evaluations: list[bytes]
) -> None:
    async with run_policy(DEMO) as service:
        first, second = [await service.token.decide("token", practice(client=client()), now=0) for _ in range(2)]
    assert len(evaluations) == 1
    assert first.allow
    assert second.decision_id != first.decision_id
    assert second._replace(decision_id="", milliseconds=0) == first._replace(decision_id="", milliseconds=0)


async def test_a_no_is_the_same_no(run_policy: Any3, practice: Any3, evaluations: list[bytes]) -> None:
    async with run_policy(DEMO) as service:
        answers = [await service.token.decide("token", practice(scopes=["foreign"]), now=0) for _ in range(2)]
    assert len(evaluations) == 1
    assert [answer.allow for answer in answers] == [False, False]
    assert answers[0].reasons == answers[1].reasons != ()


async def test_a_moment_that_no_rule_reads_makes_no_new_question(
    run_policy: Any3, practice: Any3, evaluations: list[bytes]
) -> None:
    async with run_policy(DEMO) as service:
        for moment in (1_700_000_000, 1_700_000_001):
            asked = practice(client=client(attested_at=moment))
            assert (await service.token.decide("token", asked, now=0)).allow
            assert asked["client_registration_data"]["attestation_timestamp"] == moment
    # What is remembered is what was evaluated: a rule that did read the moment would have found none.
    assert len(evaluations) == 1
    assert b"attestation_timestamp" not in evaluations[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"client": client(registered_at=1)},
        {"client": client(architecture="arm64")},
        {"institution": Institution("1-2012345679", "1.2.276.0.76.4.50", "Praxis Muster", "Praxis Muster GbR")},
        {"institution": Institution("1-2012345678", "1.2.276.0.76.4.51", "Praxis Muster", "Praxis Muster GbR")},
        {"grant_type": "refresh_token"},
        {"scopes": ["popp"]},
        {"previous_address": "192.0.2.11"},
        {"acr": "other"},
    ],
    ids=lambda changes: next(iter(changes)),
)
async def test_whatever_else_differs_makes_a_new_question(
    run_policy: Any3, practice: Any3, evaluations: list[bytes], changes: dict[str, Any]
) -> None:
    async with run_policy(DEMO) as service:
        await service.token.decide("token", practice(client=client()), now=0)
        await service.token.decide("token", practice(**{"client": client(), **changes}), now=0)
    assert len(evaluations) == 2


async def test_what_a_bundle_decided_ends_with_it(
    run_policy: Any3, practice: Any3, variant: Any3, pack: Any3, tmp_path: Path, evaluations: list[bytes]
) -> None:
    path = tmp_path / "policy.tar.gz"
    path.write_bytes(pack(variant(revision="one")))
    section = {"engine": "embedded", "bundle": str(path), "unsafe_unsigned": True}
    async with run_policy({"token": section}) as service:
        assert (await service.token.decide("token", practice(), now=0)).allow

        def nobody(data: dict[str, Any]) -> None:
            data["products"]["allowed"] = {}

        path.write_bytes(pack(variant(nobody, revision="two")))
        engine = service._token
        assert isinstance(engine, EmbeddedEngine)
        assert await engine.look()
        answer = await service.token.decide("token", practice(), now=0)
        assert (answer.allow, answer.revision) == (False, "two")
    assert len(evaluations) == 2


def test_a_bundle_that_reads_the_moment_or_does_not_say_gets_it(demo: Bundle, practice: Any3) -> None:
    asked = practice(client=client())
    assert b"attestation_timestamp" not in DecisionMemory(demo, TOKEN).question(asked)
    for reads in (b'"client_registration_data/attestation_timestamp"', b'"client_registration_data"', b'""'):
        manifest = demo.files[".manifest"].replace(b'"client_registration_data/product_id"', reads)
        other = read_bundle({**demo.files, ".manifest": manifest})
        assert b"attestation_timestamp" in DecisionMemory(other, TOKEN).question(asked)
    assert b"attestation_timestamp" in DecisionMemory(demo, "another/rule").question(asked)


def test_memory_is_bounded(demo: Bundle) -> None:
    memory = DecisionMemory(demo, TOKEN)
    decision = Decision(True, "d", "r")
    for number in range(10_000):
        memory.remember(memory.key(b"%d" % number), decision)
    assert memory.recall(memory.key(b"9999")) == decision
    assert memory.recall(memory.key(b"0")) is None
    assert len(memory._decisions) <= 4096


def test_a_decision_with_many_reasons_is_not_kept(demo: Bundle) -> None:
    memory = DecisionMemory(demo, TOKEN)
    key = memory.key(b"question")
    memory.remember(key, Decision(False, "d", "r", tuple(Reason(f"reason {number}") for number in range(5))))
    assert memory.recall(key) is None
