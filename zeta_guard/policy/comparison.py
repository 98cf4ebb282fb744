"""What two bundles have in common and what not: data entry by entry, rules by reason code and file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from zeta_guard.errors import JsonValue
from zeta_guard.policy.bundle import Bundle

_MISSING: Final = object()


@dataclass(frozen=True, slots=True)
class DataChange:
    """One entry of the data: ``path`` as in ``professions/allowed/1.2.3``; None where it is not there."""

    path: tuple[str, ...]
    before: JsonValue
    after: JsonValue
    kind: str
    """``added``, ``removed`` or ``changed``."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """From bundle A to bundle B."""

    revisions: tuple[str, str]
    data: tuple[DataChange, ...]
    files: Mapping[str, str]
    """Rego file → ``added``, ``removed`` or ``changed``."""
    reasons: Mapping[str, str]
    """Reason code → ``added`` or ``removed``."""

    @property
    def equal(self) -> bool:
        """Whether both decide the same for the same reasons, as far as sources and data tell."""
        return not (self.data or self.files or self.reasons)


def compare(before: Bundle, after: Bundle) -> Comparison:
    """The differences, in order of their names. Raises BundleError for data that cannot be read."""
    files: dict[str, str] = {}
    rego = sorted({name for bundle in (before, after) for name in bundle.files if name.endswith(".rego")})
    for name in rego:
        one, other = before.files.get(name), after.files.get(name)
        if one != other:
            files[name] = "added" if one is None else "removed" if other is None else "changed"
    codes = [{reason.code for reason in bundle.manifest.reasons} for bundle in (before, after)]
    reasons = {code: "removed" if code in codes[0] else "added" for code in sorted(codes[0] ^ codes[1])}
    return Comparison(
        (before.manifest.revision, after.manifest.revision),
        tuple(_changes((), before.document(), after.document())),
        files,
        reasons,
    )


def _changes(path: tuple[str, ...], before: object, after: object) -> Iterator[DataChange]:
    if isinstance(before, dict) and isinstance(after, dict):
        for name in sorted(before.keys() | after.keys()):
            yield from _changes((*path, name), before.get(name, _MISSING), after.get(name, _MISSING))
    elif before is _MISSING:
        yield DataChange(path, None, _json(after), "added")
    elif after is _MISSING:
        yield DataChange(path, _json(before), None, "removed")
    elif before != after or type(before) is not type(after):
        yield DataChange(path, _json(before), _json(after), "changed")


def _json(value: object) -> JsonValue:
    return value  # type: ignore[return-value]
