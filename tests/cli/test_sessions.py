"""``zeta-guard sessions`` against a running guard, and where none runs."""

from __future__ import annotations

import io
import socket
from pathlib import Path
from typing import Any

import pytest

TELEMATIK_ID = "1-2012345678"


def test_sessions_are_listed_and_ended_by_a_process_of_its_own(guard: Any, process: Any) -> None:
    client = guard.login()
    listed = process("sessions", "list", "--config", guard.config, "--client", client.state.client_id)
    assert listed.status == 0
    head, line = listed.out.splitlines()
    assert head.split() == ["SESSION", "CLIENT", "INSTITUTION", "PRODUCT", "STARTED", "ENDS"]
    session = line.split()[0]
    assert "1 session, 1 shown" in listed.err
    ended = process("sessions", "end", session, "--socket", guard.socket)
    assert (ended.status, ended.out) == (0, f"{session}: ended\n")
    again = process("sessions", "end", session, "--socket", guard.socket)
    assert (again.status, again.out) == (1, f"{session}: not known; blocked all the same\n")
    assert guard.do(client.send("GET", "/whoami")).status == 401


def test_sessions_of_an_institution_are_listed_and_ended(
    guard: Any, zeta_guard: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = ("--socket", guard.socket, "--json")
    zeta_guard("sessions", "end", "--institution", TELEMATIK_ID, *place)
    client, other = guard.login(), guard.login("other_institution")
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{TELEMATIK_ID}\n"))
    listed = zeta_guard("sessions", "list", "--institution", "-", *place).json
    assert [one["client_id"] for one in listed["sessions"]] == [client.state.client_id]
    name = listed["sessions"][0]["institution"]
    assert zeta_guard("sessions", "list", "--pseudonym", name, *place).json == listed
    assert zeta_guard("sessions", "end", "--institution", TELEMATIK_ID, *place).json["ended"] == 1
    assert zeta_guard("sessions", "end", "--pseudonym", name, *place).json["ended"] == 0
    assert guard.do(client.send("GET", "/whoami")).status == 401
    assert guard.do(other.send("GET", "/whoami")).status == 200


def test_several_sessions_are_ended_at_once(guard: Any, zeta_guard: Any) -> None:
    client = guard.login()
    listed = zeta_guard("sessions", "list", "--client", client.state.client_id, "--socket", guard.socket, "--json")
    session = listed.json["sessions"][0]["session_id"]
    ended = zeta_guard("sessions", "end", session, "nobodys", "--socket", guard.socket, "--json")
    assert (ended.status, ended.json) == (1, {"ended": 1, "sessions": {session: True, "nobodys": False}})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("list",), "--config FILE or --socket PATH"),
        (("list", "--config", "/no/such/file"), "no such file"),
        (("end", "--socket", "/s"), "nothing to end"),
        (("end", "x", "--institution", "1-2", "--socket", "/s"), "both sessions and an institution"),
        (("list", "--config", "a", "--socket", "b"), "not allowed with"),
        (("end", "--institution", " ", "--socket", "/s"), "TELEMATIK_ID: empty"),
    ],
)
def test_wrong_usage_is_named(zeta_guard: Any, arguments: tuple[str, ...], words: str) -> None:
    outcome = zeta_guard("sessions", *arguments)
    assert outcome.status == 2
    assert words in outcome.err
    assert not outcome.out


def test_where_no_guard_listens_it_is_said(zeta_guard: Any, tmp_path: Path) -> None:
    dead = tmp_path / "dead.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(dead))
    for path in (tmp_path / "missing.sock", dead):
        outcome = zeta_guard("sessions", "list", "--socket", path)
        assert outcome.status == 1
        assert f"no guard listens at {path}" in outcome.err
        assert "zeta-guard serve" in outcome.err


def test_a_configuration_without_a_socket_says_how_to_add_one(zeta_guard: Any, tmp_path: Path) -> None:
    config = tmp_path / "guard.yaml"
    config.write_text("public_url: https://guard.example.de\n")
    outcome = zeta_guard("sessions", "list", "--config", config)
    assert outcome.status == 2
    assert "ops.admin_socket" in outcome.err


def test_a_mistake_elsewhere_in_the_configuration_keeps_nobody_from_acting(
    guard: Any, zeta_guard: Any, tmp_path: Path
) -> None:
    config = tmp_path / "guard.yaml"
    config.write_text(f"public_url: 7\nnonsense: true\nops: {{admin_socket: {guard.socket}}}\n")
    assert zeta_guard("sessions", "list", "--config", config).status == 0


def test_what_is_no_guard_is_not_believed(zeta_guard: Any, tmp_path: Path) -> None:
    import threading

    path = tmp_path / "other.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()

        def answer() -> None:
            connection, _ = other.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]")

        thread = threading.Thread(target=answer)
        thread.start()
        outcome = zeta_guard("sessions", "list", "--socket", path)
        thread.join()
    assert outcome.status == 1
    assert "is no guard" in outcome.err


@pytest.mark.parametrize("command", ["sessions", "keys", "block", "explain", "audit"])
def test_help_shows_an_example(zeta_guard: Any, command: str) -> None:
    outcome = zeta_guard(command, "--help")
    assert outcome.status == 0
    assert f"zeta-guard {command} " in outcome.out
    assert "xample" in outcome.out
