"""Where the parser of a connection stands: between two requests, or within one.

aiohttp's parser does not tell. Whoever goes on where it holds a piece of a request reads another request than it (smuggling),
so that the answer is no wherever it cannot be told from lengths.
"""

from __future__ import annotations

from typing import Final

from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

_END: Final = b"\r\n\r\n"


class Boundary:
    """Follows what one parser is fed."""

    __slots__ = ("_body", "_counted")

    def __init__(self) -> None:
        self._body: StreamReader = EMPTY_PAYLOAD
        self._counted = 0

    def forget(self) -> None:
        """The connection is over; a body leads back to it."""
        self._body = EMPTY_PAYLOAD

    def reached(self, data: bytes, newest: StreamReader | None) -> bool:
        """Whether ``data``, of at least one byte and just fed, ended a request.

        ``newest`` is the body of the newest request among those that wait to be answered, None where none waits. What is left
        of the body of one that is being answered is not looked at: nobody asks before it is over.
        """
        # No head ends in another way, and no chunked body.
        ended = data.endswith(_END)
        body, counted = self._body, self._counted
        if newest is not None and newest is not body:
            self._body = newest
            if newest is EMPTY_PAYLOAD:
                return ended
            self._counted = newest.total_bytes
            # With another request before it, or a piece behind it, there were more bytes.
            end = data.find(_END)
            return ended or (end >= 0 and newest.is_eof() and end + len(_END) + newest.total_bytes == len(data))
        if body is EMPTY_PAYLOAD:
            return ended
        self._counted = body.total_bytes
        # Nothing but this body came, and it is complete.
        return ended or (body.is_eof() and body.total_bytes - counted == len(data))
