"""Who may administer: the owner of the Unix socket, or on the ops port whoever presents the bearer token (``security`` section 7)."""

from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from zeta_guard.config.listen import Ops
from zeta_guard.errors import ConfigurationError, ZetaError
from zeta_guard.runtime.admin_socket import peer_user

LEAST_TOKEN: Final = 32
LARGEST_TOKEN_FILE: Final = 4096

_SETTING: Final = "ops.bearer_token_file"
_REMEDY: Final = "Make one with: openssl rand -hex 32 > FILE; chmod 600 FILE"
_LOOPBACK: Final = ("localhost", "127.0.0.1", "[::1]")


def socket_actor(request: web.BaseRequest) -> str:
    """Who asks over the Unix socket. Raises ZetaError 403 for another user than the guard's and root."""
    transport = request.transport
    user = peer_user(transport.get_extra_info("socket")) if transport is not None else None
    if user is not None and user not in (0, os.geteuid()):
        raise ZetaError("access_denied", "only the user of the guard and root may administer", stage="administration")
    return "socket" if user is None else f"socket:uid={user}"


def check_write(request: web.BaseRequest) -> None:
    """A write is a POST with ``application/json`` that no foreign page can have made. Raises ZetaError."""
    if request.content_type != "application/json":
        raise ZetaError(
            "invalid_request", "Content-Type must be 'application/json'", status=415, stage="administration"
        )
    site = request.headers.get("Sec-Fetch-Site", "none")
    origins = request.headers.getall("Origin", [])
    if site not in ("none", "same-origin") or any(_authority(origin) != request.host for origin in origins):
        raise ZetaError("access_denied", "the request was made by a foreign page", stage="administration")


def _authority(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc or None
    except ValueError:
        return None


class BearerDoor:
    """The door on the ops port. The token file is read for every request, so that a new token counts at once."""

    def __init__(self, config: Ops, token_file: Path) -> None:
        """Raises ConfigurationError when the file cannot be used."""
        self._file: Final = token_file
        self._hosts: Final = frozenset(host.lower() for host in config.hosts) or frozenset(
            {*_LOOPBACK, config.host.lower()}
        )
        self._token()

    def actor(self, request: web.BaseRequest) -> str:
        """Who asks. Raises ZetaError 421 for a foreign Host, 401 for another token, 503 when the file is unusable now."""
        hosts = request.headers.getall("Host", [])
        if len(hosts) != 1 or not self._serves(hosts[0].lower()):
            raise ZetaError(
                "misdirected_request", "Host is none of 'ops.hosts' in the configuration", stage="administration"
            )
        presented = request.headers.getall("Authorization", [])
        scheme, _, credentials = presented[0].partition(" ") if len(presented) == 1 else ("", "", "")
        try:
            expected = self._token()
        except ConfigurationError:
            raise ZetaError(
                "temporarily_unavailable", "the bearer token file cannot be read", stage="administration"
            ) from None
        # Both are hashed first: the comparison then tells nothing about the length either.
        same = hmac.compare_digest(
            hashlib.sha256(credentials.strip().encode("utf-8", "surrogateescape")).digest(),
            hashlib.sha256(expected).digest(),
        )
        if scheme.lower() != "bearer" or not same:
            raise ZetaError(
                "invalid_token",
                "administration wants the bearer token of 'ops.bearer_token_file'",
                headers={"WWW-Authenticate": 'Bearer realm="zeta-guard administration"'},
                stage="administration",
            )
        return "bearer"

    def _serves(self, host: str) -> bool:
        if host in self._hosts:
            return True
        name, colon, port = host.rpartition(":")
        return bool(colon) and port.isdigit() and name in self._hosts

    def _token(self) -> bytes:
        try:
            with self._file.open("rb") as opened:
                token = opened.read(LARGEST_TOKEN_FILE + 1).strip()
        except OSError as error:
            seen = f"{self._file} cannot be read ({error.strerror})"
            raise ConfigurationError(_SETTING, seen, "a readable file", _REMEDY) from None
        if not LEAST_TOKEN <= len(token) <= LARGEST_TOKEN_FILE or any(not 0x21 <= byte <= 0x7E for byte in token):
            raise ConfigurationError(
                _SETTING,
                f"a token of {len(token)} bytes",
                f"one line of at least {LEAST_TOKEN} visible ASCII characters",
                _REMEDY,
            )
        return token
