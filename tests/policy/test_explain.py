"""Explanations: the rule, its place, and what it saw."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from zeta_guard.policy.contract import Decision, Reason
from zeta_guard.policy.decision_log import Line, render
from zeta_guard.policy.document import Client, Institution
from zeta_guard.policy.explain import ExplainedReason, Explanation, explain, explain_recorded
from zeta_guard.policy.masking import Masker
from zeta_guard.policy.recorded import Recorded, read_log
from zeta_guard.policy.workbench import open_bundle

Any3 = Callable[..., Any]


def by_code(explanation: Explanation) -> dict[str, ExplainedReason]:
    return {each.reason.code: each for each in explanation.reasons}


def test_an_allow_needs_no_explanation(practice: Any3) -> None:
    found = explain(open_bundle("package:demo"), "token", practice())
    assert found.decision.allow
    assert found.reasons == ()


@pytest.mark.opa
def test_a_reason_names_rule_condition_and_values(practice: Any3) -> None:
    question = practice(
        institution=Institution("1-2", "1.2.276.0.76.4.58", "X"),
        client=Client("c", "registered", "linux", "software", "demo_client", "9.9"),
        scopes=["vsdservice", "admin"],
    )
    bench = open_bundle("package:demo")
    found = explain(bench, "token", question)
    assert found.traced
    reasons = by_code(found)
    profession = reasons["profession_not_allowed"]
    assert profession.source is not None
    assert profession.source.file == "lib/profession.rego"
    assert profession.source.description == "The kind of institution may not use this service."
    (seen,) = profession.seen
    assert seen.failed
    assert seen.source == "allowed if data.professions.allowed[input.user_info.professionOID]"
    assert seen.values == {"input.user_info.professionOID": "1.2.276.0.76.4.58"}
    lines = bench.bundle.files[seen.file].decode().splitlines()
    assert lines[seen.line - 1].strip() == seen.source
    (version,) = reasons["product_version_not_allowed"].seen
    assert version.values == {"client.product_id": "demo_client", "client.product_version": "9.9"}
    assert {"scope": "admin"} in [seen.values for seen in reasons["scope_not_allowed"].seen]
    assert {"scope": "vsdservice"} not in [seen.values for seen in reasons["scope_not_allowed"].seen]


@pytest.mark.opa
def test_a_blocked_address_shows_the_network_that_blocks_it(
    practice: Any3, variant: Any3, pack: Any3, tmp_path: Path
) -> None:
    path = tmp_path / "b.tar.gz"
    path.write_bytes(pack(variant(lambda data: data["addresses"]["blocked"].update({"192.0.2.0/24": "tor"}))))
    found = explain(open_bundle(str(path)), "token", practice())
    (seen,) = by_code(found)["address_blocked"].seen
    assert not seen.failed
    assert seen.values == {"prefix": "192.0.2.0/24"}


def test_without_opa_rules_are_named_and_values_are_not(practice: Any3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZETA_GUARD_OPA", "/nonexistent")
    found = explain(open_bundle("package:demo"), "token", practice(scopes=["admin"]))
    assert not found.traced
    (reason,) = found.reasons
    assert reason.source is not None
    assert reason.source.file == "lib/scope.rego"
    assert reason.seen == ()
    assert found.as_json()["reasons"][0]["file"] == "lib/scope.rego"  # type: ignore[index, call-overload]


@pytest.mark.opa
def test_a_reason_without_code_is_shown_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    (folder / ".manifest").write_text('{"revision": "1", "roots": ["policies/zeta"]}')
    (folder / "authz.rego").write_text(
        'package policies.zeta.authz\n\ndecision := {"allow": false, "reasons": {"No": true}}\n'
    )
    (reason,) = explain(open_bundle(str(folder)), "token", {}).reasons
    assert reason.reason.message == "No"
    assert reason.source is None


@pytest.mark.opa
def test_of_a_negation_what_stands_behind_the_not_did_not_hold(practice: Any3) -> None:
    found = explain(open_bundle("package:demo"), "token", practice(scopes=["admin"]))
    reasons = by_code(found)
    (scope,) = [seen for seen in reasons["scope_not_allowed"].seen if seen.failed]
    assert (scope.source, scope.values) == ("data.scopes.allowed[scope]", {"scope": "admin"})


def recorded(
    practice: Any3, tmp_path: Path, *, allow: bool, codes: list[str], revision: str = "demo-1", **changes: Any
) -> Recorded:
    """A line as the guard writes it: identifier and address are masked."""
    reasons = tuple(Reason(f"text of {code}", code) for code in codes)
    line = Line("token", "p", 0.0, practice(**changes), Decision(allow, "d-1", revision, reasons))
    path = tmp_path / "decisions.jsonl"
    path.write_text(json.dumps(render(line, Masker(None, include_address=False), None)) + "\n")
    (found,) = read_log(path)
    assert isinstance(found, Recorded)
    return found


@pytest.mark.opa
def test_a_mask_makes_no_reason_that_was_not_recorded(practice: Any3, tmp_path: Path) -> None:
    gematik = Institution("1-2", "1.2.276.0.76.4.58", "X")
    line = recorded(practice, tmp_path, allow=False, codes=["profession_not_allowed"], institution=gematik)
    found = explain_recorded(open_bundle("package:demo"), line)
    assert list(by_code(found)) == ["profession_not_allowed"]
    assert by_code(found)["profession_not_allowed"].seen[0].failed
    assert {reason.code for reason in found.doubtful} == {"address_unknown", "user_unknown"}
    assert "user_info/identifier" in found.hidden


def test_an_allow_stays_one_although_its_line_is_masked(practice: Any3, tmp_path: Path) -> None:
    line = recorded(practice, tmp_path, allow=True, codes=[])
    found = explain_recorded(open_bundle("package:demo"), line)
    assert found.decision.allow
    assert found.reasons == ()


def test_a_recorded_reason_that_the_mask_hides_is_named_with_its_rule(practice: Any3, tmp_path: Path) -> None:
    line = recorded(practice, tmp_path, allow=False, codes=["user_blocked"])
    (each,) = explain_recorded(open_bundle("package:demo"), line).reasons
    assert each.reason.code == "user_blocked"
    assert each.source is not None
    # The request question has a rule with the same code, in another file.
    assert each.source.file == "lib/user.rego"
    assert each.seen == ()


def test_another_bundle_than_the_one_that_decided_speaks_for_itself(practice: Any3, tmp_path: Path) -> None:
    line = recorded(practice, tmp_path, allow=False, codes=["user_blocked"], revision="demo-0")
    found = explain_recorded(open_bundle("package:demo"), line)
    assert set(by_code(found)) == {"address_unknown", "user_unknown"}
    assert {reason.code for reason in found.doubtful} == {"address_unknown", "user_unknown"}


@pytest.mark.opa
def test_a_line_with_nothing_masked_is_explained_as_it_is(practice: Any3, tmp_path: Path) -> None:
    line = replace(recorded(practice, tmp_path, allow=True, codes=[]), document=practice(scopes=["x"]), hidden=())
    found = explain_recorded(open_bundle("package:demo"), line)
    assert list(by_code(found)) == ["scope_not_allowed"]
    assert found.hidden == ()
