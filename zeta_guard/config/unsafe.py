"""Which settings named ``unsafe_…`` (or known to be) are in force; each is warned about at start and shows as a metric."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel

from zeta_guard.config.guard import GuardConfig


def unsafe_settings(config: GuardConfig) -> list[str]:
    """Paths of all unsafe settings that are switched on, e.g. ``trust.unsafe_demo_trust``."""
    return sorted(_walk(config, ""))


def _walk(value: object, path: str) -> Iterator[str]:
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            inner = getattr(value, name)
            where = f"{path}.{name}" if path else name
            if name.startswith("unsafe_") and inner:
                yield where
            elif where == "trust.ocsp.mode" or where.endswith(".ocsp.mode"):
                if inner == "ignore":
                    yield where
            else:
                yield from _walk(inner, where)
    elif isinstance(value, tuple):
        for index, inner in enumerate(value):
            yield from _walk(inner, f"{path}[{index}]")
