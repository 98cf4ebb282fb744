"""``zeta-guard config``: what the configuration may hold, and what a running guard has in force."""

from __future__ import annotations

import argparse
import sys

from zeta_guard.cli.admin_client import add_options, guard_of
from zeta_guard.cli.admin_output import print_json


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.description = "Tells what the configuration may hold, and what a running guard has in force."
    parser.epilog = (
        "Examples:\n  zeta-guard config schema > guard.schema.json\n  zeta-guard config show --config guard.yaml"
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    schema = actions.add_parser(
        "schema", help="print the JSON Schema of the configuration", description="Prints the JSON Schema (2020-12)."
    )
    schema.epilog = "Example: zeta-guard config schema > guard.schema.json"
    show = actions.add_parser(
        "show",
        help="print the configuration that a running guard has in force",
        description=(
            "Prints the configuration in force with all defaults, asked from the administration socket: after a refused reload it "
            "is not that of the file. Texts that could be secrets are not shown."
        ),
    )
    show.epilog = "Example: zeta-guard config show --config guard.yaml"
    add_options(show)


def run(args: argparse.Namespace) -> int:
    """Exit status 0; 1 when no guard answers."""
    return _show(args) if args.action == "show" else _schema()


def _schema() -> int:
    import json

    from zeta_guard.cli.config_schema import configuration_schema

    json.dump(configuration_schema(), sys.stdout, indent=2, ensure_ascii=False)
    print()
    return 0


def _show(args: argparse.Namespace) -> int:
    answer = guard_of(args).get("/config")
    if args.json:
        print_json(answer)
        return 0
    import yaml

    print(f"# in force, role {answer['role']}")
    yaml.safe_dump(answer["config"], sys.stdout, sort_keys=False, allow_unicode=True, width=120)
    return 0
