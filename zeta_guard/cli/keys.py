"""``zeta-guard keys``: the signing keys of the authorization server, through the socket or in their folder."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from zeta_guard.cli.admin_client import add_json, add_place, guard_of
from zeta_guard.cli.admin_output import duration, moment, print_json, print_table

_USUAL_LEAD = 660


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.description = (
        "Lists the signing keys and writes the next one. A new key is shown in the JWKS before it signs; former ones stay "
        "until their last token has died. With --directory no guard is needed: running ones find the new file themselves."
    )
    parser.epilog = (
        "Examples:\n"
        "  zeta-guard keys list --config guard.yaml\n"
        "  zeta-guard keys rotate --config guard.yaml\n"
        "  zeta-guard keys rotate --directory /etc/zeta-guard/signing-keys"
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    lists = actions.add_parser("list", help="list signing keys", description="Lists signing keys, earliest first.")
    lists.epilog = "Example: zeta-guard keys list --config guard.yaml"
    rotate = actions.add_parser(
        "rotate", help="write the next signing key", description="Writes the next signing key, mode 0600, in one step."
    )
    rotate.epilog = "Example: zeta-guard keys rotate --directory /etc/zeta-guard/signing-keys"
    rotate.add_argument(
        "--lead",
        type=duration,
        metavar="DURATION",
        help="with --directory: time until it signs, at least twice the JWKS's max-age (default: 11m)",
    )
    for action in (lists, rotate):
        where = action.add_mutually_exclusive_group()
        add_place(where)
        where.add_argument("--directory", type=Path, metavar="DIR", help="the folder itself; needs no running guard")
        action.add_argument(
            "--password-file",
            type=Path,
            metavar="FILE",
            help="with --directory: password of its PKCS#12 files; a new key is written as PKCS#12 then",
        )
        add_json(action)


def run(args: argparse.Namespace) -> int:
    """Exit status 0; 1 when the guard said no; 2 for a folder that cannot be used."""
    return _list(args) if args.action == "list" else _rotate(args)


def _list(args: argparse.Namespace) -> int:
    _check_usage(args)
    if args.directory is not None:
        keys = _entries(args.directory, args.password_file)
    else:
        keys = guard_of(args).get("/keys")["keys"]
    if args.json:
        print_json({"keys": keys})
        return 0
    rows = [(key["kid"], key["state"], moment(key["signs_from"]), moment(key["until"]), key["file"]) for key in keys]
    print_table(("KID", "STATE", "SIGNS FROM", "SHOWN UNTIL", "FILE"), rows)
    return 0


def _check_usage(args: argparse.Namespace) -> None:
    from zeta_guard.errors import ConfigurationError

    for option in ("lead", "password_file"):
        if args.directory is None and getattr(args, option, None) is not None:
            name = f"--{option.replace('_', '-')}"
            raise ConfigurationError(name, "without --directory", "a running guard knows it", "Leave it out.")


def _entries(directory: Path, password_file: Path | None) -> list[dict[str, Any]]:
    from zeta_guard.authorization_server.signing_keys import SigningKeys

    now = time.time()
    keys = SigningKeys(directory, password_file=password_file)
    keys.start(now)
    return [
        {"kid": key.kid, "file": key.file, "state": key.state.value, "signs_from": key.signs_from, "until": key.until}
        for key in keys.entries(now)
    ]


def _rotate(args: argparse.Namespace) -> int:
    _check_usage(args)
    if args.directory is not None:
        from zeta_guard.authorization_server.key_folder import KEY_SUFFIXES, read_keys, rotate
        from zeta_guard.authorization_server.pkcs12_key import read_key_password

        password = read_key_password(args.password_file)
        if args.directory.exists() and any(file.suffix in KEY_SUFFIXES for file in args.directory.iterdir()):
            # A key beside one that no guard can read would never be used.
            read_keys(args.directory, password)
        written = rotate(args.directory, time.time(), lead=args.lead or _USUAL_LEAD, password=password)
        answer: dict[str, Any] = {"kid": written.kid, "file": written.path.name, "signs_from": written.not_before}
    else:
        answer = guard_of(args).post("/keys/rotate", {})
    if args.json:
        print_json(answer)
    else:
        print(f"wrote {answer['file']}: key {answer['kid']} signs from {moment(answer['signs_from'])}")
    return 0
