"""``zeta-guard explain`` against a running guard."""

from __future__ import annotations

from typing import Any

import pytest

from zeta_guard.cli.explain import next_step
from zeta_guard.client.errors import Refused


def test_a_request_id_leads_to_reason_and_decision(guard: Any, process: Any) -> None:
    with pytest.raises(Refused) as denied:
        guard.login("not_allowed")
    body = denied.value.answer.json()
    told = process("explain", str(body["request_id"]).lower(), "--config", guard.config)
    assert told.status == 0, told.err
    assert "refused by  authorization server\n" in told.out
    assert "stage       policy\n" in told.out
    assert "answer      403 access_denied\n" in told.out
    assert f"decision    {body['decision_id']}\n" in told.out
    reasons = body["reasons"]
    assert isinstance(reasons, dict)
    for reason in reasons:
        assert f"reason      {reason}\n" in told.out
    assert guard.stage.card("not_allowed").telematik_id not in told.out


def test_a_refusal_of_the_gateway_is_told_with_its_route(guard: Any, zeta_guard: Any) -> None:
    client = guard.login()
    answer = guard.do(client.send("GET", "/whoami", access_token="nonsense"))
    request_id = answer.json()["request_id"]
    place = ("--socket", guard.socket)
    told = zeta_guard("explain", request_id, *place, "--json").json
    assert told["found"]
    assert (told["door"], told["code"], told["status"]) == ("gateway", "invalid_token", 401)
    assert answer.error_description in zeta_guard("explain", request_id, *place).out
    latest = zeta_guard("explain", "--latest", "1", *place)
    assert request_id in latest.out
    assert zeta_guard("explain", "--latest", "1", *place, "--json").json["refusals"][0]["request_id"] == request_id


def test_a_request_that_was_not_refused_here_is_not_found(guard: Any, zeta_guard: Any) -> None:
    outcome = zeta_guard("explain", "01M828A3TQR5NR7FH71QHGGREY", "--socket", guard.socket, "--json")
    assert outcome.status == 1
    assert outcome.json == {"request_id": "01M828A3TQR5NR7FH71QHGGREY", "found": False}
    assert "request log" in outcome.err


@pytest.mark.parametrize("arguments", [(), ("x",), ("01M828A3TQR5NR7FH71QHGGREY", "--latest", "1"), ("../keys",)])
def test_wrong_usage_is_named(guard: Any, zeta_guard: Any, arguments: tuple[str, ...]) -> None:
    assert zeta_guard("explain", *arguments, "--socket", guard.socket).status == 2


LOCAL = {"engine": "embedded", "bundle": "package:demo", "decision_log": "/var/log/decisions.jsonl"}


@pytest.mark.parametrize(
    ("policy", "command", "notes"),
    [
        (LOCAL, "--log /var/log/decisions.jsonl --bundle package:demo", []),
        (
            {**LOCAL, "bundle": "oci://registry.example/p:1", "state_file": "/var/policy"},
            "--log /var/log/decisions.jsonl --bundle /var/policy",
            [],
        ),
        (
            {**LOCAL, "bundle": "https://host.example/p.tar.gz", "state_file": None},
            "--log /var/log/decisions.jsonl --bundle BUNDLE.tar.gz",
            ["BUNDLE.tar.gz is a copy of https://host.example/p.tar.gz"],
        ),
        (
            {**LOCAL, "engine": "opa", "bundle": None, "url": "http://127.0.0.1:8181"},
            "--log /var/log/decisions.jsonl --bundle BUNDLE.tar.gz",
            ["BUNDLE.tar.gz is what the OPA server at http://127.0.0.1:8181 has loaded"],
        ),
        (
            {**LOCAL, "sealed": True},
            "--log /var/log/decisions.jsonl --bundle package:demo --open-with KEY.pem",
            ["KEY.pem opens the sealed inputs of the log (the private half of policy.log.sealing_key_file)"],
        ),
    ],
)
def test_the_next_command_has_the_paths_of_the_running_guard(
    policy: dict[str, Any], command: str, notes: list[str]
) -> None:
    (_, rule), *others = next_step("d-1", policy)
    assert rule == f"zeta-guard policy explain d-1 {command}"
    assert [words for _, words in others] == notes
