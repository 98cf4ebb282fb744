"""Recorded decisions asked again, and two bundles compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from zeta_guard.errors import ConfigurationError
from zeta_guard.policy.bundle import Bundle
from zeta_guard.policy.comparison import compare
from zeta_guard.policy.document import Institution
from zeta_guard.policy.input_reads import read_members
from zeta_guard.policy.recorded import Recorded, Unreadable, read_log
from zeta_guard.policy.replay import replay
from zeta_guard.policy.workbench import Workbench, open_bundle

Any3 = Callable[..., Any]
Key = ec.EllipticCurvePrivateKey
KeyFile = Callable[[Key, str], Path]
DEMO = {"engine": "embedded", "bundle": "package:demo"}


@pytest.fixture
def candidate(variant: Any3, pack: Any3, tmp_path: Path) -> Callable[..., Workbench]:
    """The demo bundle with other data, on the workbench."""

    def make(change: Callable[[dict[str, Any]], object] | None = None) -> Workbench:
        path = tmp_path / "candidate.tar.gz"
        path.write_bytes(pack(variant(change)))
        return open_bundle(str(path))

    return make


@pytest.fixture
async def log(run_policy: Any3, practice: Any3, tmp_path: Path, signing_key: Key, public_key_file: KeyFile) -> Path:
    """Three decisions with sealed inputs: an allow, a deny of profession, a deny of scope."""
    path = tmp_path / "decisions.jsonl"
    section = {"file": str(path), "sealing_key_file": str(public_key_file(signing_key, "log"))}
    async with run_policy({"token": DEMO, "log": section}, pseudonym=lambda name: "hashed") as service:
        await service.token.decide("token", practice(), now=1)
        await service.token.decide("token", practice(institution=Institution("1-2", "1.2.276.0.76.4.58", "X")), now=2)
        await service.token.decide("token", practice(scopes=["x"]), now=3)
    return path


def test_the_same_bundle_changes_nothing(log: Path, signing_key: Key, candidate: Any3) -> None:
    outcome = replay(read_log(log, key=signing_key), candidate())
    assert outcome.counts == {"same": 3}
    assert outcome.unchanged


def test_what_a_candidate_would_change_is_counted_by_rule(log: Path, signing_key: Key, candidate: Any3) -> None:
    def change(data: dict[str, Any]) -> None:
        data["scopes"]["allowed"].pop("popp")
        data["professions"]["allowed"]["1.2.276.0.76.4.58"] = "Betriebsstätte gematik"
        data["scopes"]["allowed"]["x"] = "X"

    outcome = replay(read_log(log, key=signing_key), candidate(change))
    assert outcome.counts == {"newly_deny": 1, "reasons": 1, "newly_allow": 1}
    assert outcome.rules["newly_deny", "scope_not_allowed"] == 1
    assert outcome.rules["reasons", "profession_not_allowed"] == 1
    assert not outcome.unchanged
    assert json.loads(json.dumps(outcome.as_json()))["counts"]["newly_deny"] == 1


def test_a_masked_line_whose_members_are_read_is_undecidable(log: Path, candidate: Any3) -> None:
    """Without the private key nobody knows what a rule about institutions or addresses would say."""
    outcome = replay(read_log(log), candidate())
    assert outcome.counts == {"undecidable": 3}
    assert set(outcome.hidden) == {
        "user_info/identifier",
        "authorization_request/ip_address",
        "authorization_request/ip_prefixes",
    }
    assert not outcome.unchanged


def test_of_the_undecidable_what_can_be_seen_is_told_apart(log: Path, candidate: Any3) -> None:
    """It proves nothing: the figures stay beside the count of undecidable lines, and the answer stays no."""
    outcome = replay(read_log(log), candidate())
    assert outcome.apparent == {"same": 3}
    assert not outcome.unchanged
    outcome = replay(read_log(log), candidate(lambda data: data["scopes"]["allowed"].pop("popp")))
    assert outcome.counts == {"undecidable": 3}
    assert outcome.apparent == {"newly_deny": 1, "reasons": 1, "same": 1}
    assert outcome.apparent_rules == {("newly_deny", "scope_not_allowed"): 1, ("reasons", "scope_not_allowed"): 1}
    assert outcome.rules == {}
    document = outcome.as_json()
    assert document["apparent"]["counts"]["newly_deny"] == 1  # type: ignore[index, call-overload]


def test_a_masked_line_whose_members_are_not_read_is_decided(log: Path, demo: Bundle, candidate: Any3) -> None:
    bench = candidate()
    reads = {"policies/zeta/authz/decision": ("authorization_request/scopes",)}
    object.__setattr__(bench.bundle.manifest, "reads", reads)
    outcome = replay(read_log(log), bench)
    assert outcome.counts["undecidable"] == 0
    object.__setattr__(bench.bundle.manifest, "reads", None)
    assert replay(read_log(log), bench).counts == {"undecidable": 3}


@pytest.mark.parametrize(
    ("reads", "member", "expected"),
    [
        (["user_info/identifier"], "user_info/identifier", True),
        (["user_info"], "user_info/identifier", True),
        (["user_info/identifier/x"], "user_info/identifier", True),
        ([""], "user_info/identifier", True),
        (["user_info/identifiers"], "user_info/identifier", False),
        (["user"], "user_info/identifier", False),
        ([], "user_info/identifier", False),
    ],
)
def test_reading_a_part_or_the_whole_counts(demo: Bundle, reads: list[str], member: str, expected: bool, variant: Any3) -> None:  # fmt: skip
    bundle = variant()
    object.__setattr__(bundle.manifest, "reads", {"e": tuple(reads)})
    assert bool(read_members(bundle, "e", [member])) is expected
    assert read_members(bundle, "other", [member]) == [member]


def test_lines_of_opa_are_read_too(tmp_path: Path, practice: Any3, candidate: Any3) -> None:
    path = tmp_path / "opa.jsonl"
    event = {
        "decision_id": "d",
        "path": "policies/zeta/authz/decision",
        "input": practice(),
        "result": {"allow": False, "reasons": {"Some text": True}},
        "bundles": {"authz": {"revision": "r"}},
        "timestamp": "2026-01-01T00:00:00Z",
    }
    other = {**event, "path": "system/log", "decision_id": "x"}
    broken = "{"
    missing = {"decision_id": "y", "path": "policies/zeta/authz/decision"}
    error = {**event, "result": None, "decision_id": "e"}
    path.write_text(
        "\n".join([json.dumps(event), "", json.dumps(other), broken, json.dumps(missing), json.dumps(error)])
    )
    lines = list(read_log(path))
    assert [type(line) for line in lines] == [Recorded, Unreadable, Unreadable, Unreadable, Recorded]
    first = lines[0]
    assert isinstance(first, Recorded)
    assert first.decision is not None
    assert first.decision.revision == "r"
    outcome = replay(lines, candidate())
    assert outcome.counts == {"newly_allow": 1, "unreadable": 3, "newly_answered": 1}


def test_a_seal_that_does_not_open_is_unreadable_not_unchanged(log: Path, candidate: Any3) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    assert replay(read_log(log, key=other), candidate()).counts == {"unreadable": 3}


def test_networks_come_back_with_an_address_that_was_written(tmp_path: Path, practice: Any3) -> None:
    document = practice()
    prefixes = document["authorization_request"].pop("ip_prefixes")
    path = tmp_path / "log.jsonl"
    event = {"question": "token", "input": document, "erased": ["/input/authorization_request/ip_prefixes"]}
    path.write_text(json.dumps(event))
    (line,) = read_log(path)
    assert isinstance(line, Recorded)
    assert line.hidden == ()
    assert line.document["authorization_request"]["ip_prefixes"] == prefixes  # type: ignore[index, call-overload]


def test_a_log_that_is_not_there_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        list(read_log(tmp_path / "none"))


def test_equal_bundles_have_no_difference(demo: Bundle) -> None:
    assert compare(demo, demo).equal


def test_every_changed_entry_is_found(demo: Bundle, variant: Any3) -> None:
    def change(data: dict[str, Any]) -> None:
        data["scopes"]["allowed"]["x"] = "X"
        data["lifetimes"]["access_token"] = 60
        data["users"]["allow_only"] = 0
        del data["professions"]["allowed"]["1.2.276.0.76.4.50"]

    found = compare(demo, variant(change, revision="new"))
    assert {("/".join(each.path), each.kind, each.before, each.after) for each in found.data} == {
        ("scopes/allowed/x", "added", None, "X"),
        ("lifetimes/access_token", "changed", 300, 60),
        ("users/allow_only", "changed", False, 0),
        ("professions/allowed/1.2.276.0.76.4.50", "removed", "Betriebsstätte Arzt", None),
    }
    assert found.revisions == ("demo-1", "new")
    assert not found.files
    assert not found.reasons


def test_changed_rules_are_found_by_file_and_reason() -> None:
    found = compare(open_bundle("package:demo").bundle, open_bundle("package:template").bundle)
    assert found.files["authz.rego"] == "changed"
    assert found.files["request.rego"] == "removed"
    assert found.reasons["level_too_low"] == "added"
