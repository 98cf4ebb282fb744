"""``policy shadow`` and ``explain`` against a running guard that has a candidate and a decision log."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from zeta_guard.client.errors import Refused
from zeta_guard.config.load import load_config
from zeta_guard.policy.bundle import read_archive, write_archive
from zeta_guard.policy.source import PACKAGED


@pytest.fixture
def amended(guard: Any, tmp_path: Path) -> Iterator[Any]:
    """Reloads the guard with another section ``policy``, and with the old one afterwards."""
    import yaml

    before = guard.config.read_text()
    files = dict(read_archive((PACKAGED / "demo.tar.gz").read_bytes()).files)
    data, manifest = json.loads(files["data.json"]), json.loads(files[".manifest"])
    del data["scopes"]["allowed"]["popp"]
    manifest["revision"] = "candidate"
    candidate = tmp_path / "candidate.tar.gz"
    changed = {"data.json": json.dumps(data).encode(), ".manifest": json.dumps(manifest).encode()}
    candidate.write_bytes(write_archive({**files, **changed}))
    shadow = {"engine": "embedded", "bundle": str(candidate), "unsafe_unsigned": True}

    def amend(**policy: Any) -> None:
        document = yaml.safe_load(before)
        document["policy"] = {**document["policy"], "shadow": shadow, **policy}
        guard.config.write_text(yaml.safe_dump(document))
        guard.do(guard.stage.guard.reload(load_config(guard.config)))

    yield amend
    guard.config.write_text(before)
    guard.do(guard.stage.guard.reload(load_config(guard.config)))


def test_the_running_guard_tells_what_its_candidate_would_change(guard: Any, amended: Any, zeta_guard: Any) -> None:
    amended()
    place = ("--config", guard.config)
    nothing = zeta_guard("policy", "shadow", *place)
    assert (nothing.status, "was asked nothing yet" in nothing.out) == (0, True)
    guard.login()
    guard.login("other_institution")
    told = zeta_guard("policy", "shadow", *place)
    assert told.status == 1, told.err
    assert told.out.startswith("candidate beside demo-1, since ")
    assert "would newly deny 2, newly allow 0, change otherwise 0, not answer 0, decide the same 0\n" in told.out
    assert "       2  newly_deny by scope_not_allowed  ZETA-Test-Client 1.0.0\n" in told.out
    document = zeta_guard("policy", "shadow", *place, "--json").json
    assert (document["revision"], document["active_revision"], document["asked"]) == (
        "candidate",
        "demo-1",
        {"token": 2},
    )
    assert document["differences"] == {"newly_deny": 2}
    assert document["rules"] == [
        {"difference": "newly_deny", "rule": "scope_not_allowed", "product": "ZETA-Test-Client 1.0.0", "count": 2}
    ]


def test_the_log_and_the_running_guard_tell_the_same(guard: Any, amended: Any, zeta_guard: Any, tmp_path: Path) -> None:
    log = tmp_path / "decisions.jsonl"
    amended(log={"file": str(log)})
    guard.login()
    live = zeta_guard("policy", "shadow", "--socket", guard.socket, "--json").json
    guard.do(guard.stage.guard._generation.policy._log.close())
    logged = zeta_guard("policy", "shadow", "--log", log, "--json").json
    assert {name: live[name] for name in logged} == logged
    assert logged["differences"] == {"newly_deny": 1}


def test_a_guard_without_a_candidate_says_so(guard: Any, zeta_guard: Any) -> None:
    told = zeta_guard("policy", "shadow", "--socket", guard.socket)
    assert told.status == 1
    assert "has no shadow policy" in told.err
    assert "policy.shadow" in told.err


@pytest.mark.parametrize(
    "arguments", [(), ("--revision", "x", "--socket", "admin.sock"), ("--log", "a", "--socket", "b")]
)
def test_where_the_figures_come_from_is_named_once(zeta_guard: Any, arguments: tuple[str, ...]) -> None:
    told = zeta_guard("policy", "shadow", *arguments)
    assert told.status == 2
    assert "--log" in told.err


def denied(guard: Any) -> str:
    with pytest.raises(Refused) as refused:
        guard.login("not_allowed")
    return str(refused.value.answer.json()["request_id"])


def rule_line(out: str) -> str:
    (line,) = [line for line in out.splitlines() if line.startswith("rule ")]
    return line.removeprefix("rule").strip()


def test_explain_names_the_command_that_names_the_rule(
    guard: Any, amended: Any, zeta_guard: Any, tmp_path: Path
) -> None:
    log = tmp_path / "decision log.jsonl"
    amended(log={"file": str(log)})
    told = zeta_guard("explain", denied(guard), "--config", guard.config)
    words = shlex.split(rule_line(told.out))
    assert words[:3] == ["zeta-guard", "policy", "explain"]
    assert words[4:] == ["--log", str(log), "--bundle", "package:demo"]
    guard.do(guard.stage.guard._generation.policy._log.close())
    explained = zeta_guard(*words[1:])
    assert explained.status == 1
    assert "profession_not_allowed" in explained.out
    assert "rule lib/profession.rego:" in explained.out
    assert "address_unknown" not in explained.out
    assert "not recorded then, only seen now because of the mask: address_unknown" in explained.err


def test_explain_says_that_no_decision_log_is_written(guard: Any, zeta_guard: Any) -> None:
    told = zeta_guard("explain", denied(guard), "--config", guard.config)
    assert "policy.log.file" in rule_line(told.out)
