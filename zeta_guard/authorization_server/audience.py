"""What a token is for: ``audience`` (contract 1) or ``resource`` (contract 2), ``wire-contract`` section 4.4."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple
from urllib.parse import urlsplit

from zeta_guard.config.guard import GuardConfig
from zeta_guard.errors import ZetaError
from zeta_guard.http.path import canonical_target
from zeta_guard.jose.htu import normal_url

LONGEST_TARGET: Final = 2048


class Target(NamedTuple):
    """What the client asked for. ``audience`` is empty when the policy decides it (``version`` 2, ``resource`` set)."""

    version: Literal[1, 2]
    audience: tuple[str, ...]
    resource: str | None = None


class Audiences:
    """The audiences that this guard may issue for, and the routes that a resource can lie under."""

    def __init__(self, config: GuardConfig) -> None:
        routes = config.gateway.routes
        named = (
            config.resource,
            *(route.audience for route in routes if route.audience is not None),
            *config.authorization_server.audiences,
        )
        self.known: Final = tuple(dict.fromkeys(named))
        # One slash more or less is the same audience; what is configured exactly so comes first.
        self._spellings: dict[str, str] = {}
        for audience in self.known:
            self._spellings.setdefault(_other_spelling(audience), audience)
        self._spellings.update((audience, audience) for audience in self.known)
        self._origins = frozenset(
            origin for origin in (_origin(config.public_url), _origin(config.resource)) if origin is not None
        )
        self._prefixes = tuple(canonical_target(route.prefix)[0].segments for route in routes if not route.public)

    def configured(self, audience: str) -> str | None:
        """The configured form of ``audience``, None when it is none of this guard's."""
        return self._spellings.get(audience)

    def choose(self, form: Mapping[str, str]) -> Target:
        """The target of a form. Neither parameter: the default. Raises ZetaError 400 ``invalid_target``."""
        audience, resource = form.get("audience"), form.get("resource")
        if audience is not None and resource is not None:
            raise ZetaError("invalid_request", "send 'audience' or 'resource', not both", stage="target")
        if resource is not None:
            return self._by_resource(resource)
        if audience is None:
            return Target(1, (self.known[0],))
        configured = self.configured(audience)
        if configured is None:
            raise _refuse("'audience' is not one that this guard protects; expected 'resource' of the metadata")
        return Target(1, (configured,))

    def _by_resource(self, resource: str) -> Target:
        if len(resource) > LONGEST_TARGET or "#" in resource or normal_url(resource) is None:
            raise _refuse("'resource' must be an absolute URL without fragment (RFC 8707 §2)")
        if self.configured(resource) is not None:
            return Target(2, (), resource)
        if _origin(resource) not in self._origins:
            raise _refuse("'resource' names another host than this guard's")
        try:
            segments = canonical_target(urlsplit(resource).path or "/")[0].segments
        except (ZetaError, ValueError):
            raise _refuse("'resource' has a path that is not accepted") from None
        if not any(segments[: len(prefix)] == prefix for prefix in self._prefixes):
            raise _refuse("'resource' does not lie under a protected route of this guard")
        return Target(2, (), resource)


def _origin(url: str) -> str | None:
    normal = normal_url(url)
    return None if normal is None else normal[: normal.index("/", normal.index("://") + 3)]


def _other_spelling(audience: str) -> str:
    return audience[:-1] if audience.endswith("/") else audience + "/"


def _refuse(description: str) -> ZetaError:
    return ZetaError("invalid_target", description, stage="target")
