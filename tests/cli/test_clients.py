"""``zeta-guard clients`` against a running guard."""

from __future__ import annotations

import io
from typing import Any

import pytest

TELEMATIK_ID = "1-2012345678"


def test_the_clients_of_an_institution_are_listed(guard: Any, zeta_guard: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    client, other = guard.login(), guard.login("other_institution")
    listed = zeta_guard("clients", "list", "--institution", TELEMATIK_ID, "--config", guard.config)
    assert listed.status == 0, listed.err
    head, *lines = listed.out.splitlines()
    assert head.split() == ["CLIENT", "STATE", "PLATFORM", "REGISTERED", "LAST", "USED", "NAME"]
    assert client.state.client_id in {line.split()[0] for line in lines}
    assert other.state.client_id not in listed.out
    assert TELEMATIK_ID not in listed.out
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{TELEMATIK_ID}\n"))
    document = zeta_guard("clients", "list", "--institution", "-", "--socket", guard.socket, "--json").json
    assert document["total"] == len(document["clients"]) == len(lines)


def test_an_institution_that_a_list_names_is_found_by_that_name(guard: Any, zeta_guard: Any) -> None:
    client = guard.login()
    place = ("--socket", guard.socket, "--json")
    sessions = zeta_guard("sessions", "list", "--client", client.state.client_id, *place).json["sessions"]
    document = zeta_guard("clients", "list", "--pseudonym", sessions[0]["institution"], *place).json
    assert client.state.client_id in {one["client_id"] for one in document["clients"]}


def test_nobody_has_no_clients(guard: Any, zeta_guard: Any) -> None:
    listed = zeta_guard("clients", "list", "--institution", "9-9", "--socket", guard.socket)
    assert (listed.status, listed.out, listed.err) == (0, "", "0 clients\n")


@pytest.mark.parametrize("arguments", [("list",), ("list", "--institution", "1-2"), ()])
def test_wrong_usage_is_named(zeta_guard: Any, arguments: tuple[str, ...]) -> None:
    assert zeta_guard("clients", *arguments).status == 2
