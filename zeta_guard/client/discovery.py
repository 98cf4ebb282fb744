"""The two metadata documents, read and checked as the ZETA SDK does (RFC 9728, RFC 8414)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from yarl import URL

from zeta_guard.client.errors import MetadataError, Refused
from zeta_guard.client.wire import Answer, Wire
from zeta_guard.errors import JsonValue

PROTECTED_RESOURCE = "/.well-known/oauth-protected-resource"
AUTHORIZATION_SERVER = "/.well-known/oauth-authorization-server"
_RESPONSE_TYPES = frozenset(
    {"code", "token", "id_token", "token id_token", "code id_token", "code token id_token", "code token"}
)
_REQUIRED_LISTS = (
    "scopes_supported",
    "response_types_supported",
    "grant_types_supported",
    "token_endpoint_auth_methods_supported",
    "token_endpoint_auth_signing_alg_values_supported",
    "code_challenge_methods_supported",
)


@dataclass(frozen=True, slots=True)
class GuardMetadata:
    """What a client keeps of the two documents. ``resource`` is sent verbatim as ``audience``."""

    resource: str
    issuer: str
    token_endpoint: str
    nonce_endpoint: str
    registration_endpoint: str
    revocation_endpoint: str | None
    scopes_supported: tuple[str, ...]


async def discover(wire: Wire, base_url: str) -> GuardMetadata:
    """Fetch both documents from the root of their hosts. Raises Refused, MetadataError or Unreachable."""
    resource_answer = await _fetch(wire, _at_root(base_url, PROTECTED_RESOURCE))
    protected = protected_resource(resource_answer, base_url)
    servers = protected["authorization_servers"]
    assert isinstance(servers, list)
    server = str(servers[0])
    # The path of the issuer is dropped: the SDK asks at the root, so a guard must answer there.
    answer = await _fetch(wire, _at_root(server, AUTHORIZATION_SERVER))
    return authorization_server(answer, str(protected["resource"]))


def protected_resource(answer: Answer, base_url: str) -> Mapping[str, JsonValue]:
    """The protected-resource metadata, checked. Raises MetadataError."""
    document = _document(answer)
    resource = _uri(document, "resource", answer.url)
    servers = _texts(document, "authorization_servers", answer.url)
    if not servers:
        raise _fault(answer.url, "'authorization_servers' is empty", "one authorization server")
    if document.get("zeta_asl_use") not in ("not_supported", "required"):
        raise _fault(answer.url, "'zeta_asl_use' is absent or unknown", "'not_supported' or 'required'")
    if URL(resource).host != URL(base_url).host:
        raise _fault(
            answer.url,
            f"'resource' names the host {URL(resource).host}",
            f"the host that was asked, {URL(base_url).host}",
        )
    return document


def authorization_server(answer: Answer, resource: str) -> GuardMetadata:
    """The authorization-server metadata, checked. Raises MetadataError."""
    document = _document(answer)
    for name in _REQUIRED_LISTS:
        _texts(document, name, answer.url)
    unknown = set(_texts(document, "response_types_supported", answer.url)) - _RESPONSE_TYPES
    if unknown:
        raise _fault(answer.url, f"'response_types_supported' holds {sorted(unknown)}", "registered values only")
    for name in ("authorization_endpoint", "jwks_uri"):
        _uri(document, name, answer.url)
    issuer = _uri(document, "issuer", answer.url)
    registration = _uri(document, "registration_endpoint", answer.url)
    if URL(issuer).host != URL(registration).host:
        raise _fault(
            answer.url,
            f"'registration_endpoint' is on {URL(registration).host}",
            f"the issuer's host {URL(issuer).host}, or the SDK loses its registration",
        )
    revocation = document.get("revocation_endpoint")
    return GuardMetadata(
        resource=resource,
        issuer=issuer,
        token_endpoint=_uri(document, "token_endpoint", answer.url),
        nonce_endpoint=_uri(document, "nonce_endpoint", answer.url),
        registration_endpoint=registration,
        revocation_endpoint=str(revocation) if isinstance(revocation, str) else None,
        scopes_supported=_texts(document, "scopes_supported", answer.url),
    )


async def _fetch(wire: Wire, url: str) -> Answer:
    answer = await wire.send("GET", url, [("Accept", "application/json")])
    if answer.status != 200:
        raise Refused("discover", answer)
    return answer


def _at_root(url: str, path: str) -> str:
    parsed = URL(url)
    # A client told ws or wss still discovers over http or https.
    scheme = {"wss": "https", "ws": "http"}.get(parsed.scheme, parsed.scheme)
    return f"{scheme}://{parsed.authority}{path}"


def _document(answer: Answer) -> dict[str, JsonValue]:
    document = answer.json()
    if not document:
        raise _fault(answer.url, "the body is no JSON object", "a metadata document")
    nulls = sorted(name for name, value in document.items() if value is None)
    if nulls:
        raise _fault(answer.url, f"{', '.join(nulls)}: null", "no null member anywhere")
    return document


def _uri(document: Mapping[str, JsonValue], name: str, where: str) -> str:
    value = document.get(name)
    if not isinstance(value, str) or not value.startswith(("https://", "http://")):
        raise _fault(where, f"'{name}' is absent or no absolute URI", "an absolute URI")
    return value


def _texts(document: Mapping[str, JsonValue], name: str, where: str) -> tuple[str, ...]:
    value = document.get(name)
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise _fault(where, f"'{name}' is absent or no list of strings", "a list of strings")
    return tuple(str(entry) for entry in value)


def _fault(where: str, seen: str, expected: str) -> MetadataError:
    return MetadataError(f"{where}: {seen}; expected {expected}", "The guard's metadata must be corrected.")
