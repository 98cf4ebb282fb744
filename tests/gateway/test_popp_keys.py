"""Keys of a PoPP service: its two documents from a real server, believed only when everything fits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec

from zeta_guard.config.gateway import PoppIssuer
from zeta_guard.config.outbound import Outbound as OutboundConfig
from zeta_guard.errors import ZetaError
from zeta_guard.gateway.popp_federation import (
    MAX_KEYS,
    EntityStatement,
    FederationError,
    read_entity_statement,
    read_signed_key_set,
)
from zeta_guard.gateway.popp_keys import PoppKeys
from zeta_guard.http.outbound import Outbound
from zeta_guard.jose.jwk import public_jwk
from zeta_guard.jose.jws import sign_es256

if TYPE_CHECKING:
    from tests.gateway.conftest import MakeWorld, PoppService, RawBackend

NOW = 1_800_000_000
ISSUER = "https://popp.example"
To = Callable[..., dict[str, Any]]


class Federation:
    """Publishes the documents; each part can be bent."""

    def __init__(self) -> None:
        self.entity_key = ec.generate_private_key(ec.SECP256R1())
        self.token_key = ec.generate_private_key(ec.SECP256R1())
        self.entity_jwk = public_jwk(self.entity_key.public_key())
        self.keys: list[dict[str, Any]] = [{**public_jwk(self.token_key.public_key()), "kid": "popp-1"}]
        self.statement_claims: dict[str, Any] = {}
        self.statement_header: dict[str, Any] = {}
        self.set_claims: dict[str, Any] = {}
        self.set_header: dict[str, Any] = {}
        self.sign_statement_with = self.entity_key
        self.sign_set_with = self.entity_key
        self.keys_uri = "/.well-known/signed-jwks"
        self.away = False
        self.raw: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.gate: asyncio.Event | None = None
        self.port = 0

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def statement(self) -> str:
        claims: dict[str, Any] = {
            "iss": ISSUER,
            "sub": ISSUER,
            "iat": NOW - 10,
            "exp": NOW + 86_400,
            "jwks": {"keys": [self.entity_jwk]},
            "metadata": {"oauth_resource": {"signed_jwks_uri": self.keys_uri}},
            **self.statement_claims,
        }
        claims = {name: value for name, value in claims.items() if value is not ...}
        header = {"typ": "entity-statement+jwt", "kid": self.entity_jwk["kid"], **self.statement_header}
        return sign_es256(header, claims, self.sign_statement_with)

    def key_set(self) -> str:
        claims: dict[str, Any] = {
            "iss": ISSUER,
            "iat": NOW - 10,
            "exp": NOW + 43_200,
            "keys": self.keys,
            **self.set_claims,
        }
        claims = {name: value for name, value in claims.items() if value is not ...}
        header = {"typ": "jwk-set+jwt", "kid": self.entity_jwk["kid"], **self.set_header}
        return sign_es256(header, claims, self.sign_set_with)

    def publish(self, kid: str) -> None:
        """One more key."""
        self.keys.append({**public_jwk(ec.generate_private_key(ec.SECP256R1()).public_key()), "kid": kid})

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked.append(request.path)
        if self.gate is not None:
            await self.gate.wait()
        if self.away:
            return web.Response(status=500)
        if request.path in self.raw:
            return web.Response(body=self.raw[request.path])
        if request.path == "/.well-known/openid-federation":
            return web.Response(text=self.statement(), content_type="application/entity-statement+jwt")
        if request.path == "/.well-known/signed-jwks":
            return web.Response(text=self.key_set(), content_type="application/jwk-set+jwt")
        if request.path == "/moved":
            return web.Response(status=302, headers={"Location": "/.well-known/signed-jwks"})
        return web.Response(status=404)


@pytest.fixture
async def federation() -> AsyncIterator[Federation]:
    service = Federation()
    runner = web.ServerRunner(web.Server(service.handle), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    service.port = runner.addresses[0][1]
    yield service
    await runner.cleanup()


@pytest.fixture
async def outbound() -> AsyncIterator[Outbound]:
    client = Outbound(OutboundConfig())
    yield client
    await client.close()


MakeKeys = Callable[..., PoppKeys]


def issuer_of(federation: Federation, **changes: Any) -> PoppIssuer:
    anchor = {} if changes.get("unsafe_tls_anchor") else {"entity_key_thumbprint": federation.entity_jwk["kid"]}
    return PoppIssuer.model_validate({"issuer": ISSUER, "base_url": federation.base, **anchor, **changes})


@pytest.fixture
def make_keys(federation: Federation, outbound: Outbound) -> MakeKeys:
    """``make_keys(**configuration)``."""
    return lambda **changes: PoppKeys(issuer_of(federation, **changes), outbound)


async def test_keys_are_found_behind_both_signatures(federation: Federation, make_keys: MakeKeys) -> None:
    keys = make_keys()
    assert keys.key("popp-1", now=NOW) is None
    await keys.refresh(now=NOW)
    key = keys.key("popp-1", now=NOW)
    assert key is not None
    assert key.public_numbers() == federation.token_key.public_key().public_numbers()
    assert keys.key("popp-2", now=NOW) is None
    assert keys.readiness(NOW) is None
    assert federation.asked == ["/.well-known/openid-federation", "/.well-known/signed-jwks"]


@pytest.mark.parametrize(
    "uri", [".well-known/signed-jwks", ISSUER + "/.well-known/signed-jwks", "{base}/.well-known/signed-jwks"]
)
async def test_key_set_may_be_named_relatively_or_at_the_issuer(
    federation: Federation, make_keys: MakeKeys, uri: str
) -> None:
    federation.keys_uri = uri.format(base=federation.base)
    keys = make_keys()
    await keys.refresh(now=NOW)
    assert keys.usable(NOW)


@pytest.mark.parametrize(
    "uri",
    [
        "https://evil.example/.well-known/signed-jwks",
        "http://popp.example/.well-known/signed-jwks",
        "http://127.0.0.1:1/.well-known/signed-jwks",
        "https://popp.example:444/x",
        "https://user:pw@popp.example/.well-known/signed-jwks",
        "https://user@popp.example/.well-known/signed-jwks",
        "https://:pw@popp.example/.well-known/signed-jwks",
        "//evil.example/x",
        "file:///etc/passwd",
        "https://[::1/x",
        "/moved",
        "/nowhere",
    ],
)
async def test_key_set_elsewhere_is_not_fetched(federation: Federation, make_keys: MakeKeys, uri: str) -> None:
    federation.keys_uri = uri
    keys = make_keys()
    with pytest.raises(ZetaError) as caught:
        await keys.refresh(now=NOW)
    assert caught.value.status == 503
    assert not keys.usable(NOW)
    assert "/.well-known/signed-jwks" not in federation.asked


def test_listed_host_may_hold_the_key_set_by_https_only(federation: Federation) -> None:
    def url(uri: str, *hosts: str) -> str:
        federation.keys_uri = uri
        issuer = issuer_of(federation, jwks_hosts=hosts)
        return read_entity_statement(federation.statement().encode(), issuer, now=NOW).keys_url

    assert url("https://keys.example/set?v=1", "keys.example") == "https://keys.example/set?v=1"
    for uri in ("http://keys.example/set", "https://keys.example:8443/set", "https://other.example/set"):
        with pytest.raises(FederationError):
            url(uri, "keys.example")


BENT: dict[str, Mapping[str, Any]] = {
    "statement of another issuer": {"statement_claims": {"iss": "https://evil.example"}},
    "statement about another": {"statement_claims": {"sub": "https://evil.example"}},
    "statement without sub": {"statement_claims": {"sub": ...}},
    "expired statement": {"statement_claims": {"exp": NOW}},
    "statement without exp": {"statement_claims": {"exp": ...}},
    "statement from the future": {"statement_claims": {"iat": NOW + 61}},
    "statement not yet valid": {"statement_claims": {"nbf": NOW + 61}},
    "statement without keys": {"statement_claims": {"jwks": {"keys": []}}},
    "statement without jwks": {"statement_claims": {"jwks": ...}},
    "statement without metadata": {"statement_claims": {"metadata": {}}},
    "statement of another type": {"statement_header": {"typ": "JWT"}},
    "statement by an unknown kid": {"statement_header": {"kid": "other"}},
    "set of another issuer": {"set_claims": {"iss": "https://evil.example"}},
    "set without issuer": {"set_claims": {"iss": ...}},
    "expired set": {"set_claims": {"exp": NOW}},
    "set without exp": {"set_claims": {"exp": ...}},
    "set of another type": {"set_header": {"typ": "JWT"}},
    "set by an unknown kid": {"set_header": {"kid": "other"}},
    "set without keys": {"keys": []},
    "set of useless keys": {"keys": [{"kty": "RSA", "kid": "r"}, {"kty": "EC"}, 7]},
    "statement that is none": {"raw": {"/.well-known/openid-federation": b"\xff\x00"}},
    "empty statement": {"raw": {"/.well-known/openid-federation": b""}},
    "large statement": {"raw": {"/.well-known/openid-federation": b"a" * 300_000}},
    "set that is none": {"raw": {"/.well-known/signed-jwks": b"{}"}},
    "server error": {"away": True},
}


@pytest.mark.parametrize("name", BENT)
async def test_bent_document_is_not_believed_and_the_old_set_stays(
    federation: Federation, make_keys: MakeKeys, name: str
) -> None:
    fresh, older = make_keys(cooldown=1), make_keys(cooldown=1)
    await older.refresh(now=NOW - 50)
    for part, value in BENT[name].items():
        setattr(federation, part, value)
    with pytest.raises(ZetaError) as caught:
        await fresh.refresh(now=NOW)
    assert (caught.value.status, caught.value.code) == (503, "temporarily_unavailable")
    await older.refresh(now=NOW)
    assert older.key("popp-1", now=NOW) is not None
    assert older.readiness(NOW) is not None


def read_both(federation: Federation) -> EntityStatement:
    issuer = issuer_of(federation)
    statement = read_entity_statement(federation.statement().encode(), issuer, now=NOW)
    read_signed_key_set(federation.key_set().encode(), statement, issuer, now=NOW)
    return statement


def test_set_holds_a_hundred_keys_and_not_one_more(federation: Federation) -> None:
    federation.keys += [{"kty": "RSA", "kid": f"r{number}"} for number in range(MAX_KEYS - 1)]
    read_both(federation)
    federation.keys.append({"kty": "RSA", "kid": "one more"})
    with pytest.raises(FederationError, match="at most 100"):
        read_both(federation)


def test_clocks_may_differ_by_a_minute_and_not_more(federation: Federation) -> None:
    for claims in ("statement_claims", "set_claims"):
        for name in ("iat", "nbf"):
            setattr(federation, claims, {name: NOW + 60})
            read_both(federation)
            setattr(federation, claims, {name: NOW + 61})
            with pytest.raises(FederationError, match=f"'{name}' lies in the future"):
                read_both(federation)
        setattr(federation, claims, {})


def test_documents_hold_until_their_last_second(federation: Federation) -> None:
    for claims in ("statement_claims", "set_claims"):
        setattr(federation, claims, {"exp": NOW + 1})
        read_both(federation)
        setattr(federation, claims, {"exp": NOW})
        with pytest.raises(FederationError, match="has expired"):
            read_both(federation)
        setattr(federation, claims, {})


async def test_signatures_of_somebody_else_are_refused(federation: Federation, make_keys: MakeKeys) -> None:
    intruder = ec.generate_private_key(ec.SECP256R1())
    for part in ("sign_statement_with", "sign_set_with"):
        setattr(federation, part, intruder)
        with pytest.raises(ZetaError):
            await make_keys().refresh(now=NOW)
        setattr(federation, part, federation.entity_key)
    await make_keys().refresh(now=NOW)


async def test_whoever_holds_the_name_but_not_the_pinned_key_is_refused(
    federation: Federation, make_keys: MakeKeys
) -> None:
    pinned, unpinned = make_keys(), make_keys(unsafe_tls_anchor=True)
    federation.entity_key = federation.sign_statement_with = federation.sign_set_with = ec.generate_private_key(
        ec.SECP256R1()
    )
    federation.entity_jwk = public_jwk(federation.entity_key.public_key())
    with pytest.raises(ZetaError):
        await pinned.refresh(now=NOW)
    await unpinned.refresh(now=NOW)


async def test_one_kid_for_two_keys_spoils_the_set(federation: Federation, make_keys: MakeKeys) -> None:
    other = public_jwk(ec.generate_private_key(ec.SECP256R1()).public_key())
    federation.keys.append({**other, "kid": "popp-1"})
    with pytest.raises(ZetaError):
        await make_keys().refresh(now=NOW)


async def test_flood_of_unknown_kids_costs_one_fetch_per_cooldown(federation: Federation, make_keys: MakeKeys) -> None:
    keys = make_keys(cooldown=10)
    await keys.refresh(now=NOW)
    federation.asked.clear()
    for number in range(100):
        await keys.refresh(now=NOW + 5, kid=f"unknown-{number}")
    assert federation.asked == []
    await asyncio.gather(*(keys.refresh(now=NOW + 10, kid=f"unknown-{number}") for number in range(50)))
    assert len(federation.asked) == 2
    # A name that was looked for in vain is not looked for again soon.
    await keys.refresh(now=NOW + 30, kid="unknown-3")
    assert len(federation.asked) == 2
    await keys.refresh(now=NOW + 71, kid="unknown-3")
    assert len(federation.asked) == 4


async def test_one_fetch_serves_all_who_wait(federation: Federation, make_keys: MakeKeys) -> None:
    federation.gate = asyncio.Event()
    keys = make_keys()
    waiting = [asyncio.create_task(keys.refresh(now=NOW, kid="popp-1")) for _ in range(20)]
    await asyncio.sleep(0.05)
    waiting[0].cancel()
    federation.gate.set()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert len(federation.asked) == 2
    assert keys.key("popp-1", now=NOW) is not None


async def test_new_key_is_found_when_it_is_asked_for(federation: Federation, make_keys: MakeKeys) -> None:
    keys = make_keys(cooldown=10)
    await keys.refresh(now=NOW)
    version = keys.version
    federation.publish("popp-2")
    await keys.refresh(now=NOW + 10, kid="popp-2")
    assert keys.key("popp-2", now=NOW + 10) is not None
    assert keys.version > version


@pytest.mark.parametrize("shorter", ["statement_claims", "set_claims"])
async def test_keys_hold_no_longer_than_either_document(
    federation: Federation, make_keys: MakeKeys, shorter: str
) -> None:
    setattr(federation, shorter, {"exp": NOW + 100})
    keys = make_keys(stale=10)
    await keys.refresh(now=NOW)
    assert keys.readiness(NOW + 99) is None
    assert keys.key("popp-1", now=NOW + 109) is not None
    assert keys.key("popp-1", now=NOW + 110) is None


async def test_clock_that_was_set_back_does_not_stop_the_fetching(federation: Federation, make_keys: MakeKeys) -> None:
    keys = make_keys(cooldown=10)
    await keys.refresh(now=NOW + 1000, kid="unknown")
    federation.publish("unknown")
    await keys.refresh(now=NOW, kid="unknown")
    assert keys.key("unknown", now=NOW) is not None


async def test_key_that_was_asked_for_during_an_outage_is_found_after_it(
    federation: Federation, make_keys: MakeKeys
) -> None:
    keys = make_keys(cooldown=10)
    await keys.refresh(now=NOW)
    federation.away = True
    with pytest.raises(ZetaError) as caught:
        await keys.refresh(now=NOW + 10, kid="popp-2")
    assert caught.value.status == 503
    federation.away = False
    federation.publish("popp-2")
    await keys.refresh(now=NOW + 20, kid="popp-2")
    assert keys.key("popp-2", now=NOW + 20) is not None


async def test_names_that_were_looked_for_in_vain_have_another_chance_with_a_new_set(
    federation: Federation, make_keys: MakeKeys
) -> None:
    keys = make_keys(cooldown=10)
    await keys.refresh(now=NOW, kid="popp-3")
    federation.publish("popp-2")
    await keys.refresh(now=NOW + 10, kid="popp-2")
    federation.publish("popp-3")
    await keys.refresh(now=NOW + 20, kid="popp-3")
    assert keys.key("popp-3", now=NOW + 20) is not None


async def test_stale_set_serves_a_day_past_its_end_and_not_longer(federation: Federation, make_keys: MakeKeys) -> None:
    keys = make_keys(cooldown=1)
    await keys.refresh(now=NOW)
    federation.away = True
    end = NOW + 43_200
    for now in (end, end + 86_399):
        await keys.refresh(now=now, kid="popp-1")
        assert keys.key("popp-1", now=now) is not None
        assert keys.readiness(now) is not None
    with pytest.raises(ZetaError) as caught:
        await keys.refresh(now=end + 86_400, kid="popp-1")
    assert caught.value.status == 503
    assert keys.key("popp-1", now=end + 86_400) is None


async def test_keys_are_fetched_beside_the_requests(federation: Federation, make_keys: MakeKeys) -> None:
    keys = make_keys(cooldown=1, refresh=1)
    task = asyncio.create_task(keys.keep_fresh(lambda: NOW))
    try:
        # The second request is the key set; it is taken soon after.
        for _ in range(200):
            await asyncio.sleep(0.01)
            if keys.usable(NOW):
                break
        assert keys.usable(NOW)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await keys.close()


# the whole way


async def test_popp_token_reaches_the_backend_as_verified_content(
    make_world: MakeWorld, backend: RawBackend, to: To, federation: Federation, popp_service: PoppService
) -> None:
    import base64
    import json

    issuer = issuer_of(federation).model_dump(mode="json", exclude_none=True)
    world = await make_world([to(backend, popp={}), to(backend, "/plain")], gateway_popp_issuers=[issuer])
    popp_service.signing_key = federation.token_key
    token = popp_service.token()
    reply = await world.get(extra=f"PoPP: {token}\r\n")
    assert reply.status == 200
    content = json.loads(base64.urlsafe_b64decode(backend.seen("ZETA-PoPP-Token-Content")[0]))
    assert content["patientId"] == "X110639491"
    assert len(backend.seen("ZETA-PoPP-Token-Content")[0]) < 640
    assert backend.seen("PoPP") == []
    backend.heads.clear()
    # Elsewhere it is removed unread.
    assert (await world.get("/plain/x", extra="PoPP: garbage\r\n")).status == 200
    assert backend.seen("ZETA-PoPP-Token-Content") == backend.seen("PoPP") == []


async def test_outage_of_the_popp_service_is_503_and_an_unknown_key_403(
    make_world: MakeWorld, backend: RawBackend, to: To, federation: Federation, popp_service: PoppService
) -> None:
    issuer = issuer_of(federation, cooldown=1).model_dump(mode="json", exclude_none=True)
    federation.away = True
    world = await make_world([to(backend, popp={})], gateway_popp_issuers=[issuer])
    extra = f"PoPP: {popp_service.token()}\r\n"
    reply = await world.get(extra=extra)
    assert reply.status == 503
    assert reply.header("Retry-After") is not None
    federation.away = False
    world.clock.now += 2
    unknown = f"PoPP: {popp_service.token(header={'kid': 'other'})}\r\n"
    assert (await world.get(extra=unknown)).status == 403
    assert (await world.get(extra=f"PoPP: {popp_service.token()}\r\n")).status == 403
    popp_service.signing_key = federation.token_key
    assert (await world.get(extra=f"PoPP: {popp_service.token()}\r\n")).status == 200
    assert len(backend.heads) == 1
