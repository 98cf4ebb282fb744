"""Administration: one JSON API behind two doors, the Unix socket and, with a bearer token, the ops port (``security`` section 7)."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import orjson
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter

from zeta_guard.config.listen import Ops
from zeta_guard.errors import ConfigurationError, JsonValue, ZetaError
from zeta_guard.runtime.admin_api import AdminApi
from zeta_guard.runtime.admin_door import BearerDoor, check_write, socket_actor
from zeta_guard.runtime.admin_socket import AdminSocket
from zeta_guard.telemetry.logging import log_event

_logger = logging.getLogger("zeta_guard.administration")

_KEEPALIVE_SECONDS: Final = 5.0


class AdminServer:
    """Opens the doors that ``ops`` configures. ``start`` raises ConfigurationError."""

    def __init__(self, config: Ops, api: AdminApi, *, registry: CollectorRegistry) -> None:
        self._config: Final = config
        self._api: Final = api
        self._requests = Counter(
            "zeta_guard_administration_requests",
            "Requests of administrators by door (socket, ops) and status.",
            ("door", "status"),
            registry=registry,
        )
        self._bearer = BearerDoor(config, config.bearer_token_file) if config.bearer_token_file is not None else None
        self._socket: AdminSocket | None = None
        self._web: web.Server | None = None
        self._server: asyncio.Server | None = None

    @property
    def on_ops_port(self) -> bool:
        """Whether the ops port offers administration, too."""
        return self._bearer is not None

    async def start(self) -> None:
        """Listen on the Unix socket, where one is configured."""
        if self._config.admin_socket is None:
            return
        self._socket = AdminSocket(self._config.admin_socket)
        self._web = web.Server(self._on_socket, access_log=None, keepalive_timeout=_KEEPALIVE_SECONDS)
        self._server = await asyncio.get_running_loop().create_unix_server(self._web, sock=self._socket.socket)

    async def _on_socket(self, request: web.BaseRequest) -> web.StreamResponse:
        return await self._answer(request, "socket")

    async def on_ops(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request that came to the ops port."""
        return await self._answer(request, "ops")

    async def _answer(self, request: web.BaseRequest, door: str) -> web.StreamResponse:
        headers: dict[str, str] = {}
        try:
            if door == "socket":
                actor = socket_actor(request)
            else:
                assert self._bearer is not None
                actor = self._bearer.actor(request)
            status, document = 200, await self._api.answer(request, actor=actor, check_write=check_write)
        except ZetaError as error:
            status, document = error.status, _refusal(error.code, error.description, error.remedy)
            headers.update(error.headers)
            log_event(_logger, logging.WARNING, "administration_refused", door=door, status=status, error=error.code)
        except ConfigurationError as error:
            status, document = 409, _refusal("configuration", f"{error.path}: {error.seen}", error.remedy)
            document["expected"] = error.expected
        except ConnectionError:
            raise
        except Exception as error:  # noqa: BLE001 - the outermost edge of this door
            log_event(_logger, logging.ERROR, "unexpected_error", kind=type(error).__name__, exc_info=error)
            status, document = 500, _refusal("server_error", "the guard failed on this request", "See the guard's log.")
        self._requests.labels(door, str(status)).inc()
        response = web.Response(
            status=status,
            body=orjson.dumps(document) + b"\n",
            content_type="application/json",
            headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", **headers},
        )
        if status >= 400:
            # What is left of a refused request's body is not worth reading.
            response.force_close()
        return response

    async def close(self) -> None:
        """Close the socket and take its name away."""
        if self._server is not None:
            self._server.close()
        if self._socket is not None:
            self._socket.remove()
        if self._web is not None:
            await self._web.shutdown(timeout=1.0)
        self._socket = self._web = self._server = None


def _refusal(code: str, description: str, remedy: str) -> dict[str, JsonValue]:
    return {"error": code, "error_description": description, "remedy": remedy}
