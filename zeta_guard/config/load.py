"""From a YAML file to a :class:`GuardConfig`, or to every mistake at once with its path, value and remedy."""

from __future__ import annotations

import difflib
import json
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from zeta_guard.config.guard import GuardConfig
from zeta_guard.errors import ConfigurationError, ConfigurationErrors

_LARGEST_FILE = 4 * 1024 * 1024
_SECRET_WORDS = ("password", "secret", "token", "key")


class _StrictLoader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, but a repeated key is an error instead of a silent last-one-wins."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):
                if key in seen:
                    mark = key_node.start_mark
                    raise ConfigurationError(
                        str(key), f"stands twice (line {mark.line + 1})", "each key once", "Remove one of the two."
                    )
                seen.add(key)
        return super().construct_mapping(node, deep=deep)


def read_document(file: Path) -> dict[str, Any]:
    """The YAML document of ``file``. Raises ConfigurationError for what is no readable YAML mapping."""
    try:
        if file.stat().st_size > _LARGEST_FILE:
            raise ConfigurationError(str(file), "larger than 4 MiB", "a configuration file")
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigurationError(
            str(file), "no such file", "a configuration file", "Write one with: zeta-guard init DIR"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            str(file), f"cannot be read ({type(error).__name__})", "a readable UTF-8 file"
        ) from None
    try:
        document = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a SafeLoader with one more rule
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        raise ConfigurationError(
            f"{file}{where}", error.problem or "no valid YAML", "YAML", "Check indentation, quotes and colons there."
        ) from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigurationError(str(file), f"no valid YAML ({type(error).__name__})", "YAML") from None
    if not isinstance(document, dict):
        raise ConfigurationError(
            str(file), "empty" if document is None else f"a {type(document).__name__}", "a mapping of the top keys"
        )
    return document


def load_config(file: Path) -> GuardConfig:
    """Read and validate. Raises :class:`ConfigurationErrors` with every mistake, or ConfigurationError for the file itself."""
    return validate_document(read_document(file), directory=file.resolve().parent)


def validate_document(document: Mapping[str, Any], *, directory: Path) -> GuardConfig:
    """Validate a parsed document; relative paths in it count from ``directory``."""
    try:
        return GuardConfig.model_validate(document, context={"directory": directory})
    except ValidationError as error:
        raise ConfigurationErrors([_explain(detail) for detail in error.errors(include_url=False)]) from None


def dotted(location: tuple[int | str, ...]) -> str:
    """``("gateway", "routes", 0, "prefix")`` as ``gateway.routes[0].prefix``."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "(top)"


def _explain(detail: ErrorDetails) -> ConfigurationError:
    location = _without_union_tags(detail["loc"])
    path = dotted(location)
    kind = detail["type"]
    if kind == "extra_forbidden":
        known = _known_keys(location[:-1])
        near = difflib.get_close_matches(str(location[-1]), known, n=1)
        remedy = f"Did you mean '{near[0]}'?" if near else "Remove it."
        return ConfigurationError(
            path, "unknown key", "one of: " + ", ".join(known) if known else "a known key", remedy
        )
    if kind == "missing":
        return ConfigurationError(path, "missing", _description(location) or "a value", "Add it.")
    return ConfigurationError(path, _seen(location, detail["input"]), _expected(detail), "")


def _expected(detail: ErrorDetails) -> str:
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    pattern = detail.get("ctx", {}).get("pattern")
    if detail["type"] == "string_pattern_mismatch" and pattern:
        text = f"text of the form {pattern}"
    else:
        text = message
    description = _description(_without_union_tags(detail["loc"]))
    return f"{text} ({description.rstrip('.')})" if description else text


def _seen(location: tuple[int | str, ...], value: object) -> str:
    name = str(location[-1]).lower() if location else ""
    if (
        isinstance(value, str)
        and any(word in name for word in _SECRET_WORDS)
        and not name.endswith(("_file", "_files"))
    ):
        return "a value that is not shown"
    if isinstance(value, dict | list):
        return f"a {'mapping' if isinstance(value, dict) else 'list'} of {len(value)}"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "…"


_TAGS = frozenset({"memory", "redis", "embedded", "opa"})


def _without_union_tags(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """pydantic names the chosen member of a tagged union in the path; it stands in no file."""
    return tuple(
        part for index, part in enumerate(location) if not (index and part in _TAGS and _is_tag(location[:index]))
    )


def _is_tag(before: tuple[int | str, ...]) -> bool:
    return before in {("store",), ("policy", "token"), ("policy", "request"), ("policy", "shadow")}


def _schema_at(location: tuple[int | str, ...]) -> list[dict[str, Any]]:
    schema = GuardConfig.model_json_schema()
    definitions = schema.get("$defs", {})

    def resolved(node: dict[str, Any]) -> list[dict[str, Any]]:
        if "$ref" in node:
            return resolved(definitions[node["$ref"].rsplit("/", 1)[1]])
        members = node.get("anyOf") or node.get("oneOf") or node.get("allOf")
        if members:
            return [inner for member in members for inner in resolved(member)]
        return [node]

    nodes = resolved(schema)
    for part in location:
        following: list[dict[str, Any]] = []
        for node in nodes:
            if isinstance(part, int):
                inner = node.get("items")
            else:
                inner = node.get("properties", {}).get(part) or node.get("additionalProperties")
            if isinstance(inner, dict):
                following += resolved(inner)
        nodes = following
    return nodes


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    return sorted({key for node in _schema_at(location) for key in node.get("properties", {})})


def _description(location: tuple[int | str, ...]) -> str:
    """The words that the schema has for this key."""
    model: Any = GuardConfig
    words = ""
    for part in location:
        if isinstance(part, int):
            continue
        field = None
        for candidate in _models_in(model):
            for name, info in candidate.model_fields.items():
                if part in (name, info.alias):
                    field = info
        if field is None:
            return ""
        words = field.description or ""
        model = field.annotation
    return words


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    arguments = getattr(annotation, "__args__", ())
    return [model for argument in arguments for model in _models_in(argument)]
