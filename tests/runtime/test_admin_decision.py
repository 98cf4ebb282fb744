"""What an operator is told about the engine that decided."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from zeta_guard.config.policy import Policy
from zeta_guard.runtime.admin_decision import decided_by

REMOTE = {"engine": "embedded", "bundle": "oci://user:secret@registry.example/policies:1", "state_file": "/var/policy"}
OPA = {"engine": "opa", "url": "http://user:secret@127.0.0.1:8181"}


def told(door: str, **policy: Any) -> dict[str, Any]:
    return decided_by(Policy.model_validate(policy), door=door)


def test_paths_of_bundle_and_log_are_named(tmp_path: Path) -> None:
    log = tmp_path / "decisions.jsonl"
    assert told("authorization_server", token=REMOTE, log={"file": str(log)}) == {
        "engine": "embedded",
        "bundle": "oci://registry.example/policies:1",
        "state_file": "/var/policy",
        "url": None,
        "decision_log": str(log),
        "sealed": False,
    }


@pytest.mark.parametrize(("door", "engine"), [("gateway", "opa"), ("authorization_server", "embedded")])
def test_each_room_names_the_engine_that_it_asks(door: str, engine: str) -> None:
    found = told(door, token=REMOTE, request=OPA)
    assert found["engine"] == engine
    assert "secret" not in str(found)


def test_the_gateway_asks_the_tokens_engine_where_it_has_none_of_its_own() -> None:
    assert told("gateway", token=REMOTE)["engine"] == "embedded"
