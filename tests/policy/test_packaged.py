"""The bundles that ship: built from the sources that stand in policies/, and closed when their data are missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from zeta_guard.policy.build import build
from zeta_guard.policy.bundle import read_archive
from zeta_guard.policy.probe import PROBES
from zeta_guard.policy.source import PACKAGED
from zeta_guard.policy.wasm import WasmPolicy
from zeta_guard.policy.workbench import DECISIONS, open_bundle

FUEL = 10_000_000_000
NAMES = ["demo", "popp", "template", "vsdm"]
POLICIES = Path(__file__).parents[2] / "policies"
Any3 = Callable[..., Any]


def test_these_bundles_ship() -> None:
    assert sorted(path.name for path in PACKAGED.glob("*.tar.gz")) == [f"{name}.tar.gz" for name in NAMES]


@pytest.mark.opa
@pytest.mark.parametrize("name", NAMES)
def test_a_packaged_bundle_is_what_its_sources_build(name: str) -> None:
    """When this fails: run policies/build and commit the result."""
    packaged = read_archive((PACKAGED / f"{name}.tar.gz").read_bytes())
    built = build(POLICIES / name).bundle
    # Another release of opa compiles other code; everything that people wrote must be the same.
    differing = [file for file in built.files if built.files[file] != packaged.files.get(file)]
    assert set(differing) <= {"policy.wasm"}
    assert built.files.keys() == packaged.files.keys()
    assert build(POLICIES / name).archive == build(POLICIES / name).archive


@pytest.mark.parametrize("name", NAMES)
def test_without_data_every_question_is_denied(name: str, practice: Any3) -> None:
    bundle = open_bundle(f"package:{name}").bundle
    assert bundle.code is not None
    policy = WasmPolicy(bundle.code, {}, memory_bytes=64 * 1024 * 1024)
    instance = policy.instance()
    documents = {"policies/zeta/authz/decision": practice(), "policies/zeta/request/decision": PROBES["request"]}
    for entrypoint, number in policy.entrypoints.items():
        questions: list[dict[str, Any]] = [dict(documents[entrypoint]), {}]
        for document in questions:
            (decision,) = instance.evaluate(number, orjson.dumps(document), fuel=FUEL)
            assert isinstance(decision, dict)
            assert decision["allow"] is False
            assert decision["reasons"]


@pytest.mark.parametrize("name", NAMES)
def test_without_any_one_list_every_question_is_denied(name: str, practice: Any3) -> None:
    bundle = open_bundle(f"package:{name}").bundle
    assert bundle.code is not None
    scopes = {"vsdm": ["vsdservice"], "popp": ["popp"]}.get(name, ["popp", "vsdservice"])
    whole: dict[str, Any] = json.loads(bundle.files["data.json"])
    for missing in [None, *whole]:
        data = {section: content for section, content in whole.items() if section != missing}
        policy = WasmPolicy(bundle.code, data, memory_bytes=64 * 1024 * 1024)
        entrypoint = policy.entrypoints[DECISIONS["token"]]
        (decision,) = policy.instance().evaluate(entrypoint, orjson.dumps(practice(scopes=scopes)), fuel=FUEL)
        assert isinstance(decision, dict)
        if missing in (None, "requests") and name != "template":
            assert decision["allow"] is True, (missing, decision)
        else:
            assert decision["allow"] is False, missing


def test_the_template_denies_until_its_lists_are_filled(practice: Any3) -> None:
    decision = open_bundle("package:template").decide("token", practice())
    assert not decision.allow


@pytest.mark.parametrize("name", ["demo", "popp", "vsdm"])
def test_no_decision_depends_on_the_time(name: str) -> None:
    reads = open_bundle(f"package:{name}").bundle.manifest.reads
    assert reads is not None
    assert not [path for paths in reads.values() for path in paths if path in ("", "time")]
