"""An OPA server as the engine: asked over its REST data API through ``opa-python-client`` (``policy-contract`` section 4).

Of that library only ``query_rule`` and ``check_health`` are used, without its retries (their pauses ignore every deadline); its
other calls can change what the server decides. An empty answer (OPA's for an undefined rule) is no answer.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import aiohttp

from zeta_guard.config.policy import OpaServer as OpaConfig
from zeta_guard.errors import ConfigurationError, JsonValue, ZetaError, unavailable
from zeta_guard.policy.answer import MalformedAnswerError, read_decision
from zeta_guard.policy.breaker import CircuitBreaker
from zeta_guard.policy.contract import Decision, Question
from zeta_guard.telemetry.logging import log_event

if TYPE_CHECKING:
    from opa_client.opa_async import AsyncOpaClient

_logger = logging.getLogger("zeta_guard.policy")
_PROVENANCE: Final = {"provenance": "true"}
_LONGEST_ID: Final = 128


class OpaServerEngine:
    """Asks the server and believes only a complete answer within the deadline. ``decisions``: question → path below data."""

    def __init__(self, config: OpaConfig, decisions: Mapping[Question, str], *, where: str) -> None:
        self._config = config
        self._where = where
        self._decisions = {question: _split(path, where) for question, path in decisions.items()}
        self._deadline = config.deadline_ms / 1000
        self._breaker = CircuitBreaker()
        self._client: AsyncOpaClient | None = None
        self._revision = ""

    @property
    def revision(self) -> str:
        """Revision of the bundle that made the last decision, empty before the first one."""
        return self._revision

    def answers(self, question: Question) -> bool:
        """Whether this engine may be asked the question."""
        return question in self._decisions

    async def start(self) -> None:
        """Prepare connections. A server that is away is no error: it may come later, and until then the answer is 503."""
        self._client = _client(self._config, self._where)
        await self._client.__aenter__()
        line = await self.readiness()
        if line is not None:
            log_event(_logger, logging.WARNING, "policy_engine_away", detail=line)

    async def decide(self, question: Question, document: Mapping[str, JsonValue], *, now: float) -> Decision:
        """Ask once. Raises ZetaError 503 for everything that is no valid answer within the deadline."""
        start = time.perf_counter()
        answer = await self._ask(question, document)
        milliseconds = (time.perf_counter() - start) * 1000
        try:
            if not isinstance(answer, dict) or "result" not in answer:
                raise MalformedAnswerError("the decision is undefined")
            revision = _revision(answer.get("provenance"))
            given = answer.get("decision_id")
            decision = read_decision(
                answer["result"],
                decision_id=given if isinstance(given, str) and 0 < len(given) <= _LONGEST_ID else str(uuid.uuid4()),
                revision=revision,
                milliseconds=milliseconds,
                # Without a revision nobody would notice that a remembered decision is of another bundle.
                may_cache=revision != "",
            )
        except MalformedAnswerError as error:
            log_event(_logger, logging.ERROR, "policy_no_answer", question=question, detail=str(error))
            raise unavailable("the policy gave no valid answer", stage="policy") from error
        self._revision = revision
        return decision

    async def _ask(self, question: Question, document: Mapping[str, JsonValue]) -> object:
        if self._client is None or question not in self._decisions:
            raise unavailable("no policy engine answers this question", stage="policy")
        package, rule = self._decisions[question]
        moment = time.monotonic()
        if not self._breaker.admit(moment):
            raise self._away(moment)
        try:
            async with asyncio.timeout(self._deadline):
                answer: object = await self._client.query_rule(
                    input_data=dict(document), package_path=package, rule_name=rule, query_params=_PROVENANCE
                )
        except asyncio.CancelledError:
            self._breaker.give_back()
            raise
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            moment = time.monotonic()
            was_open = self._breaker.is_open
            self._breaker.failed(moment)
            if not was_open:
                log_event(_logger, logging.ERROR, "policy_engine_failed", question=question, kind=type(error).__name__)
            raise self._away(moment) from error
        self._breaker.succeeded()
        return answer

    def _away(self, moment: float) -> ZetaError:
        return unavailable(
            "the policy engine does not answer", retry_after=self._breaker.seconds_left(moment), stage="policy"
        )

    async def readiness(self) -> str | None:
        """None when the server says that its bundles are active (``/health?bundles``)."""
        if self._client is None:
            return "the policy engine was not started"
        if self._breaker.is_open:
            return "the OPA server does not answer"
        try:
            async with asyncio.timeout(self._deadline):
                healthy = await self._client.check_health(query={"bundles": "true"})
        except TimeoutError:
            healthy = False
        return None if healthy else "the OPA server is away or has not activated its bundles"

    async def close(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.close_connection()


def _client(config: OpaConfig, where: str) -> AsyncOpaClient:
    from opa_client.opa_async import AsyncOpaClient as Library

    parts = urlsplit(config.url)
    if not parts.hostname or parts.username is not None or parts.query or parts.fragment:
        raise ConfigurationError(f"{where}.url", config.url, "http(s)://host:port", "Put a token into token_file.")
    secure = parts.scheme == "https"
    context = _context(config, where) if secure else None
    token = _token(config, where)

    class Client(Library):  # type: ignore[misc, unused-ignore]
        """With the configured trust anchors, which the library cannot be given, and without redirects."""

        async def _init_session(self) -> None:
            self._connector = aiohttp.TCPConnector(ssl=context if context is not None else True, limit=64)
            self._session = aiohttp.ClientSession(
                headers=self.headers,
                connector=self._connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=self.timeout),
            )

        def _request(self, method: str, url: str, **arguments: Any) -> Any:
            return super()._request(method, url, allow_redirects=False, **arguments)

    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    client = Client(
        host=host,
        port=parts.port or (443 if secure else 8181),
        ssl=secure,
        token=token,
        retries=0,
        timeout=config.deadline_ms / 1000,
    )
    prefix = parts.path.rstrip("/")
    client.host, client.root_url = host, f"{parts.scheme}://{host}:{client.port}{prefix}/v1"
    return client


def _context(config: OpaConfig, where: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=config.ca_file)
    except (OSError, ssl.SSLError):
        raise ConfigurationError(
            f"{where}.ca_file", str(config.ca_file), "a PEM file with at least one certificate"
        ) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _token(config: OpaConfig, where: str) -> str | None:
    if config.token_file is None:
        return None
    try:
        token = config.token_file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeError):
        token = ""
    if not token or not token.isprintable():
        raise ConfigurationError(
            f"{where}.token_file", config.token_file.name, "a file with one line, the bearer token"
        )
    return token


def _split(path: str, where: str) -> tuple[str, str]:
    package, _, rule = path.strip("/").rpartition("/")
    if not package or not rule:
        raise ConfigurationError(f"{where}.decision", repr(path), "a path such as policies/zeta/authz/decision")
    return package, rule


def _revision(provenance: object) -> str:
    """One bundle: its revision. Several: ``name=revision`` of each. None: empty."""
    bundles = provenance.get("bundles") if isinstance(provenance, dict) else None
    if not isinstance(bundles, dict):
        return ""
    found = {
        str(name): str(bundle.get("revision", ""))
        for name, bundle in sorted(bundles.items())
        if isinstance(bundle, dict)
    }
    if len(found) == 1:
        return next(iter(found.values()))[:256]
    return ",".join(f"{name}={revision}" for name, revision in found.items())[:256]
