"""A guard that runs beside the tests, and the command line that operates it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from zeta_guard.cli.demo_story.stage import Stage
from zeta_guard.cli.main import main
from zeta_guard.client.session import ZetaClient

T = TypeVar("T")


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit status and its two streams."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def in_a_process(*arguments: str | Path, stdin: str = "") -> Outcome:
    """Run the command line as an operator does."""
    command = [sys.executable, "-m", "zeta_guard", *map(str, arguments)]
    done = subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


class RunningGuard:
    """A guard in a thread with a loop of its own, as others would find it."""

    def __init__(self, directory: Path) -> None:
        self.stage = Stage(directory)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._clients: list[ZetaClient] = []
        self.do(self._start())

    def do(self, work: Awaitable[T]) -> T:
        """Wait for something on the guard's loop."""

        async def waited() -> T:
            return await work

        future: Future[T] = asyncio.run_coroutine_threadsafe(waited(), self._loop)
        return future.result(40)

    async def _start(self) -> None:
        await self.stage.build_pki()
        await self.stage.start_services()
        await self.stage.start_guard()
        await self.stage.first_proof_possible()

    def login(self, card: str = "good") -> ZetaClient:
        """A client that has a session."""

        async def made() -> ZetaClient:
            client = ZetaClient(self.stage.around.public_url, self.stage.card(card), ca_file=self.stage.ca_file)
            await client.__aenter__()
            self._clients.append(client)
            await client.login()
            return client

        return self.do(made())

    @property
    def config(self) -> Path:
        return self.stage.directory / "guard.yaml"

    @property
    def socket(self) -> Path:
        return self.stage.directory / "admin.sock"

    def close(self) -> None:
        async def closed() -> None:
            for client in self._clients:
                await client.__aexit__(None, None, None)
            await self.stage.__aexit__(None, None, None)

        self.do(closed())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@pytest.fixture(scope="session")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGuard]:
    running = RunningGuard(tmp_path_factory.mktemp("guard"))
    yield running
    running.close()


@pytest.fixture
def zeta_guard(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run the command line in this process; the guard answers from its own thread."""

    def run(*arguments: str | Path) -> Outcome:
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as exit:
            status = int(exit.code or 0)
        out, err = capsys.readouterr()
        return Outcome(status, out, err)

    return run


@pytest.fixture
def process() -> Callable[..., Outcome]:
    """Run the command line as a process of its own."""
    return in_a_process
