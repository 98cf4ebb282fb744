"""The configuration of the demo's guard, written as an operator would write it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from zeta_guard.errors import JsonValue

if TYPE_CHECKING:
    from zeta_guard.config.guard import GuardConfig

CONFIG_FILE: Final = "guard.yaml"
VSDM_ROUTE: Final = "/vsdservice/v1/vsdmbundle"
POPP_ROUTE: Final = "/popp/practitioner/api/v1/token-generation-ehc"
OPEN_ROUTE: Final = "/whoami"
HEALTH_ROUTE: Final = "/health"

_HEAD: Final = """\
# Configuration of a ZETA Guard demo, written by 'zeta-guard demo'.
# Its keys and certificates are worth nothing; trust.unsafe_demo_trust must never be set in a real guard.
"""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where everything around the demo's guard listens."""

    public_port: int
    ops_port: int
    ocsp_authority: str
    popp_issuer: str
    popp_url: str
    popp_thumbprint: str
    vsdm_url: str

    @property
    def public_url(self) -> str:
        """The guard's public URL."""
        return f"https://127.0.0.1:{self.public_port}"


def guard_document(around: Surroundings, trust: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """The configuration; paths are relative to its file. ``trust`` says where the anchors are."""
    vsdm: JsonValue = [{"url": around.vsdm_url}]
    return {
        "public_url": around.public_url,
        "listen": {"host": "127.0.0.1", "port": around.public_port},
        "ops": {"host": "127.0.0.1", "port": around.ops_port, "drain_seconds": 1, "admin_socket": "admin.sock"},
        "tls": {"certificate_file": "tls/guard.pem", "private_key_file": "tls/guard.key"},
        "secret_files": ["secret"],
        "store": {"kind": "memory"},
        "authorization_server": {"signing_keys": "signing-keys", "scopes": ["vsdservice", "popp"]},
        "trust": {
            **trust,
            # The demo's responder is on loopback, and its silence need not be waited for.
            "ocsp": {"hosts": [around.ocsp_authority], "private_addresses": True, "timeout_ms": 500},
            "unsafe_demo_trust": True,
        },
        "policy": {"token": {"engine": "embedded", "bundle": "package:demo"}},
        "gateway": {
            "popp_issuers": [
                {
                    "issuer": around.popp_issuer,
                    "base_url": around.popp_url,
                    "entity_key_thumbprint": around.popp_thumbprint,
                }
            ],
            "routes": [
                {
                    "prefix": VSDM_ROUTE,
                    "methods": ["GET"],
                    "scopes": ["vsdservice"],
                    "popp": {"max_age": "quarter"},
                    "client_data": True,
                    "upstreams": vsdm,
                },
                {
                    "prefix": POPP_ROUTE,
                    "methods": ["GET"],
                    "scopes": ["popp"],
                    "websocket": {"enabled": True},
                    "upstreams": [{"url": around.popp_url}],
                },
                {"prefix": OPEN_ROUTE, "methods": ["GET", "POST"], "client_data": True, "upstreams": vsdm},
                {"prefix": HEALTH_ROUTE, "methods": ["GET"], "public": True, "upstreams": vsdm},
            ],
        },
    }


def write_config(directory: Path, document: dict[str, JsonValue]) -> GuardConfig:
    """Write the file and read it back as ``serve`` does. Raises ConfigurationError."""
    import yaml

    from zeta_guard.config.load import load_config

    path = directory / CONFIG_FILE
    path.write_text(_HEAD + yaml.safe_dump(document, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return load_config(path)


def without_request_log(config: GuardConfig) -> GuardConfig:
    """The same configuration, no line per request: standard error belongs to the story."""
    telemetry = config.telemetry.model_copy(update={"request_log": False})
    return config.model_copy(update={"telemetry": telemetry})


def with_short_tokens(config: GuardConfig, seconds: int) -> GuardConfig:
    """The same configuration, access tokens capped at ``seconds``."""
    lifetimes = config.authorization_server.lifetimes.model_copy(update={"access_token_cap": seconds})
    server = config.authorization_server.model_copy(update={"lifetimes": lifetimes})
    return config.model_copy(update={"authorization_server": server})
