"""``store``: where the state lives that all replicas share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from zeta_guard.config.base import FilePath, Milliseconds, Section


class MemoryStore(Section):
    """State in this process. One process only; a restart forgets it and refuses what was made before."""

    kind: Literal["memory"] = "memory"
    max_entries: int = Field(
        2_000_000, ge=1000, description="Upper bound of remembered proofs and nonces; above it: 503."
    )


class RedisStore(Section):
    """State in Redis (standalone or behind Sentinel; Cluster is not supported)."""

    kind: Literal["redis"] = "redis"
    url: str = Field(
        description="redis://host:6379/0, rediss://… for TLS, or unix:///path.", pattern=r"^(rediss?|unix)://"
    )
    sentinel_master: str | None = Field(
        None, description="Name of the master, when 'url' is the address of a Sentinel (or of a service of several)."
    )
    username: str | None = Field(None, description="ACL user.")
    password_file: FilePath | None = Field(None, description="File with the password of the user.")
    ca_file: FilePath | None = Field(None, description="Trust anchors for rediss://.")
    key_prefix: str = Field("zg:", max_length=32, description="Prefix of every key.")
    connect_timeout_ms: Milliseconds = Field(1000, description="Time for one connection attempt.")
    timeout_ms: Milliseconds = Field(500, description="Time for one command; after it the answer is 503.")
    unsafe_accept_eviction: bool = Field(False, description="UNSAFE: start although Redis may evict replay records.")
    unsafe_accept_async_replicas: bool = Field(
        False, description="UNSAFE: start although a failover may lose replay records (min-replicas-to-write is 0)."
    )


Store = Annotated[MemoryStore | RedisStore, Field(discriminator="kind")]
