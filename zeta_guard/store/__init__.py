"""State with promises: claims, blocks, registrations, sessions (``contract.py``), in memory or in Redis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

from prometheus_client import CollectorRegistry

from zeta_guard.config.store import MemoryStore as MemoryStoreConfig
from zeta_guard.config.store import RedisStore as RedisStoreConfig
from zeta_guard.errors import ConfigurationError
from zeta_guard.store.contract import Store
from zeta_guard.store.metrics import StoreMetrics

Role = Literal["all", "authorization-server", "gateway"]


class KeyDerivation(Protocol):
    """Derives keys from the secret files (``zeta_guard.jose.sealing.Secrets``)."""

    def derive(self, label: str, context: bytes = b"") -> tuple[bytes, ...]:
        """Keys of 32 bytes, the current one first."""


def open_store(
    config: MemoryStoreConfig | RedisStoreConfig,
    *,
    secrets: KeyDerivation,
    clock: Callable[[], float],
    role: Role = "all",
    registry: CollectorRegistry | None = None,
) -> Store:
    """The configured store, not yet started. ``clock`` is read for the start of an epoch. Raises ConfigurationError.

    The memory store's epoch begins with this call: make it the first thing a process does, so that little of what clients
    prepared has to be refused. With Redis, role ``gateway`` uses only what a :class:`ReplayStore` may. ``registry`` gets the
    store's metrics.
    """
    if isinstance(config, MemoryStoreConfig):
        if role != "all":
            raise ConfigurationError(
                "store.kind",
                f"memory, with role {role}",
                "redis, because gateway and authorization server share claims, blocks and sessions",
                "Set store: {kind: redis, url: …}, or run one process with role 'all'.",
            )
        from zeta_guard.store.memory import MemoryStore

        memory = MemoryStore(config, clock=clock)
        if registry is not None:
            StoreMetrics(memory, registry)
        return memory
    from zeta_guard.store.redis import RedisStore

    redis = RedisStore(config, secrets=secrets, clock=clock, role=role)
    if registry is not None:
        StoreMetrics(redis, registry)
    return redis
