"""The documents that policies decide about (``policy-contract`` section 2): what policy authors can rely on.

What is unknown is absent, never empty and never null: a rule that reads it is undefined, and the library denies. Nothing in
here is copied from a place that the client can set freely, except what its name says (``product_id`` and the like are the
client's own statement, bound to its registered key).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final, Literal, NamedTuple
from urllib.parse import parse_qsl

from zeta_guard.errors import JsonValue, ZetaError
from zeta_guard.http.address import ip_prefixes
from zeta_guard.tokens.access_token import AccessToken

IPAddress = IPv4Address | IPv6Address
_MAX_PARAMETERS: Final = 1000

ClientClass = Literal["registered", "product"]


class Institution(NamedTuple):
    """Who asks, as the SM(C)-B certificate says."""

    telematik_id: str
    profession_oid: str
    common_name: str
    organization_name: str | None = None


class DpopKey(NamedTuple):
    """The DPoP key of a client that does not register: Unix seconds when it was seen first, and last before this request;
    ``age`` in seconds."""

    first_seen: int
    last_seen: int
    age: int


class Client(NamedTuple):
    """With which software, as its verified client statement says. Times are Unix seconds, None where there is none."""

    client_id: str
    client_class: ClientClass
    platform: str
    posture_type: str
    product_id: str
    product_version: str
    registered_at: int | None = None
    attested_at: int | None = None
    os: str | None = None
    os_version: str | None = None
    architecture: str | None = None
    binding_verified: bool = True
    dpop_key: DpopKey | None = None


def token_document(
    *,
    grant_type: str,
    scopes: Sequence[str],
    audience: Sequence[str],
    resource: str | None,
    client_address: IPAddress | None,
    previous_address: str | None,
    acr: str,
    amr: Sequence[str],
    client: Client,
    institution: Institution,
) -> dict[str, JsonValue]:
    """Input of *may this institution have a token?*; schema 1.1 when the client sent ``resource``, else 1.0.

    ``amr`` is what the server itself has verified. ``previous_address`` is the address of the session's exchange, None at
    an exchange.
    """
    request: dict[str, JsonValue] = {
        "scopes": list(scopes),
        "grant_type": grant_type,
        # The token endpoint is POST only; published policies deny every question that does not say so.
        "http_method": "POST",
        "amr": list(amr),
        "acr": acr,
    }
    if resource is not None:
        request["resource"] = resource
    if audience:
        request["audience"] = list(audience)
        request["aud"] = list(audience)
    _add_address(request, client_address)
    if previous_address is not None:
        request["previous_ip_address"] = previous_address
    return {
        "version": "1.0" if resource is None else "1.1",
        "authorization_request": request,
        "client_registration_data": _client(client),
        "user_info": _user(
            institution.telematik_id,
            institution.profession_oid,
            institution.common_name,
            institution.organization_name,
        ),
        "client_assertion": {"posture": {"product_id": client.product_id, "product_version": client.product_version}},
        "delegation_context": None,
    }


def request_document(
    *,
    method: str,
    path: Sequence[str],
    query: str,
    route: str,
    client_address: IPAddress | None,
    websocket: bool,
    token: AccessToken,
    popp: Mapping[str, JsonValue] | None,
    now: float,
) -> dict[str, JsonValue]:
    """Input of *may this request pass?*. ``path`` is the matching form (segments decoded once), ``query`` the raw query.

    ``time`` is in whole Unix seconds; a bundle whose decisions may be cached must not read it.
    """
    request: dict[str, JsonValue] = {
        "method": method,
        "path": list(path),
        "query": _query(query),
        "route": route,
        "websocket": websocket,
    }
    _add_address(request, client_address)
    document: dict[str, JsonValue] = {
        "request": request,
        "token": dict(token.claims),
        "client": {
            "client_id": token.client_id,
            "product_id": token.product_id,
            "product_version": token.product_version,
            "platform": token.platform,
        },
        "user": _user(token.telematik_id, token.profession_oid, token.common_name, token.organization_name),
        "time": int(now),
    }
    if popp is not None:
        document["popp"] = dict(popp)
    return document


def _add_address(request: dict[str, JsonValue], address: IPAddress | None) -> None:
    if address is not None:
        prefixes: list[Any] = ip_prefixes(address)
        # The longest of its networks is the address itself; spelling it out anew costs more than all the rest here.
        request["ip_address"] = prefixes[0].partition("/")[0]
        request["ip_prefixes"] = prefixes


def _client(client: Client) -> dict[str, JsonValue]:
    arch = client.architecture
    software: dict[str, JsonValue] = {"binding_verified": client.binding_verified}
    device: dict[str, JsonValue] = {}
    if client.os is not None:
        device["os"] = client.os
    if client.os_version is not None:
        device["os_version"] = client.os_version
    if arch is not None:
        software["arch"] = device["arch"] = arch
    document: dict[str, JsonValue] = {
        "client_id": client.client_id,
        "client_class": client.client_class,
        "platform": client.platform,
        "posture_type": client.posture_type,
        "product_id": client.product_id,
        "product_version": client.product_version,
        "device_info": device,
        "attestation_result": {"software": software} if client.posture_type == "software" else {},
    }
    if client.registered_at is not None:
        document["registration_timestamp"] = client.registered_at
    if client.attested_at is not None:
        document["attestation_timestamp"] = client.attested_at
    if client.dpop_key is not None:
        document["dpop_key"] = _dpop_key(client.dpop_key)
    return document


def _dpop_key(key: DpopKey) -> dict[str, JsonValue]:
    return {"first_seen": key.first_seen, "last_seen": key.last_seen, "age": key.age}


def _user(identifier: str, profession: str, common_name: str, organization: str | None) -> dict[str, JsonValue]:
    user: dict[str, JsonValue] = {
        "identifier": identifier,
        "professionOID": profession,
        "commonName": common_name,
    }
    if organization is not None:
        user["organizationName"] = organization
    return user


def _query(raw: str) -> dict[str, JsonValue]:
    """Name → all its values, in order, so that a repeated parameter cannot hide from a rule."""
    members: dict[str, JsonValue] = {}
    try:
        pairs = parse_qsl(raw, keep_blank_values=True, max_num_fields=_MAX_PARAMETERS)
    except ValueError:
        raise ZetaError(
            "invalid_request", f"the query has more than {_MAX_PARAMETERS} parameters", stage="policy"
        ) from None
    for name, value in pairs:
        values = members.setdefault(name, [])
        if isinstance(values, list):
            values.append(value)
    return members
