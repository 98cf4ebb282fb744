"""The decision, played as a script: no sockets, no store, a clock that stands still."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from zeta_guard.errors import ZetaError
from zeta_guard.gateway.access import AccessCheck, Grant, MissingKeys, Refuse
from zeta_guard.gateway.popp import PoppVerifier
from zeta_guard.gateway.route import build_routes
from zeta_guard.http.address import parse_address
from zeta_guard.http.facts import RequestFacts
from zeta_guard.http.path import canonical_target
from zeta_guard.jose.sealing import Pseudonymizer, Secrets
from zeta_guard.tokens.key_sets import KeySet, LocalKeySet
from zeta_guard.tokens.verifier import AccessTokenVerifier

if TYPE_CHECKING:
    from tests.gateway.conftest import Client, Issuer, MakeConfig, PoppService

NOW = 1_800_000_000.0
PUBLIC_URL = "https://guard.example"
UPSTREAMS = [{"url": "http://backend:8080"}]
ROUTES: list[dict[str, Any]] = [
    {"prefix": "/vsd"},
    {"prefix": "/open", "public": True},
    {"prefix": "/scoped", "scopes": ["vsdservice", "popp"]},
    {"prefix": "/scoped403", "scopes": ["popp"], "insufficient_scope_status": 403},
    {"prefix": "/aud", "audience": "https://other.example/"},
    {"prefix": "/aud403", "audience": "https://other.example/", "insufficient_scope_status": 403},
    {"prefix": "/high", "acr": "gematik-ehealth-loa-high"},
    {"prefix": "/substantial", "acr": "gematik-ehealth-loa-substantial"},
    {"prefix": "/roaming", "bind_address": False},
    {"prefix": "/popp", "popp": {"max_age": 600}},
    {"prefix": "/quarter", "popp": {"max_age": "quarter"}},
    {"prefix": "/bound", "popp": {"require_key_binding": True}},
    {"prefix": "/methods", "popp": {"proof_methods": ["ehc-practitioner-trustedchannel"]}},
]


@dataclass
class Script:
    """One guard and one client; ``play`` asks for a decision."""

    check: AccessCheck
    issuer: Issuer
    client: Client
    popp: PoppService
    key_sets: dict[str, KeySet] = field(default_factory=dict)

    def play(
        self,
        path: str = "/vsd/x",
        method: str = "GET",
        *,
        token: str | None = None,
        proof: str | Sequence[str] | None = None,
        popp: Sequence[str] = (),
        address: str | None = "127.0.0.1",
        authorization: Sequence[str] | None = None,
        now: float = NOW,
        **claims: Any,
    ) -> Grant | Refuse | MissingKeys:
        headers: CIMultiDict[str] = CIMultiDict()
        if token is None:
            token = self.issuer.token(self.client, **claims)
        for value in (f"DPoP {token}",) if authorization is None else authorization:
            headers.add("Authorization", value)
        if proof is None:
            proof = self.client.proof(token, method, path.partition("?")[0])
        for value in (proof,) if isinstance(proof, str) else proof:
            headers.add("DPoP", value)
        for value in popp:
            headers.add("PoPP", value)
        canonical, query = canonical_target(path)
        peer = None if address is None else parse_address(address)
        facts = RequestFacts(
            method=method,
            target=path,
            path=canonical,
            query=query,
            url=PUBLIC_URL + canonical.raw,
            headers=CIMultiDictProxy(headers),
            peer_address=peer,
            peer_trusted=False,
            client_address=peer,
            scheme="https",
            request_id="r1",
            now=now,
        )
        return self.check.decide(facts)

    def refused(self, *args: Any, **kwargs: Any) -> ZetaError:
        verdict = self.play(*args, **kwargs)
        assert isinstance(verdict, Refuse)
        return verdict.error

    def passed(self, *args: Any, **kwargs: Any) -> Grant:
        verdict = self.play(*args, **kwargs)
        assert isinstance(verdict, Grant), verdict
        return verdict


@pytest.fixture
def script(make_config: MakeConfig, issuer: Issuer, dpop_client: Client, popp_service: PoppService) -> Script:
    config = make_config(
        [{"upstreams": UPSTREAMS, **route} for route in ROUTES],
        gateway_popp_issuers=[{"issuer": popp_service.issuer, "unsafe_tls_anchor": True}],
    )
    key_sets: dict[str, KeySet] = {issuer.name: LocalKeySet(issuer.name, lambda: issuer.keys)}
    check = AccessCheck(
        config,
        table=build_routes(config),
        verifier=AccessTokenVerifier(key_sets, max_bytes=config.limits.jwt),
        popp=PoppVerifier({popp_service.issuer: popp_service}, max_bytes=config.limits.popp_token, skew=15),
        pseudonyms=Pseudonymizer(Secrets.load(config.secret_files)).pseudonyms,
    )
    return Script(check, issuer, dpop_client, popp_service, key_sets)


def test_good_request_is_granted_with_what_must_be_claimed(script: Script) -> None:
    grant = script.passed(sid="s-9", client_id="c-9", product_id="p-9")
    assert grant.holder is not None
    assert grant.holder.token.session_id == "s-9"
    assert len(grant.claims) == 1
    assert (grant.claims[0].dated, grant.claims[0].ttl) == (NOW, 60 + 15 + 15 + 1)
    assert grant.subjects[:3] == ("session:s-9", "client:c-9", "product:p-9")
    assert grant.subjects[3].startswith("institution:")
    assert "1-2012345678" not in "".join(grant.subjects)
    assert len(grant.fingerprint) == 32


def test_public_route_asks_for_nothing_and_believes_nothing(script: Script) -> None:
    grant = script.passed("/open/x", authorization=(), proof=())
    assert grant.holder is None
    assert not grant.claims
    assert script.passed("/open/x", authorization=("Bearer garbage",)).holder is None


def test_unknown_path_and_method_are_refused_before_any_token_is_read(script: Script) -> None:
    assert script.refused("/nowhere", authorization=()).status == 404
    error = script.refused("/vsd/x", "DELETE", authorization=())
    assert (error.status, error.headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    "values",
    [
        (),
        ("",),
        ("DPoP",),
        ("Bearer {token}",),
        ("Basic {token}",),
        ("{token}",),
        ("DPoP {token}", "DPoP {token}"),
        ("DPoP {token} {token}",),
        ("DPoP {token},",),
    ],
)
def test_anything_but_one_dpop_token_is_invalid_token(script: Script, values: tuple[str, ...]) -> None:
    token = script.issuer.token(script.client)
    error = script.refused(token=token, authorization=[value.format(token=token) for value in values])
    assert (error.status, error.code) == (401, "invalid_token")
    assert token not in error.description


@pytest.mark.parametrize("scheme", ["DPoP", "dpop", "DPOP", "DPoP "])
def test_scheme_is_read_in_any_case(script: Script, scheme: str) -> None:
    token = script.issuer.token(script.client)
    script.passed(token=token, authorization=(f"{scheme} {token}",))


@pytest.mark.parametrize(("ago", "good"), [(-1, True), (0, False), (1, False)])
def test_token_ends_exactly_at_exp(script: Script, ago: int, good: bool) -> None:
    token = script.issuer.token(script.client, exp=int(NOW) - ago)
    verdict = script.play(token=token)
    assert isinstance(verdict, Grant) is good


def test_leeway_is_added_when_configured(make_config: MakeConfig, script: Script) -> None:
    config = make_config([{"prefix": "/vsd", "upstreams": UPSTREAMS}], gateway_token_leeway=30)
    script.check = AccessCheck(
        config,
        table=build_routes(config),
        verifier=AccessTokenVerifier(script.key_sets, max_bytes=16384),
        popp=PoppVerifier({}, max_bytes=8192, skew=15),
    )
    script.passed(exp=int(NOW) - 29)
    assert script.refused(exp=int(NOW) - 30).code == "invalid_token"


@pytest.mark.parametrize(("ahead", "good"), [(0, True), (15, True), (16, False)])
@pytest.mark.parametrize("name", ["iat", "nbf"])
def test_token_from_the_future_is_refused_beyond_the_skew(script: Script, name: str, ahead: int, good: bool) -> None:
    claims: dict[str, Any] = {name: int(NOW) + ahead}
    verdict = script.play(**claims)
    assert isinstance(verdict, Grant) is good


@pytest.mark.parametrize(("path", "status"), [("/aud/x", 401), ("/aud403/x", 403)])
def test_token_for_another_audience_is_refused_with_the_routes_status(script: Script, path: str, status: int) -> None:
    error = script.refused(path)
    assert (error.status, error.code) == (status, "invalid_token")
    script.passed(path, aud=["https://x.example", "https://other.example/"])
    assert script.refused(path, aud="https://other.example").status == status


@pytest.mark.parametrize(("path", "status"), [("/scoped/x", 401), ("/scoped403/x", 403)])
def test_token_without_all_scopes_is_refused_with_the_routes_status(script: Script, path: str, status: int) -> None:
    error = script.refused(path, scope="vsdservice")
    assert (error.status, error.code) == (status, "insufficient_scope")
    assert "popp" in error.description
    script.passed(path, scope="popp other vsdservice")
    assert script.refused(path, scope="vsdservice poppy").code == "insufficient_scope"


def test_proof_is_needed_and_only_one(script: Script) -> None:
    token = script.issuer.token(script.client)
    proof = script.client.proof(token)
    for values in ((), (proof, proof)):
        error = script.refused(token=token, proof=values)
        assert (error.status, error.code) == (401, "invalid_dpop_proof")


@pytest.mark.parametrize(
    "claims",
    [
        {"htm": "POST"},
        {"htu": PUBLIC_URL + "/vsd/y"},
        {"htu": "https://evil.example/vsd/x"},
        {"ath": "AAAA"},
        {"without": ("ath",)},
        {"without": ("jti",)},
        {"iat": int(NOW) - 61},
        {"iat": int(NOW) + 16},
        {"iat": True},
    ],
)
def test_proof_for_something_else_is_refused(script: Script, claims: dict[str, Any]) -> None:
    token = script.issuer.token(script.client)
    error = script.refused(token=token, proof=script.client.proof(token, **claims))
    assert (error.status, error.code) == (401, "invalid_dpop_proof")


@pytest.mark.parametrize("age", [-15, 0, 60])
def test_proof_within_its_age_is_accepted(script: Script, age: int) -> None:
    token = script.issuer.token(script.client)
    script.passed(token=token, proof=script.client.proof(token, iat=int(NOW) - age))


def test_proof_with_another_key_is_refused(script: Script, other_client: Client) -> None:
    token = script.issuer.token(script.client)
    error = script.refused(token=token, proof=other_client.proof(token))
    assert (error.status, error.code) == (401, "invalid_dpop_proof")


def test_websocket_url_and_query_do_not_matter_to_the_proof(script: Script) -> None:
    token = script.issuer.token(script.client)
    script.passed("/vsd/x?a=b", token=token, proof=script.client.proof(token, htu="wss://GUARD.example:443/vsd/x?c=d"))


@pytest.mark.parametrize("address", ["127.0.0.2", "::1", None])
def test_token_of_another_address_is_refused_where_the_route_binds(script: Script, address: str | None) -> None:
    error = script.refused(address=address)
    assert (error.status, error.code) == (401, "invalid_token")
    script.passed("/roaming/x", address=address)


def test_addresses_are_compared_in_canonical_form(script: Script) -> None:
    script.passed(address="127.0.0.1", ip_address="::ffff:127.0.0.1")
    script.passed(address="2001:db8::1", ip_address="2001:0DB8:0:0::1")
    assert script.refused(without=("ip_address",)).code == "invalid_token"
    assert script.refused(ip_address="not an address").code == "invalid_token"


def test_step_up_is_asked_for_when_the_level_is_too_low(script: Script) -> None:
    script.passed("/high/x")
    script.passed("/substantial/x")
    script.passed("/substantial/x", acr="gematik-ehealth-loa-substantial")
    for path, acr in (("/high/x", "gematik-ehealth-loa-substantial"), ("/substantial/x", "something")):
        error = script.refused(path, acr=acr)
        assert (error.status, error.code) == (401, "insufficient_user_authentication")
        assert error.headers["zeta-error-origin"] == "pep"


def test_foreign_issuer_is_believed_only_for_its_audiences(make_config: MakeConfig, script: Script) -> None:
    config = make_config(
        [
            {"prefix": "/vsd", "upstreams": UPSTREAMS},
            {"prefix": "/a", "audience": "https://a/", "upstreams": UPSTREAMS},
        ],
        gateway_issuers=[
            {"issuer": PUBLIC_URL, "jwks_uri": "https://x/jwks", "audiences": ["https://a/"]},
            {"issuer": "https://second", "jwks_uri": "https://y/jwks"},
        ],
    )
    script.check = AccessCheck(
        config,
        table=build_routes(config),
        verifier=AccessTokenVerifier(script.key_sets, max_bytes=16384),
        popp=PoppVerifier({}, max_bytes=8192, skew=15),
    )
    script.passed("/a/x", aud="https://a/")
    assert script.refused("/vsd/x").stage == "audience"


def test_unknown_key_of_a_trusted_issuer_is_missing_and_of_another_refused(
    script: Script, other_issuer: Issuer
) -> None:
    token = other_issuer.token(script.client, iss=PUBLIC_URL)
    verdict = script.play(token=token)
    assert isinstance(verdict, MissingKeys)
    assert (verdict.kind, verdict.issuer, verdict.kid) == ("token", PUBLIC_URL, other_issuer.signer.kid)
    assert script.refused(token=other_issuer.token(script.client, iss="https://evil.example")).code == "invalid_token"


def test_equal_token_ids_do_not_share_what_is_remembered(script: Script) -> None:
    first = script.passed(jti="same", sid="s-1", common_name="One")
    second = script.passed(jti="same", sid="s-2", common_name="Two")
    assert first.subjects[0] == "session:s-1"
    assert second.subjects[0] == "session:s-2"
    assert first.holder is not None
    assert second.holder is not None
    assert first.holder.user_info != second.holder.user_info


def test_fingerprint_tells_requests_apart(script: Script) -> None:
    token = script.issuer.token(script.client)
    proof = script.client.proof(token)
    base = script.passed(token=token, proof=proof)
    assert script.passed(token=token, proof=proof).fingerprint == base.fingerprint
    assert script.passed("/vsd/x?a", token=token, proof=proof).fingerprint != base.fingerprint
    assert script.passed("/vsd/x", "HEAD", token=token, proof=script.client.proof(token, "HEAD")).fingerprint != (
        base.fingerprint
    )


def test_claim_is_made_of_claims_never_of_signature_bytes(script: Script) -> None:
    token = script.issuer.token(script.client)
    first = script.passed(token=token, proof=script.client.proof(token, jti="j-1"))
    again = script.passed(token=token, proof=script.client.proof(token, jti="j-1"))
    other = script.passed(token=token, proof=script.client.proof(token, jti="j-2"))
    assert first.claims[0].key == again.claims[0].key != other.claims[0].key


# PoPP


def test_route_with_popp_rule_needs_one_good_token(script: Script) -> None:
    grant = script.passed("/popp/x", popp=(script.popp.token(),))
    assert grant.popp is not None
    assert grant.popp.actor_id == "1-2012345678"


@pytest.mark.parametrize("values", [(), ("",), (" ",)])
def test_missing_popp_is_400(script: Script, values: tuple[str, ...]) -> None:
    error = script.refused("/popp/x", popp=values)
    assert (error.status, error.code) == (400, "popp_missing")


def test_popp_elsewhere_is_not_read(script: Script) -> None:
    assert script.passed("/vsd/x", popp=("garbage", "more")).popp is None


def test_two_popp_tokens_are_403(script: Script) -> None:
    token = script.popp.token()
    for values in ((token, token), (token, "")):
        error = script.refused("/popp/x", popp=values)
        assert (error.status, error.code) == (403, "popp_invalid")


@pytest.mark.parametrize(("age", "good"), [(-16, False), (-15, True), (0, True), (600, True), (601, False)])
def test_popp_age_in_seconds(script: Script, age: int, good: bool) -> None:
    issued = int(NOW) - age
    verdict = script.play("/popp/x", popp=(script.popp.token(iat=issued, patientProofTime=issued),))
    assert isinstance(verdict, Grant) is good


def test_popp_of_an_earlier_quarter_is_refused_after_the_grace(script: Script) -> None:
    # 1 April 2027, 00:00 in Germany (summer time).
    change = 1_806_530_400
    token = script.popp.token(iat=change - 3600, patientProofTime=change - 3600)

    def at(now: float) -> Grant | Refuse | MissingKeys:
        access = script.issuer.token(script.client, iat=int(now), exp=int(now) + 60)
        proof = script.client.proof(access, path="/quarter/x", iat=int(now))
        return script.play("/quarter/x", token=access, proof=proof, popp=(token,), now=now)

    assert isinstance(at(change - 1), Grant)
    assert isinstance(at(change + 299), Grant)
    assert isinstance(at(change + 300), Refuse)


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://evil.example"},
        {"version": "2.0.0"},
        {"version": 1},
        {"patientProofTime": int(NOW) + 1},
        {"patientProofTime": "1"},
        {"iat": str(int(NOW))},
        {"iat": True},
        {"exp": int(NOW)},
        {"exp": None},
        {"proofMethod": ""},
        {"patientId": 1},
        {"insurerId": None},
        {"actorProfessionOid": ""},
        {"cnf": "x"},
        {"cnf": {}},
        {"without": ("version",)},
        {"without": ("actorId",)},
        {"without": ("patientId",)},
        {"header": {"typ": "JWT"}},
        {"header": {"typ": "at+jwt"}},
        {"header": {"kid": ""}},
        {"header": {"crit": ["x"]}},
        {"padding": "x" * 8192},
    ],
)
def test_malformed_popp_is_403(script: Script, claims: dict[str, Any]) -> None:
    error = script.refused("/popp/x", popp=(script.popp.token(**claims),))
    assert (error.status, error.code) == (403, "popp_invalid")


def test_popp_of_another_institution_is_invalid_actor_and_tells_no_ids(script: Script) -> None:
    error = script.refused("/popp/x", popp=(script.popp.token(actorId="1-9999999999"),))
    assert (error.status, error.code) == (403, "popp_invalid_actor")
    assert "1-9999999999" not in error.description
    assert "1-2012345678" not in error.description


def test_popp_that_is_bound_to_a_key_needs_that_key(script: Script, other_client: Client) -> None:
    script.passed("/popp/x", popp=(script.popp.token(cnf={"jkt": script.client.jkt}),))
    script.passed("/bound/x", popp=(script.popp.token(cnf={"jkt": script.client.jkt}),))
    for path in ("/popp/x", "/bound/x"):
        assert script.refused(path, popp=(script.popp.token(cnf={"jkt": other_client.jkt}),)).code == "popp_invalid"
    assert script.refused("/bound/x", popp=(script.popp.token(),)).code == "popp_invalid"


def test_popp_proof_method_of_the_route(script: Script) -> None:
    script.passed("/methods/x", popp=(script.popp.token(proofMethod="ehc-practitioner-trustedchannel"),))
    assert script.refused("/methods/x", popp=(script.popp.token(proofMethod="healthid"),)).code == "popp_invalid"


def test_popp_of_an_unknown_key_is_missing(script: Script) -> None:
    verdict = script.play("/popp/x", popp=(script.popp.token(header={"kid": "new"}),))
    assert isinstance(verdict, MissingKeys)
    assert (verdict.kind, verdict.kid) == ("popp", "new")


def test_popp_signed_by_somebody_else_is_403(script: Script, other_client: Client) -> None:
    error = script.refused("/popp/x", popp=(script.popp.token(key=other_client.key),))
    assert (error.status, error.code) == (403, "popp_invalid")


def test_verified_popp_is_remembered_until_the_keys_change(script: Script, other_client: Client) -> None:
    token = script.popp.token()
    script.passed("/popp/x", popp=(token,))
    script.popp.keys = {script.popp.kid: other_client.key.public_key()}
    script.passed("/popp/x", popp=(token,))
    script.popp.version += 1
    assert script.refused("/popp/x", popp=(token,)).code == "popp_invalid"


def test_access_token_in_the_popp_slot_and_the_reverse_are_refused(script: Script) -> None:
    access = script.issuer.token(script.client)
    assert script.refused("/popp/x", popp=(access,)).code == "popp_invalid"
    assert script.refused(token=script.popp.token()).code == "invalid_token"


def test_checks_come_in_the_order_of_the_contract(
    make_config: MakeConfig, script: Script, other_client: Client
) -> None:
    config = make_config(
        [
            {
                "prefix": "/all",
                "upstreams": UPSTREAMS,
                "scopes": ["popp"],
                "acr": "gematik-ehealth-loa-high",
                "popp": {},
            }
        ],
        gateway_popp_issuers=[{"issuer": script.popp.issuer, "unsafe_tls_anchor": True}],
    )
    script.check = AccessCheck(
        config,
        table=build_routes(config),
        verifier=AccessTokenVerifier(script.key_sets, max_bytes=16384),
        popp=PoppVerifier({script.popp.issuer: script.popp}, max_bytes=8192, skew=15),
    )
    # Everything is wrong at first; what is put right, one after the other, uncovers the next refusal.
    claims: dict[str, Any] = {"exp": int(NOW), "aud": "https://x", "scope": "x", "ip_address": "10.0.0.1", "acr": "x"}
    play: dict[str, Any] = {"path": "/nowhere", "method": "POST", "authorization": ("Bearer x",)}
    signer = other_client
    seen: list[str] = []

    def look() -> None:
        token = script.issuer.token(script.client, **claims)
        proof = signer.proof(token, play["method"], play["path"])
        seen.append(script.refused(token=token, proof=proof, **play).stage)

    look()
    play["path"] = "/all/x"
    look()
    play["method"] = "GET"
    look()
    del play["authorization"]
    for name in ("exp", "aud", "scope"):
        look()
        del claims[name]
    look()
    signer = script.client
    for name in ("ip_address", "acr"):
        look()
        del claims[name]
    look()
    assert seen == [
        "route",
        "method",
        "authorization",
        "access_token",
        "audience",
        "scope",
        "dpop",
        "address",
        "acr",
        "popp",
    ]
