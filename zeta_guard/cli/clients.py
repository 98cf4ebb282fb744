"""``zeta-guard clients``: which clients an institution has registered."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from zeta_guard.cli.admin_client import add_options, guard_of
from zeta_guard.cli.admin_output import add_institution, count, moment, print_json, print_table, printable, telematik_id
from zeta_guard.errors import ConfigurationError


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.description = "Lists the clients of an institution, through the administration socket of a running guard."
    parser.epilog = "Example: zeta-guard clients list --institution 1-2012345678 --config guard.yaml"
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    lists = actions.add_parser(
        "list",
        help="list the clients of an institution",
        description="Lists the clients that an institution has bound to itself, last used first.",
    )
    lists.epilog = "Example: zeta-guard clients list --institution 1-2012345678 --config guard.yaml"
    add_institution(lists, "clients")
    add_options(lists)


def run(args: argparse.Namespace) -> int:
    """Exit status 0; 1 when no guard answers or it said no."""
    if args.institution is None and args.pseudonym is None:
        raise ConfigurationError(
            "--institution", "missing", "--institution TELEMATIK_ID, or --pseudonym NAME as in other lists"
        )
    guard = guard_of(args)
    pseudonyms: list[str] = [args.pseudonym]
    if args.institution is not None:
        pseudonyms = guard.post("/pseudonyms", {"telematik_id": telematik_id(args.institution)})["pseudonyms"]
    clients: list[dict[str, Any]] = []
    for institution in pseudonyms:
        clients += guard.get("/clients", {"institution": institution})["clients"]
    clients.sort(key=lambda client: client["last_used_at"] or 0, reverse=True)
    if args.json:
        print_json({"total": len(clients), "clients": clients})
        return 0
    rows = [
        (
            client["client_id"],
            client["state"],
            client["platform"],
            moment(client["registered_at"]),
            moment(client["last_used_at"]),
            printable(client["client_name"] or "-"),
        )
        for client in clients
    ]
    if rows:
        print_table(("CLIENT", "STATE", "PLATFORM", "REGISTERED", "LAST USED", "NAME"), rows)
    print(count(len(clients), "client", "clients"), file=sys.stderr)
    return 0
