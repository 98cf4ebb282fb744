"""Institutions with a card and one client each, whose token requests are made before anything is timed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import orjson

from bench.environment import GuardSetup
from bench.load import closed_loop
from zeta_guard.client.assertions import Product, client_assertion, client_statement, dpop_proof, subject_token
from zeta_guard.client.keys import SoftwareKey
from zeta_guard.client.registration import registration_request
from zeta_guard.client.token_request import encoded, exchange_form, refresh_form
from zeta_guard.jose.encoding import b64url_decode
from zeta_guard.simulators.card import Card

Curve = Literal["secp256r1", "brainpoolP256r1"]
SCOPES = ("vsdservice",)
_PRODUCT = Product()


def post(path: str, host: str, content_type: str, body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
    """One POST as it goes over the wire, with the headers of a common client."""
    lines = {
        "Host": host,
        "Accept": "application/json",
        "User-Agent": "ktor-client",
        "Content-Type": content_type,
        "Content-Length": str(len(body)),
        **(headers or {}),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body


def get(path: str, host: str) -> bytes:
    """One GET as it goes over the wire."""
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: */*\r\nUser-Agent: ktor-client\r\n\r\n".encode()


@dataclass(slots=True)
class Practice:
    """One institution with its registered client."""

    setup: GuardSetup
    card: Card
    instance_key: SoftwareKey = field(default_factory=SoftwareKey.generate)
    dpop_key: SoftwareKey = field(default_factory=SoftwareKey.generate)
    client_id: str = ""

    @property
    def host(self) -> str:
        """``Host`` of the guard."""
        return self.setup.public_url.removeprefix("http://")

    @property
    def _endpoint(self) -> str:
        return self.setup.public_url + "/token"

    def registration(self) -> bytes:
        """``POST /register``."""
        body = registration_request(self.instance_key, "bench")
        return post("/register", self.host, "application/json", body)

    def _assertion(self, nonce: bytes, now: float) -> str:
        statement = client_statement(
            client_id=self.client_id, client_key=self.instance_key, product=_PRODUCT, nonce=nonce, now=now
        )
        return client_assertion(
            client_id=self.client_id,
            audience=self._endpoint,
            client_key=self.instance_key,
            statement=statement,
            now=now,
            lifetime=240,
        ).signed(self.instance_key.sign)

    def _proven(self, form: bytes, nonce: bytes, now: float) -> bytes:
        proof = dpop_proof(key=self.dpop_key, method="POST", url=self._endpoint, now=now, nonce=nonce)
        headers = {"DPoP": proof.signed(self.dpop_key.sign)}
        return post("/token", self.host, "application/x-www-form-urlencoded", form, headers)

    def exchange(self, nonce: bytes) -> bytes:
        """``POST /token`` with a subject token by the card."""
        now = time.time()
        subject = subject_token(
            client_id=self.client_id,
            telematik_id=self.card.telematik_id,
            certificate_der=self.card.der,
            audience=self._endpoint,
            nonce=nonce,
            client_jkt=self.instance_key.thumbprint,
            dpop_jkt=self.dpop_key.thumbprint,
            now=now,
            lifetime=240,
        ).signed(self.card.sign)
        form = exchange_form(
            client_id=self.client_id,
            subject_token=subject,
            client_assertion=self._assertion(nonce, now),
            scopes=SCOPES,
            audience=self.setup.public_url + "/",
        )
        return self._proven(encoded(form), nonce, now)

    def refresh(self, nonce: bytes, refresh_token: str) -> bytes:
        """``POST /token`` with a refresh token."""
        now = time.time()
        form = refresh_form(
            client_id=self.client_id,
            refresh_token=refresh_token,
            client_assertion=self._assertion(nonce, now),
            scopes=SCOPES,
            audience=self.setup.public_url + "/",
        )
        return self._proven(encoded(form), nonce, now)


def institutions(setup: GuardSetup, curve: Curve, count: int, *, first: int = 0) -> list[Practice]:
    """Practices with a card on ``curve``, not registered yet."""
    return [
        Practice(setup, setup.pki.issue_smcb(f"1-20{first + index:08d}", curve=curve), client_id="")
        for index in range(count)
    ]


async def fetch(port: int, requests: Sequence[bytes], *, want: int, what: str) -> list[bytes]:
    """Bodies of the answers in the order of the requests. Raises RuntimeError when one is not as wanted."""
    outcome = await closed_loop(port, requests, connections=16, want=want, keep=True)
    if outcome.right != len(requests):
        raise RuntimeError(f"{what}: answers {outcome.wrong} instead of {want}; the last one: {outcome.last_wrong!r}")
    return [outcome.bodies[place] for place in range(len(requests))]


async def register(practices: Sequence[Practice]) -> None:
    """Register every client."""
    port = practices[0].setup.port
    bodies = await fetch(port, [practice.registration() for practice in practices], want=201, what="registration")
    for practice, body in zip(practices, bodies, strict=True):
        practice.client_id = str(orjson.loads(body)["client_id"])


async def nonces(setup: GuardSetup, count: int) -> list[bytes]:
    """Fresh nonces."""
    host = setup.public_url.removeprefix("http://")
    bodies = await fetch(setup.port, [get("/nonce", host)] * count, want=200, what="nonce")
    return [b64url_decode(body) for body in bodies]


async def exchanges(practices: Sequence[Practice], count: int) -> list[bytes]:
    """So many exchange requests, the practices taking turns; they must be sent within a minute."""
    fresh = await nonces(practices[0].setup, count)
    return await asyncio.to_thread(
        lambda: [practices[place % len(practices)].exchange(nonce) for place, nonce in enumerate(fresh)]
    )


async def refreshes(practices: Sequence[Practice], answers: Sequence[bytes]) -> list[bytes]:
    """A refresh request for every answer of :func:`exchanges`, in its order."""
    fresh = await nonces(practices[0].setup, len(answers))
    return await asyncio.to_thread(
        lambda: [
            practices[place % len(practices)].refresh(nonce, orjson.loads(answer)["refresh_token"])
            for place, (nonce, answer) in enumerate(zip(fresh, answers, strict=True))
        ]
    )
