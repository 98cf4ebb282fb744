"""``zeta-guard policy …`` as people and scripts use it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from zeta_guard.cli.main import main
from zeta_guard.policy.bundle import read_archive
from zeta_guard.policy.document import Client, Institution, token_document
from zeta_guard.policy.fetched import Fetched
from zeta_guard.policy.kept_bundle import KeptBundle
from zeta_guard.policy.source import PACKAGED

POLICIES = Path(__file__).parents[2] / "policies"
DEMO = PACKAGED / "demo.tar.gz"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _opa_where_marked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.get_closest_marker("opa") is None:
        return
    named = os.environ.get("ZETA_GUARD_OPA", "opa")
    found = shutil.which(named) or shutil.which(str(Path.home() / "go" / "bin" / "opa"))
    if found is None:
        if "opa" in os.environ.get("ZETA_GUARD_REQUIRE", ""):
            pytest.fail("opa is required and not there")
        pytest.skip("needs the opa program")
    monkeypatch.setenv("ZETA_GUARD_OPA", found)


@pytest.fixture
def policy(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs ``zeta-guard policy …``: exit status, standard output, standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        status = main(["policy", *map(str, arguments)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture
def question(tmp_path: Path) -> Callable[..., Path]:
    """Writes a question that the demo answers with yes; changes are arguments of ``token_document``."""

    def write(**changes: Any) -> Path:
        arguments: dict[str, Any] = {
            "grant_type": "refresh_token",
            "scopes": ["popp"],
            "audience": ["https://guard.example/"],
            "resource": None,
            "client_address": ip_address("192.0.2.10"),
            "previous_address": None,
            "acr": "gematik-ehealth-loa-high",
            "amr": [],
            "client": Client("client-1", "registered", "linux", "software", "demo_client", "0.1.0"),
            "institution": Institution("1-2012345678", "1.2.276.0.76.4.50", "Praxis Muster"),
        }
        path = tmp_path / "question.json"
        path.write_text(json.dumps(token_document(**{**arguments, **changes})))
        return path

    return write


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """A private and its public key file."""
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = tmp_path / "key.pem", tmp_path / "key.pub.pem"
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


def test_eval_says_yes_with_status_0_and_no_with_status_1(policy: Run, question: Any) -> None:
    status, out, _ = policy("eval", question())
    assert status == 0
    assert out.startswith("allow")
    status, out, _ = policy("eval", question(scopes=["x"]), "--json")
    assert status == 1
    document = json.loads(out)
    assert document["allow"] is False
    assert document["reasons"][0]["code"] == "scope_not_allowed"


def test_eval_adds_the_networks_of_an_address_as_the_guard_would(policy: Run, question: Any) -> None:
    path = question()
    document = json.loads(path.read_text())
    del document["authorization_request"]["ip_prefixes"]
    path.write_text(json.dumps({"input": document}))
    assert policy("eval", path)[0] == 0
    document["authorization_request"]["ip_address"] = "nonsense"
    path.write_text(json.dumps(document))
    status, out, _ = policy("eval", path)
    assert status == 1
    assert "address_unknown" in out


def test_eval_asks_the_request_question_by_the_documents_members(policy: Run, tmp_path: Path) -> None:
    path = tmp_path / "request.json"
    path.write_text('{"request": {"method": "GET", "ip_address": "192.0.2.1"}, "user": {"identifier": "1-2"}}')
    assert policy("eval", path)[0] == 0
    assert policy("eval", path, "--question", "token")[0] == 1


@pytest.mark.parametrize("content", ["", "[]", "{", "1"])
def test_an_input_that_is_none_is_wrong_usage(policy: Run, tmp_path: Path, content: str) -> None:
    path = tmp_path / "question.json"
    path.write_text(content)
    status, _, err = policy("eval", path)
    assert status == 2
    assert err.startswith("INPUT:")


def test_files_that_are_not_there_are_wrong_usage(policy: Run, question: Any, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert policy("eval", missing)[0] == 2
    assert policy("eval", question(), "--bundle", missing)[0] == 2
    assert policy("verify", missing)[0] == 2
    assert policy("replay", missing, "--bundle", "package:demo")[0] == 2
    assert policy("shadow", "--log", missing)[0] == 2


@pytest.mark.opa
def test_a_bundle_is_built_signed_and_verified(policy: Run, tmp_path: Path, keys: tuple[Path, Path], question: Any) -> None:  # fmt: skip
    private, public = keys
    built = tmp_path / "demo.tar.gz"
    status, out, _ = policy(
        "build", POLICIES / "demo", "-o", built, "--sign", private, "--key-id", "op", "--order", 7, "--json"
    )
    assert status == 0
    assert json.loads(out)["order"] == 7
    assert json.loads(out)["signed_by"] == ["op"]
    status, out, _ = policy("verify", built, "--key", f"op={public}")
    assert status == 0
    assert "signed by    op" in out
    status, _, err = policy("verify", built, "--key", f"other={public}")
    assert status == 1
    assert "key id that is not configured" in err
    assert policy("eval", question(), "--bundle", built)[0] == 0


def test_a_bundle_is_signed_again(policy: Run, tmp_path: Path, keys: tuple[Path, Path]) -> None:
    private, public = keys
    out = tmp_path / "signed.tar.gz"
    assert policy("sign", DEMO, "-o", out, "--sign", private, "--key-id", "a", "--scope", "s")[0] == 0
    assert policy("verify", out, "--key", f"a={public}", "--scope", "s")[0] == 0
    assert policy("verify", out, "--key", f"a={public}")[0] == 1
    assert policy("sign", out, "--sign", private, "--key-id", "b")[0] == 0
    assert policy("verify", out, "--key", f"b={public}")[0] == 0


def test_the_last_good_bundle_of_a_guard_can_be_asked(policy: Run, tmp_path: Path, question: Any) -> None:
    state = tmp_path / "state"
    fetched = Fetched(read_archive(DEMO.read_bytes()), DEMO.read_bytes())
    KeptBundle(state, "policy.token.state_file").save(fetched, None, 1_700_000_000.0)
    status, out, _ = policy("eval", question(), "--bundle", state)
    assert (status, "(bundle demo-1" in out) == (0, True)
    state.write_text("{}")
    assert policy("eval", question(), "--bundle", state)[0] == 2


def test_each_key_needs_its_id(policy: Run, tmp_path: Path, keys: tuple[Path, Path]) -> None:
    private, public = keys
    out = tmp_path / "x.tar.gz"
    status, _, err = policy("sign", DEMO, "-o", out, "--sign", private, "--sign", private, "--key-id", "a")
    assert status == 2
    assert "--key-id" in err
    assert policy("verify", DEMO, "--key", str(public))[0] == 2
    assert policy("sign", DEMO, "-o", out, "--sign", public, "--key-id", "a")[0] == 2
    assert not out.exists()


@pytest.mark.opa
def test_a_publishers_signature_is_demanded(policy: Run, tmp_path: Path, keys: tuple[Path, Path]) -> None:
    private, public = keys
    published, built = tmp_path / "published.tar.gz", tmp_path / "built.tar.gz"
    policy("sign", DEMO, "-o", published, "--sign", private, "--key-id", "author")
    status, out, _ = policy("build", published, "-o", built, "--publisher", f"author={public}", "--json")
    assert status == 0
    assert json.loads(out)["publishers"] == ["author"]
    assert policy("build", published, "-o", built, "--publisher", f"other={public}")[0] == 1
    assert policy("build", DEMO, "-o", built, "--publisher", f"author={public}")[0] == 1


@pytest.mark.opa
@pytest.mark.parametrize("name", ["demo", "vsdm", "popp", "template"])
def test_the_policies_pass_their_tests_with_full_coverage(policy: Run, name: str) -> None:
    status, out, err = policy("test", POLICIES / name, "--json")
    assert status == 0, err
    (bundle,) = json.loads(out)["bundles"]
    assert bundle["coverage"] == 100
    assert bundle["passed"] > 50


@pytest.mark.opa
def test_what_is_wrong_with_a_policy_is_said_with_its_place(policy: Run, tmp_path: Path) -> None:
    for name in ("demo", "lib"):
        shutil.copytree(POLICIES / name, tmp_path / name)
    rules = tmp_path / "lib" / "scope.rego"
    good = rules.read_text()
    rules.write_text(good + "\nuncovered if input.never\n")
    status, _, err = policy("test", tmp_path / "demo")
    assert status == 1
    assert "lib/scope.rego" in err
    assert "not covered" in err
    rules.write_text(good.replace('"scope_missing",', '"other",'))
    status, _, err = policy("test", tmp_path / "demo")
    assert status == 1
    assert "lib/scope_test.rego" in err
    rules.write_text(good.replace("\treason := {", "    reason := {", 1))
    assert "opa fmt" in policy("test", tmp_path / "demo")[2]
    rules.write_text(good + "\nnonsense(\n")
    assert policy("test", tmp_path / "demo")[0] == 1
    rules.write_text(good)
    assert policy("test", tmp_path / "demo", "--run", "test_a_practice")[0] == 0
    assert policy("test", tmp_path / "demo", "--run", "test_nothing_at_all")[0] == 1


@pytest.mark.opa
def test_explain_names_rule_and_values(policy: Run, question: Any) -> None:
    path = question(institution=Institution("1-2", "1.2.276.0.76.4.58", "X"))
    status, out, _ = policy("explain", path)
    assert status == 1
    assert "profession_not_allowed" in out
    assert "rule lib/profession.rego:" in out
    assert 'saw input.user_info.professionOID = "1.2.276.0.76.4.58"' in out
    status, out, _ = policy("explain", path, "--json")
    assert json.loads(out)["reasons"][0]["seen"][0]["failed"] is True


def write_log(path: Path, question: Path, **members: Any) -> Path:
    event = {
        "decision_id": "d-1",
        "req_id": "r-1",
        "question": "token",
        "path": "policies/zeta/authz/decision",
        "timestamp": "2026-01-01T00:00:00.000Z",
        "bundles": {"active": {"revision": "demo-0"}},
        "input": json.loads(question.read_text()),
        "result": {"allow": False, "reasons": [{"code": "scope_not_allowed", "message": "No"}]},
        **members,
    }
    path.write_text(json.dumps(event) + "\n")
    return path


def test_explain_finds_a_decision_by_its_id_or_the_request_id(policy: Run, question: Any, tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.jsonl", question(scopes=["x"]))
    for name in ("d-1", "r-1"):
        status, out, err = policy("explain", name, "--log", log)
        assert status == 1
        assert "scope_not_allowed" in out
        assert "recorded: deny (scope_not_allowed)" in err
        assert "revision demo-0" in err
    assert policy("explain", "d-2", "--log", log)[0] == 2


def test_replay_says_what_would_change(policy: Run, question: Any, tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.jsonl", question())
    status, out, _ = policy("replay", log, "--bundle", "package:demo")
    assert status == 1
    assert "would newly be allowed" in out
    status, out, _ = policy("replay", log, "--bundle", "package:demo", "--json")
    assert json.loads(out)["counts"] == {"newly_allow": 1}
    write_log(log, question(), result={"allow": True, "ttl": {"access_token": 300, "refresh_token": 86400}})
    assert policy("replay", log, "--bundle", "package:demo")[0] == 0
    log.write_text("")
    assert "no decisions" in policy("replay", log, "--bundle", "package:demo")[1]


def test_replay_of_a_masked_log_shows_what_can_be_seen(policy: Run, question: Any, tmp_path: Path) -> None:
    path = question()
    document = json.loads(path.read_text())
    del document["authorization_request"]["ip_address"]
    path.write_text(json.dumps(document))
    log = write_log(tmp_path / "log.jsonl", path, erased=["/input/authorization_request/ip_address"])
    status, out, _ = policy("replay", log, "--bundle", "package:demo")
    assert status == 1
    assert "       1  undecidable" in out
    first, _, second = out.partition("of the undecidable, if no masked address or institution is on a list:\n")
    assert "newly" not in first
    assert "       1  would newly be allowed\n       1  newly_allow by scope_not_allowed\n" in second


def test_diff_shows_data_and_rules(policy: Run) -> None:
    assert policy("diff", "package:demo", DEMO)[0] == 0
    status, out, _ = policy("diff", "package:demo", "package:vsdm")
    assert status == 1
    assert "data removed: scopes/allowed/popp" in out
    status, out, _ = policy("diff", "package:demo", "package:template", "--json")
    assert json.loads(out)["reasons"]["level_too_low"] == "added"


def test_shadow_is_summed_up_by_rule_and_product(policy: Run, question: Any, tmp_path: Path) -> None:
    shadow = {"revision": "new", "difference": "newly_deny", "allow": False, "reasons": ["user_blocked"]}
    result = {"allow": True}
    log = write_log(tmp_path / "log.jsonl", question(), shadow=shadow, result=result)
    status, out, _ = policy("shadow", "--log", log)
    assert status == 1
    assert "would newly deny 1, newly allow 0" in out
    assert "newly_deny by user_blocked  demo_client 0.1.0" in out
    status, out, _ = policy("shadow", "--log", log, "--json", "--revision", "other")
    assert (status, json.loads(out)["differences"]) == (0, {})


def test_names_that_a_client_chose_cannot_write_to_the_terminal(policy: Run, question: Any, tmp_path: Path) -> None:
    path = question()
    document = json.loads(path.read_text())
    document["client_registration_data"]["product_id"] = "x\x1b[2J\x9b"
    path.write_text(json.dumps(document))
    log = write_log(tmp_path / "log.jsonl", path, shadow={"difference": "newly_deny", "reasons": ["a\x07"]})
    out = policy("shadow", "--log", log)[1]
    assert "newly_deny" in out
    assert all(each.isprintable() or each == "\n" for each in out)


@pytest.mark.parametrize("reasons", [None, 1, "text", [1], {"a": True}])
def test_a_shadow_entry_of_another_form_is_counted_all_the_same(
    policy: Run, question: Any, tmp_path: Path, reasons: Any
) -> None:
    log = write_log(tmp_path / "log.jsonl", question(), shadow={"difference": "newly_deny", "reasons": reasons})
    assert "would newly deny 1" in policy("shadow", "--log", log)[1]


@pytest.mark.parametrize("action", ["test", "eval", "explain", "replay", "diff", "build", "sign", "verify", "shadow"])
def test_every_action_helps_with_an_example(policy: Run, capsys: pytest.CaptureFixture[str], action: str) -> None:
    with pytest.raises(SystemExit) as left:
        policy(action, "--help")
    assert left.value.code == 0
    assert "zeta-guard policy" in capsys.readouterr().out.split("example", 1)[1]
