"""``zeta-guard block``: refuse an institution, client, product or session at once, everywhere."""

from __future__ import annotations

import argparse
import sys

from zeta_guard.cli.admin_client import AdminClient, add_options, guard_of
from zeta_guard.cli.admin_output import count, duration, moment, print_json, print_table, telematik_id

KINDS = ("institution", "client", "product", "session")


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.description = (
        "Emergency blocks: whoever is blocked gets no token and no answer, on every replica within a second, open WebSockets "
        "included. An institution is named by its Telematik-ID and stored under a pseudonym."
    )
    parser.epilog = (
        "Examples:\n"
        "  zeta-guard block add institution 1-2012345678 --for 12h --note 'card reported stolen' --config guard.yaml\n"
        "  zeta-guard block list --config guard.yaml\n"
        "  zeta-guard block remove institution 1-2012345678 --config guard.yaml"
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    add = actions.add_parser("add", help="block", description="Blocks somebody; live sessions of an institution end.")
    add.epilog = "Example: zeta-guard block add product BadPractice --for 2h --note 'defect 4711' --config guard.yaml"
    add.add_argument(
        "--for",
        dest="seconds",
        type=duration,
        metavar="DURATION",
        help="90s, 15m, 12h, 7d … (default: as long as the longest session)",
    )
    add.add_argument("--note", help="why, for those who read the list (no personal data)")
    lists = actions.add_parser("list", help="list blocks", description="Lists emergency blocks in force, newest first.")
    lists.epilog = "Example: zeta-guard block list --config guard.yaml --json"
    lists.add_argument("--all", action="store_true", help="ended and revoked sessions, too")
    remove = actions.add_parser("remove", help="lift a block", description="Lifts an emergency block.")
    remove.epilog = "Example: zeta-guard block remove client zc_8Tis_p6uCbaJxByNWZLixQ --config guard.yaml"
    for action in (add, remove):
        action.add_argument("kind", choices=KINDS, help="what is blocked")
        action.add_argument(
            "identifier",
            metavar="ID",
            help="Telematik-ID (- reads it from standard input), client id, product id or session id",
        )
        action.add_argument(
            "--pseudonym", action="store_true", help="ID is the name of the institution as lists show it"
        )
    for action in (add, lists, remove):
        add_options(action)


def run(args: argparse.Namespace) -> int:
    """Exit status 0; 1 when there was nothing to lift, or the guard said no."""
    guard = guard_of(args)
    return {"add": _add, "list": _list, "remove": _remove}[args.action](args, guard)


def _subject(args: argparse.Namespace) -> dict[str, object]:
    if args.kind != "institution":
        return {"kind": args.kind, "identifier": args.identifier}
    if args.pseudonym:
        return {"kind": args.kind, "institution": args.identifier}
    return {"kind": args.kind, "telematik_id": telematik_id(args.identifier)}


def _add(args: argparse.Namespace, guard: AdminClient) -> int:
    answer = guard.post("/blocks/add", {**_subject(args), "seconds": args.seconds, "note": args.note})
    if args.json:
        print_json(answer)
        return 0
    for block in answer["blocks"]:
        print(f"blocked {block['kind']} {block['identifier']} until {moment(block['until'])}")
    if args.kind == "institution":
        print(f"ended {count(answer['ended_sessions'], 'session', 'sessions')}")
        if not answer["ended_sessions"]:
            print("  it had no live session: check the Telematik-ID if you expected some", file=sys.stderr)
    return 0


def _list(args: argparse.Namespace, guard: AdminClient) -> int:
    answer = guard.get("/blocks", {"reason": None if args.all else "emergency"})
    if args.json:
        print_json(answer)
        return 0
    rows = [
        (
            block["kind"],
            block["identifier"],
            block["reason"],
            moment(block["since"]),
            moment(block["until"]),
            block["note"],
        )
        for block in answer["blocks"]
    ]
    if rows:
        print_table(("KIND", "ID", "REASON", "SINCE", "UNTIL", "NOTE"), rows)
    print(f"{count(answer['total'], 'block', 'blocks')}, {len(rows)} shown", file=sys.stderr)
    return 0


def _remove(args: argparse.Namespace, guard: AdminClient) -> int:
    answer = guard.post("/blocks/remove", _subject(args))
    if args.json:
        print_json(answer)
    else:
        print("lifted" if answer["removed"] else "there was no such block")
    return 0 if answer["removed"] else 1
