"""The public port, bound before anything else is loaded.

A process with the memory store refuses proofs dated at or before the moment from which it alone can have seen them: the
moment it owns its port. Binding first makes that moment early, so that it has passed when everything else is loaded.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass

from zeta_guard.config.listen import Listen
from zeta_guard.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class PublicSocket:
    """A bound socket that does not listen yet; ``bound_at`` in Unix seconds."""

    socket: socket.socket
    bound_at: float


def bind_public_socket(listen: Listen, clock: Callable[[], float]) -> PublicSocket:
    """Bind ``listen.host`` and ``listen.port``. Raises ConfigurationError when that address is taken or not ours."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            listen.host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise ConfigurationError(
            "listen.host", f'"{listen.host}" ({error.strerror})', "an address of this machine"
        ) from None
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise bind_error("listen", listen.host, listen.port, error) from None
    return PublicSocket(bound, clock())


def bind_error(section: str, host: str, port: int, error: OSError) -> ConfigurationError:
    """Words for a port that cannot be bound."""
    known = {
        errno.EADDRINUSE: "Stop what uses the port, or choose another one.",
        errno.EACCES: "Choose a port above 1023, or give the process the right to bind low ports.",
        errno.EADDRNOTAVAIL: "Name an address that this machine has, or 0.0.0.0 for all.",
    }
    number = error.errno or 0
    return ConfigurationError(
        f"{section}.port",
        f"{host}:{port} cannot be bound ({os.strerror(number).lower() if number else 'error'})",
        "a free address and port of this machine",
        known.get(number, "Look at the address and port."),
    )
