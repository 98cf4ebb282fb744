"""Every kind of JWT in every slot of a token request: only the kind that belongs there opens anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.authorization_server.conftest import MakeServer, Practice, Reply, Server

PRODUCTS = {"products": {"popp-client": {"audiences": ["urn:popp"], "scopes": ["popp"]}}, "audiences": ["urn:popp"]}
SLOTS = {
    "assertion of an exchange": ("client assertion", "invalid_client"),
    "subject token": ("subject token", "invalid_grant"),
    "proof": ("DPoP proof", "invalid_dpop_proof"),
    "refresh token": ("refresh token", "invalid_grant"),
    "assertion of a refresh": ("client assertion", "invalid_client"),
    "assertion of client credentials": ("institution assertion", "invalid_client"),
}
KINDS = (
    "client assertion",
    "institution assertion",
    "subject token",
    "DPoP proof",
    "access token",
    "refresh token",
    "other guard's refresh token",
)


class Desk:
    """A practice with one fresh and valid JWT of each kind, all made for the same nonce."""

    def __init__(self, practice: Practice, tokens: dict[str, str], nonce: bytes) -> None:
        self.practice, self.tokens, self.nonce = practice, tokens, nonce

    async def put(self, kind: str, slot: str) -> Reply:
        """A request that is as it should be, but for what stands in ``slot``."""
        token, practice = self.tokens[kind], self.practice
        match slot:
            case "assertion of an exchange":
                return await practice.exchange(nonce=self.nonce, form={"client_assertion": token})
            case "subject token":
                return await practice.exchange(nonce=self.nonce, form={"subject_token": token})
            case "proof":
                return await practice.exchange(nonce=self.nonce, proofs=[token])
            case "refresh token":
                return await practice.refresh(token, nonce=self.nonce)
            case "assertion of a refresh":
                form: dict[str, str | None] = {"client_assertion": token}
                return await practice.refresh(self.tokens["refresh token"], nonce=self.nonce, form=form)
            case _:
                return await practice.client_credentials(nonce=self.nonce, form={"client_assertion": token})


@pytest.fixture
async def desk(make_server: MakeServer) -> Desk:
    server = await make_server(authorization_server=PRODUCTS)
    practice = server.practice()
    granted = (await practice.exchange()).json
    nonce = await practice.nonce()
    tokens = {
        "client assertion": practice.assertion(nonce).signed(practice.instance_key.sign),
        "institution assertion": practice.institution_assertion("popp-client", nonce).signed(practice.card.sign),
        "subject token": practice.subject(nonce).signed(practice.card.sign),
        "DPoP proof": practice.proof(nonce).signed(practice.dpop_key.sign),
        "access token": granted["access_token"],
        "refresh token": granted["refresh_token"],
        "other guard's refresh token": await _of_another_guard(make_server, server),
    }
    return Desk(practice, tokens, nonce)


async def _of_another_guard(make_server: MakeServer, server: Server) -> str:
    other = await make_server()
    assert other.url != server.url
    return str((await other.practice().exchange()).json["refresh_token"])


@pytest.mark.parametrize("slot", SLOTS)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_jwt_opens_its_own_slot_only(desk: Desk, kind: str, slot: str) -> None:
    own, code = SLOTS[slot]
    reply = await desk.put(kind, slot)
    if kind == own:
        assert reply.status == 200, reply.body
        return
    assert 400 <= reply.status <= 401
    assert reply.json["error"] == code


@pytest.mark.parametrize("kind", KINDS)
async def test_only_own_tokens_are_revoked(desk: Desk, kind: str) -> None:
    assert (await desk.practice.revoke(desk.tokens[kind])).status == 200
    refreshed = await desk.practice.refresh(desk.tokens["refresh token"])
    own: Any = ("access token", "refresh token")
    assert refreshed.refusal == (403, "refresh_token_revoked") if kind in own else refreshed.status == 200
