"""The public port, opened: socket → PROXY header, if configured → TLS, if ended here → HTTP."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from zeta_guard.runtime.proxy_protocol import PeerName, ProxyListener
from zeta_guard.runtime.public_socket import PublicSocket, bind_error
from zeta_guard.runtime.tls_handshake import behind_tls

if TYPE_CHECKING:
    from zeta_guard.config.guard import GuardConfig
    from zeta_guard.http.address import IPAddress
    from zeta_guard.runtime.generation import Generation
    from zeta_guard.runtime.listener import GuardServer
    from zeta_guard.runtime.metrics import RuntimeMetrics

PublicDoor = asyncio.Server | ProxyListener

_QUIET: Final = frozenset({"timeout", "full"})
"""Reasons that a busy or slow network gives, too: counted, no security event."""


async def open_public_door(
    config: GuardConfig,
    public: PublicSocket,
    server: GuardServer,
    tls: ssl.SSLContext | None,
    *,
    generation: Callable[[], Generation],
    metrics: RuntimeMetrics,
) -> PublicDoor:
    """Listen. ``generation`` is asked anew for every connection, since a reload may change whom the guard trusts.

    Raises ConfigurationError when another process listens on that port already.
    """
    seconds = config.limits.header_timeout_ms / 1000
    secured: Callable[[asyncio.BaseProtocol], asyncio.BaseProtocol]
    if tls is None:
        secured = _plain
    else:
        secured = behind_tls(
            tls,
            handshake_seconds=seconds,
            on_refused=lambda reason: metrics.refused_connections.labels("tls", reason).inc(),
        )

    def make_protocol(peer: PeerName | None) -> asyncio.BaseProtocol:
        protocol = server()
        protocol.peer_override = peer
        return secured(protocol)

    def is_trusted(address: IPAddress) -> bool:
        return address in generation().proxies

    def on_refused(reason: str) -> None:
        metrics.refused_connections.labels("proxy_protocol", reason).inc()
        if reason not in _QUIET:
            generation().events.emit("proxy_header_refused", reason=reason)

    try:
        if config.listen.proxy_protocol:
            return ProxyListener(
                public.socket,
                make_protocol,
                is_trusted=is_trusted,
                on_refused=on_refused,
                seconds=seconds,
                most=config.limits.connections,
                backlog=config.listen.backlog,
            )
        return await asyncio.get_running_loop().create_server(
            lambda: make_protocol(None), sock=public.socket, backlog=config.listen.backlog
        )
    except OSError as error:
        raise bind_error("listen", config.listen.host, config.listen.port, error) from None


def _plain(protocol: asyncio.BaseProtocol) -> asyncio.BaseProtocol:
    return protocol
