"""What the Redis server says about itself, and whether the promises of the store can be kept on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from zeta_guard.config.store import RedisStore as RedisStoreConfig
from zeta_guard.errors import ConfigurationError, ConfigurationErrors

OLDEST_VERSION: Final = (7, 0)
"""Oldest server: its ACL can allow reading and writing of keys separately."""


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Where the server is. ``path`` is set for a Unix socket, else ``host`` and ``port``."""

    host: str
    port: int
    path: str | None
    tls: bool
    database: int


def parse_address(url: str) -> RedisAddress:
    """The address in ``store.url``. Raises ConfigurationError; secrets do not belong into the URL."""
    parts = urlsplit(url)
    if parts.password or parts.username:
        raise ConfigurationError(
            "store.url",
            "a URL with user or password",
            "redis://host:6379/0 without them",
            "Set store.username and store.password_file",
        )
    number = (parts.query.removeprefix("db=") if parts.scheme == "unix" else parts.path.strip("/")) or "0"
    try:
        port = parts.port or 6379
        database = int(number)
    except ValueError:
        raise ConfigurationError(
            "store.url", url, "redis://host:6379/0, rediss://host:6379/0 or unix:///path?db=0"
        ) from None
    if parts.scheme == "unix":
        return RedisAddress("", 0, unquote(parts.path), False, database)
    if not parts.hostname:
        raise ConfigurationError("store.url", url, "a URL with a host")
    return RedisAddress(parts.hostname, port, None, parts.scheme == "rediss", database)


def read_password(file: Path | None) -> str | None:
    """The password: first line of the file, read at every connection so that it can be changed in place."""
    if file is None:
        return None
    try:
        return file.read_text().split("\n", 1)[0].strip()
    except (OSError, UnicodeDecodeError):
        raise ConfigurationError(
            "store.password_file", f"{file.name} cannot be read", "a readable file with the password in its first line"
        ) from None


def parse_server_report(report: bytes) -> dict[str, str]:
    """The answer of INFO."""
    lines = report.decode("utf-8", "replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))


def check_server(config: RedisStoreConfig, server: Mapping[str, str]) -> None:
    """Raises ConfigurationErrors when this server cannot keep what the store promises (``security`` section 3)."""
    found: list[ConfigurationError] = []
    mode = server.get("redis_mode", "standalone")
    if mode != "standalone":
        found.append(
            ConfigurationError(
                "store.url",
                f"a Redis in mode '{mode}'",
                "a standalone Redis (also behind Sentinel)",
                "Redis Cluster is not supported: a claim must be decided in one place",
            )
        )
    version = server.get("redis_version", "0")
    if _version(version) < OLDEST_VERSION:
        found.append(ConfigurationError("store.url", f"Redis {version}", "Redis 7.0 or newer (or Valkey)"))
    if server.get("role", "master") != "master":
        found.append(
            ConfigurationError(
                "store.url",
                "a replica",
                "the master",
                "Replicas are never read; point the URL at the master, or set store.sentinel_master",
            )
        )
    policy = server.get("maxmemory_policy", "noeviction")
    if policy != "noeviction" and not config.unsafe_accept_eviction:
        found.append(
            ConfigurationError(
                "store.url",
                f"maxmemory-policy {policy}",
                "maxmemory-policy noeviction",
                "An evicted record is a proof that can be replayed: redis-cli CONFIG SET maxmemory-policy noeviction",
            )
        )
    replicas = server.get("connected_slaves", "0")
    if replicas != "0" and "min_slaves_good_slaves" not in server and not config.unsafe_accept_async_replicas:
        found.append(
            ConfigurationError(
                "store.url",
                f"{replicas} replicas and min-replicas-to-write 0",
                "min-replicas-to-write of at least 1",
                "A failover would lose records: redis-cli CONFIG SET min-replicas-to-write 1",
            )
        )
    if len(found) == 1:
        raise found[0]
    if found:
        raise ConfigurationErrors(found)


def _version(text: str) -> tuple[int, int]:
    major, _, rest = text.partition(".")
    minor = rest.partition(".")[0]
    return (int(major) if major.isdigit() else 0, int(minor) if minor.isdigit() else 0)
