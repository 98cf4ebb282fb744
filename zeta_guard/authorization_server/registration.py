"""Dynamic client registration (RFC 7591, ``wire-contract`` section 3)."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import orjson

from zeta_guard.authorization_server.grant_type import REFRESH_TOKEN, TOKEN_EXCHANGE
from zeta_guard.config.authorization_server import AuthorizationServer
from zeta_guard.errors import ConfigurationError, JsonValue
from zeta_guard.jose.jwk import parse_public_jwk, public_jwk
from zeta_guard.jose.slot import Slot
from zeta_guard.store.contract import Client, Store

CLIENT_ID_PREFIX: Final = "zc_"
"""Generated ids begin with it; a product id may not, so that neither can pass for the other."""

LARGEST_RECORD: Final = 2048
"""Bytes of a pending registration in the store."""

LONGEST_NAME: Final = 128
LONGEST_URI: Final = 256
MOST_URIS: Final = 4
LONGEST_KID: Final = 128

SLOT: Final = Slot("registration request", "invalid_client_metadata")

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_URI: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:[!-~]+")
_GRANTS: Final = (TOKEN_EXCHANGE, REFRESH_TOKEN)
_RESPONSE_TYPES: Final = ("token",)


@dataclass(frozen=True, slots=True)
class ClientMetadata:
    """A registration request whose every member was checked. ``client_name`` None: the id stands for it (RFC 7591 §2)."""

    client_name: str | None
    thumbprint: str
    jwk: dict[str, str]
    grant_types: tuple[str, ...]
    response_types: tuple[str, ...]
    redirect_uris: tuple[str, ...]


def read_metadata(body: Mapping[str, JsonValue]) -> ClientMetadata:
    """The checked request. Unknown members are ignored (RFC 7591 §2). Raises ZetaError 400 ``invalid_client_metadata``."""
    method = body.get("token_endpoint_auth_method")
    if method != "private_key_jwt":
        raise SLOT.refuse("'token_endpoint_auth_method' must be private_key_jwt")
    if body.get("attestation_type", "software") != "software":
        raise SLOT.refuse("'attestation_type' is not supported; expected a software client without attestation members")
    if "jwks_uri" in body:
        raise SLOT.refuse("'jwks_uri' is not supported; send the key in 'jwks'")
    thumbprint, jwk = _key(body.get("jwks"))
    metadata = ClientMetadata(
        client_name=_name(body),
        thumbprint=thumbprint,
        jwk=jwk,
        grant_types=_choices(body, "grant_types", _GRANTS),
        response_types=_choices(body, "response_types", _RESPONSE_TYPES),
        redirect_uris=_redirect_uris(body),
    )
    size = len(orjson.dumps([metadata.client_name, metadata.jwk, metadata.redirect_uris]))
    if size > LARGEST_RECORD - 512:
        raise SLOT.refuse("name, key and redirect URIs are too long together")
    return metadata


def _name(body: Mapping[str, JsonValue]) -> str | None:
    if "client_name" not in body:
        return None
    name = body["client_name"]
    if not isinstance(name, str) or not name.strip():
        raise SLOT.refuse("'client_name' must be text that is not empty")
    if len(name) > LONGEST_NAME or _CONTROL.search(name):
        raise SLOT.refuse(
            f"'client_name' must have at most {LONGEST_NAME} characters, none of them a control character"
        )
    return name


def _key(jwks: JsonValue) -> tuple[str, dict[str, str]]:
    keys = jwks.get("keys") if isinstance(jwks, dict) else None
    if not isinstance(keys, list):
        raise SLOT.refuse("'jwks' must be an object with the array 'keys'")
    if len(keys) != 1:
        raise SLOT.refuse(f"'jwks.keys' holds {len(keys)} keys; expected exactly one")
    key = keys[0]
    parsed = parse_public_jwk(key, SLOT)
    jwk = public_jwk(parsed.key)
    if isinstance(key, dict) and "kid" in key:
        kid = key["kid"]
        if not isinstance(kid, str) or not 0 < len(kid) <= LONGEST_KID or _CONTROL.search(kid):
            raise SLOT.refuse(f"'kid' of the key must be text of 1 to {LONGEST_KID} characters")
        jwk["kid"] = kid
    return parsed.thumbprint, jwk


def _texts(body: Mapping[str, JsonValue], name: str) -> tuple[str, ...] | None:
    if name not in body:
        return None
    value = body[name]
    if not isinstance(value, list):
        raise SLOT.refuse(f"'{name}' must be an array of texts")
    texts = tuple(entry for entry in value if isinstance(entry, str))
    if len(texts) != len(value):
        raise SLOT.refuse(f"'{name}' must be an array of texts")
    return texts


def _choices(body: Mapping[str, JsonValue], name: str, offered: tuple[str, ...]) -> tuple[str, ...]:
    chosen = _texts(body, name)
    if chosen is None:
        return offered
    if not chosen:
        raise SLOT.refuse(f"'{name}' is empty; offered: {', '.join(offered)}")
    if any(choice not in offered for choice in chosen) or len(set(chosen)) != len(chosen):
        raise SLOT.refuse(
            f"'{name}' names something that is not offered, or one thing twice; offered: {', '.join(offered)}"
        )
    return chosen


def _redirect_uris(body: Mapping[str, JsonValue]) -> tuple[str, ...]:
    uris = _texts(body, "redirect_uris") or ()
    if len(uris) > MOST_URIS:
        raise SLOT.refuse(f"'redirect_uris' has {len(uris)} members; at most {MOST_URIS}")
    for uri in uris:
        if len(uri) > LONGEST_URI or "#" in uri or not _URI.fullmatch(uri):
            raise SLOT.refuse(
                f"'redirect_uris' must hold absolute URIs without fragment, {LONGEST_URI} characters at most"
            )
    return uris


def check_product_ids(server: AuthorizationServer) -> None:
    """Raise ConfigurationError for a product id that a generated client id could equal."""
    for product_id in server.products:
        if product_id.startswith(CLIENT_ID_PREFIX) or not re.fullmatch(r"[!-~]{1,128}", product_id):
            raise ConfigurationError(
                f"authorization_server.products.{product_id}",
                "an id that is reserved or not printable",
                f"1 to 128 visible ASCII characters, not beginning with {CLIENT_ID_PREFIX}",
                "Give the product another id.",
            )


class Registrar:
    """Registers clients. The same key again is the same client, unchanged: the SDK registers again with the same key."""

    def __init__(self, server: AuthorizationServer, store: Store) -> None:
        self._server = server
        self._store = store

    async def register(self, metadata: ClientMetadata, *, now: float) -> tuple[Client, bool]:
        """The client of this key, and whether it is new. Raises ZetaError 503 when too many registrations are pending."""
        client_id = CLIENT_ID_PREFIX + secrets.token_hex(16)
        client = Client(
            client_id=client_id,
            key_thumbprint=metadata.thumbprint,
            jwk=metadata.jwk,
            client_name=metadata.client_name or client_id,
            registered_at=int(now),
            metadata={
                "grant_types": list(metadata.grant_types),
                "response_types": list(metadata.response_types),
                "redirect_uris": list(metadata.redirect_uris),
            },
        )
        registered = await self._store.register_client(
            client, ttl=self._server.lifetimes.pending_client, most_pending=self._server.pending_clients, now=now
        )
        return registered, registered.client_id == client_id


def registration_answer(client: Client) -> dict[str, JsonValue]:
    """The body of the 201: what is registered, complete, lists never null."""
    return {
        "client_id": client.client_id,
        "client_id_issued_at": client.registered_at,
        "client_name": client.client_name,
        "token_endpoint_auth_method": "private_key_jwt",
        "grant_types": list[JsonValue](client.metadata.get("grant_types", [])),
        "response_types": list[JsonValue](client.metadata.get("response_types", [])),
        "redirect_uris": list[JsonValue](client.metadata.get("redirect_uris", [])),
        "jwks": {"keys": [dict[str, JsonValue](client.jwk)]},
    }
