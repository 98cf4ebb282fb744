"""The ten minutes of ``policies/README.md``, command by command, in a copy of the folder."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from zeta_guard.config.policy import Policy

POLICIES = Path(__file__).parents[2] / "policies"
GUIDE = (POLICIES / "README.md").read_text().split("## Ten minutes\n", 1)[1].split("\n## ", 1)[0]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(kind: str) -> list[str]:
    return [content for found, content in BLOCK.findall(GUIDE) if found == kind]


def commands() -> dict[str, str]:
    """Command → what the guide shows as its output."""
    shown: dict[str, str] = {}
    for block in blocks(""):
        for part in block.split("$ ")[1:]:
            command, _, output = part.partition("\n")
            shown[command.split("  ")[0].strip()] = output
    return shown


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = shutil.which(os.environ.get("ZETA_GUARD_OPA", "opa")) or shutil.which(Path.home() / "go" / "bin" / "opa")
    if found is None or shutil.which("openssl") is None:
        if "opa" in os.environ.get("ZETA_GUARD_REQUIRE", ""):
            pytest.fail("opa and openssl are required and not there")
        pytest.skip("needs the programs opa and openssl")
    shutil.copytree(POLICIES, tmp_path / "policies")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZETA_GUARD_OPA", found)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.opa
def test_what_the_guide_shows_is_what_a_newcomer_sees(clone: Path, zeta_guard: Any) -> None:
    shown = commands()
    (question,) = blocks("json")
    (clone / "question.json").write_text(question)

    def run(command: str) -> Any:
        assert command in shown
        return zeta_guard(*shlex.split(command.replace("~", str(clone)))[1:])

    explained = run("zeta-guard policy explain question.json --bundle policies/demo")
    assert (explained.status, explained.out) == (
        1,
        shown["zeta-guard policy explain question.json --bundle policies/demo"],
    )
    tested = run("zeta-guard policy test policies/demo")
    assert (tested.status, tested.out) == (0, shown["zeta-guard policy test policies/demo"])

    professions = clone / "policies" / "demo" / "professions" / "data.json"
    lists = json.loads(professions.read_text())
    lists["allowed"]["1.2.276.0.76.4.60"] = "Another kind of institution"
    professions.write_text(json.dumps(lists))
    manifest = clone / "policies" / "demo" / ".manifest"
    manifest.write_text(manifest.read_text().replace('"demo-1"', '"demo-2"').replace('"order": 1', '"order": 2'))
    changed = run("zeta-guard policy diff package:demo policies/demo")
    assert changed.status == 1
    assert "data added: professions/allowed/1.2.276.0.76.4.60" in changed.out

    for command in shown:
        if command.startswith("openssl "):
            subprocess.run(shlex.split(command.replace("~", str(clone))), check=True, capture_output=True)
    command = "zeta-guard policy build policies/demo -o demo.tar.gz --sign ~/policy-key.pem --key-id operator"
    built = run(command)
    first, _, last = shown[command].strip().splitlines()
    assert (built.out.splitlines()[0], built.out.splitlines()[-1]) == (first, last.replace("…", ""))
    assert zeta_guard("policy", "verify", "demo.tar.gz", "--key", "operator=policy-key.pub.pem").status == 0
    (configuration,) = blocks("yaml")
    assert Policy.model_validate(yaml.safe_load(configuration)["policy"]).shadow is not None


def test_every_command_of_the_guide_is_one(zeta_guard: Any) -> None:
    actions = {shlex.split(command)[2] for command in commands() if command.startswith("zeta-guard policy ")}
    assert actions == {"explain", "test", "diff", "replay", "build", "shadow"}
