"""``zeta-guard keys`` through the socket and in the folder."""

from __future__ import annotations

import stat
import time
from pathlib import Path
from typing import Any


def test_the_first_key_signs_at_once_and_the_next_one_later(process: Any, tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    first = process("keys", "rotate", "--directory", folder, "--json")
    assert first.status == 0, first.err
    second = process("keys", "rotate", "--directory", folder, "--lead", "1h", "--json")
    assert first.json["signs_from"] <= time.time()
    assert second.json["signs_from"] > time.time() + 3500
    files = sorted(folder.iterdir())
    assert [file.name for file in files] == [first.json["file"], second.json["file"]]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    listed = process("keys", "list", "--directory", folder)
    assert [line.split()[1] for line in listed.out.splitlines()[1:]] == ["current", "next"]


def test_no_key_is_added_to_a_folder_that_cannot_be_read(zeta_guard: Any, tmp_path: Path) -> None:
    (tmp_path / "2026-01-01T000000Z.pem").write_text("no key")
    outcome = zeta_guard("keys", "rotate", "--directory", tmp_path)
    assert outcome.status == 2
    assert "no private key" in outcome.err
    assert len(list(tmp_path.iterdir())) == 1


def test_a_running_guard_rotates_its_keys(guard: Any, zeta_guard: Any) -> None:
    place = ("--config", guard.config)
    before = zeta_guard("keys", "list", *place, "--json").json["keys"]
    written = zeta_guard("keys", "rotate", *place)
    assert written.status == 0
    after = zeta_guard("keys", "list", *place, "--json").json["keys"]
    assert len(after) == len(before) + 1
    assert after[-1]["state"] == "next"
    assert after[-1]["kid"] in written.out
    assert after[-1]["signs_from"] > time.time() + 600
    client = guard.login()
    assert guard.do(client.send("GET", "/whoami")).status == 200


def test_a_folder_of_pkcs12_keys_is_listed_and_rotated_with_its_password(zeta_guard: Any, tmp_path: Path) -> None:
    folder, secret = tmp_path / "keys", tmp_path / "password"
    secret.write_text("correct horse\n")
    place = ("--directory", folder, "--password-file", secret)
    first = zeta_guard("keys", "rotate", *place, "--json")
    assert first.status == 0, first.err
    second = zeta_guard("keys", "rotate", *place, "--json")
    assert [first.json["file"][-4:], second.json["file"][-4:]] == [".p12", ".p12"]
    listed = zeta_guard("keys", "list", *place)
    assert [line.split()[1] for line in listed.out.splitlines()[1:]] == ["current", "next"]


def test_a_folder_of_pkcs12_keys_needs_its_password(zeta_guard: Any, tmp_path: Path) -> None:
    folder, secret = tmp_path / "keys", tmp_path / "password"
    secret.write_text("correct horse")
    assert zeta_guard("keys", "rotate", "--directory", folder, "--password-file", secret).status == 0
    secret.write_text("wrong horse")
    for place in (("--directory", folder), ("--directory", folder, "--password-file", secret)):
        for action in ("list", "rotate"):
            outcome = zeta_guard("keys", action, *place)
            assert outcome.status == 2
            assert "password" in outcome.err
    assert len(list(folder.iterdir())) == 1


def test_wrong_usage_is_named(zeta_guard: Any, tmp_path: Path) -> None:
    assert zeta_guard("keys", "list").status == 2
    assert zeta_guard("keys", "list", "--directory", tmp_path / "none").status == 2
    assert zeta_guard("keys", "rotate", "--lead", "1h", "--socket", "/s").status == 2
    assert zeta_guard("keys", "rotate", "--directory", tmp_path, "--socket", "/s").status == 2
    for action in ("list", "rotate"):
        outcome = zeta_guard("keys", action, "--socket", "/s", "--password-file", tmp_path / "password")
        assert outcome.status == 2
        assert "--password-file" in outcome.err
