"""The guard's end of TLS: like asyncio's, but a refused handshake gets its alert (``wire-contract`` section 8.1).

OpenSSL writes the alert that says why (wrong version, no common suite) into the outgoing buffer; asyncio closes the
connection without sending that buffer, so that a client sees a connection that ends and its operator nothing. The subclass
below is the one place that knows asyncio's inside; a test plays a refused handshake on every Python that is supported.
"""

from __future__ import annotations

import asyncio
import ssl
from asyncio.sslproto import SSLProtocol
from collections.abc import Callable, Mapping
from typing import Any, Final

_REASONS: Final[Mapping[str, str]] = {
    "UNSUPPORTED_PROTOCOL": "version",
    "VERSION_TOO_LOW": "version",
    "WRONG_VERSION_NUMBER": "no_tls",
    "HTTP_REQUEST": "no_tls",
    "HTTPS_PROXY_REQUEST": "no_tls",
    "NO_SHARED_CIPHER": "suite",
    "NO_SUITABLE_SIGNATURE_ALGORITHM": "suite",
    "NO_SUITABLE_KEY_SHARE": "group",
    "NO_SHARED_GROUPS": "group",
}


def handshake_reason(error: BaseException | type[BaseException]) -> str:
    """A stable word for a metric.

    ``version``, ``suite``, ``group``: nothing that both sides speak. ``no_tls``: something else was spoken. ``alert``: the
    client refused, most often because it does not trust the certificate. ``closed``: it left. Else ``other``.
    """
    # For a client that is gone, asyncio hands over the class, not an instance.
    kind = error if isinstance(error, type) else type(error)
    if issubclass(kind, ConnectionError | ssl.SSLEOFError):
        return "closed"
    reason = getattr(error, "reason", None) or ""
    return "alert" if "_ALERT_" in reason else _REASONS.get(reason, "other")


class AlertingTls(SSLProtocol):
    """Ends TLS for one connection, hands its plain text to another protocol and its last alert to the peer."""

    def __init__(
        self,
        context: ssl.SSLContext,
        inner: asyncio.BaseProtocol,
        *,
        handshake_seconds: float,
        on_refused: Callable[[str], None],
    ) -> None:
        unawaited: Any = None
        seconds: Any = handshake_seconds
        super().__init__(
            asyncio.get_running_loop(), inner, context, unawaited, server_side=True, ssl_handshake_timeout=seconds
        )
        self._on_refused = on_refused

    def _on_handshake_complete(self, handshake_exc: BaseException | type[BaseException] | None) -> None:
        if handshake_exc is not None:
            transport: Any = self._transport
            outgoing: ssl.MemoryBIO = getattr(self, "_outgoing")  # noqa: B009 - the type stubs do not know it
            alert = outgoing.read()
            if alert and transport is not None:
                transport.write(alert)
            self._on_refused(handshake_reason(handshake_exc))
        hidden: Any = super()
        hidden._on_handshake_complete(handshake_exc)

    def _check_handshake_timeout(self) -> None:
        own: Any = self
        hidden: Any = super()
        if own._state.name == "DO_HANDSHAKE":
            self._on_refused("timeout")
        hidden._check_handshake_timeout()


def behind_tls(
    context: ssl.SSLContext, *, handshake_seconds: float, on_refused: Callable[[str], None]
) -> Callable[[asyncio.BaseProtocol], AlertingTls]:
    """Puts TLS in front of a protocol; what comes out goes to ``loop.create_server`` *without* its ``ssl``."""
    return lambda inner: AlertingTls(context, inner, handshake_seconds=handshake_seconds, on_refused=on_refused)
