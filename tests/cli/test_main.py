"""The command line as a whole: which commands there are, and what errors look like."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from zeta_guard import __version__
from zeta_guard.cli import main as main_module
from zeta_guard.cli.main import COMMANDS, main
from zeta_guard.errors import ZetaError

PRESENT = [name for name in COMMANDS if find_spec(f"zeta_guard.cli.{name}") is not None]


def status_of(*arguments: str) -> int:
    """Exit status, also when argparse ends the program."""
    try:
        return main(list(arguments))
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1


def command_that(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Replace ``check`` by a command that fails."""

    def run(args: object) -> int:
        raise error

    failing = SimpleNamespace(configure=lambda parser: None, run=run)
    monkeypatch.setattr(main_module, "import_module", lambda name: failing)


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of("--version") == 0
    assert capsys.readouterr().out == f"zeta-guard {__version__}\n"


def test_help_lists_the_commands_that_exist_and_no_others(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of("--help") == 0
    listed = capsys.readouterr().out
    for name in COMMANDS:
        assert (f"\n    {name} " in listed) is (name in PRESENT)


@pytest.mark.parametrize("name", PRESENT)
def test_every_command_has_help_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(name, "--help") == 0
    shown = capsys.readouterr().out
    assert "usage: zeta-guard" in shown
    has_actions = "ACTION" in shown
    _, told, example = shown.partition("Example")
    assert has_actions or (told and f"zeta-guard {name}" in example)


@pytest.mark.parametrize("name", PRESENT)
def test_every_command_offers_what_the_dispatcher_calls(name: str) -> None:
    module = import_module(f"zeta_guard.cli.{name}")
    assert callable(module.configure)
    assert callable(module.run)


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["check"], ["check", "a", "--nope"], ["init", "--for"]])
def test_wrong_usage_is_status_2(arguments: list[str]) -> None:
    assert status_of(*arguments) == 2


def test_configuration_error_names_path_value_and_remedy_with_status_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert status_of("serve", "--config", str(tmp_path / "absent.yaml")) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"{tmp_path}/absent.yaml: no such file\n  expected: ")
    assert "what to do: Write one with: zeta-guard init DIR" in said


def test_refusal_at_run_time_is_status_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    command_that(monkeypatch, ZetaError("temporarily_unavailable", "the store does not answer"))
    assert status_of("check") == 1
    assert "the store does not answer" in capsys.readouterr().err


def test_defect_shows_its_place_and_neither_traceback_nor_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command_that(monkeypatch, KeyError("hunter2"))
    assert status_of("check") == 1
    said = capsys.readouterr().err
    assert "KeyError at test_main.py:" in said
    assert "hunter2" not in said
    assert "Traceback" not in said


def test_interruption_is_status_130(monkeypatch: pytest.MonkeyPatch) -> None:
    command_that(monkeypatch, KeyboardInterrupt())
    assert status_of("check") == 130


def test_reader_who_leaves_early_causes_no_complaint() -> None:
    command = [sys.executable, "-m", "zeta_guard", "config", "schema"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(20) == 1


def test_only_the_wanted_command_is_imported() -> None:
    code = (
        "import sys; from zeta_guard.cli.main import main; main(['config', 'schema']); "
        "heavy = {'aiohttp', 'redis', 'wasmtime', 'opentelemetry', 'lxml', 'signxml', 'cryptography'} & set(sys.modules); "
        "sys.exit(f'imported: {sorted(heavy)}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert done.stderr == ""
