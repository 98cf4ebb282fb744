"""Which headers pass, towards the backend and back (``wire-contract`` section 7.3, ``security`` section 1). Pure.

Header lines pass byte for byte or not at all. Removing comes before setting, so that nothing a client sends (not even a
name in ``Connection``) can take away or double what the guard says.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from typing import Final, NamedTuple

import orjson

from zeta_guard.errors import JsonValue
from zeta_guard.gateway.popp import PoppToken
from zeta_guard.http.facts import IPAddress, RequestFacts
from zeta_guard.http.header import RESERVED_PREFIX, fold
from zeta_guard.http.plain_request import PlainRequest
from zeta_guard.http.refusal import API_VERSION, API_VERSION_HEADER
from zeta_guard.recent import Recent
from zeta_guard.tokens.access_token import AccessToken

RawHeaders = Sequence[tuple[bytes, bytes]]


class Treatment(IntEnum):
    """What happens to a header line."""

    KEEP = 0
    FRAMING = 1
    """Concerns this connection or the framing, which the guard makes anew."""
    CREDENTIAL = 2
    SPOOFED = 3
    """Only the guard may say this, or a backend would obey it against what was authorised."""
    PROXY_ONLY = 4
    """Kept when a trusted proxy sent it."""
    CONNECTION = 5
    FORWARDED = 6
    TRACE = 7
    HOST = 8
    RATE = 9
    CAUSE = 10
    LENGTH = 11
    TRANSFER = 12
    DATE = 13
    HANDSHAKE = 14


# Names of the module are found faster than members of an enumeration, and this runs for every header line.
_KEEP: Final = Treatment.KEEP
_SPOOFED: Final = Treatment.SPOOFED
_PROXY_ONLY: Final = Treatment.PROXY_ONLY
_CONNECTION: Final = Treatment.CONNECTION
_FORWARDED: Final = Treatment.FORWARDED
_TRACE: Final = Treatment.TRACE
_HOST: Final = Treatment.HOST
_RATE: Final = Treatment.RATE
_CAUSE: Final = Treatment.CAUSE
_DATE: Final = Treatment.DATE
_HANDSHAKE: Final = Treatment.HANDSHAKE
_LENGTH: Final = Treatment.LENGTH
_TRANSFER: Final = Treatment.TRANSFER
_MOST_DIGITS: Final = 18
# What the constructor of a named tuple does, without its call of Python code.
_new: Final = tuple.__new__
_COLON: Final = b": "
_END: Final = b"\r\n"
_NOTHING: Final[frozenset[bytes]] = frozenset()
_DROPPED: Final = frozenset({Treatment.FRAMING, Treatment.CREDENTIAL, Treatment.CONNECTION})
"""Lines of a plain request that simply go; its ``Connection`` names nothing."""
_NAMEABLE: Final = frozenset(
    {
        Treatment.KEEP,
        Treatment.PROXY_ONLY,
        Treatment.FORWARDED,
        Treatment.TRACE,
        Treatment.HANDSHAKE,
        Treatment.RATE,
        Treatment.DATE,
    }
)
"""Lines that ``Connection`` can take away; it cannot hide what is stripped, counted or decides about the framing."""


_REQUEST_NAMES: Final[Mapping[str, Treatment]] = {
    "host": Treatment.HOST,
    "connection": Treatment.CONNECTION,
    "keep-alive": Treatment.FRAMING,
    "proxy-connection": Treatment.FRAMING,
    "proxy-authenticate": Treatment.FRAMING,
    "proxy-authorization": Treatment.CREDENTIAL,
    "te": Treatment.FRAMING,
    "trailer": Treatment.FRAMING,
    "transfer-encoding": Treatment.FRAMING,
    "upgrade": Treatment.FRAMING,
    "content-length": Treatment.FRAMING,
    "expect": Treatment.FRAMING,
    "http2-settings": Treatment.FRAMING,
    "authorization": Treatment.CREDENTIAL,
    "dpop": Treatment.CREDENTIAL,
    "popp": Treatment.CREDENTIAL,
    "forwarded": Treatment.FORWARDED,
    "traceparent": Treatment.TRACE,
    "tracestate": Treatment.TRACE,
    "sec-websocket-key": Treatment.HANDSHAKE,
    "sec-websocket-version": Treatment.HANDSHAKE,
    "sec-websocket-protocol": Treatment.HANDSHAKE,
    "sec-websocket-extensions": Treatment.HANDSHAKE,
}
_OVERRIDES: Final = frozenset(
    {"x-http-method-override", "x-http-method", "x-method-override", "x-original-url", "x-rewrite-url"}
)
_RESPONSE_NAMES: Final[Mapping[str, Treatment]] = {
    "connection": Treatment.CONNECTION,
    "keep-alive": Treatment.FRAMING,
    "proxy-connection": Treatment.FRAMING,
    "proxy-authenticate": Treatment.FRAMING,
    "te": Treatment.FRAMING,
    "trailer": Treatment.FRAMING,
    "upgrade": Treatment.FRAMING,
    "transfer-encoding": Treatment.TRANSFER,
    "content-length": Treatment.LENGTH,
    "date": Treatment.DATE,
    "x-rate-limit-limit": Treatment.RATE,
    "x-rate-limit-remaining": Treatment.RATE,
    "x-rate-limit-reset": Treatment.RATE,
    "zeta-cause": Treatment.CAUSE,
}

# Named in practically every message, and no names of headers that would pass.
_HARMLESS_OPTIONS: Final = frozenset({b"close", b"keep-alive", b"upgrade"})

API_VERSION_LINE: Final = f"{API_VERSION_HEADER}: {API_VERSION}\r\n".encode("ascii")
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


_MOST_NAMES: Final = 2048
_LONGEST_NAME: Final = 64
_request_names: Final[dict[bytes, Treatment]] = {}
_response_names: Final[dict[bytes, Treatment]] = {}


def request_treatment(name: bytes) -> Treatment:
    """What happens to a header of this name on its way to the backend."""
    treatment = _request_names.get(name)
    if treatment is None:
        treatment = _treat_request(name)
        # What clients send again and again is remembered; what they invent does not fill the memory.
        if len(name) <= _LONGEST_NAME and len(_request_names) < _MOST_NAMES:
            _request_names[name] = treatment
    return treatment


def response_treatment(name: bytes) -> Treatment:
    """What happens to a header of this name on its way to the client."""
    treatment = _response_names.get(name)
    if treatment is None:
        treatment = _treat_response(name)
        if len(name) <= _LONGEST_NAME and len(_response_names) < _MOST_NAMES:
            _response_names[name] = treatment
    return treatment


def _treat_request(name: bytes) -> Treatment:
    folded = fold(name)
    if folded.startswith(RESERVED_PREFIX) or folded in _OVERRIDES:
        return Treatment.SPOOFED
    if folded.startswith("x-forwarded-") or folded == "x-real-ip":
        return Treatment.PROXY_ONLY
    return _REQUEST_NAMES.get(name.decode("latin-1").lower(), Treatment.KEEP)


def _treat_response(name: bytes) -> Treatment:
    known = _RESPONSE_NAMES.get(name.decode("latin-1").lower())
    if known is not None:
        return known
    return Treatment.SPOOFED if fold(name).startswith(RESERVED_PREFIX) else Treatment.KEEP


class Inbound(NamedTuple):
    """The header lines of a request, sorted. ``lines`` may be sent as they are; the others the guard rewrites."""

    lines: bytes
    forwarded: list[bytes]
    trace: list[bytes]
    handshake: list[bytes]
    host: bytes
    stripped: int
    """How many lines only the guard may send."""


def sort_request_headers(headers: RawHeaders, *, peer_trusted: bool) -> Inbound:
    """Sort the lines of a request; what ``Connection`` names goes (RFC 9110 §7.6.1)."""
    named: frozenset[bytes] = _NOTHING
    treatments = _request_names
    kept: list[bytes] = []
    forwarded: list[bytes] = []
    trace: list[bytes] = []
    handshake: list[bytes] = []
    host = b""
    stripped = 0
    for name, value in headers:
        treatment = treatments.get(name)
        if treatment is None:
            treatment = request_treatment(name)
        if treatment is _KEEP:
            kept += (name, _COLON, value, _END)
        elif treatment is _HOST:
            host = value
        elif treatment is _CONNECTION:
            named |= _options(value)
        elif treatment is _SPOOFED:
            stripped += 1
        elif treatment is _PROXY_ONLY:
            if peer_trusted:
                kept += (name, _COLON, value, _END)
            else:
                stripped += 1
        elif treatment is _FORWARDED:
            forwarded.append(value)
        elif treatment is _TRACE:
            trace.append(b"%b: %b\r\n" % (name, value))
        elif treatment is _HANDSHAKE:
            handshake.append(b"%b: %b\r\n" % (name, value))
    if named:
        return sort_request_headers(_without(headers, named, request_treatment), peer_trusted=peer_trusted)
    return Inbound(b"".join(kept), forwarded, trace, handshake, host, stripped)


def sort_plain_request(request: PlainRequest, *, peer_trusted: bool) -> Inbound:
    """As :func:`sort_request_headers`, faster: repeated lines remember their treatment."""
    kept: list[bytes] = []
    host = b""
    for line in request.lines:
        name = line.name
        treatment = name.treatment
        if treatment < 0:
            treatment = name.treatment = request_treatment(line.pair[0])
        if treatment is _KEEP:
            piece = line.kept
            if not piece:
                piece = line.kept = b"%b: %b\r\n" % line.pair
            kept.append(piece)
        elif treatment is _HOST:
            host = line.pair[1]
        elif treatment not in _DROPPED:
            return sort_request_headers(request.raw_headers, peer_trusted=peer_trusted)
    return _new(Inbound, (b"".join(kept), [], [], [], host, 0))


def _without(
    headers: RawHeaders, named: frozenset[bytes], treat: Callable[[bytes], Treatment]
) -> list[tuple[bytes, bytes]]:
    """The lines without ``Connection`` and those that it names; what is judged rather than passed on is always judged."""
    return [
        (name, value)
        for name, value in headers
        if (treatment := treat(name)) is not _CONNECTION and (treatment not in _NAMEABLE or name.lower() not in named)
    ]


def _options(value: bytes) -> frozenset[bytes]:
    """The names that a ``Connection`` line lists, in lower case, without those that are no header."""
    if value == b"keep-alive" or value == b"close":
        return _NOTHING
    options = frozenset(option for part in value.lower().split(b",") if (option := part.strip(b" \t")))
    return options - _HARMLESS_OPTIONS


def zeta_value(content: Mapping[str, JsonValue]) -> bytes:
    """Compact JSON in base64url **with** padding, as backends expect it in a ``ZETA-…`` header.

    Beyond ASCII it is escaped: backends are known to decode with the platform's character set.
    """
    raw = orjson.dumps(content)
    if not raw.isascii():
        raw = json.dumps(content, separators=(",", ":")).encode("ascii")
    return base64.urlsafe_b64encode(raw)


def user_info_line(token: AccessToken) -> bytes:
    """``ZETA-User-Info``: who asks (A_26589-01)."""
    content: dict[str, JsonValue] = {
        "identifier": token.telematik_id,
        "professionOID": token.profession_oid,
        "commonName": token.common_name,
    }
    if token.organization_name is not None:
        content["organizationName"] = token.organization_name
    return b"ZETA-User-Info: %b\r\n" % zeta_value(content)


def client_data_line(token: AccessToken) -> bytes:
    """``ZETA-Client-Data``: with which software (A_26590-02)."""
    content: dict[str, JsonValue] = {
        "client_id": token.client_id,
        "product_id": token.product_id,
        "product_version": token.product_version,
        "platform": token.platform,
    }
    return b"ZETA-Client-Data: %b\r\n" % zeta_value(content)


def popp_line(token: PoppToken | None) -> bytes:
    """``ZETA-PoPP-Token-Content``: the verified claims of the PoPP token, all of them; nothing without a token."""
    if token is None:
        return b""
    return b"ZETA-PoPP-Token-Content: %b\r\n" % zeta_value(dict(token.claims))


def forwarded_line(before: Sequence[bytes], facts: RequestFacts, host: bytes) -> bytes:
    """``Forwarded`` with one element of ours appended (RFC 7239 §4, A_28439)."""
    address = facts.client_address
    # Addresses are hashed by Python code; their integers are not.
    number = None if address is None else address._ip  # type: ignore[union-attr]
    key = (number, type(address), host, facts.scheme)
    own = _known_elements.get(key)
    if own is None:
        own = _forwarded_element(address, host, facts.scheme)
        _known_elements.put(key, own)
    if not before:
        return own
    return b"Forwarded: %b, %b" % (b", ".join(before), own.removeprefix(b"Forwarded: "))


_known_elements: Final[Recent[tuple[int | None, type, bytes, str], bytes]] = Recent(4096)


def _forwarded_element(address: IPAddress | None, host: bytes, scheme: str) -> bytes:
    if address is None:
        node = "unknown"
    else:
        node = str(address) if address.version == 4 else f'"[{address}]"'
    name = host.decode("ascii", "replace")
    if not _TOKEN.fullmatch(name):
        name = '"' + "".join(character for character in name if character not in '"\\') + '"'
    return f"Forwarded: by=_zetaguard;for={node};host={name};proto={scheme}\r\n".encode("ascii", "replace")


class Outgoing(NamedTuple):
    """The header lines of a backend's answer that the client gets, joined, and what decides about the rest."""

    lines: bytes
    dated: bool
    limited: bool
    """Whether the backend states rate limits of its own."""
    blames_proxy: bool
    """``zeta-cause: Proxy``: the answer may not reach the client."""
    length: int | None
    """The announced length of the body."""
    chunked: bool
    framed: bool
    """Whether the framing is plain: one ``Content-Length`` of digits, or exactly ``chunked`` once, or neither."""


def sort_response_headers(headers: RawHeaders) -> Outgoing:
    """Sort the lines of an answer: hop-by-hop and ``zeta-*`` lines go, everything else passes byte for byte."""
    named: frozenset[bytes] = _NOTHING
    treatments = _response_names
    kept: list[bytes] = []
    dated = limited = blamed = chunked = False
    framed = True
    length: int | None = None
    for name, value in headers:
        treatment = treatments.get(name)
        if treatment is None:
            treatment = response_treatment(name)
        if treatment is _KEEP:
            kept += (name, _COLON, value, _END)
        elif treatment is _DATE:
            dated = True
            kept += (name, _COLON, value, _END)
        elif treatment is _RATE:
            limited = True
            kept += (name, _COLON, value, _END)
        elif treatment is _CONNECTION:
            named |= _options(value)
        elif treatment is _LENGTH:
            if length is None and value.isdigit() and len(value) <= _MOST_DIGITS:
                length = int(value)
            else:
                framed = False
        elif treatment is _TRANSFER:
            if chunked or value.strip(b" \t").lower() != b"chunked":
                framed = False
            chunked = True
        elif treatment is _CAUSE and value.strip(b" \t").lower() == b"proxy":
            blamed = True
    if named:
        return sort_response_headers(_without(headers, named, response_treatment))
    if chunked and length is not None:
        framed = False
    return Outgoing(b"".join(kept), dated, limited, blamed, length, chunked, framed)


def header_values(headers: RawHeaders, name: bytes) -> list[bytes]:
    """All values of one header (``name`` in lower case), without surrounding blanks."""
    return [value.strip(b" \t") for seen, value in headers if seen.lower() == name]
