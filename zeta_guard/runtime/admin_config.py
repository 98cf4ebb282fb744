"""The effective configuration as operators may see it: what is on the list is printed, everything else is not (``security`` section 7)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydantic import BaseModel

from zeta_guard.config.guard import GuardConfig
from zeta_guard.errors import JsonValue

HIDDEN: Final = "[not shown]"

PRINTED: Final = frozenset(
    {
        "acr",
        "audience",
        "audiences",
        "base_url",
        "bundle",
        "certificate_policies",
        "client_address",
        "decision",
        "digest",
        "engine",
        "entity_key_thumbprint",
        "host",
        "host_aliases",
        "hosts",
        "issuer",
        "issuers",
        "jwks_hosts",
        "jwks_uri",
        "key_prefix",
        "kind",
        "log_format",
        "log_level",
        "max_age",
        "max_age_action",
        "methods",
        "minimum_version",
        "mode",
        "otlp_url",
        "path",
        "prefix",
        "proof_methods",
        "propagate_trace",
        "proxy",
        "public_url",
        "resource",
        "scope",
        "scopes",
        "sentinel_master",
        "server_name",
        "service_documentation",
        "service_name",
        "trusted_proxies",
        "unsafe_token_types",
        "url",
        "zeta_asl_use",
    }
)
"""Names of texts that are printed. A text under any other name is not: a new setting is hidden until somebody decided."""

KEYS_HIDDEN: Final = frozenset({"clients_of"})
"""Mappings whose keys name institutions; only how many there are is printed."""


def effective_config(config: GuardConfig) -> dict[str, JsonValue]:
    """The configuration in force, defaults included. Files are named, never read; URLs lose userinfo, query and fragment."""
    return _section(config)


def without_userinfo(url: str) -> str:
    """A URL without user, password, query and fragment; other text unchanged.

    Everything before the last ``@`` goes, also where a password holds a slash that should have been escaped.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    rest = rest.rpartition("@")[2]
    for mark in ("?", "#"):
        before, found, _ = rest.partition(mark)
        rest = before + (f"{mark}…" if found else "")
    return f"{scheme}://{rest}"


def _section(section: BaseModel) -> dict[str, JsonValue]:
    return {name: _value(name, getattr(section, name)) for name in type(section).model_fields}


def _value(name: str, value: object) -> JsonValue:
    if isinstance(value, BaseModel):
        return _section(value)
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, dict):
        if name in KEYS_HIDDEN:
            return f"{len(value)} entries, {HIDDEN}"
        return {str(key): _value(name, inner) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return [_value(name, inner) for inner in value]
    if isinstance(value, str) and name in PRINTED:
        return without_userinfo(value)
    return HIDDEN
