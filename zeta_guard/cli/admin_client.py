"""The commands' way to the administration socket of a running guard."""

from __future__ import annotations

import argparse
import http.client
import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from zeta_guard.errors import ConfigurationError, GuardError

_SECONDS: Final = 15.0
_LARGEST_ANSWER: Final = 256 * 1024 * 1024


class AdminError(GuardError):
    """No guard answered, or it said no. ``status`` is the answer's, 0 where there was none."""

    def __init__(self, description: str, remedy: str = "", *, status: int = 0) -> None:
        super().__init__(description)
        self.remedy = remedy
        self.status: Final = status


def add_options(parser: argparse.ArgumentParser) -> None:
    """Where the guard is, and how to print."""
    where = parser.add_mutually_exclusive_group()
    add_place(where)
    add_json(parser)


def add_place(where: argparse._MutuallyExclusiveGroup) -> None:
    """``--config`` and ``--socket``."""
    where.add_argument("--config", type=Path, metavar="FILE", help="configuration of the guard (names the socket)")
    where.add_argument("--socket", type=Path, metavar="PATH", help="administration socket of the guard")


def add_json(parser: argparse.ArgumentParser) -> None:
    """``--json``."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def guard_of(args: argparse.Namespace) -> AdminClient:
    """The client for the guard that the arguments name. Raises ConfigurationError when they name none."""
    if args.socket is not None:
        return AdminClient(args.socket)
    if args.config is None:
        raise ConfigurationError(
            "--socket",
            "missing",
            "--config FILE or --socket PATH",
            "Name the configuration that the guard was started with, or its administration socket.",
        )
    # Only this one setting is read: a mistake elsewhere in the file must not keep anybody from blocking a stolen card.
    from zeta_guard.config.load import read_document

    ops = read_document(args.config).get("ops")
    path = ops.get("admin_socket") if isinstance(ops, dict) else None
    if not isinstance(path, str) or not path:
        raise ConfigurationError(
            "ops.admin_socket",
            "missing",
            "the path of a Unix socket",
            "Add it, e.g. 'ops: {admin_socket: admin.sock}', and restart the guard.",
        )
    return AdminClient(args.config.resolve().parent / path)


class AdminClient:
    """Asks over the Unix socket. Raises AdminError, or ConfigurationError where the guard names a mistake of its operator."""

    def __init__(self, path: Path) -> None:
        self._path: Final = path

    def get(self, path: str, query: Mapping[str, str | int | None] | None = None) -> dict[str, Any]:
        """Read something; members that are None are left out."""
        members = {name: value for name, value in (query or {}).items() if value is not None}
        return self._ask("GET", f"{path}?{urlencode(members)}" if members else path, None)

    def post(self, path: str, members: Mapping[str, object]) -> dict[str, Any]:
        """Do something; members that are None are left out."""
        body = {name: value for name, value in members.items() if value is not None}
        return self._ask("POST", path, json.dumps(body).encode())

    def _ask(self, method: str, target: str, body: bytes | None) -> dict[str, Any]:
        connection = _UnixConnection(self._path)
        try:
            headers = {"Content-Type": "application/json"} if body is not None else {}
            connection.request(method, target, body, headers)
            answer = connection.getresponse()
            status, raw = answer.status, answer.read(_LARGEST_ANSWER)
        except (FileNotFoundError, ConnectionRefusedError):
            raise AdminError(
                f"no guard listens at {self._path}",
                "Start it with 'zeta-guard serve', or name the socket of the running one with --socket.",
            ) from None
        except PermissionError:
            raise AdminError(
                f"{self._path} belongs to another user",
                "Run this command as the user that runs the guard (or as root).",
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise AdminError(
                f"the guard at {self._path} did not answer ({getattr(error, 'strerror', None) or type(error).__name__})",
                "See whether it is alive: /livez on its ops port.",
            ) from None
        finally:
            connection.close()
        try:
            document = json.loads(raw)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise AdminError(f"what listens at {self._path} is no guard", "Name the guard's socket with --socket.")
        if status != 200:
            raise _refused(status, document)
        return document


def _refused(status: int, document: Mapping[str, Any]) -> GuardError:
    description, remedy = str(document.get("error_description")), str(document.get("remedy") or "")
    if document.get("error") == "configuration":
        path, _, seen = description.partition(": ")
        return ConfigurationError(path, seen, str(document.get("expected")), remedy)
    if status == 400:
        # The general remedy of a malformed request is meant for API clients.
        remedy = ""
    return AdminError(description, remedy, status=status)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
