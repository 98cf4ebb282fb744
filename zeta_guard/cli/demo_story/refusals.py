"""The scenes that must fail, each with its reason shown."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from typing import Final

from zeta_guard.cli.demo_story.cast import FHIR, READ, Cast, refused
from zeta_guard.cli.demo_story.configuration import OPEN_ROUTE, with_short_tokens
from zeta_guard.cli.demo_story.story import Outcome, Scene
from zeta_guard.client.assertions import UnsignedJwt
from zeta_guard.client.keys import SoftwareKey
from zeta_guard.client.session import Hooks, Part
from zeta_guard.jose.encoding import b64url_decode, b64url_encode

BRIEF_SECONDS: Final = 2


async def _brief_token(cast: Cast) -> Outcome:
    """A token that really expires: for one login the guard is reloaded with a shorter cap."""
    guard, config = cast.stage.guard, cast.stage.config
    assert guard is not None
    client = await cast.client("brief", "good")
    await client.register()
    await guard.reload(with_short_tokens(config, BRIEF_SECONDS))
    try:
        cast.brief = await client.login()
    finally:
        await guard.reload(config)
    answer = await client.send("GET", OPEN_ROUTE)
    seen = f"a token for {cast.brief.expires_in} s, used at once: {answer.status}"
    return Outcome(seen, answer.status == 200 and cast.brief.expires_in == BRIEF_SECONDS)


async def _replayed_proof(cast: Cast) -> Outcome:
    client = await cast.client()
    tokens = await client.token()
    proof = client.proof("GET", client.url(OPEN_ROUTE), access_token=tokens.access_token)
    first = await client.send("GET", OPEN_ROUTE, proof=proof)
    second = await client.send("GET", OPEN_ROUTE, proof=proof)
    outcome = refused(second, 401, "invalid_dpop_proof")
    return Outcome(f"first {first.status}, second {outcome.seen}", first.status == 200 and outcome.ok)


async def _stolen_token(cast: Cast) -> Outcome:
    client = await cast.client()
    tokens = await client.token()
    proof = client.proof("GET", client.url(OPEN_ROUTE), access_token=tokens.access_token, key=SoftwareKey.generate())
    return refused(await client.send("GET", OPEN_ROUTE, proof=proof), 401, "invalid_dpop_proof")


async def _foreign_popp(cast: Cast) -> Outcome:
    client = await cast.client()
    await client.token()
    foreign = cast.stage.popp_token("other_institution")
    answer = await client.send("GET", READ, [("PoPP", foreign), ("If-None-Match", '"0"'), FHIR])
    return refused(answer, 403, "popp_invalid_actor")


async def _missing_popp(cast: Cast) -> Outcome:
    client = await cast.client()
    await client.token()
    return refused(await client.send("GET", READ, [("If-None-Match", '"0"'), FHIR]), 400, "popp_missing")


async def _profession(cast: Cast) -> Outcome:
    answer = await (await cast.client("not_allowed")).exchange()
    reasons = answer.json().get("reasons")
    outcome = refused(answer, 403, "access_denied")
    words = "; ".join(reasons) if isinstance(reasons, dict) else ""
    return Outcome(f"{answer.status} {answer.error}: {words}", outcome.ok and bool(words))


async def _revoked(cast: Cast) -> Outcome:
    return refused(await (await cast.client("revoked")).exchange(), 400, "invalid_grant")


async def _silent(cast: Cast) -> Outcome:
    answer = await (await cast.client("silent")).exchange()
    outcome = refused(answer, 503, "temporarily_unavailable")
    return Outcome(f"{outcome.seen} (Retry-After {answer.headers.get('Retry-After', 'absent')})", outcome.ok)


async def _foreign_pki(cast: Cast) -> Outcome:
    return refused(await (await cast.client("foreign")).exchange(), 400, "invalid_grant")


async def _manipulated(cast: Cast) -> Outcome:
    def another_institution(part: Part, token: str) -> str:
        if part != "subject_token":
            return token
        header, claims, signature = token.split(".")
        changed = {**json.loads(b64url_decode(claims)), "sub": "1-2087654321"}
        return f"{header}.{b64url_encode(json.dumps(changed, separators=(',', ':')).encode())}.{signature}"

    client = await cast.client("forger", "good")
    client.hooks = Hooks(on_exchange=cast.storyteller.exchange, after_signing=another_institution)
    return refused(await client.exchange(), 400, "invalid_grant")


async def _swapped_nonce(cast: Cast) -> Outcome:
    def old_nonce(part: Part, unsigned: UnsignedJwt) -> UnsignedJwt:
        return unsigned.with_claims(nonce=b64url_encode(bytes(16))) if part == "subject_token" else unsigned

    client = await cast.client("forger", "good")
    client.hooks = Hooks(on_exchange=cast.storyteller.exchange, before_signing=old_nonce)
    return refused(await client.exchange(), 400, "invalid_grant")


async def _spoofed_header(cast: Cast) -> Outcome:
    client = await cast.client()
    await client.token()
    lie = base64.urlsafe_b64encode(json.dumps({"identifier": "1-2087654321"}).encode()).decode()
    answer = await client.send(
        "GET", OPEN_ROUTE, [("ZETA-User-Info", lie), ("zeta_user_info", lie), ("Zeta.User.Info", lie)]
    )
    received = cast.stage.vsdm.received[-1]
    spellings = [
        name for name, _ in received.headers if name.lower().replace("_", "-").replace(".", "-") == "zeta-user-info"
    ]
    told = answer.json().get("told_by_the_guard")
    user = told.get("ZETA-User-Info") if isinstance(told, dict) else None
    identifier = user.get("identifier") if isinstance(user, dict) else None
    seen = f"{answer.status}; the service was told {identifier}, in {len(spellings)} header"
    return Outcome(seen, identifier == cast.stage.card("good").telematik_id and len(spellings) == 1)


async def _reused_refresh(cast: Cast) -> Outcome:
    client = await cast.client("thief", "good")
    first = await client.login()
    await client.refresh()
    await client.refresh()
    latest = client.state.tokens
    client.state.tokens = first
    metadata, nonce = await client.discover(), await client.nonce()
    answer = await client.send_form(metadata.token_endpoint, client.refresh_form(metadata, nonce), nonce)
    outcome = refused(answer, 400, "invalid_grant")
    client.state.tokens = latest
    after = await client.send("GET", OPEN_ROUTE)
    seen = f"{outcome.seen}; the session's newest access token afterwards: {after.status} {after.error}"
    return Outcome(seen, outcome.ok and (after.status, after.error) == (401, "invalid_token"))


async def _expired(cast: Cast) -> Outcome:
    assert cast.brief is not None
    client = await cast.client("brief", "good")
    # The client counts from the answer on; the guard rounds to whole seconds, so the end is at most a second later.
    await asyncio.sleep(max(0.0, cast.brief.expires_at + 0.05 - time.time()))
    answer = await client.send("GET", OPEN_ROUTE, access_token=cast.brief.access_token)
    return refused(answer, 401, "invalid_token")


REFUSALS: Final[tuple[Scene[Cast], ...]] = (
    Scene(
        "brief_token",
        f"The guard is reloaded, and for one login access tokens live {BRIEF_SECONDS} s",
        "the token works at once",
        "a new configuration takes effect without dropping a connection",
        _brief_token,
        ("token",),
    ),
    Scene(
        "replayed_proof",
        "A DPoP proof is sent a second time",
        "401 invalid_dpop_proof",
        "a proof is accepted once",
        _replayed_proof,
        ("token",),
    ),
    Scene(
        "stolen_token",
        "A thief has the access token, but not the key",
        "401 invalid_dpop_proof",
        "a token alone is worth nothing",
        _stolen_token,
        ("token",),
    ),
    Scene(
        "foreign_popp",
        "The PoPP token of another practice is used",
        "403 popp_invalid_actor",
        "the proof of presence belongs to the practice that obtained it",
        _foreign_popp,
        ("read",),
    ),
    Scene(
        "missing_popp",
        "The PoPP token is left out",
        "400 popp_missing",
        "insured data need a proof of presence",
        _missing_popp,
        ("read",),
    ),
    Scene(
        "profession",
        "An institution of a profession that the policy does not allow asks for a token",
        "403 access_denied with the reason",
        "the policy decides, and says why",
        _profession,
        ("guard",),
    ),
    Scene(
        "revoked",
        "The SM(C)-B was revoked",
        "400 invalid_grant",
        "revocation is asked, not assumed",
        _revoked,
        ("guard",),
    ),
    Scene(
        "silent_ocsp",
        "Nobody answers about the SM(C)-B",
        "503 temporarily_unavailable",
        "unknown is not good: without an answer nobody passes",
        _silent,
        ("guard",),
    ),
    Scene(
        "foreign_pki",
        "A card of a CA that only bears the right name",
        "400 invalid_grant",
        "names prove nothing, signatures do",
        _foreign_pki,
        ("guard",),
    ),
    Scene(
        "manipulated_subject_token",
        "Another Telematik-ID is written into the signed subject token",
        "400 invalid_grant",
        "what the card signed cannot be changed",
        _manipulated,
        ("guard",),
    ),
    Scene(
        "foreign_nonce",
        "The card signs another nonce than the DPoP proof carries",
        "400 invalid_grant",
        "card, key and nonce belong to one request",
        _swapped_nonce,
        ("guard",),
    ),
    Scene(
        "spoofed_user_info",
        "The client sends ZETA-User-Info itself, in three spellings",
        "the service is told the real institution, once",
        "a service may believe what stands in ZETA headers",
        _spoofed_header,
        ("token",),
    ),
    Scene(
        "reused_refresh_token",
        "A spent refresh token is used again",
        "400 invalid_grant, and the whole session is over",
        "a copied refresh token ends the session of thief and owner",
        _reused_refresh,
        ("token",),
    ),
    Scene(
        "expired_token",
        f"The token of {BRIEF_SECONDS} s is used after its time",
        "401 invalid_token",
        "an access token ends by the clock",
        _expired,
        ("brief_token",),
    ),
)
