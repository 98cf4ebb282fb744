"""Garbage at every endpoint: the error body and a 4xx, never a traceback, never 500 (and 503 only where the store says so)."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

ENDPOINTS = [
    "/.well-known/oauth-protected-resource",
    "/.well-known/oauth-authorization-server",
    "/nonce",
    "/register",
    "/token",
    "/revoke",
    "/jwks",
    "/authorize",
    "/redirect",
    "/errors/invalid_grant",
    "/errors/" + "x" * 300,
    "/whoami",
    "/vsdservice/v1/vsdmbundle",
    "/popp/practitioner/api/v1/token-generation-ehc",
    "/nowhere",
]
METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "PROPFIND"]
FORM = "application/x-www-form-urlencoded"
EXCHANGE = "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange"
BODIES: list[tuple[str, bytes]] = [
    ("application/json", b""),
    ("application/json", b"null"),
    ("application/json", b"[]"),
    ("application/json", b"{"),
    ("application/json", b'{"a":1,"a":2}'),
    ("application/json", b'{"jwks":{"keys":[{}]}}'),
    (
        "application/json",
        b'{"jwks":{"keys":[{"kty":"EC","crv":"P-256","x":1,"y":null}]},"token_endpoint_auth_method":7}',
    ),
    ("application/json", b"[" * 20_000),
    ("application/json", b'{"a":' * 500 + b"1" + b"}" * 500),
    ("application/json", b'{"client_name":"\\ud800"}'),
    ("application/json", b"1e999999"),
    ("application/json", b"\xff\xfe{}"),
    ("application/json", b"{}" + b" " * 70_000),
    (FORM, b""),
    (FORM, b"grant_type"),
    (FORM, b"grant_type=a&grant_type=b"),
    (FORM, b"%ZZ=%FF&\x00=\x01"),
    (FORM, (EXCHANGE + "&client_id=x&subject_token=a.b.c&client_assertion=..&scope=%00").encode()),
    (FORM, (EXCHANGE + "&client_id=x&client_assertion=" + "e30." * 3).encode()),
    (FORM, b"a=" + b"x" * 70_000),
    (FORM, b"&" * 5000),
    ("text/plain", b"hello"),
    ("multipart/form-data; boundary=x", b"--x\r\n\r\n--x--"),
    ("application/json; charset=utf-16", '{"a":1}'.encode("utf-16")),
    (FORM, random.Random(7).randbytes(4000)),
]
PROOFS = ["", "a", "a.b.c", "e30.e30.", "x" * 20_000, "eyJhbGciOiJub25lIn0.e30.", ".." * 50]


def check(answer: bytes, what: object) -> None:
    head, _, body = answer.partition(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    assert 200 <= status < 500, (what, answer[:400])
    assert b"Traceback" not in answer
    if status >= 400 and body:
        document = json.loads(body)
        assert document["error"], (what, document)
        assert document["error_description"], (what, document)
        assert document["request_id"], (what, document)
        assert b"no-store" in head


def request(world: Any, method: str, path: str, headers: dict[str, str], body: bytes) -> bytes:
    authority = world.stage.around.public_url.removeprefix("https://")
    lines = [f"{method} {path} HTTP/1.1", f"Host: {authority}", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


@pytest.fixture
def patient(world: Any) -> Any:
    """The guard with rate limits so wide that they do not answer in the place of what is tested."""
    wide = {"per_minute": 1_000_000, "burst": 1_000_000}
    world.change(rate_limits=dict.fromkeys(("metadata", "nonce", "register", "token", "routes"), wide))
    return world


async def test_every_method_at_every_endpoint_gets_a_clear_answer(patient: Any) -> None:
    await patient.reload()
    for path in ENDPOINTS:
        for method in METHODS:
            answer = await patient.raw(request(patient, method, path, {}, b""))
            check(answer, (method, path))


async def test_garbage_bodies_get_a_4xx(patient: Any) -> None:
    await patient.reload()
    for path in ("/register", "/token", "/revoke", "/whoami"):
        for content_type, body in BODIES:
            answer = await patient.raw(request(patient, "POST", path, {"Content-Type": content_type}, body))
            check(answer, (path, content_type, body[:60]))
            assert answer.startswith(b"HTTP/1.1 4"), (path, body[:60], answer[:200])


async def test_garbage_proofs_and_tokens_get_a_4xx(patient: Any) -> None:
    await patient.reload()
    for proof in PROOFS:
        for path in ("/token", "/whoami", "/vsdservice/v1/vsdmbundle"):
            headers = {"DPoP": proof, "Authorization": f"DPoP {proof}", "PoPP": proof, "Content-Type": FORM}
            method = "POST" if path == "/token" else "GET"
            body = (EXCHANGE + "&client_id=x&client_assertion=x").encode() if path == "/token" else b""
            check(await patient.raw(request(patient, method, path, headers, body)), (path, proof[:20]))


@pytest.mark.parametrize("length", [b"5", b"99999999"])
async def test_a_truncated_body_ends_with_the_connection_and_the_guard_goes_on(patient: Any, length: bytes) -> None:
    reader, writer = await patient.connect()
    authority = patient.stage.around.public_url.removeprefix("https://").encode()
    writer.write(b"POST /token HTTP/1.1\r\nHost: " + authority + b"\r\nContent-Length: " + length + b"\r\n\r\nab")
    await writer.drain()
    writer.close()
    check(await patient.raw(request(patient, "GET", "/nonce", {}, b"")), "after a truncated body")
    del reader
