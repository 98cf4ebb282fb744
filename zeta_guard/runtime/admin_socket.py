"""The Unix socket of the administration: mode 0600 from its first moment, never another guard's."""

from __future__ import annotations

import os
import socket
import stat
import struct
from pathlib import Path
from typing import Final

from zeta_guard.errors import ConfigurationError

_SETTING: Final = "ops.admin_socket"
_LONGEST_PATH: Final = 107
_PROBE_SECONDS: Final = 1.0


class AdminSocket:
    """A bound socket and the name it has in the file system."""

    def __init__(self, path: Path) -> None:
        """Bind ``path``. A socket that nobody answers at is replaced.

        Raises ConfigurationError when a guard answers there, something else stands there, or it cannot be made.
        """
        if len(os.fsencode(path)) > _LONGEST_PATH:
            raise ConfigurationError(
                _SETTING,
                f"a path of {len(os.fsencode(path))} bytes",
                f"at most {_LONGEST_PATH}, as the kernel wants it",
                "Choose a shorter path, e.g. /run/zeta-guard/admin.sock.",
            )
        self._path = path
        try:
            _remove_stale(path)
            self.socket = _bound(path)
            self._identity = _identity(path)
        except OSError as error:
            raise ConfigurationError(
                _SETTING,
                f"{path} cannot be made ({error.strerror or type(error).__name__})",
                "a path in an existing folder that this user may write",
                f"Make the folder first: mkdir -p -m 0700 {path.parent}",
            ) from error

    def remove(self) -> None:
        """Take the name away, unless it is another guard's by now."""
        try:
            if _identity(self._path) == self._identity:
                self._path.unlink()
        except OSError:
            return


def peer_user(connection: object) -> int | None:
    """User id of the process at the other end of a Unix socket; None where the system does not tell."""
    option = getattr(socket, "SO_PEERCRED", None)
    getsockopt = getattr(connection, "getsockopt", None)
    if option is None or getsockopt is None:
        return None
    try:
        _, user, _ = struct.unpack("3i", getsockopt(socket.SOL_SOCKET, option, struct.calcsize("3i")))
    except OSError:
        return None
    return int(user)


def _bound(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # The mask is the only way to let the socket appear with its mode; between bind and chmod others could connect.
    before = os.umask(0o177)
    try:
        made.bind(str(path))
    except OSError:
        made.close()
        raise
    finally:
        os.umask(before)
    return made


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigurationError(
            _SETTING, f"{path} exists and is no socket", "a free path", "Choose another path, or remove what is there."
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_SECONDS)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except FileNotFoundError:
            return
        except OSError:
            # Somebody holds it and is too busy to answer, or it is another user's: not ours to remove.
            pass
    raise ConfigurationError(
        _SETTING, f"another process listens at {path}", "a path of this guard's own", "Stop it, or choose another path."
    )


def _identity(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino
