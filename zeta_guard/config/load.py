"""From a YAML file to a :class:`GuardConfig`, or to every mistake at once with its path, value and remedy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import ValidationError

from zeta_guard.config.explain import dotted, explain
from zeta_guard.config.guard import GuardConfig
from zeta_guard.config.rules import mistakes
from zeta_guard.errors import ConfigurationError, ConfigurationErrors

LARGEST_FILE: Final = 4 * 1024 * 1024
MOST_ALIASES: Final = 1000
"""References to anchors in one file; more are no configuration but an attempt to make reading it dear."""


def read_document(file: Path) -> dict[str, Any]:
    """The YAML document of ``file``. Raises ConfigurationError(s) for what is no readable YAML mapping."""
    try:
        if file.stat().st_size > LARGEST_FILE:
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
    return parse_document(text, name=str(file))


def parse_document(text: str, *, name: str) -> dict[str, Any]:
    """The document of a YAML text; ``name`` stands for it in errors. A key that stands twice is an error, not the last one."""
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is not None:
                _refuse_repeated_keys(node, name)
            document = loader.construct_document(node) if node is not None else None
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        raise ConfigurationError(
            f"{name}{where}", error.problem or "no valid YAML", "YAML", "Check indentation, quotes and colons there."
        ) from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigurationError(name, f"no valid YAML ({type(error).__name__})", "YAML") from None
    if not isinstance(document, dict):
        seen = "empty" if document is None else f"a {type(document).__name__}"
        raise ConfigurationError(name, seen, "a mapping of the top keys", "Write one with: zeta-guard init DIR")
    return document


def load_config(file: Path) -> GuardConfig:
    """Read and validate. Raises :class:`ConfigurationErrors` with every mistake, or ConfigurationError for the file itself."""
    return validate_document(read_document(file), directory=file.resolve().parent)


def validate_document(document: Mapping[str, Any], *, directory: Path) -> GuardConfig:
    """Validate a parsed document, rules between sections included; relative paths in it count from ``directory``."""
    try:
        config = GuardConfig.model_validate(document, context={"directory": directory})
    except ValidationError as error:
        raise ConfigurationErrors(explain(error.errors(include_url=False))) from None
    found = mistakes(config)
    if found:
        raise ConfigurationErrors(found)
    return config


def _refuse_repeated_keys(node: yaml.Node, name: str) -> None:
    found = list(_repeated_keys(node, (), set(), [MOST_ALIASES], name))
    if found:
        raise ConfigurationErrors(found)


def _repeated_keys(
    node: yaml.Node, path: tuple[int | str, ...], seen: set[int], aliases: list[int], name: str
) -> Iterator[ConfigurationError]:
    if id(node) in seen:
        # An alias: its keys were looked at where its anchor stands.
        aliases[0] -= 1
        if aliases[0] < 0:
            raise ConfigurationError(name, f"more than {MOST_ALIASES} YAML aliases", "a plain document")
        return
    if isinstance(node, yaml.CollectionNode):
        seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, inner in enumerate(node.value):
            yield from _repeated_keys(inner, (*path, index), seen, aliases, name)
    elif isinstance(node, yaml.MappingNode):
        keys: dict[str, int] = {}
        for key, inner in node.value:
            word = str(key.value) if isinstance(key, yaml.ScalarNode) else "?"
            line = key.start_mark.line + 1
            if word in keys:
                first = f"stands twice (lines {keys[word]} and {line})"
                yield ConfigurationError(dotted((*path, word)), first, "each key once", "Remove one of the two.")
            keys.setdefault(word, line)
            yield from _repeated_keys(inner, (*path, word), seen, aliases, name)
