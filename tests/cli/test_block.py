"""``zeta-guard block`` against a running guard."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from zeta_guard.cli.admin_output import duration

TELEMATIK_ID = "1-2087654321"


def test_an_institution_is_blocked_listed_and_let_in_again(guard: Any, process: Any) -> None:
    place = ("--config", guard.config)
    client = guard.login("other_institution")
    added = process("block", "add", "institution", TELEMATIK_ID, "--for", "2h", "--note", "card stolen", *place)
    assert added.status == 0, added.err
    assert added.out.startswith("blocked institution ")
    assert "\nended " in added.out
    assert "no live session" not in added.err
    assert guard.do(client.send("GET", "/whoami")).status == 401
    listed = process("block", "list", *place)
    assert "card stolen" in listed.out
    assert TELEMATIK_ID not in listed.out
    lifted = process("block", "remove", "institution", "-", *place, stdin=f"{TELEMATIK_ID}\n")
    assert (lifted.status, lifted.out) == (0, "lifted\n")
    assert process("block", "remove", "institution", TELEMATIK_ID, *place).status == 1
    guard.do(client.login())
    assert guard.do(client.send("GET", "/whoami")).status == 200


def test_an_institution_may_be_named_by_its_pseudonym(guard: Any, zeta_guard: Any) -> None:
    place = ("--socket", guard.socket, "--json")
    added = zeta_guard("block", "add", "institution", "1-999", *place).json
    (block,) = added["blocks"]
    assert block["until"] - block["since"] == 86_400
    assert added["ended_sessions"] == 0
    lifted = zeta_guard("block", "remove", "institution", block["identifier"], "--pseudonym", *place)
    assert (lifted.status, lifted.json) == (0, {"removed": True})


def test_a_client_is_blocked_by_its_id(guard: Any, zeta_guard: Any) -> None:
    client = guard.login()
    subject = ("client", client.state.client_id, "--socket", guard.socket)
    assert zeta_guard("block", "add", *subject).status == 0
    assert guard.do(client.send("GET", "/whoami")).status == 401
    assert zeta_guard("block", "remove", *subject).status == 0
    assert guard.do(client.send("GET", "/whoami")).status == 200


def test_ended_sessions_are_listed_when_asked_for_and_stay_ended(guard: Any, zeta_guard: Any) -> None:
    place = ("--socket", guard.socket)
    zeta_guard("sessions", "end", "some-session", *place)
    assert "some-session" not in zeta_guard("block", "list", *place).out
    assert "some-session" in zeta_guard("block", "list", "--all", *place).out
    lifted = zeta_guard("block", "remove", "session", "some-session", *place)
    assert lifted.status == 1
    assert "stays ended" in lifted.err


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("15m", 900), ("12h", 43_200), ("7d", 604_800), ("5", 5)])
def test_durations_have_units(text: str, seconds: int) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0s", "-1s", "1w", "367d", "1.5h", "h", "٣s", "999999999d"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        duration(text)


@pytest.mark.parametrize(
    "arguments", [("add", "everybody", "x"), ("add", "client"), ("add", "client", "x", "--for", "0s")]
)
def test_wrong_usage_is_named(zeta_guard: Any, arguments: tuple[str, ...]) -> None:
    assert zeta_guard("block", *arguments, "--socket", "/s").status == 2
