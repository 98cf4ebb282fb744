"""``zeta-guard serve``: run the guard until a signal ends it; SIGHUP or a changed file reloads."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.description = "Runs the guard: gateway, authorization server and ops port."
    parser.epilog = "Example: zeta-guard serve --config guard.yaml"
    parser.add_argument("--config", required=True, type=Path, metavar="FILE", help="configuration (YAML)")
    parser.add_argument(
        "--role",
        choices=("all", "gateway", "authorization-server"),
        default="all",
        help="which half this process is (default: all)",
    )


def run(args: argparse.Namespace) -> int:
    """Exit status 0 after an orderly stop, 2 when the configuration does not let it start."""
    import asyncio
    import time

    from zeta_guard.config.load import load_config
    from zeta_guard.runtime.public_socket import bind_public_socket

    config = load_config(args.config)
    public_socket = bind_public_socket(config.listen, time.time)
    # Only now the rooms are imported: mistakes are told at once, and the port is owned early (see public_socket).
    from zeta_guard.runtime.service import serve
    from zeta_guard.telemetry.logging import configure as configure_logging

    configure_logging(config.telemetry)
    try:
        asyncio.run(serve(config, config_file=args.config, role=args.role, public_socket=public_socket))
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    return 0
