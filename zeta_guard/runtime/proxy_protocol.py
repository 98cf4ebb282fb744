"""PROXY protocol version 2 in front of the public listener (HAProxy's *The PROXY protocol*, section 2.2).

A balancer that only passes bytes on says in the first bytes of a connection whose it is. This module reads exactly those
bytes from the accepted socket, before TLS and HTTP, and hands the socket on with the peer they name. Whoever is no trusted
proxy, says nothing in time or says it in other words is disconnected without an answer. The text form (version 1) is refused:
it has no length, so that a reader could take the client's bytes for the proxy's.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

from zeta_guard.errors import GuardError
from zeta_guard.http.address import IPAddress, parse_address

SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
FIXED_LENGTH: Final = 16
"""Signature, version and command, family and transport, length of the rest."""

LONGEST_HEADER: Final = 4096
"""Bytes, fixed part included: an address block takes 12 or 36, the rest are additions that nobody here reads."""

_LOCAL: Final = 0x20
_PROXY: Final = 0x21
_TCP4: Final = 0x11
_TCP6: Final = 0x21
_ADDRESS_LENGTH: Final = {_TCP4: 12, _TCP6: 36}
_ACCEPTS_AT_ONCE: Final = 64
_PAUSE_SECONDS: Final = 1.0
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

PeerName = tuple[str, int]
"""Address and port."""


class ProxyHeaderError(GuardError):
    """The first bytes are no header that may pass; ``reason`` is a stable word for metric and event."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"PROXY header: {reason}")
        self.reason: Final = reason


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """What a header says. ``source`` is None for LOCAL: the proxy speaks for itself."""

    source: PeerName | None


def rest_length(fixed: bytes) -> int:
    """Bytes that follow the fixed part. Raises :class:`ProxyHeaderError`."""
    if fixed[:12] != SIGNATURE:
        raise ProxyHeaderError("signature")
    if fixed[12] >> 4 != 2:
        raise ProxyHeaderError("version")
    if fixed[12] not in (_LOCAL, _PROXY):
        raise ProxyHeaderError("command")
    length = int.from_bytes(fixed[14:16], "big")
    if length > LONGEST_HEADER - FIXED_LENGTH:
        raise ProxyHeaderError("too_long")
    return length


def parse_header(header: bytes) -> ProxyHeader:
    """A whole header. Raises :class:`ProxyHeaderError` for anything but LOCAL, and PROXY over TCP4 or TCP6.

    UNSPEC under PROXY could stand for the proxy's own address; which client it is would then be unknown, so it is refused.
    """
    if len(header) < FIXED_LENGTH or len(header) != FIXED_LENGTH + rest_length(header[:FIXED_LENGTH]):
        raise ProxyHeaderError("length")
    if header[12] == _LOCAL:
        # "the receiver must ... discard the protocol block including the family"
        return ProxyHeader(None)
    family, block = header[13], header[FIXED_LENGTH:]
    size = _ADDRESS_LENGTH.get(family)
    if size is None:
        raise ProxyHeaderError("family")
    if len(block) < size:
        raise ProxyHeaderError("length")
    _check_additions(block[size:])
    address: IPAddress
    if family == _TCP4:
        address, port = IPv4Address(block[:4]), int.from_bytes(block[8:10], "big")
    else:
        address, port = IPv6Address(block[:16]), int.from_bytes(block[32:34], "big")
    if address.is_unspecified or address.is_multicast:
        raise ProxyHeaderError("address")
    return ProxyHeader((str(address), port))


def _check_additions(rest: bytes) -> None:
    """Type (1 byte), length (2), value: they must fill the rest exactly. What they say is skipped."""
    position = 0
    while position < len(rest):
        if position + 3 > len(rest):
            raise ProxyHeaderError("additions")
        position += 3 + int.from_bytes(rest[position + 1 : position + 3], "big")
    if position != len(rest):
        raise ProxyHeaderError("additions")


async def read_header(loop: asyncio.AbstractEventLoop, connection: socket.socket) -> ProxyHeader | None:
    """Read a header and not one byte more; None when the peer left without a word (a balancer's probe of the port).

    Raises :class:`ProxyHeaderError` at the first byte that cannot belong to a header, and OSError.
    """
    header = bytearray()
    while len(header) < FIXED_LENGTH:
        piece = await loop.sock_recv(connection, FIXED_LENGTH - len(header))
        if not piece:
            if header:
                raise ProxyHeaderError("truncated")
            return None
        header += piece
        if not SIGNATURE.startswith(header[:12]):
            raise ProxyHeaderError("signature")
    whole = FIXED_LENGTH + rest_length(bytes(header))
    while len(header) < whole:
        piece = await loop.sock_recv(connection, whole - len(header))
        if not piece:
            raise ProxyHeaderError("truncated")
        header += piece
    return parse_header(bytes(header))


class ProxyListener:
    """Listens on a bound socket and gives every connection to ``make_protocol`` once its header was read.

    ``make_protocol`` gets the named peer (None: the connection's own counts). ``is_trusted`` says who may speak at all.
    ``on_refused`` hears a reason: ``untrusted``, ``timeout``, ``full`` or one of a :class:`ProxyHeaderError`. ``seconds`` is
    the time for a header, ``most`` the number of connections that may be without one.
    """

    def __init__(
        self,
        listening: socket.socket,
        make_protocol: Callable[[PeerName | None], asyncio.BaseProtocol],
        *,
        is_trusted: Callable[[IPAddress], bool],
        on_refused: Callable[[str], None],
        seconds: float,
        most: int,
        backlog: int,
    ) -> None:
        self._loop: Final = asyncio.get_running_loop()
        self._socket: Final = listening
        self._make_protocol: Final = make_protocol
        self._is_trusted: Final = is_trusted
        self._on_refused: Final = on_refused
        self._seconds: Final = seconds
        self._most: Final = most
        self._waiting: Final[set[asyncio.Task[None]]] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._closed = False
        listening.setblocking(False)
        listening.listen(backlog)
        self._loop.add_reader(listening, self._accept)

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The listening socket, like :attr:`asyncio.Server.sockets`; empty once closed."""
        return () if self._closed else (self._socket,)

    def close(self) -> None:
        """Accept no more and drop connections without a header; the others go on."""
        if self._closed:
            return
        self._closed = True
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._socket)
        self._socket.close()
        for task in self._waiting:
            task.cancel()

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_AT_ONCE):
            try:
                connection, address = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                # No descriptor is free: look again when some connections may have ended.
                self._loop.remove_reader(self._socket)
                self._pause = self._loop.call_later(_PAUSE_SECONDS, self._resume)
                return
            self._take(connection, address)

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self._socket, self._accept)

    def _take(self, connection: socket.socket, address: tuple[Any, ...]) -> None:
        connection.setblocking(False)
        peer = parse_address(str(address[0]))
        if peer is None or not self._is_trusted(peer):
            self._refuse(connection, "untrusted")
        elif len(self._waiting) >= self._most:
            self._refuse(connection, "full")
        else:
            task = self._loop.create_task(self._admit(connection), name="PROXY header")
            self._waiting.add(task)
            task.add_done_callback(self._waiting.discard)

    def _refuse(self, connection: socket.socket, reason: str) -> None:
        connection.close()
        self._on_refused(reason)

    async def _admit(self, connection: socket.socket) -> None:
        handed_on = False
        try:
            async with asyncio.timeout(self._seconds):
                header = await read_header(self._loop, connection)
            if header is not None:
                protocol = self._make_protocol(header.source)
                # From here on the transport closes it: a second close could hit another connection's descriptor.
                handed_on = True
                await self._loop.connect_accepted_socket(lambda: protocol, connection)
        except TimeoutError:
            self._on_refused("timeout")
        except ProxyHeaderError as error:
            self._on_refused(error.reason)
        except OSError:
            # Gone before it could be served: nobody to answer, nothing to tell.
            return
        finally:
            if not handed_on:
                connection.close()
