"""The shadow policy: asked, compared, counted, and without any influence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from zeta_guard.policy.contract import Decision, Reason
from zeta_guard.policy.document import Institution
from zeta_guard.policy.shadow import difference

Any3 = Callable[..., Any]
DEMO = {"engine": "embedded", "bundle": "package:demo"}
NOW = 1_700_000_000.0
GEMATIK = Institution("1-2", "1.2.276.0.76.4.58", "X")


@pytest.fixture
def candidate(variant: Any3, pack: Any3, tmp_path: Path) -> Any3:
    """Configuration of the demo guard with a shadow whose data are changed."""

    def make(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        path = tmp_path / "candidate.tar.gz"
        path.write_bytes(pack(variant(change, revision="candidate")))
        shadow = {"engine": "embedded", "bundle": str(path), "unsafe_unsigned": True}
        return {"token": DEMO, "shadow": shadow, "log": {"file": str(tmp_path / "decisions.jsonl")}}

    return make


@pytest.mark.parametrize(
    ("change", "arguments", "expected"),
    [
        (lambda data: None, {}, "same"),
        (lambda data: data["scopes"]["allowed"].pop("popp"), {}, "newly_deny"),
        (
            lambda data: data["professions"]["allowed"].update({"1.2.276.0.76.4.58": "x"}),
            {"institution": GEMATIK},
            "newly_allow",
        ),
        (lambda data: data["scopes"]["allowed"].pop("popp"), {"institution": GEMATIK}, "reasons"),
        (lambda data: data["lifetimes"].update(access_token=60), {}, "lifetimes"),
        (
            lambda data: data["audiences"].update(resources={"https://g": "https://other/"}),
            {"audience": [], "resource": "https://g/x"},
            "audience",
        ),
    ],
)
async def test_a_difference_is_counted_logged_and_summarised(
    run_policy: Any3, practice: Any3, candidate: Any3, tmp_path: Path, change: Any, arguments: Any, expected: str
) -> None:
    registry = CollectorRegistry()
    async with run_policy(candidate(change), registry=registry) as service:
        decision = await service.token.decide("token", practice(**arguments), now=0)
        assert decision.revision == "demo-1"
        await service.token.close()
        summary = service.shadow_summary()
    labels = {"question": "token", "difference": expected}
    assert registry.get_sample_value("zeta_guard_policy_shadow_total", labels) == 1
    (line,) = [json.loads(text) for text in (tmp_path / "decisions.jsonl").read_text().splitlines()]
    assert line["shadow"]["difference"] == expected
    assert line["shadow"]["revision"] == "candidate"
    assert line["result"]["allow"] is decision.allow
    assert summary["asked"] == {"token": 1}
    assert summary["counts"] == {expected: 1}
    assert (summary["active_revision"], summary["revision"], summary["since"]) == ("demo-1", "candidate", NOW)
    if expected == "same":
        assert summary["differences"] == []
    else:
        (entry,) = summary["differences"][:1]
        assert entry["difference"] == expected
        assert entry["product"] == "demo_client 0.1.0"


async def test_a_shadow_without_rules_for_a_question_is_not_asked(
    run_policy: Any3, practice: Any3, tmp_path: Path
) -> None:
    from zeta_guard.policy.probe import PROBES

    log = tmp_path / "decisions.jsonl"
    section = {"token": DEMO, "shadow": {"engine": "embedded", "bundle": "package:template"}, "log": {"file": str(log)}}
    async with run_policy(section) as service:
        assert (await service.request.decide("request", PROBES["request"], now=0)).allow
    assert "shadow" not in json.loads(log.read_text())


async def test_a_shadow_that_is_away_changes_nothing(run_policy: Any3, practice: Any3, tmp_path: Path) -> None:
    log = tmp_path / "decisions.jsonl"
    shadow = {"engine": "opa", "url": "http://127.0.0.1:1"}
    async with run_policy({"token": DEMO, "shadow": shadow, "log": {"file": str(log)}}) as service:
        assert (await service.token.decide("token", practice(), now=0)).allow
        assert await service.readiness() is None
    assert json.loads(log.read_text())["shadow"]["difference"] == "no_answer"


async def test_too_many_outstanding_answers_are_skipped_not_queued(
    run_policy: Any3, practice: Any3, candidate: Any3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zeta_guard.policy.asked_engine._MAX_COMPARISONS", 0)
    registry = CollectorRegistry()
    async with run_policy(candidate(lambda data: None), registry=registry) as service:
        assert (await service.token.decide("token", practice(), now=0)).allow
    labels = {"question": "token", "difference": "skipped"}
    assert registry.get_sample_value("zeta_guard_policy_shadow_total", labels) == 1


async def test_a_decision_with_two_changed_reasons_is_one_difference(
    run_policy: Any3, practice: Any3, candidate: Any3
) -> None:
    def change(data: dict[str, Any]) -> None:
        data["scopes"]["allowed"].pop("popp")
        data["professions"]["allowed"].clear()

    async with run_policy(candidate(change)) as service:
        await service.token.decide("token", practice(), now=0)
        await service.token.close()
        summary = service.shadow_summary()
    assert summary["counts"] == {"newly_deny": 1}
    assert sorted(entry["rule"] for entry in summary["differences"]) == ["profession_not_allowed", "scope_not_allowed"]


async def test_figures_begin_anew_with_another_candidate(
    run_policy: Any3, practice: Any3, candidate: Any3, variant: Any3, pack: Any3
) -> None:
    section = candidate(lambda data: data["scopes"]["allowed"].pop("popp"))
    path = Path(section["shadow"]["bundle"])
    async with run_policy(section) as service:
        await service.token.decide("token", practice(), now=0)
        await service.token.close()
        assert service.shadow_summary()["counts"] == {"newly_deny": 1}
        path.write_bytes(pack(variant(revision="better")))  # noqa: ASYNC240
        assert await service._shadow.engine.look()
        await service.token.decide("token", practice(), now=0)
        await service.token.close()
        summary = service.shadow_summary()
    assert (summary["revision"], summary["counts"], summary["differences"]) == ("better", {"same": 1}, [])


async def test_without_a_shadow_there_is_no_summary(run_policy: Any3) -> None:
    async with run_policy({"token": DEMO}) as service:
        assert service.shadow_summary() is None


def test_reasons_are_compared_by_code_not_by_words() -> None:
    one = Decision(False, "a", "r", reasons=(Reason("old words", "code"),))
    other = Decision(False, "b", "s", reasons=(Reason("new words", "code"),))
    assert difference(one, other) == "same"
    assert difference(one, Decision(False, "c", "s", reasons=(Reason("old words"),))) == "reasons"
