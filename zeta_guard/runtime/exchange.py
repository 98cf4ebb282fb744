"""One request from its head to its logged and counted answer, whoever answers it."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from zeta_guard.errors import ZetaError
from zeta_guard.http.plain_request import PlainRequest

if TYPE_CHECKING:
    from zeta_guard.runtime.dispatch import Dispatcher
    from zeta_guard.runtime.generation import Generation
    from zeta_guard.runtime.listener import GuardProtocol


class Exchange:
    """A plain request that is being answered (:class:`zeta_guard.gateway.passage.Exchange`).

    It is answered in callbacks, or by ``work`` in the connection's task. Invariant: until it is over or the task has taken it,
    it is the ``exchange`` of its connection, which answers no further request before it.
    """

    __slots__ = (
        "_dispatcher",
        "_protocol",
        "door",
        "generation",
        "gone",
        "on_gone",
        "request",
        "request_id",
        "started",
        "work",
    )

    def __init__(
        self,
        dispatcher: Dispatcher,
        protocol: GuardProtocol,
        request: PlainRequest,
        generation: Generation,
        request_id: str,
    ) -> None:
        self._dispatcher: Final = dispatcher
        self._protocol: Final = protocol
        self.request: Final = request
        self.generation: Final = generation
        self.request_id: Final = request_id
        self.started: Final = time.perf_counter()
        self.door = "http"
        self.gone = False
        self.on_gone: Callable[[], None] | None = None
        self.work: Coroutine[Any, Any, web.StreamResponse] | None = None

    @property
    def slow(self) -> bool:
        """The client takes less than is sent to it."""
        return self._protocol.writing_paused

    def write(self, piece: bytes) -> None:
        """Send to the client. Raises ConnectionResetError when it is gone."""
        transport = self._protocol.transport
        if transport is None:
            raise ConnectionResetError("the client is gone")
        transport.write(piece)
        self.request.written += len(piece)

    def answered(self, status: int, *, keep_alive: bool) -> None:
        """The answer is written."""
        try:
            self._dispatcher.ended(self, status)
        finally:
            self._protocol.exchange_over(keep_alive)

    def refuse(self, error: ZetaError) -> None:
        """The refusal is to be written."""
        self.hand_over(_failure(error))

    def hand_over(self, work: Coroutine[Any, Any, web.StreamResponse]) -> None:
        """The rest is done by ``work``, in the connection's task."""
        self.work = work
        self._protocol.take_over_exchange()

    def fail(self, error: Exception) -> None:
        """Something happened that nobody foresaw, or the client just went: the task finds words for it."""
        if self.work is not None or self._protocol.exchange is not self:
            # It is over for the client, or about to be.
            self._dispatcher.note_unexpected(error, self.request_id)
            return
        if self.on_gone is not None:
            self.on_gone()
            self.on_gone = None
        self.hand_over(_failure(error))

    def abandon(self) -> None:
        """The client is gone, and no task is at work that would hear of it."""
        self.gone = True
        if self.on_gone is not None:
            self.on_gone()
            self.on_gone = None
        if self.work is not None:
            self.work.close()
        self._dispatcher.abandoned(self)


async def _failure(error: Exception) -> web.StreamResponse:
    raise error
