"""The files that a configuration names."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zeta_guard.config.files import file_mistakes, file_notices
from zeta_guard.config.guard import GuardConfig

Document = dict[str, Any]
Load = Callable[[Document], GuardConfig]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Everything that the document names is there."""
    for name in ("keys/signing", "tls", "trust"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("keys/secret", "keys/signing/2026-01-01T000000Z.pem", "tls/guard.pem", "tls/guard.key"):
        (tmp_path / name).write_text("x")
        (tmp_path / name).chmod(0o600)
    return tmp_path


def paths(config: GuardConfig) -> list[str]:
    return [error.path for error in file_mistakes(config)]


def test_files_that_are_there_are_no_mistakes(document: Document, load: Load, folder: Path) -> None:
    assert paths(load(document)) == []
    assert file_notices(load(document)) == []


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("keys/secret", "secret_files[0]"),
        ("tls/guard.pem", "tls.certificate_file"),
        ("tls/guard.key", "tls.private_key_file"),
    ],
)
def test_missing_file_is_named(document: Document, load: Load, folder: Path, name: str, path: str) -> None:
    (folder / name).unlink()
    (error,) = file_mistakes(load(document))
    assert error.path == path
    assert "does not exist" in error.seen
    assert error.remedy


def test_missing_folders_are_named(document: Document, load: Load, folder: Path) -> None:
    (folder / "trust").rmdir()
    (folder / "keys/signing").rename(folder / "elsewhere")
    assert paths(load(document)) == ["authorization_server.signing_keys", "trust.directory"]


def test_file_where_a_folder_belongs_and_the_reverse_are_named(document: Document, load: Load, folder: Path) -> None:
    document["trust"]["directory"] = "keys/secret"
    document["secret_files"] = ["trust"]
    assert paths(load(document)) == ["secret_files[0]", "trust.directory"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file_is_named(document: Document, load: Load, folder: Path) -> None:
    (folder / "keys/secret").chmod(0)
    assert paths(load(document)) == ["secret_files[0]"]


def test_what_the_guard_writes_needs_a_folder_only(document: Document, load: Load, folder: Path) -> None:
    document["ops"] = {"admin_socket": "admin.sock"}
    document["audit"] = {"directory": "var/audit"}
    document["policy"]["log"] = {"file": "decisions.log"}
    document["policy"]["token"]["state_file"] = "state"
    assert paths(load(document)) == []
    document["policy"]["log"] = {"file": "absent/decisions.log"}
    assert paths(load(document)) == ["policy.log.file"]


def test_trust_list_file_is_read_and_not_written(document: Document, load: Load, folder: Path) -> None:
    document["trust"] = {"tsl": {"file": "TSL.xml", "anchors": ["trust/ca.pem"]}}
    assert paths(load(document)) == ["trust.tsl.file", "trust.tsl.anchors[0]"]


def test_secrets_open_to_everybody_are_noticed(document: Document, load: Load, folder: Path) -> None:
    names = ("keys/secret", "keys/signing/2026-01-01T000000Z.pem", "tls/guard.key")
    for name in (*names, "tls/guard.pem"):
        (folder / name).chmod(0o644)
    notices = file_notices(load(document))
    assert [notice.path for notice in notices] == [
        "tls.private_key_file",
        "secret_files[0]",
        "authorization_server.signing_keys",
    ]
    assert all("chmod" in notice.remedy for notice in notices)
