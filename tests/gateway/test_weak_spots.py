"""Weak spots that enforcement points are known for, played against this one over the wire."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from zeta_guard.config.gateway import PoppRule
from zeta_guard.errors import JsonValue, ZetaError
from zeta_guard.gateway.popp import PoppVerifier
from zeta_guard.jose.encoding import b64url_decode, b64url_encode
from zeta_guard.jose.jws import sign_es256
from zeta_guard.tokens.access_token import AccessToken
from zeta_guard.tokens.key_sets import LocalKeySet
from zeta_guard.tokens.verifier import AccessTokenVerifier

if TYPE_CHECKING:
    from tests.gateway.conftest import Client, Issuer, PoppService, RawBackend, World

MakeWorld = Callable[..., Awaitable[Any]]
To = Callable[..., dict[str, Any]]

NOW = 1_800_000_000
TELEMATIK_ID = "1-2012345678"


@pytest.fixture
async def world(make_world: MakeWorld, backend: RawBackend, to: To) -> Any:
    return await make_world([to(backend), to(backend, "/high", acr="gematik-ehealth-loa-high", scopes=["popp"])])


ELSEWHERE = [
    "Forwarded: host=evil.example;proto=https\r\n",
    "Forwarded: for=127.0.0.1;host=evil.example;proto=https\r\n",
    "X-Forwarded-Host: evil.example\r\n",
    "X-Forwarded-Host: evil.example\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Port: 443\r\n",
    "X-Forwarded-Prefix: /other\r\n",
    "X-Original-URL: /other\r\n",
]


@pytest.mark.parametrize("proxies", [[], ["127.0.0.1"]], ids=["stranger", "trusted proxy"])
@pytest.mark.parametrize("source", ["forwarded", "x-forwarded-for"])
async def test_no_header_moves_the_url_that_a_proof_must_name(
    make_world: MakeWorld, backend: RawBackend, to: To, proxies: list[str], source: str
) -> None:
    # Whoever runs a service of its own gets tokens with proofs for it, and must not be able to use them here.
    changes = {"gateway_client_address": source, "gateway_trusted_proxies": proxies or ["192.0.2.1"]}
    world = await make_world([to(backend, bind_address=False)], **changes)
    for extra in ELSEWHERE:
        token = world.issuer.token(world.client)
        for url in ("https://evil.example/vsd/x", "https://guard.example/other"):
            reply = await world.get(token=token, proof=world.client.proof(token, htu=url), extra=extra)
            assert (reply.status, json.loads(reply.body)["error"]) == (401, "invalid_dpop_proof"), extra
        assert (await world.get(extra=extra)).status == 200


def jwks(client: Client) -> dict[str, Any]:
    """Keys in a proof's header that end badly written verifiers."""
    good = {name: client.jwk[name] for name in ("kty", "crv", "x", "y")}
    return {
        "another curve's name": {**good, "crv": "Ed25519"},
        "a curve without coordinates": {"kty": "EC", "crv": "P-256"},
        "an Edwards key": {"kty": "OKP", "crv": "Ed25519", "x": good["x"]},
        "an RSA key": {"kty": "RSA", "n": good["x"], "e": "AQAB"},
        "a secret": {"kty": "oct", "k": good["x"]},
        "half a point": {**good, "y": ""},
        "no point of the curve": {**good, "y": good["x"]},
        "the point at infinity": {**good, "x": b64url_encode(bytes(32)), "y": b64url_encode(bytes(32))},
        "too long a coordinate": {**good, "x": b64url_encode(bytes(33))},
        "a number": {**good, "x": 7},
        "a list": [good],
        "nothing": None,
        "depth": {"kty": {"kty": {"kty": {}}}},
    }


async def test_no_key_in_a_proof_ends_the_process(world: World) -> None:
    for name, jwk in jwks(world.client).items():
        token = world.issuer.token(world.client)
        claims: dict[str, JsonValue] = {"jti": name, "htm": "GET", "htu": "https://guard.example/vsd/x", "iat": NOW}
        proof = sign_es256({"typ": "dpop+jwt", "jwk": jwk}, claims, world.client.key)
        reply = await world.get(token=token, proof=proof)
        assert (reply.status, json.loads(reply.body)["error"]) == (401, "invalid_dpop_proof"), name
    assert (await world.get()).status == 200


@pytest.mark.parametrize(
    "missing", ["common_name", "sub", "sid", "client_id", "cnf", "jti", "exp", "scope", "aud", "acr"]
)
async def test_a_token_that_lacks_a_claim_is_a_401_and_never_a_500(world: World, missing: str) -> None:
    reply = await world.get(token=world.issuer.token(world.client, without=[missing]))
    assert (reply.status, json.loads(reply.body)["error"]) == (401, "invalid_token")


def with_header(token: str, header: dict[str, Any], key: ec.EllipticCurvePrivateKey) -> str:
    """The same claims, signed by the same key under another header."""
    first, claims, _ = token.split(".")
    whole = {**json.loads(b64url_decode(first)), **header}
    whole = {name: value for name, value in whole.items() if value is not ...}
    signed = b64url_encode(json.dumps(whole).encode()) + "." + claims
    r, s = decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    return signed + "." + b64url_encode(r.to_bytes(32, "big") + s.to_bytes(32, "big"))


HEADERS: list[dict[str, Any]] = [
    {"kid": ...},
    {"kid": None},
    {"kid": ""},
    {"kid": 7},
    {"kid": "x" * 5000},
    {"kid": "../../etc/passwd"},
    {"typ": "JWT"},
    {"typ": ...},
    {"alg": "none"},
    {"alg": "HS256"},
    {"alg": ...},
    {"crit": ["exp"]},
]


@pytest.mark.parametrize("header", HEADERS, ids=str)
async def test_a_token_with_another_header_is_a_401_and_never_a_500(world: World, header: dict[str, Any]) -> None:
    own = world.issuer.signer.key
    good = with_header(world.issuer.token(world.client), {}, own)
    assert (await world.get(token=good)).status == 200
    reply = await world.get(token=with_header(world.issuer.token(world.client), header, own))
    assert (reply.status, json.loads(reply.body)["error"]) == (401, "invalid_token")


async def test_refusals_tell_nothing_that_their_caller_did_not_know(
    world: World, backend: RawBackend, other_issuer: Issuer, other_client: Client
) -> None:
    token = world.issuer.token(world.client)
    foreign = other_issuer.token(world.client)
    used = world.head(token=token)
    await world.send(used)
    backend_port = str(backend.port)
    refused = [
        await world.send(used),
        await world.get(token=foreign),
        await world.get(token=token, proof=other_client.proof(token)),
        await world.get(token=token, proof=world.client.proof(token, ath="A" * 43)),
        await world.get(exp=NOW - 5),
        await world.get(aud=["https://other.example/"]),
        await world.get("/high/x", scope="vsdservice"),
        await world.get("/high/x", acr="gematik-ehealth-loa-low"),
        await world.get(ip_address="192.0.2.1"),
        await world.get(token="a.b.c"),
    ]
    await backend.stop()
    refused.append(await world.get())
    secrets = {
        "Telematik-ID": TELEMATIK_ID,
        "key of the client": world.client.jkt,
        "key of the issuer": world.issuer.signer.kid,
        "key of another issuer": other_issuer.signer.kid,
        "key of another client": other_client.jkt,
        "session": "session-1",
        "token": token,
        "its signature": token.rpartition(".")[2],
        "address in the token": "192.0.2.1",
        "port of the backend": backend_port,
        "audience in the token": "other.example",
    }
    for reply in refused:
        assert reply.status in (401, 502)
        told = (reply.raw + reply.body).decode()
        assert [name for name, secret in secrets.items() if secret in told] == []
        assert "Traceback" not in told


async def test_addresses_that_callers_claim_for_themselves_do_not_count(world: World, backend: RawBackend) -> None:
    claims = {
        "X-Real-IP": "192.0.2.1",
        "X-Forwarded-For": "192.0.2.1",
        "Forwarded": "for=192.0.2.1",
        "CF-Connecting-IP": "192.0.2.1",
    }
    extra = "".join(f"{name}: {value}\r\n" for name, value in claims.items())
    assert (await world.get(extra=extra)).status == 200
    assert (await world.get(extra=extra, ip_address="192.0.2.1")).status == 401


def _access_token(issuer: Issuer, client: Client) -> AccessToken:
    sets = {issuer.name: LocalKeySet(issuer.name, lambda: issuer.keys)}
    token = AccessTokenVerifier(sets, max_bytes=16_384).verify(issuer.token(client), now=NOW)
    assert isinstance(token, AccessToken)
    return token


def test_of_several_popp_services_a_route_believes_those_that_it_names(
    issuer: Issuer, dpop_client: Client, popp_service: PoppService
) -> None:
    first, second = popp_service, type(popp_service)("https://popp.other.example")
    services: dict[str, Any] = {service.issuer: service for service in (first, second)}
    verifier = PoppVerifier(services, max_bytes=16_384, skew=15)
    token = _access_token(issuer, dpop_client)

    def check(service: PoppService, rule: PoppRule) -> object:
        return verifier.check([service.token()], rule, token, now=NOW)

    for service in (first, second):
        assert check(service, PoppRule()) is not None
    only_second = PoppRule(issuers=(second.issuer,))
    assert check(second, only_second) is not None
    with pytest.raises(ZetaError, match="popp_invalid"):
        check(first, only_second)
    # Their key sets are never merged: one cannot sign for the other.
    first.keys, second.keys = second.keys, first.keys
    first.version = second.version = 2
    for service in (first, second):
        with pytest.raises(ZetaError, match="popp_invalid"):
            check(service, PoppRule())
