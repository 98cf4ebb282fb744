"""A guard that answers by script, and a card."""

from __future__ import annotations

import base64
import json
import os
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import pytest
from aiohttp import web

from zeta_guard.client.session import Hooks, ZetaClient
from zeta_guard.simulators.card import Card
from zeta_guard.simulators.pki import DemoPki

NOW = 1_800_000_000.0


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as it came."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def form(self) -> list[tuple[str, str]]:
        return parse_qsl(self.body.decode(), keep_blank_values=True)

    def header(self, name: str) -> str:
        return next(value for found, value in self.headers if found == name)


class ScriptedGuard:
    """Answers discovery, registration, nonce and token like a guard; ``script`` puts other answers before that."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.url = ""
        self.protected: dict[str, Any] = {}
        self.server: dict[str, Any] = {}
        self.expires_in: Any = 300
        self.nonces: list[str] = []
        self._scripted: dict[str, deque[web.Response]] = defaultdict(deque)
        self._issued = 0

    def script(self, path: str, status: int, body: Any = None, headers: dict[str, str] | None = None) -> None:
        """The next request to ``path`` gets this."""
        text = body if isinstance(body, str) else json.dumps(body)
        content_type = "text/plain" if isinstance(body, str) else "application/json"
        self._scripted[path].append(web.Response(status=status, text=text, content_type=content_type, headers=headers))

    def paths(self, path: str) -> list[Seen]:
        return [request for request in self.seen if request.path.split("?")[0] == path]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        headers = tuple((name.decode(), value.decode()) for name, value in request.raw_headers)
        self.seen.append(Seen(request.method, request.path_qs, headers, await request.read()))
        if self._scripted[request.path]:
            return self._scripted[request.path].popleft()
        match request.path:
            case "/.well-known/oauth-protected-resource":
                return web.json_response(self.protected)
            case "/.well-known/oauth-authorization-server":
                return web.json_response(self.server)
            case "/register":
                return web.json_response({"client_id": "client-1"}, status=201)
            case "/nonce":
                self.nonces.append(base64.urlsafe_b64encode(os.urandom(16)).rstrip(b"=").decode())
                return web.Response(text=self.nonces[-1])
            case "/token":
                self._issued += 1
                return web.json_response(
                    {
                        "access_token": f"access-{self._issued}",
                        "refresh_token": f"refresh-{self._issued}",
                        "token_type": "DPoP",
                        "expires_in": self.expires_in,
                        "refresh_expires_in": 86400,
                        "scope": "vsdservice popp",
                    }
                )
            case "/ws" if request.headers.get("Upgrade") == "websocket":
                socket = web.WebSocketResponse()
                await socket.prepare(request)
                async for message in socket:
                    await socket.send_str(f"echo {message.data}")
                return socket
        return web.json_response({"path": request.path})

    def publish(self, url: str) -> None:
        """Metadata as a guard at ``url`` publishes it."""
        self.url = url
        self.protected = {"resource": f"{url}/", "authorization_servers": [url], "zeta_asl_use": "not_supported"}
        self.server = {
            "issuer": url,
            "authorization_endpoint": f"{url}/authorize",
            "token_endpoint": f"{url}/token",
            "nonce_endpoint": f"{url}/nonce",
            "registration_endpoint": f"{url}/register",
            "revocation_endpoint": f"{url}/revoke",
            "jwks_uri": f"{url}/jwks",
            "scopes_supported": ["vsdservice", "popp"],
            "response_types_supported": ["token"],
            "grant_types_supported": ["urn:ietf:params:oauth:grant-type:token-exchange", "refresh_token"],
            "token_endpoint_auth_methods_supported": ["private_key_jwt"],
            "token_endpoint_auth_signing_alg_values_supported": ["ES256"],
            "code_challenge_methods_supported": ["S256"],
        }


class Clock:
    """A clock that moves when it is told to; ``slept`` are the pauses that a client took on it."""

    def __init__(self) -> None:
        self.now = NOW
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def card() -> Card:
    return DemoPki().issue_smcb("1-2012345678")


@pytest.fixture
async def guard() -> AsyncIterator[ScriptedGuard]:
    scripted = ScriptedGuard()
    application = web.Application()
    application.router.add_route("*", "/{anything:.*}", scripted.handle)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    scripted.publish(f"http://127.0.0.1:{runner.addresses[0][1]}")
    yield scripted
    await runner.cleanup()


@pytest.fixture
async def client(guard: ScriptedGuard, card: Card, clock: Clock) -> AsyncIterator[ZetaClient]:
    async with ZetaClient(guard.url, card, clock=clock, sleep=clock.sleep, hooks=Hooks()) as opened:
        yield opened
