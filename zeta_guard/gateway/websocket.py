"""The WebSocket handshake through the gateway (RFC 6455 §4): authorised like any request, a tunnel only after a proven 101."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from typing import Final

from aiohttp import HttpVersion11, web

from zeta_guard.errors import ZetaError
from zeta_guard.gateway.forward import Backend, deliver, request_head
from zeta_guard.gateway.headers import API_VERSION_LINE, Inbound, header_values
from zeta_guard.gateway.response import WrittenResponse
from zeta_guard.gateway.sockets import Sockets
from zeta_guard.gateway.takeover import take_over
from zeta_guard.gateway.tunnel import SocketRule
from zeta_guard.gateway.upstream import Fault, ResponseHead, UpstreamError
from zeta_guard.http.facts import RequestFacts

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_UPGRADE: Final = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"


def is_upgrade(request: web.BaseRequest) -> bool:
    """Whether the request asks for a WebSocket: ``Upgrade: websocket`` that ``Connection`` names (RFC 9110 §7.8)."""
    headers = request.headers
    if "Upgrade" not in headers or headers["Upgrade"].strip().lower() != "websocket":
        return False
    options = ",".join(headers.getall("Connection", ())).lower().split(",")
    return any(option.strip() == "upgrade" for option in options)


def accept_of(key: bytes) -> bytes:
    """``Sec-WebSocket-Accept`` that proves that the backend has read this key."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def check_handshake(request: web.BaseRequest) -> bytes:
    """The key of a well-formed handshake. Raises ZetaError 400, and 426 for another version than 13."""
    raw = request.raw_headers
    if request.method != "GET" or request.version != HttpVersion11:
        raise _malformed("a WebSocket begins with GET over HTTP/1.1")
    if header_values(raw, b"sec-websocket-version") != [b"13"]:
        raise ZetaError(
            "invalid_request",
            "WebSocket: Sec-WebSocket-Version must be 13.",
            status=426,
            headers={"Sec-WebSocket-Version": "13", "Upgrade": "websocket", "Connection": "Upgrade"},
            stage="websocket",
        )
    keys = header_values(raw, b"sec-websocket-key")
    try:
        valid = len(keys) == 1 and len(keys[0]) == 24 and len(base64.b64decode(keys[0], validate=True)) == 16
    except binascii.Error:
        valid = False
    if not valid:
        raise _malformed("Sec-WebSocket-Key must be 16 bytes in base64, once")
    if request.body_exists:
        raise _malformed("the request for it has no body")
    return keys[0]


async def open_websocket(
    request: web.BaseRequest,
    facts: RequestFacts,
    backend: Backend,
    inbound: Inbound,
    said: Sequence[bytes],
    *,
    key: bytes,
    sockets: Sockets,
    most: int,
    rule: SocketRule,
    rate: bytes = b"",
    keep_alive: bool = True,
) -> WrittenResponse:
    """Ask the backend; on its proven 101 join the two connections, on any other answer pass that on.

    ``key`` is what :func:`check_handshake` returned.

    Raises ZetaError and :class:`UpstreamError` while nothing was written; ConnectionResetError when the client is gone.
    """
    sockets.reserve(rule.route, most, backend.metrics)
    joined = False
    try:
        connection = await backend.group.open(backend.connect_seconds)
        try:
            connection.begin(head_only=False)
            host = None if backend.preserve_host else connection.authority
            connection.write(request_head(facts, inbound, (*inbound.handshake, *said), _UPGRADE, host=host))
            connection.expect_within(backend.response_seconds)
            response = await connection.head()
            if response.status != 101:
                return await deliver(request, facts, backend, connection, response, rate, keep_alive)
            check_proof(response, key)
            if connection.upgraded_with is None:
                raise UpstreamError(Fault.GARBAGE, reached=True)
            client, from_client = take_over(request)
            client.write(
                b"HTTP/1.1 101 Switching Protocols\r\n%b%b%b\r\n"
                % (_UPGRADE, response.outgoing.lines, API_VERSION_LINE)
            )
            upstream, from_upstream = connection.detach()
            tunnel = sockets.open(client, upstream, rule)
            joined = True
            tunnel.start(from_client, from_upstream)
            return WrittenResponse(101, keep_alive=False)
        finally:
            if not joined:
                connection.finish()
                connection.abort()
    finally:
        if not joined:
            sockets.release(rule.route)


def check_proof(response: ResponseHead, key: bytes) -> None:
    """Raises :class:`UpstreamError` GARBAGE unless the 101 proves that the backend speaks WebSocket and read our key."""
    headers = response.headers
    upgrade = header_values(headers, b"upgrade")
    connection = b",".join(header_values(headers, b"connection")).lower().split(b",")
    if (
        [value.lower() for value in upgrade] != [b"websocket"]
        or b"upgrade" not in [option.strip() for option in connection]
        or header_values(headers, b"sec-websocket-accept") != [accept_of(key)]
    ):
        raise UpstreamError(Fault.GARBAGE, reached=True)


def _malformed(what: str) -> ZetaError:
    return ZetaError("invalid_request", f"WebSocket: {what}.", stage="websocket")
