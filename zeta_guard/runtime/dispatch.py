"""From a parsed request to the room that answers it, and from any outcome to a logged and counted answer."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from aiohttp import HttpVersion11, web

from zeta_guard.errors import ZetaError
from zeta_guard.http.plain_request import PlainRequest
from zeta_guard.http.refusal import API_VERSION, error_response
from zeta_guard.http.request_id import new_request_id
from zeta_guard.runtime.admin_refusals import RecentRefusals
from zeta_guard.runtime.exchange import Exchange
from zeta_guard.runtime.generation import Generation
from zeta_guard.runtime.listener import SERVER_NAME
from zeta_guard.runtime.metrics import RuntimeMetrics
from zeta_guard.runtime.refusal_event import report_early_refusal
from zeta_guard.runtime.request_head import check_request_head
from zeta_guard.telemetry.logging import bind_request, log_event
from zeta_guard.telemetry.request_log import RequestLog

if TYPE_CHECKING:
    from zeta_guard.config.limits import Limits
    from zeta_guard.runtime.listener import GuardProtocol

_logger = logging.getLogger("zeta_guard.runtime")


class Dispatcher:
    """Handles every request of the public port with the current generation."""

    def __init__(
        self,
        generation: Generation,
        *,
        metrics: RuntimeMetrics,
        request_log: RequestLog,
        clock: Callable[[], float],
    ) -> None:
        self.generation = generation
        self.in_flight = 0
        self.refusals = RecentRefusals()
        self._metrics = metrics
        self._request_log = request_log
        self._clock = clock

    def count_refused_head(self, status: int) -> None:
        """Count a refusal that the HTTP layer made before a request existed."""
        self._metrics.count("http", status)
        self._metrics.refusals.labels("http", "invalid_request").inc()

    def note_early_refusal(self, refusal: ZetaError, request_id: str) -> None:
        """Remember a refusal that the HTTP layer made before a request existed."""
        self.refusals.note(refusal, request_id=request_id, door="http", route="", now=self._clock())
        report_early_refusal(refusal, self.generation.events, request_id=request_id)

    @property
    def generation(self) -> Generation:
        """Who answers new requests."""
        return self._generation

    @generation.setter
    def generation(self, generation: Generation) -> None:
        self._generation = generation
        self.limits: Limits = generation.config.limits

    def begin(self, request: PlainRequest, protocol: GuardProtocol) -> None:
        """Begin to answer a plain request; what cannot be done at once is handed over to the connection's task."""
        generation = self._generation
        now = self._clock()
        request_id = new_request_id(now)
        self._enter(generation)
        exchange = Exchange(self, protocol, request, generation, request_id)
        protocol.exchange = exchange
        try:
            facts = generation.reader.read_plain(request, now=now, request_id=request_id)
            server = generation.authorization_server
            if server is not None and server.owns(facts.path.raw):
                exchange.door = "authorization_server"
                exchange.hand_over(server.handle(request, facts))
            elif generation.gateway is not None:
                exchange.door = "gateway"
                generation.gateway.begin(exchange, facts)
            else:
                raise _nowhere()
        except ZetaError as error:
            exchange.refuse(error)
        except Exception as error:  # noqa: BLE001 - the outermost edge; the task turns it into an answer
            exchange.fail(error)

    def ended(self, exchange: Exchange, status: int) -> None:
        """An exchange was answered in callbacks with this status, 0: not at all."""
        generation = exchange.generation
        self.in_flight -= 1
        generation.running -= 1
        elapsed = time.perf_counter() - exchange.started
        self._metrics.answered(exchange.door, status, elapsed)
        if generation.config.telemetry.request_log:
            request = exchange.request
            self._request_log.note(
                exchange.request_id,
                exchange.door,
                request.method,
                status,
                elapsed,
                request._state.get("route"),
                self._clock(),
            )

    def abandoned(self, exchange: Exchange) -> None:
        """The client of an exchange is gone."""
        log_event(
            _logger, logging.INFO, "client_gone", request_id=exchange.request_id, kind=ConnectionResetError.__name__
        )
        self.ended(exchange, 0)

    def note_unexpected(self, error: Exception, request_id: str) -> None:
        """Something happened that nobody foresaw."""
        self._metrics.unexpected.inc()
        log_event(
            _logger,
            logging.ERROR,
            "unexpected_error",
            request_id=request_id,
            kind=type(error).__name__,
            exc_info=error,
        )

    async def finish(self, exchange: Exchange) -> web.StreamResponse:
        """Do the rest of a plain request's work; never raises but for cancellation and a client that is gone."""
        work = exchange.work
        assert work is not None
        # Whoever waited for the client's end leads back to the exchange.
        exchange.work = exchange.on_gone = None
        return await self._settle(
            exchange.generation, exchange.request, exchange.request_id, exchange.started, lambda: exchange.door, work
        )

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer any other request; never raises but for cancellation and a client that is gone."""
        generation = self.generation
        self._enter(generation)
        started = time.perf_counter()
        request_id = new_request_id()
        door = "http"

        async def route() -> web.StreamResponse:
            nonlocal door
            message = request._message  # the head as it came; aiohttp's public view is already repaired
            check_request_head(
                message.method, message.version, message.path, message.raw_headers, generation.config.limits
            )
            facts = generation.reader.read(request, now=self._clock(), request_id=request_id)
            server = generation.authorization_server
            if server is not None and server.owns(facts.path.raw):
                door = "authorization_server"
                return await server.handle(request, facts)
            if generation.gateway is not None:
                door = "gateway"
                return await generation.gateway.handle(request, facts)
            raise _nowhere()

        return await self._settle(generation, request, request_id, started, lambda: door, route())

    async def _settle(
        self,
        generation: Generation,
        request: web.BaseRequest,
        request_id: str,
        started: float,
        door_of: Callable[[], str],
        work: Coroutine[Any, Any, web.StreamResponse],
    ) -> web.StreamResponse:
        bind_request(request_id)
        response: web.StreamResponse | None = None
        refusal: ZetaError | None = None
        try:
            try:
                response = await work
            except ZetaError as error:
                refusal = error.detached()
            except (ConnectionError, TimeoutError) as error:
                log_event(_logger, logging.INFO, "client_gone", request_id=request_id, kind=type(error).__name__)
                raise ConnectionResetError("the client is gone") from error
            except Exception as error:  # noqa: BLE001 - the outermost edge: nothing may become a traceback for a client
                self.note_unexpected(error, request_id)
                refusal = ZetaError("server_error", "the guard failed on this request", stage="unexpected")
            if refusal is not None:
                if request.writer.output_size > 0:
                    # A second answer would be taken for the next request's.
                    raise ConnectionResetError("the answer had begun")
                response = error_response(
                    refusal,
                    public_url=generation.config.public_url,
                    request_id=request_id,
                    head=request.method == "HEAD",
                )
                self._metrics.refusals.labels(refusal.stage or "unnamed", refusal.code).inc()
                if door_of() == "http":
                    report_early_refusal(refusal, generation.events, request_id=request_id)
                    # Whatever version a refused head claims, the answer is HTTP/1.1 and the last one.
                    request._version = HttpVersion11
                    response.force_close()
            assert response is not None
            if not response.prepared:
                response.headers["ZETA-API-Version"] = API_VERSION
                response.headers["Server"] = SERVER_NAME
            return response
        finally:
            self._leave(generation)
            status = response.status if response is not None else 0
            self._note(generation, request, door_of(), status, refusal, request_id, started)

    def _enter(self, generation: Generation) -> None:
        self.in_flight += 1
        generation.running += 1

    def _leave(self, generation: Generation) -> None:
        self.in_flight -= 1
        generation.running -= 1

    def _note(
        self,
        generation: Generation,
        request: web.BaseRequest,
        door: str,
        status: int,
        refusal: ZetaError | None,
        request_id: str,
        started: float,
    ) -> None:
        elapsed = time.perf_counter() - started
        self._metrics.answered(door, status, elapsed)
        if refusal is not None:
            self.refusals.note(
                refusal, request_id=request_id, door=door, route=request._state.get("route", ""), now=self._clock()
            )
        if generation.config.telemetry.request_log:
            fields: dict[str, Any] = {
                "request_id": request_id,
                "door": door,
                "method": request.method,
                "status": status,
                "ms": round(elapsed * 1000, 3),
            }
            route = request._state.get("route")
            if route is not None:
                fields["route"] = route
            if refusal is not None:
                fields["error"] = refusal.code
                fields["stage"] = refusal.stage
                fields["description"] = refusal.description
                decision_id = refusal.members.get("decision_id")
                if decision_id is not None:
                    fields["decision_id"] = decision_id
            self._request_log.write(fields, self._clock())


def _nowhere() -> ZetaError:
    return ZetaError("resource_not_found", "no endpoint of this server has that path", stage="route")
