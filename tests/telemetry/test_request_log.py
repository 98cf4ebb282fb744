from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from zeta_guard.telemetry import request_log as module
from zeta_guard.telemetry.request_log import RequestLog

NOW = 1_700_000_000.5


@pytest.fixture
def file(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    path = tmp_path / "log"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    yield path, descriptor
    os.close(descriptor)


async def test_lines_are_written_in_order_and_masked(file: tuple[Path, int]) -> None:
    path, descriptor = file
    log = RequestLog(descriptor=descriptor)
    for number in range(100):
        log.write({"request_id": str(number), "route": "/Patient/X110411675"}, NOW + number)
    await log.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["request_id"] for line in lines] == [str(number) for number in range(100)]
    assert lines[0] == {
        "time": "2023-11-14T22:13:20.500Z",
        "level": "info",
        "event": "request",
        "request_id": "0",
        "route": "/Patient/[masked]",
    }


async def test_text_lines_hold_the_same(file: tuple[Path, int]) -> None:
    path, descriptor = file
    log = RequestLog(text=True, descriptor=descriptor)
    log.write({"status": 200}, NOW)
    await log.close()
    assert path.read_text() == "time=2023-11-14T22:13:20.500Z level=info event=request status=200\n"


async def test_lines_are_written_soon_without_close(file: tuple[Path, int]) -> None:
    path, descriptor = file
    log = RequestLog(descriptor=descriptor)
    log.write({"status": 200}, NOW)
    async with asyncio.timeout(5):
        while not path.read_bytes():  # noqa: ASYNC110 - a file has no event
            await asyncio.sleep(0.01)
    await log.close()


async def test_reader_that_does_not_read_costs_lines_and_never_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 200_000)
    reading, writing = os.pipe()
    dropped: list[int] = []
    log = RequestLog(descriptor=writing, on_drop=dropped.append)
    for _ in range(5000):
        log.write({"route": "/" + "a" * 100}, NOW)
        await asyncio.sleep(0)
    assert dropped
    loop = asyncio.get_running_loop()

    def drain() -> int:
        count = 0
        while piece := os.read(reading, 65536):
            count += piece.count(b"\n")
        return count

    received = loop.run_in_executor(None, drain)
    await log.close()
    os.close(writing)
    assert await received + sum(dropped) == 5000
    os.close(reading)


async def test_closed_output_is_counted_and_not_raised() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    dropped: list[int] = []
    log = RequestLog(descriptor=writing, on_drop=dropped.append)
    log.write({"status": 200}, NOW)
    log.write({"status": 200}, NOW)
    await log.close()
    assert sum(dropped) == 2
    os.close(writing)
