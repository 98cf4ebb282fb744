"""The files that a configuration names: whether they are there, can be read, and are kept from others."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pydantic import BaseModel

from zeta_guard.config.guard import GuardConfig
from zeta_guard.config.rules import Notice
from zeta_guard.errors import ConfigurationError

FOLDERS: Final = frozenset({"authorization_server.signing_keys", "trust.directory"})
WRITTEN: Final = frozenset({"state_file", "admin_socket", "directory", "file"})
"""Last names of settings whose file the guard makes itself (``trust.directory`` and ``trust.tsl.file`` are read)."""

SECRET: Final = ("secret_files", "private_key_file", "signing_key_file", "password_file", "token_file")

_REMEDIES: Final = {
    "secret_files": "Make one with: openssl rand -hex 32 > FILE && chmod 600 FILE",
    "authorization_server.signing_keys": "Make a key with: zeta-guard keys rotate --directory DIR",
    "tls.certificate_file": "Put the certificate of your CA there, leaf first.",
}


def file_mistakes(config: GuardConfig) -> list[ConfigurationError]:
    """Files that are missing, unreadable or of the wrong kind."""
    found: list[ConfigurationError] = []
    for path, file in _files(config, ""):
        mistake = _written(path, file) if _is_written(path) else _read(path, file)
        if mistake is not None:
            found.append(mistake)
    return found


def file_notices(config: GuardConfig) -> list[Notice]:
    """Secrets that everybody on this machine can read."""
    found: list[Notice] = []
    for path, file in _files(config, ""):
        if not path.split("[")[0].endswith(SECRET) and path not in FOLDERS:
            continue
        targets = _keys_in(file) if path == "authorization_server.signing_keys" else [file]
        for target in targets:
            if path != "trust.directory" and _mode(target) & stat.S_IRWXO:
                found.append(Notice(path, f"{target.name} is open to every user here", f"chmod o-rwx {target}"))
    return found


def _files(value: object, path: str) -> Iterator[tuple[str, Path]]:
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _files(getattr(value, name), f"{path}.{name}" if path else name)
    elif isinstance(value, tuple):
        for index, inner in enumerate(value):
            yield from _files(inner, f"{path}[{index}]")
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _files(inner, f"{path}.{name}")
    elif isinstance(value, Path):
        yield path, value


def _is_written(path: str) -> bool:
    return path.rsplit(".", 1)[-1] in WRITTEN and path not in FOLDERS and path != "trust.tsl.file"


def _read(path: str, file: Path) -> ConfigurationError | None:
    folder = path in FOLDERS
    expected = "a readable folder" if folder else "a readable file"
    remedy = _REMEDIES.get(path.split("[")[0], "")
    if not file.exists():
        remedy = remedy or "Put it there, or correct the path (it counts from the configuration file)."
        return ConfigurationError(path, f"{file} does not exist", expected, remedy)
    if file.is_dir() != folder:
        return ConfigurationError(path, f"{file} is {'a folder' if file.is_dir() else 'no folder'}", expected, remedy)
    if not os.access(file, os.R_OK | os.X_OK if folder else os.R_OK):
        return ConfigurationError(path, f"{file} cannot be read by this user", expected, "Correct its owner or mode.")
    return None


def _written(path: str, file: Path) -> ConfigurationError | None:
    parent = file if file.is_dir() else file.parent
    while not parent.exists() and path == "audit.directory":
        parent = parent.parent
    if parent.is_dir() and os.access(parent, os.W_OK | os.X_OK):
        return None
    seen = f"{parent} does not exist" if not parent.exists() else f"{parent} cannot be written by this user"
    return ConfigurationError(path, seen, "a place where the guard may write", "Make the folder, or correct its owner.")


def _keys_in(folder: Path) -> list[Path]:
    try:
        return sorted(file for file in folder.iterdir() if file.suffix in (".pem", ".p12", ".pfx"))
    except OSError:
        return []


def _mode(file: Path) -> int:
    try:
        return stat.S_IMODE(file.stat().st_mode)
    except OSError:
        return 0
