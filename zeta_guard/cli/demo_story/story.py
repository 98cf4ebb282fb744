"""Scenes, steps and the one who plays them."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar
from urllib.parse import urlsplit

from zeta_guard.client.wire import Exchange
from zeta_guard.errors import ConfigurationError, ConfigurationErrors, GuardError, JsonValue

_CREDENTIALS: Final = {"authorization": "token", "dpop": "proof", "popp": "PoPP"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a scene saw, and whether that is what should be."""

    seen: str
    ok: bool


@dataclass(frozen=True, slots=True)
class Step:
    """One played scene. ``wire`` are lines of what went over the wire; ``ms`` is wall time."""

    id: str
    title: str
    expected: str
    seen: str
    ok: bool
    ms: float
    proves: str
    wire: tuple[str, ...] = ()
    played: bool = True

    def as_json(self) -> dict[str, JsonValue]:
        """The form of ``demo --json``."""
        return {
            "id": self.id,
            "title": self.title,
            "expected": self.expected,
            "seen": self.seen,
            "ok": self.ok,
            "ms": round(self.ms, 1),
            "proves": self.proves,
            "wire": list(self.wire),
        }


CastT = TypeVar("CastT")


@dataclass(frozen=True, slots=True)
class Scene(Generic[CastT]):
    """What is to be played. ``needs`` names scenes without whose success it cannot be."""

    id: str
    title: str
    expected: str
    proves: str
    play: Callable[[CastT], Awaitable[Outcome]]
    needs: tuple[str, ...] = ()


@dataclass
class Storyteller:
    """Plays scenes and keeps their steps. ``tell`` is called after each."""

    tell: Callable[[Step], None] = field(default=lambda step: None)
    steps: list[Step] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)
    _wire: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Every step so far ended as it should, and there was one."""
        return bool(self.steps) and all(step.ok for step in self.steps)

    @property
    def seconds(self) -> float:
        """Wall time since the start."""
        return time.perf_counter() - self.started

    def line(self, text: str) -> None:
        """Note what went over the wire in the running scene."""
        self._wire.append(text)

    def exchange(self, exchange: Exchange) -> None:
        """Note an HTTP exchange in the running scene."""
        url = urlsplit(exchange.url)
        target = url.path + (f"?{url.query}" if url.query else "")
        carried = [_CREDENTIALS[name.lower()] for name, _ in exchange.request_headers if name.lower() in _CREDENTIALS]
        parts = [f"{exchange.method} {target}", f"→ {exchange.status}"]
        if exchange.error:
            parts.append(exchange.error)
        parts.append(f"({exchange.milliseconds:.0f} ms" + (f"; {' + '.join(carried)})" if carried else ")"))
        self.line(" ".join(parts))

    async def play(self, scenes: Sequence[Scene[CastT]], cast: CastT) -> None:
        """Play the scenes in order; one that fails does not keep the others from being played.

        Raises ConfigurationError for what only the caller can mend.
        """
        for scene in scenes:
            self._wire.clear()
            started = time.perf_counter()
            missing = [need for need in scene.needs if not self._went_well(need)]
            outcome = Outcome(f"not played: needs {', '.join(missing)}", False) if missing else await _play(scene, cast)
            step = Step(
                id=scene.id,
                title=scene.title,
                expected=scene.expected,
                seen=outcome.seen,
                ok=outcome.ok,
                ms=(time.perf_counter() - started) * 1000,
                proves=scene.proves,
                wire=tuple(self._wire),
                played=not missing,
            )
            self.steps.append(step)
            self.tell(step)

    def as_json(self) -> dict[str, JsonValue]:
        """The form of ``demo --json``."""
        return {"ok": self.ok, "seconds": round(self.seconds, 3), "steps": [step.as_json() for step in self.steps]}

    def _went_well(self, scene_id: str) -> bool:
        return any(step.id == scene_id and step.ok for step in self.steps)


async def _play(scene: Scene[CastT], cast: CastT) -> Outcome:
    try:
        return await scene.play(cast)
    except (ConfigurationError, ConfigurationErrors):
        # A port in use, an option out of range: that is for the one who typed it, not a step of the story.
        raise
    except GuardError as error:
        return Outcome(str(error) + (f" — {error.remedy}" if error.remedy else ""), False)
    except Exception as error:  # noqa: BLE001 - the outermost edge of a scene: the others must still be played
        return Outcome(f"{type(error).__name__}: {error}", False)
