"""What the rules saw: OPA's trace of one evaluation, cut down to the conditions that decided a reason."""

from __future__ import annotations

import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from zeta_guard.errors import JsonValue
from zeta_guard.policy.bundle import Bundle, BundleError
from zeta_guard.policy.opa_binary import run_opa

_LONGEST_VALUE = 200
_REFERENCE = re.compile(r"""[A-Za-z_]\w*(?:\.\w+|\["[^"]*"\])*""")


@dataclass(frozen=True, slots=True)
class Seen:
    """A condition that decided: where it stands, its source line, the values it saw, and whether it failed or held."""

    file: str
    line: int
    source: str
    values: Mapping[str, JsonValue]
    failed: bool


@dataclass(slots=True)
class _Frame:
    parent: int
    file: str = ""
    row: int = 0
    column: int = 0
    is_rule: bool = False
    fails: list[dict[str, Any]] = field(default_factory=list)
    exits: list[dict[str, Any]] = field(default_factory=list)


class RuleTrace:
    """The trace of one decision of ``bundle`` about ``document``, made by ``opa eval``. Raises BundleError."""

    def __init__(self, bundle: Bundle, entrypoint: str, document: Mapping[str, JsonValue]) -> None:
        self._sources = {
            name: content.decode("utf-8", "replace").splitlines()
            for name, content in bundle.files.items()
            if name.endswith(".rego")
        }
        self._frames: dict[int, _Frame] = {}
        self._children: defaultdict[int, list[int]] = defaultdict(list)
        self._negated: set[tuple[str, int, int]] = set()
        for event in _events(bundle, entrypoint, document):
            self._take(event)

    def _take(self, event: dict[str, Any]) -> None:
        number = int(event.get("QueryID", 0))
        if number not in self._frames:
            parent = int(event.get("ParentID", 0))
            self._frames[number] = _Frame(parent)
            if number != parent:
                self._children[parent].append(number)
        frame = self._frames[number]
        place = event.get("Location") or {}
        operation = event.get("Op")
        node = event.get("Node")
        position = (str(place.get("file", "")), int(place.get("row", 0)), int(place.get("col", 0)))
        if operation == "Enter":
            frame.file, frame.row, frame.column = position
            frame.is_rule = isinstance(node, dict) and "head" in node
        elif operation == "Eval" and isinstance(node, dict) and node.get("negated"):
            self._negated.add(position)
        elif operation == "Fail":
            frame.fails.append(event)
        elif operation == "Exit":
            frame.exits.append(event)

    def seen(self, file: str, line: int) -> list[Seen]:
        """The conditions behind the reason whose code stands in ``file`` at ``line``."""
        frames = [
            (number, frame)
            for number, frame in self._frames.items()
            if frame.is_rule and frame.file == file and frame.row <= line
        ]
        nearest = max((frame.row for _, frame in frames), default=0)
        found: dict[tuple[str, int, str], Seen] = {}
        for number, frame in frames:
            if frame.row == nearest and frame.exits:
                for condition in self._conditions(number):
                    key = (condition.file, condition.line, json.dumps(condition.values, sort_keys=True))
                    found.setdefault(key, condition)
        return list(found.values())

    def _conditions(self, rule: int) -> Iterable[Seen]:
        below = self._below(rule)
        for number in below:
            frame = self._frames[number]
            negation = (frame.file, frame.row, frame.column) in self._negated
            # What failed in the rule itself was another turn of a loop; what failed below made a negation hold.
            if (
                number != rule
                and not frame.exits
                and not any(self._frames[child].fails for child in self._below(number)[1:])
            ):
                for event in frame.fails:
                    condition = self._condition(event, failed=True)
                    # Not the negation failed, but what stands behind its "not".
                    yield replace(condition, source=condition.source.removeprefix("not ")) if negation else condition
            if number == rule or not (frame.is_rule or negation):
                for event in frame.exits:
                    condition = self._condition(event, failed=False)
                    if condition.values:
                        yield condition

    def _below(self, number: int) -> list[int]:
        found = [number]
        for each in found:
            found.extend(self._children[each])
        return found

    def _condition(self, event: dict[str, Any], *, failed: bool) -> Seen:
        place = event.get("Location") or {}
        file, line = str(place.get("file", "")), int(place.get("row", 0))
        lines = self._sources.get(file, [])
        source = lines[line - 1].strip() if 0 < line <= len(lines) else ""
        return Seen(file, line, source, self._values(event), failed)

    def _values(self, event: dict[str, Any]) -> dict[str, JsonValue]:
        """Variable or reference → the scalar that it was, as the author wrote it."""
        metadata = event.get("LocalMetadata") or {}
        values: dict[str, JsonValue] = {}
        for binding in event.get("Locals") or []:
            name, value = binding.get("name"), _scalar(binding)
            if value is None or not isinstance(name, str) or name == "_":
                continue
            shown = _named(name, metadata.get(name), self._sources)
            if shown and not shown.startswith("$"):
                values[shown] = value
        return values


def _events(bundle: Bundle, entrypoint: str, document: Mapping[str, JsonValue]) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="zeta-guard-explain-") as name:
        folder = Path(name)
        for file, content in bundle.files.items():
            if file.endswith(".rego") or file.rpartition("/")[2] == "data.json":
                target = folder / file
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
        query = "data." + entrypoint.replace("/", ".")
        arguments = ["eval", "--data", ".", "--stdin-input", "--explain", "full", "--format", "json", query]
        done = run_opa(arguments, folder=folder, stdin=json.dumps(document).encode())
    try:
        events = json.loads(done.stdout).get("explanation")
    except ValueError:
        events = None
    if done.returncode != 0 or not isinstance(events, list):
        raise BundleError("opa eval failed:\n" + (done.stderr or done.stdout).decode(errors="replace").strip())
    return [event for event in events if isinstance(event, dict)]


def _named(name: str, metadata: Any, sources: Mapping[str, list[str]]) -> str:
    """What the author calls a variable: its name, or the reference that OPA's compiler put into one of its own."""
    known = metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(known, str) or not known.startswith("__local"):
        return known if isinstance(known, str) else name
    place = metadata.get("location") or {}
    lines = sources.get(str(place.get("file", "")), [])
    row, column = int(place.get("row", 0)), int(place.get("col", 0))
    match = _REFERENCE.match(lines[row - 1], column - 1) if 0 < row <= len(lines) and column > 0 else None
    return match.group() if match else ""


def _scalar(binding: Any) -> JsonValue:
    if isinstance(binding, dict) and binding.get("type") in ("string", "number", "boolean"):
        value: JsonValue = binding.get("value")
        return value[:_LONGEST_VALUE] if isinstance(value, str) else value
    return None
