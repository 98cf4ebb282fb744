"""One HTTP exchange after the other, as they go over the wire, each told to whoever listens."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

import aiohttp
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from zeta_guard import __version__
from zeta_guard.client.errors import ClientError, Unreachable
from zeta_guard.errors import JsonValue

USER_AGENT: Final = f"zeta-guard-client/{__version__}"
_SECRET_HEADERS: Final = frozenset({"authorization", "dpop", "popp", "cookie", "set-cookie"})
_LARGEST_ANSWER: Final = 64 << 20

refusal_body: ContextVar[list[bytes] | None] = ContextVar("refusal_body", default=None)
"""Where the body of a refused upgrade goes: aiohttp throws it away, and it is what says why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer. ``url`` is what was asked."""

    method: str
    url: str
    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    def json(self) -> dict[str, JsonValue]:
        """The body as a JSON object; empty when it is none."""
        try:
            value = json.loads(self.body)
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}

    @property
    def error(self) -> str:
        """``error`` of the error body, or empty."""
        return str(self.json().get("error", "")) if self.status >= 400 else ""

    @property
    def error_description(self) -> str:
        """``error_description`` of the error body, or empty."""
        return str(self.json().get("error_description", "")) if self.status >= 400 else ""


@dataclass(frozen=True, slots=True)
class Exchange:
    """What one exchange looked like. Credentials are shortened to their kind and length; ``milliseconds`` is wall time."""

    method: str
    url: str
    request_headers: tuple[tuple[str, str], ...]
    status: int
    error: str
    milliseconds: float


OnExchange = Callable[[Exchange], None]


class Wire:
    """Connections to one guard. Use as an async context manager."""

    def __init__(
        self,
        *,
        ca_file: Path | None = None,
        on_exchange: OnExchange | None = None,
        timeout: float = 30,
        connect_timeout: float = 15,
    ) -> None:
        self._ca_file = ca_file
        self._on_exchange = on_exchange
        self._timeout = aiohttp.ClientTimeout(total=timeout, sock_connect=connect_timeout)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Wire:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls_context(self._ca_file), limit=64),
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            middlewares=(_keep_refusal,),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    @property
    def session(self) -> aiohttp.ClientSession:
        """The open session."""
        if self._session is None:
            raise ClientError("the client is not open", "Use it as an async context manager.")
        return self._session

    async def send(
        self, method: str, url: str, headers: Sequence[tuple[str, str]] = (), body: bytes | None = None
    ) -> Answer:
        """One request, sent once; no redirect is followed. Raises Unreachable."""
        sent: CIMultiDict[str] = CIMultiDict(headers)
        sent.setdefault("User-Agent", USER_AGENT)
        sent.setdefault("Connection", "Keep-Alive")
        sent.setdefault("Accept-Encoding", "gzip")
        started = time.perf_counter()
        try:
            async with self.session.request(
                method,
                URL(url, encoded=True),
                headers=sent,
                data=body,
                allow_redirects=False,
                skip_auto_headers=("Accept", "Content-Type"),
            ) as response:
                received = await _whole_body(response)
                answer = Answer(method, url, response.status, response.headers, received)
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise unreachable(url, error) from error
        self.tell(method, url, sent, answer.status, answer.error, started)
        return answer

    def tell(self, method: str, url: str, headers: Mapping[str, str], status: int, error: str, started: float) -> None:
        """Report an exchange that began at ``started`` (``time.perf_counter``)."""
        if self._on_exchange is None:
            return
        shown = tuple((name, redacted(name, value)) for name, value in headers.items())
        self._on_exchange(Exchange(method, url, shown, status, error, (time.perf_counter() - started) * 1000))


async def _whole_body(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > _LARGEST_ANSWER:
            raise ValueError("the answer is too large")
    return bytes(body)


async def _keep_refusal(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    response = await handler(request)
    kept = refusal_body.get()
    if kept is not None and response.status != 101:
        kept.append(await response.read())
    return response


def redacted(name: str, value: str) -> str:
    """A header value that may be shown: of credentials only scheme and length."""
    if name.lower() not in _SECRET_HEADERS:
        return value
    scheme, _, rest = value.partition(" ")
    return f"{scheme} <{len(rest)} characters>" if rest else f"<{len(value)} characters>"


def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """TLS 1.2 or 1.3; ``ca_file`` replaces the system's anchors. Raises ClientError when it cannot be read."""
    try:
        context = ssl.create_default_context(cafile=str(ca_file) if ca_file is not None else None)
    except (OSError, ssl.SSLError) as error:
        raise ClientError(f"{ca_file} holds no usable CA certificates", "PEM certificates are expected.") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def unreachable(url: str, error: Exception) -> Unreachable:
    """Words for a transport error."""
    host = URL(url, encoded=True).authority
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return Unreachable(
            f"the certificate of {host} is not trusted: {error.certificate_error}",
            "Name the CA of the guard with --ca.",
        )
    if isinstance(error, aiohttp.ClientConnectorError):
        return Unreachable(
            f"{host} cannot be reached: {error.os_error.strerror or error.os_error}", "Check URL, port and firewall."
        )
    if isinstance(error, asyncio.TimeoutError):
        return Unreachable(f"{host} did not answer in time", "Try again; then look at the guard's readiness.")
    return Unreachable(f"{host} closed or garbled the connection ({type(error).__name__})", "Is this an HTTPS port?")
