"""The ops port: ``/metrics``, ``/livez`` and ``/readyz``, GET only, never on the public port (``security`` section 7)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import orjson
from aiohttp import web

from zeta_guard.config.listen import Ops
from zeta_guard.runtime.public_socket import bind_error

_OPEN = frozenset({"/metrics", "/livez", "/readyz"})


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether this process wants requests, and one line per dependency (None: fine)."""

    ready: bool
    draining: bool
    lines: dict[str, str | None]

    def document(self) -> dict[str, object]:
        """The JSON answer of ``/readyz``."""
        degraded = any(line is not None for line in self.lines.values())
        return {
            "status": "draining"
            if self.draining
            else ("degraded" if degraded else "ready")
            if self.ready
            else "starting",
            "dependencies": [
                {"name": name, "state": "ok" if line is None else "degraded", **({"detail": line} if line else {})}
                for name, line in self.lines.items()
            ],
        }


class OpsServer:
    """A small HTTP server for probes and Prometheus."""

    def __init__(
        self,
        config: Ops,
        *,
        metrics: Callable[[], bytes],
        readiness: Callable[[], Awaitable[Readiness]],
        administration: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]] | None = None,
    ) -> None:
        """``administration`` answers every other path; without it there is none on this port."""
        self._config = config
        self._administration = administration
        self._metrics = metrics
        self._readiness = readiness
        self._web: web.Server | None = None
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """Port that is bound."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def start(self) -> None:
        """Open the port; ConfigurationError when it is taken."""
        self._web = web.Server(self._handle, access_log=None)
        try:
            self._server = await asyncio.get_running_loop().create_server(
                self._web, self._config.host, self._config.port
            )
        except OSError as error:
            raise bind_error("ops", self._config.host, self._config.port, error) from None

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if self._administration is not None and request.path not in _OPEN:
            return await self._administration(request)
        if request.method not in ("GET", "HEAD"):
            return _json(405, {"error": "method_not_allowed", "error_description": "only GET is served here"})
        if request.path == "/metrics":
            return web.Response(
                body=self._metrics(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
            )
        if request.path == "/livez":
            return _json(200, {"status": "alive"})
        if request.path == "/readyz":
            readiness = await self._readiness()
            return _json(200 if readiness.ready else 503, readiness.document())
        return _json(
            404, {"error": "resource_not_found", "error_description": "served here: /metrics, /livez, /readyz"}
        )

    async def close(self) -> None:
        """Close the port."""
        if self._server is not None:
            self._server.close()
        if self._web is not None:
            await self._web.shutdown(timeout=1.0)


def _json(status: int, document: object) -> web.Response:
    return web.Response(
        status=status,
        body=orjson.dumps(document) + b"\n",
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )
