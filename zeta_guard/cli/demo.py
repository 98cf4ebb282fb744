"""``zeta-guard demo``: play the whole story on loopback and print it."""

from __future__ import annotations

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.description = (
        "Plays the whole path on loopback, over real TLS and HTTP: a practice gets its token, proves that the patient is "
        "there and reads insured data; then everything that must fail, fails."
    )
    parser.epilog = "Example: zeta-guard demo --serve --dir ./demo"
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the story")
    parser.add_argument(
        "--serve", action="store_true", help="keep guard and services running afterwards (until Ctrl-C)"
    )
    parser.add_argument(
        "--dir", type=Path, metavar="DIR", help="where its files go and stay (default: a temporary folder, removed)"
    )
    parser.add_argument("--port", type=_port, default=0, metavar="PORT", help="public port (default: a free one)")
    parser.add_argument("--ops-port", type=_port, default=0, metavar="PORT", help="ops port (default: a free one)")


def run(args: argparse.Namespace) -> int:
    """Exit status 0 when every step ended as it should, else 1; 2 when folder or port cannot be used.

    Raises ConfigurationError, which the command line words.
    """
    import asyncio

    from zeta_guard.cli.demo_story.performance import Options, perform

    options = Options(
        json=args.json, serve=args.serve, directory=args.dir, public_port=args.port, ops_port=args.ops_port
    )
    return asyncio.run(perform(options))


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65_535:
        raise argparse.ArgumentTypeError(f"{text} is no port; expected 0 to 65535, 0 being a free one")
    return port
