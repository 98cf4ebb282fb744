"""The one place that decides whether a client may be bound to an institution."""

from __future__ import annotations

from typing import Final

from zeta_guard.store.contract import BindStatus, Client, ClientState

HOUR: Final = 3600.0


def decide_binding(client: Client | None, *, institution: str, platform: str) -> BindStatus:
    """BOUND means: may be bound, unless its institution made too many new bindings within the last :data:`HOUR`."""
    if client is None:
        return BindStatus.GONE
    if client.state is ClientState.VALID:
        same = client.institution == institution and client.platform == platform
        return BindStatus.ALREADY if same else BindStatus.FOREIGN
    return BindStatus.BOUND


def bound(client: Client, *, institution: str, platform: str, now: float) -> Client:
    """The client after its binding."""
    return client._replace(state=ClientState.VALID, institution=institution, platform=platform, last_used_at=int(now))
