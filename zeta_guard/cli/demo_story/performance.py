"""A performance: stage, cast, story, and what stays afterwards."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from zeta_guard.cli.demo_story.cast import Cast
from zeta_guard.cli.demo_story.good_path import GOOD_PATH
from zeta_guard.cli.demo_story.printing import Printer
from zeta_guard.cli.demo_story.refusals import REFUSALS
from zeta_guard.cli.demo_story.stage import Stage, prepare_directory
from zeta_guard.cli.demo_story.story import Storyteller
from zeta_guard.cli.demo_story.target import TARGET_FILE, write_target
from zeta_guard.telemetry.logging import ROOT, JsonFormatter


@dataclass(frozen=True, slots=True)
class Options:
    """Options of ``zeta-guard demo``; ports 0 are chosen."""

    json: bool = False
    serve: bool = False
    directory: Path | None = None
    public_port: int = 0
    ops_port: int = 0


async def perform(options: Options) -> int:
    """Play the story; exit status 0 when all steps ended as they should. Raises ConfigurationError.

    SIGINT and SIGTERM end it in order: everything is stopped and a temporary folder removed.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    serving = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    performance = loop.create_task(_perform(options, serving, stop))
    stopped = loop.create_task(stop.wait())
    try:
        await asyncio.wait({performance, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not serving.is_set():
            performance.cancel()
        return await performance
    except asyncio.CancelledError:
        print("stopped before the end of the story", file=sys.stderr)
        return 1
    finally:
        stopped.cancel()


async def _perform(options: Options, serving: asyncio.Event, stop: asyncio.Event) -> int:
    async with AsyncExitStack() as exits:
        if options.directory is None:
            directory = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="zeta-guard-demo-")))
        else:
            directory = options.directory
            prepare_directory(directory)
            # An earlier demo's target would send whoever waits for this one to a port where nobody listens.
            (directory / TARGET_FILE).unlink(missing_ok=True)
        exits.enter_context(_logging_into(directory / "guard.log"))
        # With --json the one object is all that standard output gets.
        printer = Printer(sys.stderr if options.json else sys.stdout)
        storyteller = Storyteller()
        if not options.json:
            printer.head()
            storyteller.tell = printer.step
        stage = Stage(directory, public_port=options.public_port, ops_port=options.ops_port)
        await exits.enter_async_context(stage)
        cast = Cast(stage, storyteller)
        try:
            await storyteller.play([*GOOD_PATH, *REFUSALS], cast)
        finally:
            await cast.close()
        if options.json:
            print(json.dumps(storyteller.as_json(), ensure_ascii=False), flush=True)
        else:
            printer.end(storyteller)
        if options.serve and stage.guard is not None:
            write_target(stage)
            printer.serving(stage)
            serving.set()
            await stop.wait()
        return 0 if storyteller.ok else 1


@contextmanager
def _logging_into(path: Path) -> Iterator[None]:
    """The guard's log lines go into a file: standard error belongs to the story."""
    logger = logging.getLogger(ROOT)
    handler = logging.FileHandler(path)
    handler.setFormatter(JsonFormatter())
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate
        handler.close()
