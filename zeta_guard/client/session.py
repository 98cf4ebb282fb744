"""A client session: what the ZETA SDK 1.2 does around each request of an application."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

from aiohttp import ClientWebSocketResponse
from yarl import URL

from zeta_guard.client import assertions, registration, token_request
from zeta_guard.client.assertions import Product, UnsignedJwt
from zeta_guard.client.discovery import GuardMetadata, discover
from zeta_guard.client.errors import ClientError, MetadataError, Refused
from zeta_guard.client.identity import SmcbSigner, admission
from zeta_guard.client.keys import SoftwareKey
from zeta_guard.client.state import ClientState
from zeta_guard.client.token_request import Tokens
from zeta_guard.client.websocket import upgrade
from zeta_guard.client.wire import Answer, Exchange, OnExchange, Wire
from zeta_guard.jose.encoding import b64url_decode

Part = Literal["client_assertion", "subject_token", "institution_assertion", "dpop_proof"]
Headers = Sequence[tuple[str, str]] | Mapping[str, str]

MOST_SENDS: Final = 4
_PAUSE: Final = 5.0
_FORM: Final = ("Content-Type", "application/x-www-form-urlencoded; charset=UTF-8")
_JSON: Final = ("Accept", "application/json")


@dataclass(frozen=True, slots=True)
class Hooks:
    """Where a test or the demo looks in or tampers. ``before_signing`` may exchange what is signed, ``after_signing`` the
    finished JWT; both get the name of the part."""

    on_exchange: OnExchange | None = None
    before_signing: Callable[[Part, UnsignedJwt], UnsignedJwt] | None = None
    after_signing: Callable[[Part, str], str] | None = None


class ZetaClient:
    """A stationary client (software keys, SM(C)-B identity) at one guard. Use as an async context manager.

    ``scopes`` empty asks for all that the authorization server supports. ``sleep`` is what pauses between resends.
    """

    def __init__(
        self,
        base_url: str,
        identity: SmcbSigner,
        *,
        ca_file: Path | None = None,
        product: Product | None = None,
        scopes: Sequence[str] = (),
        hooks: Hooks | None = None,
        state: ClientState | None = None,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        assertion_lifetime: int = 30,
        timeout: float = 30,
    ) -> None:
        self.base_url: Final = base_url.rstrip("/")
        self.identity: Final = identity
        self.product: Final = product or Product()
        self.state: Final = state or ClientState()
        self.hooks = hooks or Hooks()
        self._scopes = tuple(scopes)
        self._clock = clock
        self._sleep = sleep
        self._lifetime = assertion_lifetime
        self._lock = asyncio.Lock()
        self.wire: Final = Wire(ca_file=ca_file, on_exchange=self._tell, timeout=timeout)

    async def __aenter__(self) -> Self:
        await self.wire.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.wire.__aexit__(kind, error, trace)

    # the four needs, one by one

    async def discover(self) -> GuardMetadata:
        """The guard's metadata, fetched once and kept for ever, as the SDK does."""
        if self.state.metadata is None:
            metadata = await discover(self.wire, self.base_url)
            missing = set(self._scopes) - set(metadata.scopes_supported)
            if missing:
                raise MetadataError(
                    f"scopes {sorted(missing)} are not offered; offered are {list(metadata.scopes_supported)}",
                    "Ask for scopes_supported only.",
                )
            self.state.metadata = metadata
        return self.state.metadata

    async def register(self) -> str:
        """The client id; registers when there is none. Three attempts as the SDK makes them, none after 403 and 409."""
        metadata = await self.discover()
        if self.state.client_id is None:
            body = registration.registration_request(self.state.instance_key, self.product.client_name)
            for pause in (*registration.PAUSES, None):
                try:
                    self.state.client_id = await registration.register_once(
                        self.wire, metadata.registration_endpoint, body
                    )
                    break
                except Refused as refused:
                    if pause is None or refused.answer.status in registration.FINAL:
                        raise
                    await self._sleep(pause)
        assert self.state.client_id is not None
        return self.state.client_id

    async def nonce(self) -> bytes:
        """A fresh nonce. Raises Refused, or MetadataError when the body is not bare canonical base64url."""
        metadata = await self.discover()
        answer = await self.wire.send("GET", metadata.nonce_endpoint, [_JSON])
        if answer.status != 200:
            raise Refused("nonce", answer)
        try:
            return b64url_decode(answer.body)
        except ValueError:
            raise MetadataError("nonce endpoint: the body is not bare canonical base64url") from None

    async def token(self) -> Tokens:
        """Tokens that are good for more than 10 s: the kept ones, else refreshed ones, else those of a new login."""
        async with self._lock:
            tokens = self.state.tokens
            if tokens is not None and tokens.usable(self._clock()):
                return tokens
            if tokens is not None and tokens.refresh_token is not None:
                try:
                    return await self.refresh()
                except ClientError:
                    # Like the SDK: whatever the refresh met, the SM(C)-B can always prove the institution again.
                    pass
            return await self.login()

    async def login(self) -> Tokens:
        """A complete token exchange, with the SDK's one recovery after 401. Raises Refused."""
        answer = await self.exchange()
        if answer.status == 401:
            self.state.tokens = None
            if b"invalid_client" in answer.body:
                self.state.client_id = None
            answer = await self.exchange()
        return self._keep("token", answer)

    async def refresh(self) -> Tokens:
        """Exchange the refresh token. Raises Refused; the kept tokens are then untouched."""
        metadata = await self.discover()
        await self.register()
        nonce = await self.nonce()
        return self._keep(
            "refresh", await self.send_form(metadata.token_endpoint, self.refresh_form(metadata, nonce), nonce)
        )

    async def exchange(self) -> Answer:
        """One token exchange, sent once; the answer as it is."""
        metadata, client_id, nonce = await self.discover(), await self.register(), await self.nonce()
        endpoint, now = metadata.token_endpoint, self._clock()
        assertion = self.client_assertion(endpoint, nonce)
        proof = self.proof("POST", endpoint, nonce=nonce)
        subject = assertions.subject_token(
            client_id=client_id,
            telematik_id=admission(self.identity.der)[0],
            certificate_der=self.identity.der,
            audience=endpoint,
            nonce=nonce,
            client_jkt=self.state.instance_key.thumbprint,
            dpop_jkt=self.state.dpop_key.thumbprint,
            now=now,
            lifetime=self._lifetime,
        )
        form = token_request.exchange_form(
            client_id=client_id,
            subject_token=self._finish("subject_token", subject, self.identity.sign),
            client_assertion=assertion,
            scopes=self.scopes(metadata),
            audience=metadata.resource,
        )
        return await self.wire.send("POST", endpoint, [("dpop", proof), _JSON, _FORM], token_request.encoded(form))

    async def client_credentials(self, product_id: str, audience: str | None = None) -> Tokens:
        """A token by an assertion of the SM(C)-B itself: no registration, no refresh token. Raises Refused."""
        metadata, nonce = await self.discover(), await self.nonce()
        endpoint, key = metadata.token_endpoint, self.state.dpop_key
        statement = assertions.client_statement(
            client_id=product_id, client_key=key, product=self.product, nonce=nonce, now=self._clock()
        )
        assertion = assertions.institution_assertion(
            product_id=product_id,
            audience=endpoint,
            certificate_der=self.identity.der,
            nonce=nonce,
            dpop_jkt=key.thumbprint,
            statement=statement,
            now=self._clock(),
        )
        form = token_request.client_credentials_form(
            product_id=product_id,
            client_assertion=self._finish("institution_assertion", assertion, self.identity.sign),
            scopes=self.scopes(metadata),
            audience=audience or metadata.resource,
        )
        return self._keep("token", await self.send_form(endpoint, form, nonce))

    async def revoke(self, token: str | None = None) -> None:
        """End the session of ``token`` (default: of the kept refresh token) and forget the tokens (RFC 7009)."""
        metadata, client_id = await self.discover(), await self.register()
        tokens = self.state.tokens
        if token is None and tokens is not None:
            token = tokens.refresh_token or tokens.access_token
        if token is None or metadata.revocation_endpoint is None:
            raise ClientError("there is nothing to revoke, or no revocation endpoint")
        form = [
            ("token", token),
            ("client_id", client_id),
            ("client_assertion_type", token_request.JWT_BEARER),
            ("client_assertion", self.client_assertion(metadata.token_endpoint, await self.nonce())),
        ]
        answer = await self.wire.send("POST", metadata.revocation_endpoint, [_JSON, _FORM], token_request.encoded(form))
        if answer.status != 200:
            raise Refused("revoke", answer)
        self.state.tokens = None

    # resources

    async def request(self, method: str, path: str, headers: Headers = (), body: bytes | None = None) -> Answer:
        """A request of the application with everything the SDK does around it; at most four sends.

        401 and 403: one new login, then once more. 429: the seconds of ``Retry-After``, else 5, then the *same* proof again;
        500, 502 and 504 likewise after 5 s. Everything else comes back as it is.
        """
        url = self.url(path)
        if "/health" in url.lower():
            return await self.wire.send(method, url, _accepting(headers), body)
        await self.token()
        signed = self.resource_headers(method, url, headers)
        logged_in_again = False
        for _ in range(MOST_SENDS - 1):
            answer = await self.wire.send(method, url, signed, body)
            if answer.status in (401, 403) and not logged_in_again:
                logged_in_again = True
                self.state.tokens = None
                try:
                    await self.token()
                    signed = self.resource_headers(method, url, headers)
                except ClientError:
                    # Like the SDK: the request goes out again as it was, and its answer is what the application sees.
                    continue
            elif answer.status == 429:
                await self._sleep(_retry_after(answer))
            elif answer.status in (500, 502, 504):
                await self._sleep(_PAUSE)
            else:
                return answer
        return await self.wire.send(method, url, signed, body)

    async def send(
        self,
        method: str,
        path: str,
        headers: Headers = (),
        body: bytes | None = None,
        *,
        access_token: str | None = None,
        proof: str | None = None,
    ) -> Answer:
        """One request, sent once, no rules: with the kept token and a fresh proof, or with those that are given."""
        url = self.url(path)
        signed = self.resource_headers(method, url, headers, access_token=access_token, proof=proof)
        return await self.wire.send(method, url, signed, body)

    async def websocket(self, path: str, headers: Headers = ()) -> ClientWebSocketResponse:
        """An open WebSocket; offers ``permessage-deflate``, pings every 30 s. Raises Refused when the upgrade is."""
        url = self.url(path)
        await self.token()
        return await upgrade(self.wire, url, self.resource_headers("GET", url, headers))

    # parts

    def url(self, path: str) -> str:
        """The absolute URL of ``path``; an absolute one stays as it is."""
        return path if "://" in path else f"{self.base_url}/{path.removeprefix('/')}"

    def scopes(self, metadata: GuardMetadata) -> tuple[str, ...]:
        """The scopes to ask for."""
        return self._scopes or metadata.scopes_supported

    def client_assertion(self, audience: str, nonce: bytes) -> str:
        """A signed client assertion with its statement."""
        client_id = self.state.client_id or ""
        statement = assertions.client_statement(
            client_id=client_id,
            client_key=self.state.instance_key,
            product=self.product,
            nonce=nonce,
            now=self._clock(),
        )
        assertion = assertions.client_assertion(
            client_id=client_id,
            audience=audience,
            client_key=self.state.instance_key,
            statement=statement,
            now=self._clock(),
            lifetime=self._lifetime,
        )
        return self._finish("client_assertion", assertion, self.state.instance_key.sign)

    def proof(
        self,
        method: str,
        url: str,
        *,
        nonce: bytes | None = None,
        access_token: str | None = None,
        key: SoftwareKey | None = None,
    ) -> str:
        """A signed DPoP proof; ``url`` loses query and default port."""
        signing_key = key or self.state.dpop_key
        unsigned = assertions.dpop_proof(
            key=signing_key,
            method=method,
            url=_without_default_port(url),
            now=self._clock(),
            nonce=nonce,
            access_token=access_token,
        )
        return self._finish("dpop_proof", unsigned, signing_key.sign)

    def resource_headers(
        self,
        method: str,
        url: str,
        headers: Headers = (),
        *,
        access_token: str | None = None,
        proof: str | None = None,
    ) -> list[tuple[str, str]]:
        """Headers of a resource request; scheme and header name in the SDK's lower case."""
        if access_token is None:
            if self.state.tokens is None:
                raise ClientError("there is no access token", "Log in first.")
            access_token = self.state.tokens.access_token
        return [
            *_accepting(headers),
            ("Authorization", f"dpop {access_token}"),
            ("dpop", proof or self.proof(method, url, access_token=access_token)),
        ]

    def refresh_form(self, metadata: GuardMetadata, nonce: bytes) -> token_request.Form:
        """The refresh request of the kept refresh token. Raises ClientError when there is none."""
        tokens = self.state.tokens
        if tokens is None or tokens.refresh_token is None:
            raise ClientError("there is no refresh token", "Log in first.")
        return token_request.refresh_form(
            client_id=self.state.client_id or "",
            refresh_token=tokens.refresh_token,
            client_assertion=self.client_assertion(metadata.token_endpoint, nonce),
            scopes=self.scopes(metadata),
            audience=metadata.resource,
        )

    async def send_form(self, endpoint: str, form: token_request.Form, nonce: bytes) -> Answer:
        """POST a form of the token endpoint with a fresh proof."""
        proof = self.proof("POST", endpoint, nonce=nonce)
        return await self.wire.send("POST", endpoint, [("dpop", proof), _JSON, _FORM], token_request.encoded(form))

    def _keep(self, step: str, answer: Answer) -> Tokens:
        if answer.status != 200:
            raise Refused(step, answer)
        self.state.tokens = token_request.read_tokens(answer, self._clock())
        return self.state.tokens

    def _finish(self, part: Part, unsigned: UnsignedJwt, sign: Callable[[bytes], bytes]) -> str:
        if self.hooks.before_signing is not None:
            unsigned = self.hooks.before_signing(part, unsigned)
        signed = unsigned.signed(sign)
        return self.hooks.after_signing(part, signed) if self.hooks.after_signing is not None else signed

    def _tell(self, exchange: Exchange) -> None:
        if self.hooks.on_exchange is not None:
            self.hooks.on_exchange(exchange)


def _accepting(headers: Headers) -> list[tuple[str, str]]:
    pairs = list(headers.items() if isinstance(headers, Mapping) else headers)
    wanted = [value for name, value in pairs if name.lower() == "accept"]
    others = [(name, value) for name, value in pairs if name.lower() != "accept"]
    return [*others, ("Accept", ",".join([*wanted, "application/json"]))]


def _without_default_port(url: str) -> str:
    parsed = URL(url, encoded=True)
    if parsed.explicit_port is not None and parsed.is_default_port():
        return url.replace(f":{parsed.explicit_port}", "", 1)
    return url


def _retry_after(answer: Answer) -> float:
    value = answer.headers.get("Retry-After", "")
    return float(value) if value.isascii() and value.isdigit() else _PAUSE
