"""What of a question may be written down: no person, no address, no token, but enough to replay (``policy-contract`` section 6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from zeta_guard.errors import JsonValue

HASHED: Final = (
    ("user_info", "identifier"),
    ("user", "identifier"),
    ("token", "sub"),
    ("popp", "actorId"),
)
"""Institutions: replaced by a keyed hash, so that decisions about the same one can be counted."""

ERASED: Final = (
    ("user_info", "commonName"),
    ("user_info", "organizationName"),
    ("user", "commonName"),
    ("user", "organizationName"),
    ("token", "common_name"),
    ("token", "organization_name"),
    ("token", "jti"),
    ("token", "sid"),
    ("token", "cnf"),
    ("popp", "patientId"),
    ("popp", "insurerId"),
    ("popp", "cnf"),
    # Path and query of a health service name patients.
    ("request", "path"),
    ("request", "query"),
    # Can be made again from the address, and would give it away.
    ("authorization_request", "ip_prefixes"),
    ("request", "ip_prefixes"),
)

ADDRESSES: Final = (
    ("authorization_request", "ip_address"),
    ("authorization_request", "previous_ip_address"),
    ("request", "ip_address"),
    ("token", "ip_address"),
)
"""Erased unless the configuration says otherwise."""


@dataclass(frozen=True, slots=True)
class Masked:
    """A document fit for the log; ``erased`` and ``hashed`` are JSON pointers below ``/input``."""

    document: dict[str, JsonValue]
    erased: tuple[str, ...]
    hashed: tuple[str, ...]


class Masker:
    """Copies only what it changes. Without ``pseudonym`` identifiers are erased instead of hashed."""

    def __init__(self, pseudonym: Callable[[str], str] | None, *, include_address: bool) -> None:
        self._pseudonym = pseudonym
        self._erased = ERASED if include_address else ERASED + ADDRESSES

    def mask(self, document: Mapping[str, JsonValue]) -> Masked:
        """The masked copy."""
        copy = {name: dict(value) if isinstance(value, dict) else value for name, value in document.items()}
        erased: list[str] = []
        hashed: list[str] = []
        for path in HASHED:
            section = copy.get(path[0])
            value = section.get(path[1]) if isinstance(section, dict) else None
            if not isinstance(section, dict) or value is None:
                continue
            if self._pseudonym is not None and isinstance(value, str):
                section[path[1]] = self._pseudonym(value)
                hashed.append(_pointer(path))
            else:
                del section[path[1]]
                erased.append(_pointer(path))
        for path in self._erased:
            section = copy.get(path[0])
            if isinstance(section, dict) and path[1] in section:
                del section[path[1]]
                erased.append(_pointer(path))
        return Masked(copy, tuple(erased), tuple(hashed))


def _pointer(path: tuple[str, ...]) -> str:
    return "/input/" + "/".join(path)
