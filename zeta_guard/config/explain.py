"""What pydantic says about a document, in words for operators: path, value seen, what is allowed, what to do."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from zeta_guard.config.guard import GuardConfig
from zeta_guard.errors import ConfigurationError

_SECRET_WORDS: Final = ("password", "secret", "token", "key")
_USERINFO: Final = re.compile(r"//[^/@\s]*@")
_DISCRIMINATORS: Final = ("kind", "engine")

_WORDS: Final = {
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "string_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "path_type": "a path",
}

_REMEDIES: Final = {
    "tuple_type": "Write a list, e.g. [value].",
    "model_type": "Indent its keys below it.",
    "model_attributes_type": "Indent its keys below it.",
    "string_type": "Put quotes around it.",
    "int_type": "Write it without quotes.",
    "int_parsing": "Write digits only.",
    "bool_type": "Write true or false, without quotes.",
    "bool_parsing": "Write true or false, without quotes.",
    "literal_error": "Write one of these.",
    "string_pattern_mismatch": "Write it in that form.",
    "too_short": "Add an entry.",
    "too_long": "Remove entries.",
    "missing": "Add it.",
}


def dotted(location: Iterable[int | str]) -> str:
    """``("gateway", "routes", 0, "prefix")`` as ``gateway.routes[0].prefix``."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text or "(top)"


def explain(details: Sequence[ErrorDetails]) -> list[ConfigurationError]:
    """One error per place; the alternatives of a union are joined with *or*."""
    found: dict[str, _Mistake] = {}
    for detail in details:
        mistake = _mistake(detail)
        earlier = found.get(mistake.path)
        if earlier is None:
            found[mistake.path] = mistake
        elif mistake.expected not in earlier.expected:
            earlier.expected += f" or {mistake.expected}"
    inner = tuple(found)
    return [
        ConfigurationError(mistake.path, mistake.seen, mistake.words, mistake.remedy)
        for path, mistake in found.items()
        # pydantic counts a list's valid entries: where one is wrong, "too few" is no mistake of its own.
        if not (mistake.counts and any(other.startswith(f"{path}[") for other in inner))
    ]


def shown(name: str, value: object) -> str:
    """A value as it may be printed: no secrets, no user in a URL, at most 80 characters."""
    lowered = name.lower()
    secret = any(word in lowered for word in _SECRET_WORDS) and not lowered.endswith(("_file", "_files"))
    if isinstance(value, str) and secret:
        return "a value that is not shown"
    if isinstance(value, dict | list | tuple):
        return f"a {'mapping' if isinstance(value, dict) else 'list'} of {len(value)}"
    text = _USERINFO.sub("//…@", json.dumps(value, ensure_ascii=False, default=str))
    return text if len(text) <= 80 else text[:77] + "…"


@dataclass(slots=True)
class _Mistake:
    path: str
    seen: str
    expected: str
    remedy: str
    description: str = ""
    counts: bool = False

    @property
    def words(self) -> str:
        return f"{self.expected} ({self.description.rstrip('.')})" if self.description else self.expected


@dataclass(slots=True)
class _Place:
    """Where a location leads in the models. Names of union branches, which stand in no file, are left out of ``parts``."""

    parts: list[int | str]
    models: list[type[BaseModel]]
    description: str


def _place(location: Sequence[int | str]) -> _Place:
    parts: list[int | str] = []
    models: list[type[BaseModel]] = [GuardConfig]
    description = ""
    mapping = False
    for number, part in enumerate(location):
        if isinstance(part, int):
            parts.append(part)
            continue
        field = next((one for model in models if (one := _field(model, part)) is not None), None)
        if field is not None:
            parts.append(part)
            description = field.description or ""
            models = _models_in(field.annotation)
            mapping = _is_mapping(field.annotation)
        elif mapping:
            parts.append(part)
            mapping = False
        elif tagged := [model for model in models if _tag(model) == part]:
            models = tagged
        elif models and number == len(location) - 1:
            parts.append(part)
            description = ""
    return _Place(parts, models, description)


def _mistake(detail: ErrorDetails) -> _Mistake:
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    place = _place(detail["loc"])
    path = dotted(place.parts)
    name = next((str(part) for part in reversed(place.parts) if isinstance(part, str)), "")
    remedy = _REMEDIES.get(kind, "")
    if kind == "extra_forbidden":
        known = _known_keys(_place(detail["loc"][:-1]).models)
        near = difflib.get_close_matches(name, known, n=1)
        remedy = f"Did you mean '{near[0]}'?" if near else "Remove it."
        return _Mistake(path, "unknown key", "one of: " + ", ".join(known) if known else "a known key", remedy)
    if kind == "missing":
        return _Mistake(path, "missing", place.description.rstrip(".") or "a value", remedy)
    if kind == "union_tag_not_found":
        tags = sorted(tag for model in place.models if (tag := _tag(model)) is not None)
        key = str(context.get("discriminator", "")).strip("'")
        return _Mistake(
            f"{path}.{key}", "missing", " or ".join(tags), f"Add '{key}: {tags[0]}'." if tags else "Add it."
        )
    if kind == "union_tag_invalid":
        key = str(context.get("discriminator", "")).strip("'")
        expected = str(context.get("expected_tags", "")).replace("'", "").replace(", ", " or ")
        return _Mistake(f"{path}.{key}", shown(key, context.get("tag")), expected, "Write one of these.")
    description = place.description
    seen = shown(name, value)
    if kind in ("too_short", "too_long"):
        limit = context.get("min_length", context.get("max_length"))
        expected = f"at {'least' if kind == 'too_short' else 'most'} {limit} {'entry' if limit == 1 else 'entries'}"
        return _Mistake(path, seen, expected, remedy, description, counts=kind == "too_short")
    if kind == "string_pattern_mismatch":
        return _Mistake(path, seen, f"text of the form {context.get('pattern')}", remedy, description)
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return _Mistake(path, seen, _WORDS.get(kind, message), remedy, description)


def _field(model: type[BaseModel], name: str) -> FieldInfo | None:
    for field_name, field in model.model_fields.items():
        if name == (field.alias or field_name):
            return field
    return None


def _tag(model: type[BaseModel]) -> str | None:
    """The value by which a union knows this member."""
    for name in _DISCRIMINATORS:
        field = model.model_fields.get(name)
        if field is not None and isinstance(field.default, str):
            return field.default
    return None


def _known_keys(models: Iterable[type[BaseModel]]) -> list[str]:
    return sorted({field.alias or name for model in models for name, field in model.model_fields.items()})


def _is_mapping(annotation: Any) -> bool:
    return get_origin(annotation) is dict or any(_is_mapping(one) for one in get_args(annotation))


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for one in get_args(annotation) for model in _models_in(one)]
