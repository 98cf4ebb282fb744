"""``python -m bench NAME``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module

from bench.frame import Report, main


def _lazily(name: str) -> Callable[[bool], Report]:
    def run(quick: bool) -> Report:
        report = import_module(f"bench.{name}").run(quick)
        assert isinstance(report, Report)
        return report

    return run


if __name__ == "__main__":
    sys.exit(
        main(
            {
                name: _lazily(name)
                for name in ("capacity", "exchange", "gateway", "policy", "soak", "start", "telemetry")
            }
        )
    )
