"""``zeta-guard explain``: from the request id that a caller quotes to the reason, stage and decision."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from typing import Any

from zeta_guard.cli.admin_client import AdminError, add_options, guard_of
from zeta_guard.cli.admin_output import moment, print_json, print_table
from zeta_guard.errors import ERROR_KINDS, ConfigurationError

_REQUEST_ID = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}")
_DOORS = {
    "authorization_server": "authorization server",
    "gateway": "gateway",
    "http": "listener (before any room saw the request)",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.description = (
        "Tells why a request was refused, by the request id in the error body. A guard remembers its last 10 000 refusals; "
        "older ones stand in the request log."
    )
    parser.epilog = (
        "Examples:\n"
        "  zeta-guard explain 01M828A3TQR5NR7FH71QHGGREY --config guard.yaml\n"
        "  zeta-guard explain --latest 20 --config guard.yaml"
    )
    parser.add_argument("request_id", nargs="?", metavar="REQUEST_ID", help="request id that the caller quotes")
    parser.add_argument("--latest", type=int, metavar="N", help="list the last N refusals instead")
    add_options(parser)


def run(args: argparse.Namespace) -> int:
    """Exit status 0 when the request was found, 1 when this guard does not remember it."""
    if (args.request_id is None) == (args.latest is None):
        raise ConfigurationError(
            "REQUEST_ID", "missing" if args.latest is None else "beside --latest", "a request id or --latest N"
        )
    guard = guard_of(args)
    if args.latest is not None:
        return _latest(args, guard.get("/refusals", {"limit": args.latest}))
    request_id = args.request_id.strip().upper()
    if _REQUEST_ID.fullmatch(request_id) is None:
        raise ConfigurationError(
            "REQUEST_ID",
            "no request id",
            "26 letters and digits, e.g. 01M828A3TQR5NR7FH71QHGGREY",
            "It is the member 'request_id' of the error body.",
        )
    try:
        refusal = guard.get(f"/refusals/{request_id}")
    except AdminError as error:
        if error.status == 404 and args.json:
            print_json({"request_id": request_id, "found": False})
        raise
    if args.json:
        print_json({"found": True, **refusal})
    else:
        _print(refusal)
    return 0


def _latest(args: argparse.Namespace, answer: dict[str, Any]) -> int:
    if args.json:
        print_json(answer)
        return 0
    rows = [
        (one["request_id"], moment(one["time"]), str(one["status"]), one["code"], one["stage"], one["description"])
        for one in answer["refusals"]
    ]
    if rows:
        print_table(("REQUEST", "WHEN", "STATUS", "CODE", "STAGE", "DESCRIPTION"), rows)
    print(f"{len(rows)} of {answer['remembered']} remembered refusals", file=sys.stderr)
    return 0


def _print(refusal: dict[str, Any]) -> None:
    code = refusal["code"]
    kind = ERROR_KINDS.get(code)
    lines = [
        ("request", refusal["request_id"]),
        ("when", moment(refusal["time"])),
        ("refused by", _DOORS.get(refusal["door"], refusal["door"])),
        ("route", refusal["route"]),
        ("stage", refusal["stage"]),
        ("answer", f"{refusal['status']} {code}"),
        ("because", refusal["description"]),
        ("meaning", kind.meaning if kind else None),
        ("what to do", kind.remedy if kind else None),
        ("decision", refusal["decision_id"]),
    ]
    for name, value in lines:
        if value:
            print(f"{name:11} {value}")
    for reason in _reasons(refusal["reasons"]):
        print(f"{'reason':11} {reason}")
    if refusal["decision_id"]:
        for name, value in next_step(refusal["decision_id"], refusal.get("policy") or {}):
            print(f"{name:11} {value}")


def next_step(decision_id: str, policy: dict[str, Any]) -> list[tuple[str, str]]:
    """How to find the rule: the command with the paths of the running guard, and what must be done before."""
    log, bundle, notes = policy.get("decision_log"), policy.get("bundle"), list[tuple[str, str]]()
    if log is None:
        return [("rule", "no decision log is written to a file: name one under policy.log.file, then ask again")]
    if bundle is None:
        bundle, loaded = "BUNDLE.tar.gz", f"what the OPA server at {policy.get('url')} has loaded"
        notes.append(("bundle", f"BUNDLE.tar.gz is {loaded}"))
    elif policy.get("state_file"):
        # What stands at the source may be a bundle that was refused.
        bundle = policy["state_file"]
    elif "://" in bundle:
        notes.append(("bundle", f"BUNDLE.tar.gz is a copy of {bundle}"))
        bundle = "BUNDLE.tar.gz"
    command = ["zeta-guard", "policy", "explain", decision_id, "--log", log, "--bundle", bundle]
    if policy.get("sealed"):
        command += ["--open-with", "KEY.pem"]
        notes.append(
            ("key", "KEY.pem opens the sealed inputs of the log (the private half of policy.log.sealing_key_file)")
        )
    return [("rule", shlex.join(command)), *notes]


def _reasons(reasons: Any) -> list[str]:
    if isinstance(reasons, dict):
        return [str(words) for words in reasons]
    if isinstance(reasons, list):
        return [str(reason) for reason in reasons]
    return [str(reasons)] if reasons else []
