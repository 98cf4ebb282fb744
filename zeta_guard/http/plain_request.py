"""Requests without surprises, read in one go: complete, HTTP/1.1, and of a form that leaves nothing to interpret.

Almost every request is one. What is not (pieces, chunked bodies, upgrades, expectations, anything unusual) is not judged
here but left to aiohttp's parser, which also words every refusal. Whatever is read here, that parser reads in the same way: a
test compares the two.

Most clients send the same header lines again and again, but for their proof and their PoPP token. These are not read again, and
what else was found out about them is found with them (:class:`KnownHead`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from aiohttp import HttpVersion11, web
from aiohttp.http import StreamWriter
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from multidict import CIMultiDict, CIMultiDictProxy

from zeta_guard.http.header_line import (
    CONNECTION,
    HOST,
    LENGTH,
    OTHER,
    POPP,
    PRIVATE,
    PROOF,
    Line,
    known_lines,
    known_tokens,
    read_line,
)
from zeta_guard.http.plain_lines import MOST_DIGITS, split_lines
from zeta_guard.recent import Recent

if TYPE_CHECKING:
    import asyncio

    from aiohttp.web_protocol import RequestHandler

    from zeta_guard.config.limits import Limits

_END: Final = b"\r\n\r\n"
_METHODS: Final = {name.encode("ascii"): name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")}
_VISIBLE: Final = bytes(range(33, 127))

# What the constructor of a named tuple does, without its call of Python code.
_new: Final = tuple.__new__

# The lines of the proof and of the PoPP token as clients spell them; their values are what differs between two requests.
_PROOFS: Final = (b"\r\ndpop: ", b"\r\nDPoP: ")
_POPPS: Final = (b"\r\npopp: ", b"\r\nPoPP: ")
_VALUE_AT: Final = 8
_JWS_BYTES: Final = b"-.0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz"
_LONGEST_REST: Final = 2048


class KnownHead:
    """The header lines of requests without body whose proofs held, but for the proof and the PoPP token, if there is one.

    The last places are for what follows from them, and belong to whoever finds it out. Each says for what it holds, since
    the requests differ in their first line and come from anywhere: ``facts`` (true for ``facts_of``), ``standing`` and
    ``conclusion`` (of the access token), ``prepared`` (the lines for the backend, right for ``prepared_for``).
    """

    __slots__ = (
        "conclusion",
        "facts",
        "facts_of",
        "fields",
        "first",
        "keep_alive",
        "limits",
        "lines",
        "method",
        "popp_place",
        "prepared",
        "prepared_for",
        "proof_place",
        "standing",
        "target",
    )

    def __init__(self, request: PlainRequest, proof_place: int, popp_place: int, limits: Limits) -> None:
        self.first = b""
        """The first line that came last, and what it says."""
        self.method = ""
        self.target = ""
        self.keep_alive: Final = request.keep_alive
        self.lines: Final = request.lines
        self.fields: Final = [line.field for line in request.lines]
        self.proof_place: Final = proof_place
        """Which line the proof is."""
        self.popp_place: Final = popp_place
        """Which line the PoPP token is, -1 without one."""
        self.limits: Final = limits
        """It fits into these."""
        self.facts: tuple[Any, ...] = ()
        self.facts_of: object = None
        self.standing: Any = None
        self.conclusion: Any = None
        self.prepared = b""
        self.prepared_for: object = None


_known: Final[Recent[bytes, KnownHead]] = Recent(1024)


class _Custom:
    """What clients of this process do."""

    __slots__ = ("popp",)

    def __init__(self) -> None:
        self.popp = False
        """They show PoPP tokens: worth looking for in every head."""


_custom: Final = _Custom()


class PlainHead(NamedTuple):
    """A head, and the whole body behind it."""

    method: str
    target: str
    headers: CIMultiDictProxy[str]
    lines: list[Line]
    """Where ``known`` is set: its lines, whose proof is another one."""
    body: bytes | None
    """None: the request has none (and did not announce one)."""
    keep_alive: bool
    rest: bytes = b""
    """The header lines without proof and PoPP token, where they may be remembered (:func:`remember_head`)."""
    known: KnownHead | None = None
    proof: bytes = b""
    popp: bytes = b""


def read_plain_head(data: bytes, limits: Limits) -> PlainHead | None:
    """The one complete request that ``data`` is; None when it is anything else, which proves nothing against it."""
    rest = b""
    # Most have no body; looking for the end of a head costs more than reading it.
    if data.endswith(_END):
        end = len(data) - 4
        begin = data.find(_PROOFS[0]) + _VALUE_AT
        if begin < _VALUE_AT:
            begin = data.find(_PROOFS[1]) + _VALUE_AT
        if begin >= _VALUE_AT:
            stop = data.find(b"\r\n", begin)
            line_end = data.find(b"\r\n")
            # The first such line is cut out, so that what is left says where it stood.
            rest = data[line_end:begin] + data[stop:]
            popp = b""
            if _custom.popp:
                place = rest.find(_POPPS[0]) + _VALUE_AT
                if place < _VALUE_AT:
                    place = rest.find(_POPPS[1]) + _VALUE_AT
                if place >= _VALUE_AT:
                    after = rest.find(b"\r\n", place)
                    popp = rest[place:after]
                    rest = rest[:place] + rest[after:]
            before = _known.young.get(rest) or _known.get(rest)
            if before is not None and before.limits is limits and end < limits.request_header - len(before.lines):
                proof = data[begin:stop]
                # An empty value is no cut one.
                if (
                    proof
                    and (popp == b"") is (before.popp_place < 0)
                    and not (proof + popp).translate(None, _JWS_BYTES)
                ):
                    request_line = data[:line_end]
                    if request_line != before.first:
                        first = _read_first(request_line, limits)
                        if first is None:
                            return None
                        before.first = request_line
                        before.method, before.target = first
                    return _repeated(before, proof, popp)
    else:
        end = data.find(_END)
        if end <= 0:
            return None
    lines = split_lines(data, end, limits.header_count)
    # As the head is measured elsewhere, a blank behind each colon.
    if lines is None or end + len(lines) - 1 > limits.request_header:
        return None
    first = _read_first(lines[0], limits)
    if first is None:
        return None
    seen = 0
    body: bytes | None = None
    keep_alive = True
    fields: list[tuple[str, str]] = []
    read: list[Line] = []
    known = known_lines
    del lines[0]
    for text in lines:
        line = known.get(text) or known_tokens.get(text) or read_line(text)
        if line is None:
            return None
        mark = line.mark
        if mark:
            if mark & seen or mark is OTHER:
                return None
            seen |= mark
            if mark is CONNECTION:
                option = line.pair[1].lower()
                if option == b"close":
                    keep_alive = False
                elif option != b"keep-alive":
                    return None
            elif mark is LENGTH:
                digits = line.pair[1]
                if not digits.isdigit() or len(digits) > MOST_DIGITS:
                    return None
                body = data[end + 4 :]
                if len(body) != int(digits):
                    return None
        fields.append(line.field)
        read.append(line)
    if not seen & HOST or (body is None and len(data) != end + 4):
        return None
    headers = CIMultiDictProxy(CIMultiDict(fields))
    if body is not None or seen & PRIVATE:
        rest = b""
    return _new(PlainHead, (*first, headers, read, body, keep_alive, rest, None, b"", b""))


def _read_first(line: bytes, limits: Limits) -> tuple[str, str] | None:
    """Method and target."""
    words = line.split(b" ")
    if len(words) != 3 or words[2] != b"HTTP/1.1" or len(line) >= limits.request_line - 32:
        return None
    method = _METHODS.get(words[0])
    target = words[1]
    if method is None or target[:1] != b"/" or target.translate(None, _VISIBLE):
        return None
    return method, target.decode("ascii")


def _repeated(before: KnownHead, proof: bytes, popp: bytes) -> PlainHead:
    fields = before.fields.copy()
    place = before.proof_place
    fields[place] = (fields[place][0], proof.decode("ascii"))
    if popp:
        place = before.popp_place
        fields[place] = (fields[place][0], popp.decode("ascii"))
    headers = CIMultiDictProxy(CIMultiDict(fields))
    return _new(
        PlainHead,
        (before.method, before.target, headers, before.lines, None, before.keep_alive, b"", before, proof, popp),
    )


def remember_head(request: PlainRequest, limits: Limits) -> None:
    """The header lines of the next request that differ from these in proof and PoPP token only are found, not read.

    Only for requests whose proof held: nobody else can fill the memory. Lines with other secrets than the access token
    (cookies) have no ``rest``.
    """
    rest = request.rest
    if not 0 < len(rest) <= _LONGEST_REST:
        return
    marks = [line.mark for line in request.lines]
    popp_place = marks.index(POPP) if POPP in marks else -1
    if popp_place >= 0 and not any(name + b"\r\n" in rest for name in _POPPS):
        # From now on it is looked for and cut out. It is somebody's health, and never kept.
        _custom.popp = True
    elif PROOF in marks:
        _known.put(rest, KnownHead(request, marks.index(PROOF), popp_place, limits))


def forget_heads() -> None:
    """Forget all heads, and with them the configuration for which something was found out about them."""
    _known.clear()


class PlainRequest(web.BaseRequest):
    """A plain request as the rooms know requests. What only few of them need is made when it is asked for."""

    # Attributes where the base class computes; nothing here depends on its message object.
    method: str = ""
    headers: CIMultiDictProxy[str] = CIMultiDictProxy(CIMultiDict())
    raw_path: str = ""
    keep_alive: bool = True
    version = HttpVersion11
    remote: str | None = None
    secure: bool = False

    def __init__(
        self,
        head: PlainHead,
        protocol: RequestHandler,
        loop: asyncio.AbstractEventLoop,
        *,
        remote: str | None,
        secure: bool,
    ) -> None:
        """``remote``: the peer's address. ``secure``: it came over TLS to this process."""
        # The base class would prepare much that nobody asks for.
        (
            self.method,
            self.raw_path,
            self.headers,
            self._lines,
            self.body,
            self.keep_alive,
            self.rest,
            self.known,
            self._proof,
            self._popp,
        ) = head
        self.remote = remote
        self.secure = secure
        self._headers = self.headers
        self._protocol = protocol
        self._loop = loop
        self._state = {}
        self._cache: dict[str, Any] = {}
        self.written = 0
        self._content: StreamReader | None = None
        self._stream_writer: StreamWriter | None = None

    @property
    def lines(self) -> list[Line]:
        """The header lines, read."""
        if self._proof:
            # They are those of an earlier request until somebody asks.
            known = self.known
            assert known is not None
            lines = self._lines = self._lines.copy()
            for place, value in ((known.proof_place, self._proof), (known.popp_place, self._popp)):
                if value:
                    lines[place] = Line(lines[place].pair[0], value, lines[place].name)
            self._proof = b""
        return self._lines

    @property
    def raw_headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """The header lines as they came."""
        return tuple(line.pair for line in self.lines)

    @property
    def content(self) -> StreamReader:
        """The body as a stream."""
        content = self._content
        if content is None:
            if self.body is None:
                content = EMPTY_PAYLOAD
            else:
                content = StreamReader(self._protocol, len(self.body) or 1, loop=self._loop)
                if self.body:
                    content.feed_data(self.body)
                content.feed_eof()
            self._content = content
        return content

    @property
    def _payload(self) -> StreamReader:  # type: ignore[override]
        return self.content

    @property
    def _payload_writer(self) -> StreamWriter:  # type: ignore[override]
        writer = self._stream_writer
        if writer is None:
            writer = self._stream_writer = StreamWriter(self._protocol, self._loop)
            writer.output_size = self.written
        return writer

    @property
    def body_exists(self) -> bool:
        """Whether there is something to read."""
        return self.body is not None

    def _cancel(self, exc: BaseException) -> None:
        """The client is gone; nobody waits for a body that is here already."""

    def _finish(self) -> None:
        """Nothing was opened."""
