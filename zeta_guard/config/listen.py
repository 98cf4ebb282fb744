"""``listen``, ``ops`` and ``tls``: the doors of the guard."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from zeta_guard.config.base import FilePath, Seconds, Section


class Listen(Section):
    """The public port."""

    host: str = Field("0.0.0.0", description="Address to listen on.")  # noqa: S104
    port: int = Field(8443, ge=0, le=65535, description="Public port; 0 takes a free one (tests, demo).")
    backlog: int = Field(1024, ge=1, le=65535, description="Connections the kernel may queue.")
    proxy_protocol: bool = Field(
        False,
        description=(
            "Every connection begins with a PROXY protocol v2 header that names the client; only from "
            "gateway.trusted_proxies, and with client_address: peer."
        ),
    )


class Ops(Section):
    """The operations port (metrics, liveness, readiness) and the administration socket. Never mixed with the public port."""

    host: str = Field("127.0.0.1", description="Address of the ops port.")
    port: int = Field(9090, ge=0, le=65535, description="Ops port; 0 takes a free one.")
    admin_socket: FilePath | None = Field(None, description="Unix socket (mode 0600) for administration commands.")
    bearer_token_file: FilePath | None = Field(
        None, description="With it, administration is offered on the ops port too, for callers that present this token."
    )
    hosts: tuple[str, ...] = Field((), description="Host names that administration on the ops port accepts.")
    drain_seconds: Seconds = Field(30, description="How long running requests may take after SIGTERM.")


class Tls(Section):
    """TLS ended by the guard itself. Without this section the guard speaks plain HTTP (behind an ingress)."""

    certificate_file: FilePath = Field(description="PEM: leaf first, then its issuers.")
    private_key_file: FilePath = Field(description="PEM, PKCS#8, not encrypted.")
    minimum_version: Literal["1.2", "1.3"] = Field("1.2", description="Lowest TLS version accepted.")
