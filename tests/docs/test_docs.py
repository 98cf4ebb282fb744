"""What the documentation names is there: tests, links, files, commands, metrics, configuration keys, event names."""

from __future__ import annotations

import argparse
import ast
import io
import json
import re
import shlex
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
import yaml

from zeta_guard.cli.main import COMMANDS, main
from zeta_guard.config.guard import GuardConfig
from zeta_guard.config.load import load_config
from zeta_guard.runtime.guard import Guard
from zeta_guard.telemetry.security_events import EVENTS

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = tuple(
    sorted(
        [
            ROOT / "README.md",
            ROOT / "SECURITY.md",
            ROOT / "CHANGELOG.md",
            ROOT / "policies" / "README.md",
            *(ROOT / "docs").rglob("*.md"),
        ]
    )
)
EVIDENCE: Final = ("threat-model.md", "standards.md")

_FENCE: Final = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_SPAN: Final = re.compile(r"`([^`\n]+)`")
_LINK: Final = re.compile(r"\]\(([^)\s]+)\)")
_TEST: Final = re.compile(r"(?:tests/)?([a-z_]+/test_\w+\.py)(?:::(\w+))?")
_KEY: Final = re.compile(r"[a-z_]+(?:\.[a-z_]+)+")
_METRIC: Final = re.compile(r"\bzeta_guard_[a-z_]*[a-z]\b(?!\.)")


class Command(NamedTuple):
    """A command shown to readers: ``whole`` when it can be typed as it stands."""

    page: str
    text: str
    whole: bool


def _prose(page: Path) -> str:
    return _FENCE.sub("", page.read_text())


def _spans(page: Path) -> list[str]:
    return _SPAN.findall(_prose(page))


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@cache
def _functions(file: Path) -> frozenset[str]:
    tree = ast.parse(file.read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize("name", EVIDENCE)
def test_every_named_test_exists(name: str) -> None:
    named = [match for span in _spans(ROOT / "docs" / name) if (match := _TEST.fullmatch(span))]
    assert len(named) > 100, "the page names its evidence"
    missing = []
    for match in named:
        file = ROOT / "tests" / match[1]
        if not file.is_file() or (match[2] is not None and match[2] not in _functions(file)):
            missing.append(match[0])
    assert not missing


def test_every_named_module_exists() -> None:
    spans = {span for page in (ROOT / "docs").glob("*.md") for span in _spans(page)}
    modules = {span for span in spans if re.fullmatch(r"[a-z_]+/[a-z_/]+\.py", span) and not _TEST.fullmatch(span)}
    assert modules
    assert not [module for module in modules if not (ROOT / "zeta_guard" / module).is_file()]


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = []
    for target in _LINK.findall(_prose(page)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in _anchors(file)):
            broken.append(target)
    assert not broken


@cache
def _anchors(page: Path) -> frozenset[str]:
    headings = re.findall(r"^#+ (.+)$", _prose(page), re.MULTILINE)
    return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)


def _commands() -> Iterator[Command]:
    for page in PAGES:
        for span in _spans(page):
            if span.startswith("zeta-guard "):
                yield from (
                    Command(_name(page), text, False) for text in _alternatives(span.removeprefix("zeta-guard "))
                )
        for language, block in _FENCE.findall(page.read_text()):
            if language not in ("sh", "console", ""):
                continue
            for line in block.replace("\\\n", " ").splitlines():
                found = re.match(r"(?:\$ |.*&& |)(?:\S*/)?zeta-guard (.+)", line.strip())
                if found and not found[1].startswith("serves "):
                    yield Command(_name(page), found[1], "…" not in found[1] and "<" not in found[1])


def _alternatives(text: str) -> Iterator[str]:
    words = text.replace("\\|", "|").split(" ")
    if len(words) > 1 and "|" in words[1]:
        yield from (" ".join([words[0], action, *words[2:]]) for action in words[1].split("|"))
    else:
        yield " ".join(words)


def _parser(command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"zeta-guard {command}", allow_abbrev=False)
    import_module(f"zeta_guard.cli.{command}").configure(parser)
    return parser


def _help(command: str, action: list[str]) -> str | None:
    """Help of a command or action; None when there is no such action."""
    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(io.StringIO()), pytest.raises(SystemExit) as end:
        _parser(command).parse_args([*action, "--help"])
    return out.getvalue() if end.value.code == 0 else None


def _fault(command: Command) -> str | None:
    words = shlex.split(command.text.replace("…", "VALUE"), comments=True)
    if words[0] not in COMMANDS:
        return None if words[0].startswith("--") else "no such command"
    if command.whole:
        errors = io.StringIO()
        try:
            with redirect_stderr(errors):
                _parser(words[0]).parse_args(words[1:])
        except SystemExit:
            return errors.getvalue().splitlines()[-1]
        return None
    own = _help(words[0], [])
    assert own is not None
    has_actions = "ACTION ..." in own
    action = words[1:2] if has_actions and words[1:2] and not words[1].startswith("-") else []
    shown = _help(words[0], action)
    if shown is None:
        return "no such action"
    options = [word for word in words if word.startswith("--")]
    unknown = [option for option in options if not re.search(rf"{re.escape(option)}\b", shown)]
    return f"no such option: {unknown}" if unknown else None


def test_every_command_shown_is_one_of_the_program() -> None:
    commands = list(_commands())
    assert len(commands) > 40
    faults = [(command.page, command.text, fault) for command in commands if (fault := _fault(command))]
    assert not faults


def test_a_command_that_is_none_would_be_noticed() -> None:
    assert _fault(Command("", "frobnicate", True))
    assert _fault(Command("", "sessions revive", False))
    assert _fault(Command("", "keys rotate --gently", False))
    assert _fault(Command("", "block add nobody 1 --config guard.yaml", True))


async def _exposition(directory: Path) -> str:
    assert main(["init", str(directory), "--json"]) == 0
    file = directory / "guard.yaml"
    document = yaml.safe_load(file.read_text())
    document["listen"] = document["ops"] = {"host": "127.0.0.1", "port": 0}
    file.write_text(yaml.safe_dump(document))
    guard = Guard(load_config(file))
    await guard.start()
    try:
        return guard.render_metrics().decode()
    finally:
        await guard.stop(drain_seconds=0)


async def test_metrics_named_are_those_of_a_running_guard(tmp_path: Path) -> None:
    exposition = await _exposition(tmp_path / "guard")
    families = set(re.findall(r"^# TYPE (zeta_guard_\w+) \w+$", exposition, re.MULTILINE))
    families = {family for family in families if not family.endswith("_created")}
    suffixes = ("", "_bucket", "_count", "_sum")
    known = {family + suffix for family in families for suffix in suffixes}
    named = {
        name: _name(page) for page in PAGES for name in _METRIC.findall(page.read_text()) if not (ROOT / name).exists()
    }
    assert {name: page for name, page in named.items() if name not in known} == {}
    reference = (ROOT / "docs" / "metrics.md").read_text()
    assert sorted(family for family in families if f"`{family}`" not in reference) == []


@cache
def _schema() -> Mapping[str, Any]:
    schema: Mapping[str, Any] = json.loads(json.dumps(GuardConfig.model_json_schema(by_alias=True)))
    return schema


def _variants(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The object forms that a node may have; a list stands for its entries."""
    if "$ref" in node:
        yield from _variants(_schema()["$defs"][node["$ref"].rsplit("/", 1)[1]])
        return
    for key in ("anyOf", "oneOf", "allOf"):
        for inner in node.get(key, ()):
            yield from _variants(inner)
    if isinstance(node.get("items"), dict):
        yield from _variants(node["items"])
    yield node


def _child(node: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    for variant in _variants(node):
        properties = variant.get("properties", {})
        if name in properties:
            return dict(properties[name])
        if isinstance(variant.get("additionalProperties"), dict):
            return dict(variant["additionalProperties"])
    return None


def _unknown_keys(value: object, node: Mapping[str, Any], path: str) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            child = _child(node, str(name))
            if child is None:
                yield f"{path}.{name}"
            else:
                yield from _unknown_keys(inner, child, f"{path}.{name}")
    elif isinstance(value, list):
        for inner in value:
            yield from _unknown_keys(inner, node, path)


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_configuration_key_named_exists(page: Path) -> None:
    tops = set(_schema()["properties"])
    unknown = []
    for span in _spans(page):
        key = span.partition(":")[0]
        if not _KEY.fullmatch(key) or key.split(".")[0] not in tops or key.endswith((".py", ".yaml", ".md", ".wasm")):
            continue
        node: Mapping[str, Any] | None = _schema()
        for name in key.split("."):
            node = _child(node, name) if node is not None else None
        if node is None:
            unknown.append(key)
    assert not unknown


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_key_of_a_configuration_shown_exists(page: Path) -> None:
    unknown: list[str] = []
    for language, block in _FENCE.findall(page.read_text()):
        if language != "yaml":
            continue
        document = yaml.safe_load(textwrap.dedent(block))
        if isinstance(document, list):  # routes shown without what stands around them
            document = {"gateway": {"routes": document}}
        unknown += _unknown_keys(document, _schema(), "")
    assert not unknown


def test_a_key_that_is_none_would_be_noticed() -> None:
    document = {"gateway": {"routes": [{"prefix": "/", "websocket": {"enabled": True, "colour": 1}}]}, "stor": {}}
    assert list(_unknown_keys(document, _schema(), "")) == [".gateway.routes.websocket.colour", ".stor"]


def test_security_events_are_named_as_they_are() -> None:
    page = (ROOT / "docs" / "operators.md").read_text()
    section = page.partition("**Security events**")[2].partition("Other events")[0]
    named = {span for line in section.splitlines() if line.startswith("| `") for span in _SPAN.findall(line)}
    assert named == EVENTS


def test_every_log_event_named_is_written_somewhere() -> None:
    page = (ROOT / "docs" / "operators.md").read_text()
    named = _SPAN.findall(page.partition("Other events worth knowing:")[2].partition("\n")[0])
    sources = "".join(file.read_text() for file in (ROOT / "zeta_guard").rglob("*.py"))
    assert named
    assert not [event for event in named if f'"{event}"' not in sources]
