"""The route table: which rules apply to a path (``wire-contract`` section 7.1, ``security`` section 1)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from zeta_guard.config import gateway as config
from zeta_guard.config.guard import GuardConfig
from zeta_guard.errors import ConfigurationError, ConfigurationErrors, ZetaError
from zeta_guard.http.path import CanonicalPath
from zeta_guard.tokens.access_token import ACR_ORDER

RESERVED: Final = frozenset(
    {
        (".well-known", "oauth-protected-resource"),
        (".well-known", "oauth-authorization-server"),
        ("nonce",),
        ("register",),
        ("token",),
        ("revoke",),
        ("jwks",),
        ("authorize",),
        ("redirect",),
        ("errors",),
    }
)
"""First segments of the guard's own endpoints; a route over them would never be reached or would hide them."""

# What a prefix is made of means the same raw and decoded, so that comparing is all that matching ever does.
_PREFIX: Final = re.compile(r"/|(?:/[A-Za-z0-9_~$!'()*+,=:@&-][A-Za-z0-9._~$!'()*+,=:@&-]*)+/?")
_MOST_KNOWN: Final = 4096
_LONGEST_KNOWN: Final = 256
_METHOD: Final = re.compile(r"[A-Z][A-Z-]*")


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """A configured route with what every request of it needs.

    ``name`` (the prefix as configured) is its label in metrics and logs. ``acr_rank`` is the position of the lowest accepted
    level in :data:`ACR_ORDER`, -1 when every level will do.
    """

    rule: config.Route
    name: str
    segments: tuple[str, ...]
    methods: frozenset[str]
    allow: str
    audience: str
    scopes: frozenset[str]
    acr_rank: int

    def __repr__(self) -> str:
        return f"Route({self.name})"


class RouteTable:
    """Finds the route of a path: the longest prefix wins, and a prefix ends at a segment.

    Raises ConfigurationErrors with everything that is wrong with the routes.
    """

    def __init__(self, routes: Sequence[Route]) -> None:
        errors: list[ConfigurationError] = []
        self._by_segments: Final[dict[tuple[str, ...], Route]] = {}
        for index, route in enumerate(routes):
            known = self._by_segments.setdefault(route.segments, route)
            if known is not route:
                errors.append(
                    ConfigurationError(
                        f"gateway.routes[{index}].prefix",
                        f"{route.name!r} is the same prefix as {known.name!r}",
                        "a prefix of its own for every route",
                        "Join the two routes, or make one prefix longer.",
                    )
                )
        if errors:
            raise ConfigurationErrors(errors)
        self.routes: Final = tuple(routes)
        self._known: Final[dict[str, Route]] = {}
        self._longest: Final = max((len(segments) for segments in self._by_segments), default=0)

    def select(self, path: CanonicalPath) -> Route:
        """The route that this path belongs to.

        Raises ZetaError 404 when there is none, and 400 when the raw path and its matching form (decoded once, without
        parameters and empty segments) belong to different routes: a backend could read it the other way.
        """
        known = self._known.get(path.raw)
        if known is not None:
            return known
        matched = self._find(path.segments)
        raw = tuple(path.raw[1:].split("/"))
        if raw != path.segments and self._find(raw) is not matched:
            raise ZetaError(
                "invalid_request",
                "The path can be read in two ways that belong to different routes; send it without escapes, parameters and "
                "empty segments in its first part.",
                stage="route",
            )
        if matched is None:
            raise ZetaError("resource_not_found", "No route leads to this path.", stage="route")
        if len(path.raw) <= _LONGEST_KNOWN and len(self._known) < _MOST_KNOWN:
            self._known[path.raw] = matched
        return matched

    def _find(self, segments: tuple[str, ...]) -> Route | None:
        for length in range(min(len(segments), self._longest), -1, -1):
            route = self._by_segments.get(segments[:length])
            if route is not None:
                return route
        return None


def check_method(route: Route, method: str) -> None:
    """Raises ZetaError 405 with ``Allow`` when the route does not accept the method."""
    if method not in route.methods:
        raise ZetaError(
            "method_not_allowed",
            f"This route accepts {route.allow}.",
            headers={"Allow": route.allow},
            stage="method",
        )


def build_routes(guard: GuardConfig) -> RouteTable:
    """The table of a configuration. Raises ConfigurationErrors."""
    errors: list[ConfigurationError] = []
    routes: list[Route] = []
    for index, rule in enumerate(guard.gateway.routes):
        where = f"gateway.routes[{index}]"
        mistakes = [*_mistakes_of_prefix(rule, where), *_mistakes_of_rules(rule, where, guard)]
        errors += mistakes
        if not mistakes:
            routes.append(_route(rule, guard))
    if errors:
        raise ConfigurationErrors(errors)
    return RouteTable(routes)


def _route(rule: config.Route, guard: GuardConfig) -> Route:
    methods = tuple(dict.fromkeys(rule.methods))
    return Route(
        rule=rule,
        name=rule.prefix,
        segments=tuple(segment for segment in rule.prefix.split("/") if segment),
        methods=frozenset(methods),
        allow=", ".join(methods),
        audience=guard.resource if rule.audience is None else rule.audience,
        scopes=frozenset(rule.scopes),
        acr_rank=-1 if rule.acr is None else ACR_ORDER.index(rule.acr),
    )


def _mistakes_of_prefix(rule: config.Route, where: str) -> list[ConfigurationError]:
    if not _PREFIX.fullmatch(rule.prefix):
        return [
            ConfigurationError(
                f"{where}.prefix",
                repr(rule.prefix),
                "a path without escapes, parameters, dot segments and empty segments",
                "Write the path as clients send it, e.g. /vsdservice.",
            )
        ]
    segments = tuple(segment for segment in rule.prefix.split("/") if segment)
    if any(segments[: len(reserved)] == reserved for reserved in RESERVED):
        return [
            ConfigurationError(
                f"{where}.prefix",
                f"{rule.prefix!r} belongs to the guard's own endpoints",
                "a path that is not reserved",
                "Choose another prefix for the service.",
            )
        ]
    return []


def _mistakes_of_rules(rule: config.Route, where: str, guard: GuardConfig) -> list[ConfigurationError]:
    errors: list[ConfigurationError] = []

    def mistake(member: str, seen: str, expected: str, remedy: str = "") -> None:
        errors.append(ConfigurationError(f"{where}.{member}", seen, expected, remedy))

    for method in rule.methods:
        if not _METHOD.fullmatch(method) or method in ("CONNECT", "TRACE"):
            mistake("methods", repr(method), "HTTP methods in capital letters, neither CONNECT nor TRACE")
    if rule.acr is not None and rule.acr not in ACR_ORDER:
        mistake("acr", repr(rule.acr), f"one of {', '.join(ACR_ORDER)}")
    if rule.websocket.enabled and "GET" not in rule.methods:
        mistake("methods", "no GET", "GET, because a WebSocket begins with it", "Add GET, or switch websocket off.")
    if rule.public:
        demands: Mapping[str, object] = {
            "scopes": rule.scopes,
            "acr": rule.acr,
            "popp": rule.popp,
            "request_policy": rule.request_policy,
            "client_data": rule.client_data,
        }
        for member, demand in demands.items():
            if demand:
                mistake(member, "set on a public route", "nothing, since a public route asks for no token")
    errors += _mistakes_of_popp(rule, where, guard)
    errors += _mistakes_of_issuers(rule, where, guard)
    for number, upstream in enumerate(rule.upstreams):
        if (upstream.certificate_file is None) != (upstream.private_key_file is None):
            mistake(f"upstreams[{number}]", "certificate_file without private_key_file, or the reverse", "both or none")
        if upstream.url.startswith("http:") and (upstream.ca_file or upstream.certificate_file or upstream.server_name):
            mistake(f"upstreams[{number}].url", "TLS settings for an http URL", "an https URL, or no TLS settings")
    return errors


def _mistakes_of_popp(rule: config.Route, where: str, guard: GuardConfig) -> list[ConfigurationError]:
    if rule.popp is None:
        return []
    known = {issuer.issuer for issuer in guard.gateway.popp_issuers}
    if not known:
        return [
            ConfigurationError(
                f"{where}.popp",
                "asked for, but gateway.popp_issuers is empty",
                "at least one PoPP issuer",
                "Name the PoPP service under gateway.popp_issuers.",
            )
        ]
    return [
        ConfigurationError(f"{where}.popp.issuers", repr(name), f"one of {', '.join(sorted(known))}")
        for name in rule.popp.issuers
        if name not in known
    ]


def _mistakes_of_issuers(rule: config.Route, where: str, guard: GuardConfig) -> list[ConfigurationError]:
    if rule.public:
        return []
    errors: list[ConfigurationError] = []
    issuers = guard.gateway.issuers
    audience = guard.resource if rule.audience is None else rule.audience
    if issuers and all(issuer.audiences and audience not in issuer.audiences for issuer in issuers):
        errors.append(
            ConfigurationError(
                f"{where}.audience",
                f"{audience!r} is an audience that no issuer may issue for",
                "an audience of one of gateway.issuers",
                "Add it to 'audiences' of the issuer, or correct it here.",
            )
        )
    if all(issuer.issuer == guard.issuer for issuer in issuers):
        unknown = [scope for scope in rule.scopes if scope not in guard.authorization_server.scopes]
        if unknown:
            errors.append(
                ConfigurationError(
                    f"{where}.scopes",
                    f"{', '.join(unknown)}: not issued by the authorization server",
                    f"some of {', '.join(guard.authorization_server.scopes)}",
                    "Add the scope to authorization_server.scopes, or correct it here.",
                )
            )
    return errors
