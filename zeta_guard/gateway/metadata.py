"""Protected-resource metadata (RFC 9728, ``wire-contract`` section 1.1): the same bytes for everybody, made once."""

from __future__ import annotations

from typing import Final

import orjson
from aiohttp import web

from zeta_guard.config.guard import GuardConfig
from zeta_guard.errors import JsonValue, ZetaError
from zeta_guard.http.etag import conditional
from zeta_guard.http.refusal import API_VERSION

PATH: Final = "/.well-known/oauth-protected-resource"


def metadata_document(config: GuardConfig) -> dict[str, JsonValue]:
    """The document. No member is null: the clients in the field do not read such a document."""
    return {
        "resource": config.resource,
        "authorization_servers": [config.issuer],
        "zeta_asl_use": config.gateway.zeta_asl_use,
        "scopes_supported": list(config.authorization_server.scopes),
        "bearer_methods_supported": ["header"],
        "dpop_signing_alg_values_supported": ["ES256"],
        "dpop_bound_access_tokens_required": True,
        "api_versions_supported": [
            {"major_version": int(API_VERSION.partition(".")[0]), "version": API_VERSION, "status": "stable"}
        ],
    }


class Metadata:
    """Answers GET and HEAD with ``ETag`` and ``Cache-Control``, and 304 where the caller has this content."""

    def __init__(self, config: GuardConfig) -> None:
        self._body: Final = orjson.dumps(metadata_document(config))
        self._max_age: Final = config.authorization_server.lifetimes.metadata_max_age

    def answer(self, request: web.BaseRequest) -> web.Response:
        """The answer. Raises ZetaError 405 for another method."""
        if request.method not in ("GET", "HEAD"):
            raise ZetaError(
                "method_not_allowed", "The metadata accepts GET, HEAD.", headers={"Allow": "GET, HEAD"}, stage="method"
            )
        return conditional(request, self._body, "application/json", self._max_age)
