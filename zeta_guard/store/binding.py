"""The one place that decides whether a client may be bound to an institution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from zeta_guard.store.contract import BindStatus, Client, ClientState

HOUR: Final = 3600.0


def decide_binding(
    client: Client | None, *, institution: str, platform: str, recent: Sequence[float], new_per_hour: int, now: float
) -> BindStatus:
    """``recent`` are the times of the institution's bindings (older than an hour: ignored)."""
    if client is None:
        return BindStatus.GONE
    if client.state is ClientState.VALID:
        same = client.institution == institution and client.platform == platform
        return BindStatus.ALREADY if same else BindStatus.FOREIGN
    if sum(1 for at in recent if at > now - HOUR) >= new_per_hour:
        return BindStatus.TOO_MANY
    return BindStatus.BOUND


def bound(client: Client, *, institution: str, platform: str, now: float) -> Client:
    """The client after its binding."""
    return replace(client, state=ClientState.VALID, institution=institution, platform=platform, last_used_at=int(now))
