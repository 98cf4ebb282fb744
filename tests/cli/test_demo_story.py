"""How the story is played and printed, with scenes made for it."""

from __future__ import annotations

import io
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from zeta_guard.cli.demo_story.printing import Printer
from zeta_guard.cli.demo_story.stage import free_port, prepare_directory, write_private
from zeta_guard.cli.demo_story.story import Outcome, Scene, Storyteller
from zeta_guard.client.wire import Exchange
from zeta_guard.errors import ConfigurationError, ZetaError


def _scene(name: str, play: Callable[[None], Awaitable[Outcome]], *needs: str) -> Scene[None]:
    return Scene(name, f"title of {name}", "expected", "what it proves", play, needs)


async def _well(cast: None) -> Outcome:
    return Outcome("as it should be", True)


async def _badly(cast: None) -> Outcome:
    return Outcome("something else", False)


async def _refused(cast: None) -> Outcome:
    raise ZetaError("invalid_grant", "the reason")


async def _broken(cast: None) -> Outcome:
    raise KeyError("surprise")


async def _misconfigured(cast: None) -> Outcome:
    raise ConfigurationError("listen.port", "taken", "a free one")


async def test_a_story_is_ok_when_every_step_is() -> None:
    storyteller = Storyteller()
    assert not storyteller.ok, "nothing played is no success"
    await storyteller.play([_scene("a", _well), _scene("b", _well, "a")], None)
    assert storyteller.ok
    assert [step.id for step in storyteller.steps] == ["a", "b"]


@pytest.mark.parametrize(
    ("play", "seen"), [(_badly, "something else"), (_refused, "the reason"), (_broken, "KeyError")]
)
async def test_one_failed_step_fails_the_story_but_not_the_others(
    play: Callable[[None], Awaitable[Outcome]], seen: str
) -> None:
    storyteller = Storyteller()
    await storyteller.play([_scene("a", play), _scene("b", _well), _scene("c", _well, "a")], None)
    assert not storyteller.ok
    assert [(step.ok, step.played) for step in storyteller.steps] == [(False, True), (True, True), (False, False)]
    assert seen in storyteller.steps[0].seen
    assert storyteller.steps[2].seen == "not played: needs a"


async def test_a_mistake_of_the_caller_ends_the_story() -> None:
    with pytest.raises(ConfigurationError):
        await Storyteller().play([_scene("a", _misconfigured)], None)


async def test_exchanges_become_lines_of_their_own_step() -> None:
    storyteller = Storyteller()

    async def calls(cast: None) -> Outcome:
        headers = (("Authorization", "dpop <9 characters>"), ("dpop", "<9 characters>"), ("PoPP", "<9 characters>"))
        storyteller.exchange(Exchange("GET", "https://guard/path?x=1", headers, 401, "invalid_token", 3.2))
        return Outcome("", True)

    await storyteller.play([_scene("a", calls), _scene("b", _well)], None)
    assert storyteller.steps[0].wire == ("GET /path?x=1 → 401 invalid_token (3 ms; token + proof + PoPP)",)
    assert storyteller.steps[1].wire == ()


async def test_the_printed_story_names_what_failed() -> None:
    out = io.StringIO()
    printer = Printer(out)
    storyteller = Storyteller(tell=printer.step)
    printer.head()
    await storyteller.play([_scene("a", _badly), _scene("b", _well, "a"), _scene("c", _well)], None)
    printer.end(storyteller)
    text = out.getvalue()
    assert "NO  1 title of a" in text
    assert "expected: expected" in text
    assert "-- " in text
    assert "ok  3 title of c" in text
    assert "2 of 3 steps did not end as they should: a, b" in text
    assert "\x1b" not in text


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


async def test_a_terminal_gets_colours_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured, plain = _Terminal(), _Terminal()
    Printer(coloured).head()
    monkeypatch.setenv("NO_COLOR", "1")
    Printer(plain).head()
    assert "\x1b" in coloured.getvalue()
    assert "\x1b" not in plain.getvalue()


def test_the_folder_is_made_private(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    folder.mkdir(mode=0o755)
    prepare_directory(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    prepare_directory(tmp_path / "new")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


def test_shared_and_home_folders_are_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    with pytest.raises(ConfigurationError, match="a folder of its own"):
        prepare_directory(shared)
    assert shared.stat().st_mode & 0o7777 == 0o1777
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConfigurationError, match="a folder of its own"):
        prepare_directory(tmp_path)


def test_the_working_folder_and_those_above_it_are_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path / "inside")
    for folder in (Path(), tmp_path):
        with pytest.raises(ConfigurationError, match="a folder of its own"):
            prepare_directory(folder)


def test_a_folder_with_keys_that_no_demo_wrote_is_not_touched(tmp_path: Path) -> None:
    folder = tmp_path / "real"
    (folder / "signing-keys").mkdir(parents=True)
    (folder / "secret").write_bytes(b"real")
    with pytest.raises(ConfigurationError, match="holds secret, signing-keys"):
        prepare_directory(folder)
    assert (folder / "secret").read_bytes() == b"real"


def test_an_earlier_demos_folder_and_one_with_other_files_are_taken(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / "demo.log").touch()
    prepare_directory(folder)
    write_private(folder / "secret", b"demo")
    prepare_directory(folder)


def test_private_files_replace_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    for content in (b"1", b"2"):
        write_private(path, content)
    assert path.read_bytes() == b"2"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_free_port_can_be_listened_on() -> None:
    assert 1024 < free_port() < 65_536
