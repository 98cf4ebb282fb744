"""Metadata that the ZETA SDK would refuse is refused here too, and named."""

from __future__ import annotations

from typing import Any

import pytest

from zeta_guard.client.errors import MetadataError, Refused, Unreachable
from zeta_guard.client.session import ZetaClient
from zeta_guard.simulators.card import Card


async def test_both_documents_are_fetched_once_and_kept(guard: Any, client: ZetaClient) -> None:
    metadata = await client.discover()
    assert await client.discover() is metadata
    assert metadata.resource == f"{guard.url}/"
    assert metadata.token_endpoint == f"{guard.url}/token"
    assert [request.path for request in guard.seen] == [
        "/.well-known/oauth-protected-resource",
        "/.well-known/oauth-authorization-server",
    ]


@pytest.mark.parametrize("member", ["resource", "authorization_servers", "zeta_asl_use"])
async def test_a_missing_member_of_the_resource_metadata_is_named(guard: Any, client: ZetaClient, member: str) -> None:
    del guard.protected[member]
    with pytest.raises(MetadataError, match=member):
        await client.discover()


@pytest.mark.parametrize(
    "member",
    [
        "issuer",
        "authorization_endpoint",
        "nonce_endpoint",
        "token_endpoint",
        "jwks_uri",
        "registration_endpoint",
        "scopes_supported",
        "response_types_supported",
        "grant_types_supported",
        "token_endpoint_auth_methods_supported",
        "token_endpoint_auth_signing_alg_values_supported",
        "code_challenge_methods_supported",
    ],
)
async def test_a_missing_member_of_the_server_metadata_is_named(guard: Any, client: ZetaClient, member: str) -> None:
    del guard.server[member]
    with pytest.raises(MetadataError, match=member):
        await client.discover()


async def test_a_null_member_is_refused(guard: Any, client: ZetaClient) -> None:
    guard.server["service_documentation"] = None
    with pytest.raises(MetadataError, match="service_documentation: null"):
        await client.discover()


async def test_an_unknown_response_type_is_refused(guard: Any, client: ZetaClient) -> None:
    guard.server["response_types_supported"] = ["token", "smoke signal"]
    with pytest.raises(MetadataError, match="smoke signal"):
        await client.discover()


async def test_a_resource_on_another_host_is_refused(guard: Any, client: ZetaClient) -> None:
    guard.protected["resource"] = "http://localhost/"
    with pytest.raises(MetadataError, match="localhost"):
        await client.discover()


async def test_a_registration_endpoint_on_another_host_is_refused(guard: Any, client: ZetaClient) -> None:
    guard.server["registration_endpoint"] = "http://localhost/register"
    with pytest.raises(MetadataError, match="loses its registration"):
        await client.discover()


async def test_the_path_of_the_issuer_is_dropped(guard: Any, client: ZetaClient) -> None:
    guard.protected["authorization_servers"] = [f"{guard.url}/auth/realms/x"]
    await client.discover()
    assert guard.seen[-1].path == "/.well-known/oauth-authorization-server"


async def test_a_scope_that_is_not_offered_is_named(guard: Any, card: Card) -> None:
    async with ZetaClient(guard.url, card, scopes=["vsdservice", "zero:audience"]) as client:
        with pytest.raises(MetadataError, match="zero:audience"):
            await client.discover()


async def test_an_error_answer_is_a_refusal(guard: Any, client: ZetaClient) -> None:
    guard.script("/.well-known/oauth-protected-resource", 404, {"error": "resource_not_found"})
    with pytest.raises(Refused, match="404 resource_not_found"):
        await client.discover()


async def test_a_body_that_is_no_json_object_is_refused(guard: Any, client: ZetaClient) -> None:
    guard.script("/.well-known/oauth-protected-resource", 200, "<html>")
    with pytest.raises(MetadataError, match="no JSON object"):
        await client.discover()


async def test_a_port_where_nobody_listens_is_named(card: Card) -> None:
    async with ZetaClient("https://127.0.0.1:1", card) as client:
        with pytest.raises(Unreachable, match="cannot be reached"):
            await client.discover()
