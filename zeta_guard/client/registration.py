"""Dynamic client registration (RFC 7591), software variant."""

from __future__ import annotations

import json
from typing import Final

from zeta_guard.client.errors import MetadataError, Refused
from zeta_guard.client.keys import SoftwareKey
from zeta_guard.client.wire import Wire

PAUSES: Final = (1.0, 2.0)
"""Seconds between the three attempts of the SDK."""
FINAL: Final = frozenset({403, 409})
"""Refusals after which nobody tries again."""


def registration_request(client_key: SoftwareKey, client_name: str) -> bytes:
    """The body, members in the SDK's order and no others."""
    return json.dumps(
        {
            "token_endpoint_auth_method": "private_key_jwt",
            "grant_types": ["urn:ietf:params:oauth:grant-type:token-exchange", "refresh_token"],
            "response_types": ["token"],
            "client_name": client_name,
            "jwks": {"keys": [client_key.jwk]},
        },
        separators=(",", ":"),
        ensure_ascii=False,
    ).encode()


async def register_once(wire: Wire, endpoint: str, body: bytes) -> str:
    """One attempt: the ``client_id``. Raises Refused for any status but 201, MetadataError for a useless 201."""
    answer = await wire.send(
        "POST", endpoint, [("Accept", "application/json"), ("Content-Type", "application/json")], body
    )
    if answer.status != 201:
        raise Refused("register", answer)
    content_type = answer.headers.get("Content-Type", "").split(";")[0].strip().lower()
    client_id = answer.json().get("client_id")
    if not (content_type == "application/json" or content_type.endswith("+json")) or not isinstance(client_id, str):
        raise MetadataError(
            f"{endpoint}: the 201 is no JSON with a client_id", "The SDK throws on it and does not try again."
        )
    return client_id
