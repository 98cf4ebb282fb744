"""How long until the guard answers, and how much memory it takes (``ready_seconds``, ``resident_mebibytes``)."""

from __future__ import annotations

import urllib.request

from bench.environment import guard_process, scratch, wait_until_ready, write_guard
from bench.frame import Measure, Report, median_of_rounds


def run(quick: bool) -> Report:
    """Fresh processes with the memory store and the shipped demo bundle; the median counts."""
    ready: list[float] = []
    memory: list[float] = []
    for _ in range(3 if quick else 9):
        with scratch() as directory:
            setup = write_guard(directory)
            child = guard_process(setup, directory, core=None)
            try:
                ready.append(wait_until_ready(child, f"http://127.0.0.1:{setup.ops_port}/readyz"))
                opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
                for _ in range(80):
                    opener.open(f"{setup.public_url}/nonce", timeout=5).read()
                memory.append(child.resident_mebibytes())
            finally:
                child.stop()
    report = Report("start")
    report.measures["ready_seconds"] = Measure(
        median_of_rounds(ready),
        "s",
        "process start to first 200 of /readyz",
        goal=1.0,
        floor=1.5,
        higher_is_better=False,
    )
    report.measures["resident_mebibytes"] = Measure(
        median_of_rounds(memory), "MiB", "after 80 nonces", goal=100, floor=120, higher_is_better=False
    )
    report.remarks.append(f"{len(ready)} fresh processes, slowest {max(ready):.2f} s, largest {max(memory):.0f} MiB")
    return report
