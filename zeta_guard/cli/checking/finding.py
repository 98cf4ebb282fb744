"""What a check found."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from zeta_guard.config.rules import Notice
from zeta_guard.errors import ConfigurationError, ConfigurationErrors


@dataclass(frozen=True, slots=True)
class Connection:
    """An attempt to reach something. ``detail`` says why it failed."""

    name: str
    ok: bool
    detail: str = ""


@dataclass(slots=True)
class Findings:
    """Everything found: mistakes (it does not start), to-dos (it starts, but is not complete), notices, connections."""

    mistakes: list[ConfigurationError] = field(default_factory=list)
    to_do: list[Notice] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    connections: list[Connection] = field(default_factory=list)

    def add(self, errors: Iterable[ConfigurationError]) -> None:
        """Add mistakes; of several for one path the first stays, because the others follow from it."""
        known = {mistake.path for mistake in self.mistakes}
        for error in errors:
            if error.path not in known:
                known.add(error.path)
                self.mistakes.append(error)

    def attempt(self, action: Callable[[], object]) -> bool:
        """Run what may raise configuration errors, and keep them. True when there were none."""
        try:
            action()
        except ConfigurationError as error:
            self.add([error])
        except ConfigurationErrors as errors:
            self.add(errors.errors)
        else:
            return True
        return False

    @property
    def status(self) -> int:
        """Exit status: 2 for mistakes, 1 when something could not be reached, else 0."""
        if self.mistakes:
            return 2
        return 0 if all(connection.ok for connection in self.connections) else 1

    def document(self) -> dict[str, object]:
        """For ``--json``."""
        return {
            "ok": self.status == 0,
            "mistakes": [
                {"path": one.path, "seen": one.seen, "expected": one.expected, "remedy": one.remedy}
                for one in self.mistakes
            ],
            "to_do": [_notice(one) for one in self.to_do],
            "notices": [_notice(one) for one in self.notices],
            "connections": [{"name": one.name, "ok": one.ok, "detail": one.detail} for one in self.connections],
        }


def _notice(notice: Notice) -> dict[str, str]:
    return {"path": notice.path, "text": notice.text, "remedy": notice.remedy}
