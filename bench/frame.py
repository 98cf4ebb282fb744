"""The frame of all measurements: what a measure is, how it is printed, what ``--json`` writes (``surface`` section 3)."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure. ``reference`` says in words what it is compared with; ``goal`` and ``floor`` may be absent."""

    value: float
    unit: str
    reference: str
    goal: float | None = None
    floor: float | None = None
    higher_is_better: bool = True

    def verdict(self) -> str:
        """``goal`` reached, ``floor`` held, ``below``/``above`` the floor, or nothing when there is no target."""

        def reached(target: float) -> bool:
            return self.value >= target if self.higher_is_better else self.value <= target

        if self.goal is not None and reached(self.goal):
            return "goal"
        if self.floor is not None:
            return "ok" if reached(self.floor) else "MISSED"
        return "MISSED" if self.goal is not None else ""


@dataclass(slots=True)
class Report:
    """All measures of one bench, and remarks for people (what the reference consisted of, what was left out)."""

    name: str
    measures: dict[str, Measure] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def print_table(self) -> None:
        """The table for people."""
        width = max((len(name) for name in self.measures), default=10)
        print(f"{self.name}: {machine()}")
        for name, measure in self.measures.items():
            targets = ", ".join(
                f"{word} {target:g}"
                for word, target in (("goal", measure.goal), ("floor", measure.floor))
                if target is not None
            )
            print(
                f"  {name:<{width}}  {measure.value:>12.4g} {measure.unit:<12} {measure.verdict():<7}"
                f" {targets:<22} {measure.reference}"
            )
        for remark in self.remarks:
            print(f"  - {remark}")

    def document(self) -> dict[str, object]:
        """What ``--json`` writes."""
        return {
            "name": self.name,
            "commit": commit(),
            "machine": machine(),
            "measures": {
                name: {
                    "value": measure.value,
                    "unit": measure.unit,
                    "reference": measure.reference,
                    "goal": measure.goal,
                    "floor": measure.floor,
                }
                for name, measure in self.measures.items()
            },
        }


class MissingTool(Exception):
    """A measurement needs something that is not here; the message says how to install it."""


def commit() -> str:
    """Short commit id, with ``+`` when the tree has changes; ``unknown`` outside a checkout."""
    try:
        head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        dirty = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")


def machine() -> str:
    """Processor and Python (Debian's is in ``usr``, pyenv's in a folder named like its version), without names of hosts."""
    model = platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    return f"{model}, Python {platform.python_version()} from {Path(sys.base_prefix).name}"


def median_of_rounds(rounds: Sequence[float]) -> float:
    """The median of interleaved rounds: robust against a neighbour that wakes up."""
    return statistics.median(rounds)


def main(benches: dict[str, Callable[[bool], Report]], argv: Sequence[str] | None = None) -> int:
    """``python -m bench NAME``; exit 0 when every floor held, 1 when one was missed, 2 on wrong usage or a missing tool."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measures one aspect of the guard, its reference in the same run beside it.",
        epilog="Example: python -m bench start --quick",
    )
    parser.add_argument("name", choices=sorted(benches))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the measures as JSON")
    parser.add_argument("--quick", action="store_true", help="a rough answer in less than 30 s")
    args = parser.parse_args(argv)
    try:
        report = benches[args.name](args.quick)
    except MissingTool as missing:
        print(f"bench {args.name}: {missing}", file=sys.stderr)
        return 2
    report.print_table()
    if args.json is not None:
        args.json.write_text(json.dumps(report.document(), indent=2) + "\n")
    return 1 if any(measure.verdict() == "MISSED" for measure in report.measures.values()) else 0
