"""``zeta-guard config``: what the configuration may hold."""

from __future__ import annotations

import argparse
import sys


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.description = "Tells what the configuration may hold."
    parser.epilog = "Example: zeta-guard config schema > guard.schema.json"
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    schema = actions.add_parser(
        "schema", help="print the JSON Schema of the configuration", description="Prints the JSON Schema (2020-12)."
    )
    schema.epilog = "Example: zeta-guard config schema > guard.schema.json"


def run(args: argparse.Namespace) -> int:
    """Exit status 0."""
    import json

    from zeta_guard.cli.config_schema import configuration_schema

    json.dump(configuration_schema(), sys.stdout, indent=2, ensure_ascii=False)
    print()
    return 0
