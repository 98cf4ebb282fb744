"""``zeta-guard config``: the schema, and what a running guard has in force."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml


def test_the_schema_is_json(zeta_guard: Any) -> None:
    told = zeta_guard("config", "schema")
    assert told.status == 0
    assert json.loads(told.out)["$schema"].startswith("https://json-schema.org/")


def test_what_is_in_force_is_shown_without_secrets(guard: Any, zeta_guard: Any) -> None:
    told = zeta_guard("config", "show", "--config", guard.config)
    assert told.status == 0
    assert told.out.startswith("# in force, role all\n")
    shown = yaml.safe_load(told.out)
    assert shown["public_url"] == guard.stage.around.public_url
    assert shown["limits"]["skew"] == guard.stage.config.limits.skew
    told = zeta_guard("config", "show", "--socket", guard.socket, "--json")
    assert told.json == {"role": "all", "config": shown}


@pytest.mark.parametrize("arguments", [(), ("--config", "/no/such/file")])
def test_a_guard_must_be_named(zeta_guard: Any, arguments: tuple[str, ...]) -> None:
    assert zeta_guard("config", "show", *arguments).status == 2


def test_where_no_guard_runs_the_answer_is_no(zeta_guard: Any, tmp_path: Path) -> None:
    told = zeta_guard("config", "show", "--socket", tmp_path / "admin.sock")
    assert told.status == 1
    assert "no guard listens" in told.err
