"""``zeta-guard sessions``: which sessions live, and ending them."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from zeta_guard.cli.admin_client import AdminClient, add_options, guard_of
from zeta_guard.cli.admin_output import (
    add_institution,
    count,
    moment,
    print_json,
    print_table,
    telematik_id,
)
from zeta_guard.errors import ConfigurationError


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.description = "Lists and ends sessions of a running guard, through its administration socket."
    parser.epilog = (
        "Examples:\n"
        "  zeta-guard sessions list --config guard.yaml\n"
        "  zeta-guard sessions end eHPiSz0QYClOHC4lFei8ew --config guard.yaml"
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    lists = actions.add_parser("list", help="list live sessions", description="Lists live sessions, newest first.")
    lists.epilog = "Example: zeta-guard sessions list --config guard.yaml --institution 1-2012345678"
    add_institution(lists, "only sessions")
    lists.add_argument("--client", metavar="CLIENT_ID", help="only sessions of this client")
    lists.add_argument("--limit", type=int, default=1000, metavar="N", help="most lines (default: 1000)")
    end = actions.add_parser(
        "end",
        help="end sessions",
        description="Ends sessions: their tokens are refused everywhere within a second, a refresh gets session_terminated.",
    )
    end.epilog = "Example: zeta-guard sessions end eHPiSz0QYClOHC4lFei8ew --config guard.yaml"
    end.add_argument("session", nargs="*", metavar="SESSION_ID", help="sessions to end")
    add_institution(end, "all sessions")
    for action in (lists, end):
        add_options(action)


def run(args: argparse.Namespace) -> int:
    """Exit status 0; 1 when a session that was to be ended was not known, or the guard said no."""
    guard = guard_of(args)
    return _list(args, guard) if args.action == "list" else _end(args, guard)


def _list(args: argparse.Namespace, guard: AdminClient) -> int:
    pseudonyms: list[str | None] = [args.pseudonym]
    if args.institution is not None:
        pseudonyms = guard.post("/pseudonyms", {"telematik_id": telematik_id(args.institution)})["pseudonyms"]
    total, sessions = 0, list[dict[str, Any]]()
    for institution in pseudonyms:
        query = {"institution": institution, "client_id": args.client, "limit": args.limit}
        answer = guard.get("/sessions", query)
        total += answer["total"]
        sessions += answer["sessions"]
    if args.json:
        print_json({"total": total, "sessions": sessions})
        return 0
    rows = [
        (
            session["session_id"],
            session["client_id"],
            session["institution"],
            session["product_id"] or "-",
            moment(session["started_at"]),
            moment(session["expires_at"]),
        )
        for session in sessions
    ]
    if rows:
        print_table(("SESSION", "CLIENT", "INSTITUTION", "PRODUCT", "STARTED", "ENDS"), rows)
    print(f"{count(total, 'session', 'sessions')}, {len(rows)} shown", file=sys.stderr)
    return 0


def _end(args: argparse.Namespace, guard: AdminClient) -> int:
    institution = args.institution is not None or args.pseudonym is not None
    if institution == bool(args.session):
        raise ConfigurationError(
            "SESSION_ID",
            "both sessions and an institution" if institution else "nothing to end",
            "session ids, or --institution, or --pseudonym",
            "See them with: zeta-guard sessions list",
        )
    if institution:
        named = telematik_id(args.institution) if args.institution is not None else None
        answer = guard.post("/sessions/end", {"telematik_id": named, "institution": args.pseudonym})
        if args.json:
            print_json(answer)
        else:
            print(f"ended {count(answer['ended'], 'session', 'sessions')}")
        return 0
    known = {session: guard.post("/sessions/end", {"session_id": session})["known"] for session in args.session}
    if args.json:
        print_json({"ended": sum(known.values()), "sessions": known})
    else:
        for session, was_known in known.items():
            print(f"{session}: {'ended' if was_known else 'not known; blocked all the same'}")
    return 0 if all(known.values()) else 1
