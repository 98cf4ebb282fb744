"""The WebSocket upgrade (RFC 6455) as the ZETA SDK makes it: an authorised GET, then frames."""

from __future__ import annotations

import time
from collections.abc import Sequence

import aiohttp
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from zeta_guard.client.errors import Refused
from zeta_guard.client.wire import USER_AGENT, Answer, Wire, refusal_body, unreachable

_PING_SECONDS = 30.0
_LARGEST_MESSAGE = 1 << 20


async def upgrade(wire: Wire, url: str, headers: Sequence[tuple[str, str]]) -> aiohttp.ClientWebSocketResponse:
    """An open socket. Raises Refused (with the refusal's body) or Unreachable."""
    refusal: list[bytes] = []
    sent = CIMultiDict(headers)
    sent.setdefault("User-Agent", USER_AGENT)
    started = time.perf_counter()
    kept = refusal_body.set(refusal)
    try:
        socket = await wire.session.ws_connect(
            URL(url, encoded=True), headers=sent, compress=15, heartbeat=_PING_SECONDS, max_msg_size=_LARGEST_MESSAGE
        )
    except aiohttp.WSServerHandshakeError as error:
        received: CIMultiDict[str] = CIMultiDict(error.headers or {})
        answer = Answer("GET", url, error.status, CIMultiDictProxy(received), b"".join(refusal))
        wire.tell("GET", url, sent, answer.status, answer.error, started)
        raise Refused("websocket", answer) from error
    except (TimeoutError, aiohttp.ClientError, OSError) as error:
        raise unreachable(url, error) from error
    finally:
        refusal_body.reset(kept)
    wire.tell("GET", url, sent, 101, "", started)
    return socket
