"""Lists of institutions in bundle data: objects keyed by Telematik-ID, exactly as the certificate writes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from zeta_guard.errors import JsonValue
from zeta_guard.policy.bundle import BundleError

_LISTS: Final = ("blocked", "allowed")


def check_user_lists(document: Mapping[str, JsonValue]) -> None:
    """Refuse a key of ``data.users.blocked`` and ``.allowed`` that no Telematik-ID equals: empty, with blanks or control
    characters. The message shows how long it is, never the key: it names an institution."""
    users = document.get("users")
    for name in _LISTS:
        entries = users.get(name) if isinstance(users, dict) else None
        for number, key in enumerate(entries if isinstance(entries, dict) else (), start=1):
            if not key or not key.isprintable() or any(each.isspace() for each in key):
                raise BundleError(
                    f"data.users.{name}: entry {number} ({len(key)} characters) is no Telematik-ID: "
                    "it is empty or has blanks or control characters",
                    "Correct the key; a wrong key would block nobody.",
                )
