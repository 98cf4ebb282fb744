"""The scenes that must succeed: from nothing to insured data."""

from __future__ import annotations

import json
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from zeta_guard.cli.demo_story.cast import FHIR, READ, Cast
from zeta_guard.cli.demo_story.configuration import HEALTH_ROUTE, POPP_ROUTE
from zeta_guard.cli.demo_story.story import Outcome, Scene
from zeta_guard.client.popp import obtain_popp_token
from zeta_guard.errors import JsonValue
from zeta_guard.jose.encoding import b64url_decode


async def _pki(cast: Cast) -> Outcome:
    await cast.stage.build_pki()
    leaf = cast.stage.card("good").certificate.public_key()
    assert isinstance(leaf, ec.EllipticCurvePublicKey)
    cards = len(cast.stage.institutions)
    seen = f"{cards} SM(C)-B cards on {leaf.curve.name}, OCSP responder at {cast.stage.ocsp.url}"
    return Outcome(seen, leaf.curve.name == "brainpoolP256r1")


async def _guard(cast: Cast) -> Outcome:
    await cast.stage.start_services()
    await cast.stage.start_guard()
    client = await cast.client()
    answer = await client.wire.send("GET", f"{cast.stage.ops_url}/readyz")
    seen = f"{cast.stage.around.public_url} answers, /readyz {answer.status}"
    return Outcome(seen, answer.status == 200)


async def _discover(cast: Cast) -> Outcome:
    metadata = await (await cast.client()).discover()
    seen = f"resource {metadata.resource}, issuer {metadata.issuer}, scopes {' '.join(metadata.scopes_supported)}"
    return Outcome(seen, metadata.resource == cast.stage.config.resource)


async def _register(cast: Cast) -> Outcome:
    client = await cast.client()
    client_id = await client.register()
    client.state.client_id = None
    again = await client.register()
    return Outcome(f"client_id {client_id}; the same key again: the same id", bool(client_id) and again == client_id)


async def _token(cast: Cast) -> Outcome:
    client = await cast.client()
    await cast.stage.first_proof_possible()
    questions = cast.stage.ocsp.asked
    tokens = await client.token()
    claims = _claims(tokens.access_token)
    confirmation = claims.get("cnf")
    bound = isinstance(confirmation, dict) and confirmation.get("jkt") == client.state.dpop_key.thumbprint
    card = cast.stage.card("good")
    asked = cast.stage.ocsp.asked - questions
    cast.storyteller.line(f"guard → OCSP responder: {asked} question(s) about the card's certificate")
    seen = (
        f"access token for {tokens.expires_in} s, scope '{tokens.scope}', sub {claims.get('sub')}, "
        f"profession {claims.get('profession_oid')}; refresh token: {'yes' if tokens.refresh_token else 'no'}"
    )
    ok = bound and claims.get("sub") == card.telematik_id and tokens.refresh_token is not None and asked == 1
    return Outcome(seen, ok)


async def _popp(cast: Cast) -> Outcome:
    client = await cast.client()
    socket = await client.websocket(POPP_ROUTE)
    try:
        token = await obtain_popp_token(
            socket,
            cast.stage.egk,
            on_message=lambda direction, message: cast.storyteller.line(f"{direction} {_summary(message)}"),
        )
    finally:
        await socket.close()
    claims = _claims(token)
    cast.popp_token = token
    seen = f"PoPP token: actorId {claims.get('actorId')}, proofMethod {claims.get('proofMethod')}, insurer {claims.get('insurerId')}"
    return Outcome(seen, claims.get("actorId") == cast.stage.card("good").telematik_id)


async def _read(cast: Cast) -> Outcome:
    client = await cast.client()
    answer = await client.request("GET", READ, [("PoPP", cast.popp_token), ("If-None-Match", '"0"'), FHIR])
    cast.entity_tag = answer.headers.get("ETag", "")
    bundle = answer.json()
    entries = bundle.get("entry")
    kinds = _resource_types(entries if isinstance(entries, list) else [])
    received = cast.stage.vsdm.received[-1]
    told = sorted(name for name, _ in received.headers if name.lower().startswith("zeta-"))
    kept_back = not any(received.header(name) for name in ("Authorization", "DPoP", "PoPP"))
    cast.storyteller.line(f"guard → VSDM service: {received.method} {received.target} with {', '.join(told)}")
    seen = (
        f"{answer.status} {bundle.get('resourceType', '')} ({', '.join(kinds)}), ETag and VSDM-Pz present: "
        f"{'yes' if cast.entity_tag and 'VSDM-Pz' in answer.headers else 'no'}"
    )
    ok = answer.status == 200 and kinds == ["Patient", "Coverage", "Organization"] and len(told) == 3 and kept_back
    return Outcome(seen, ok and bool(cast.entity_tag) and "VSDM-Pz" in answer.headers)


async def _unchanged(cast: Cast) -> Outcome:
    client = await cast.client()
    answer = await client.request("GET", READ, [("PoPP", cast.popp_token), ("If-None-Match", cast.entity_tag), FHIR])
    seen = f"{answer.status}, {len(answer.body)} bytes, VSDM-Pz: {'yes' if 'VSDM-Pz' in answer.headers else 'no'}"
    return Outcome(seen, answer.status == 304 and not answer.body and "VSDM-Pz" in answer.headers)


async def _precondition(cast: Cast) -> Outcome:
    client = await cast.client()
    answer = await client.request("GET", READ, [("PoPP", cast.popp_token), FHIR])
    issues = answer.json().get("issue")
    text = json.dumps(issues)
    return Outcome(
        f"{answer.status} {answer.json().get('resourceType', '')}",
        answer.status == 428 and "VSDSERVICE_MISSING_PATIENT_RECORD_VERSION" in text,
    )


async def _refresh(cast: Cast) -> Outcome:
    client = await cast.client()
    before = await client.token()
    after = await client.refresh()
    answer = await client.request("GET", READ, [("PoPP", cast.popp_token), ("If-None-Match", cast.entity_tag), FHIR])
    rotated = before.refresh_token != after.refresh_token
    same_session = _claims(before.access_token).get("sid") == _claims(after.access_token).get("sid")
    seen = f"new access token, refresh token rotated: {'yes' if rotated else 'no'}; read with it: {answer.status}"
    return Outcome(seen, rotated and same_session and answer.status == 304)


async def _public(cast: Cast) -> Outcome:
    client = await cast.client()
    public = await client.request("GET", HEALTH_ROUTE)
    nowhere = await client.send("GET", "/nowhere")
    seen = f"{HEALTH_ROUTE} {public.status} without a token; a path without a route {nowhere.status} {nowhere.error}"
    return Outcome(seen, public.status == 200 and (nowhere.status, nowhere.error) == (404, "resource_not_found"))


GOOD_PATH: Final[tuple[Scene[Cast], ...]] = (
    Scene(
        "pki",
        "A throw-away PKI is made: root, SM(C)-B CA, cards, component CA, trust list, OCSP responder",
        "cards on brainpoolP256r1 with admission extension",
        "the institutions of this story hold certificates shaped like those of the TI",
        _pki,
    ),
    Scene(
        "guard",
        "PoPP service, VSDM service and the guard start",
        "the guard is ready",
        "one process, nothing to install: signing keys, trust, policy and store are loaded",
        _guard,
        ("pki",),
    ),
    Scene(
        "discover",
        "The client discovers the guard",
        "two metadata documents a ZETA SDK accepts",
        "a client needs the URL and nothing else",
        _discover,
        ("guard",),
    ),
    Scene(
        "register",
        "The client registers its key",
        "201 with a client_id; the same key gets the same id",
        "registration needs no secret and survives repetition",
        _register,
        ("discover",),
    ),
    Scene(
        "token",
        "The practice proves itself with its SM(C)-B and gets its tokens",
        "access and refresh token, bound to the DPoP key, issued after chain, OCSP and policy",
        "card, client key, DPoP key and nonce are bound together in one request",
        _token,
        ("register",),
    ),
    Scene(
        "popp",
        "The insured person's card is read over the PoPP WebSocket",
        "card scenarios, then a signed PoPP token for this practice",
        "the upgrade is authorised, frames pass, and the PoPP service believes the guard about who is there",
        _popp,
        ("token",),
    ),
    Scene(
        "read",
        "The practice reads insured data",
        "200 with FHIR Bundle, ETag and VSDM-Pz; the service got three ZETA headers and no credential",
        "token, DPoP and PoPP were verified, and the service need not verify anything",
        _read,
        ("popp",),
    ),
    Scene(
        "unchanged",
        "It reads again with the ETag",
        "304 without body, with VSDM-Pz",
        "conditional requests pass the guard unchanged",
        _unchanged,
        ("read",),
    ),
    Scene(
        "precondition",
        "It forgets If-None-Match",
        "428 with the service's own operation outcome",
        "a service's own errors pass the guard unchanged",
        _precondition,
        ("read",),
    ),
    Scene(
        "refresh",
        "The client refreshes its tokens",
        "new tokens in the same session; the old refresh token is spent",
        "no card is needed again, and the policy is asked again",
        _refresh,
        ("read",),
    ),
    Scene(
        "public",
        "A public path and a path without a route",
        "200 without a token; 404 with one",
        "only what is configured is reachable",
        _public,
        ("token",),
    ),
)


def _claims(token: str) -> dict[str, JsonValue]:
    """Claims of a JWT, for showing; nothing is verified."""
    claims = json.loads(b64url_decode(token.split(".")[1]))
    assert isinstance(claims, dict)
    return claims


def _resource_types(entries: list[JsonValue]) -> list[str]:
    resources = [entry.get("resource") for entry in entries if isinstance(entry, dict)]
    return [str(resource.get("resourceType")) for resource in resources if isinstance(resource, dict)]


def _summary(message: dict[str, JsonValue]) -> str:
    kind, steps = str(message.get("type")), message.get("steps")
    if isinstance(steps, list):
        return f"{kind}: {len(steps)} {'APDUs' if kind == 'ScenarioResponse' else 'commands for the card'}"
    if kind == "Start":
        return f"Start: {message.get('cardConnectionType')}"
    return kind
