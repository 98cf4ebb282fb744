"""Taking a client connection out of aiohttp's hands after an upgrade: the one place that knows its insides.

aiohttp offers no way to use a connection for anything but its own WebSocket implementation. What is done here is small: the
handler of the connection is made to believe that it has no transport any more, and what it has buffered is taken along. A
test plays it against the installed version.
"""

from __future__ import annotations

import asyncio

from aiohttp import web


def take_over(request: web.BaseRequest) -> tuple[asyncio.Transport, bytes]:
    """The transport of the connection, and the bytes that came behind the request.

    The caller sets its own protocol before the event loop turns, and answers the request with a response that is already
    written and does not keep the connection alive. Raises ConnectionResetError when the client is gone.
    """
    protocol = request.protocol
    transport = protocol.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError("the client is gone")
    tail, protocol._message_tail = protocol._message_tail, b""
    # Cancels aiohttp's idle timer, too.
    protocol.keep_alive(False)
    manager = protocol._manager
    if manager is not None:
        # The server forgets the connection as soon as the handler has returned.
        manager.connection_lost(protocol, None)
    protocol.transport = None
    # Parser and handler hold each other, and both the request.
    protocol._parser = None
    if not transport.is_reading():
        # aiohttp stops reading when much has come before the answer.
        transport.resume_reading()
    return transport, tail
