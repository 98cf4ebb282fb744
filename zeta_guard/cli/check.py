"""``zeta-guard check``: names every mistake of a configuration, with path, value and remedy."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zeta_guard.cli.checking.finding import Findings


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.description = (
        "Validates everything that can be known without serving: schema, rules, files, keys, routes, bundles, trust anchors. "
        "Status 0: it can be served; 1: something could not be reached (or, with --strict, is left to do); 2: mistakes."
    )
    parser.epilog = "Example: zeta-guard check guard.yaml --connect"
    parser.add_argument("file", type=Path, metavar="FILE", help="configuration (YAML)")
    parser.add_argument(
        "--connect", action="store_true", help="also try the store, policy engine, OCSP hosts, issuers and upstreams"
    )
    parser.add_argument("--strict", action="store_true", help="status 1 while anything is left to do")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """See :func:`configure` for the exit status."""
    import asyncio
    import logging

    # What rooms log while they load stands in the findings already.
    logging.disable(logging.CRITICAL)
    try:
        findings = asyncio.run(_check(args.file, connect=args.connect))
    finally:
        logging.disable(logging.NOTSET)
    status = findings.status
    if status == 0 and args.strict and findings.to_do:
        status = 1
    if args.json:
        print(json.dumps({"file": str(args.file), **findings.document(), "ok": status == 0}, ensure_ascii=False))
    else:
        _print(args.file, findings)
    return status


async def _check(file: Path, *, connect: bool) -> Findings:
    from zeta_guard.cli.checking.connections import try_connections
    from zeta_guard.cli.checking.finding import Findings
    from zeta_guard.cli.checking.rooms import check_rooms
    from zeta_guard.cli.checking.tls import tls_notices
    from zeta_guard.cli.checking.to_do import to_do
    from zeta_guard.config.files import file_mistakes, file_notices
    from zeta_guard.config.guard import GuardConfig
    from zeta_guard.config.load import load_config
    from zeta_guard.config.rules import notices

    findings = Findings()
    loaded: list[GuardConfig] = []
    if not findings.attempt(lambda: loaded.append(load_config(file))):
        return findings
    config = loaded[0]
    findings.add(file_mistakes(config))
    await check_rooms(config, findings, connect=connect)
    findings.to_do = to_do(config)
    findings.notices = [*notices(config), *tls_notices(config), *file_notices(config)]
    if connect and not findings.mistakes:
        print("trying connections …", file=sys.stderr)
        findings.connections = await try_connections(config)
    return findings


def _print(file: Path, findings: Findings) -> None:
    for mistake in findings.mistakes:
        print(f"{mistake.path}: {mistake.seen}")
        print(f"  expected: {mistake.expected}")
        if mistake.remedy:
            print(f"  what to do: {mistake.remedy}")
    for title, notes in (("still to fill in", findings.to_do), ("worth a look", findings.notices)):
        if notes:
            print(f"{title}:")
        for note in notes:
            print(f"  {note.path}: {note.text}")
            if note.remedy:
                print(f"    what to do: {note.remedy}")
    for connection in findings.connections:
        print(f"{'reached    ' if connection.ok else 'NOT REACHED'}  {connection.name}" + _detail(connection.detail))
    count = len(findings.mistakes)
    if count:
        print(f"{file}: {count} mistake{'' if count == 1 else 's'}")
    elif findings.status:
        print(f"{file}: valid, but not everything can be reached from here")
    else:
        print(f"{file}: valid" + (", with things still to fill in" if findings.to_do else ""))


def _detail(text: str) -> str:
    return f": {text}" if text else ""
