"""``zeta-guard client``: a ZETA client for operators and API teams: get a token, call a URL, smoke-test a guard."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.description = "A ZETA client with a PKCS#12 or PEM identity."
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    token = actions.add_parser("token", help="get an access token", description="Registers and gets tokens.")
    token.epilog = "Example: zeta-guard client token --url https://guard.example.de --p12 smcb.p12 --password-file pw"
    call = actions.add_parser("call", help="call a URL", description="Calls a path through the guard.")
    call.epilog = (
        "Example: zeta-guard client call --url https://guard.example.de --p12 smcb.p12 --password-file pw /path"
    )
    call.add_argument("path", help="path (with query) below --url")
    call.add_argument("--method", default="GET", help="default: GET")
    call.add_argument("--header", action="append", default=[], metavar="'NAME: VALUE'", help="further header")
    call.add_argument("--body", type=Path, metavar="FILE", help="request body")
    call.add_argument("--include", "-i", action="store_true", help="print status and headers too")
    smoke = actions.add_parser(
        "smoke", help="smoke-test a guard", description="Discovers, registers, gets a token, refreshes and calls."
    )
    smoke.epilog = "Example: zeta-guard client smoke --url https://guard.example.de --p12 smcb.p12 --password-file pw"
    smoke.add_argument("--path", default="/", help="path for the call (default: /; only 5xx and 401 are red)")
    for action in (token, call, smoke):
        _common(action)


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", required=True, help="public URL of the guard")
    identity = parser.add_argument_group("identity (one of both)")
    identity.add_argument("--p12", type=Path, metavar="FILE", help="PKCS#12 with the SM(C)-B's AUT key and certificate")
    identity.add_argument("--alias", help="friendly name it must have")
    identity.add_argument("--cert", type=Path, metavar="FILE", help="certificate (PEM or DER)")
    identity.add_argument("--key", type=Path, metavar="FILE", help="private key (PEM or DER)")
    identity.add_argument("--password-file", type=Path, metavar="FILE", help="file with the password")
    parser.add_argument("--ca", type=Path, metavar="FILE", help="CA certificates for the guard's TLS (PEM)")
    parser.add_argument("--scope", action="append", default=[], help="scope to ask for (default: all that are offered)")
    parser.add_argument("--product-id", help="product the client claims to be (default: ZETA-Test-Client)")
    parser.add_argument("--product-version", help="its version (default: 1.0.0)")
    parser.add_argument("--state", type=Path, metavar="FILE", help="keep keys, registration and tokens in this file")
    popp = parser.add_mutually_exclusive_group()
    popp.add_argument("--popp-token", metavar="TOKEN", help="PoPP token, sent as header PoPP")
    popp.add_argument("--popp-token-file", type=Path, metavar="FILE", help="file with the PoPP token")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--verbose", "-v", action="store_true", help="show each exchange on standard error")


def run(args: argparse.Namespace) -> int:
    """Exit status 0 when it went well, 1 when the guard said no or did not answer, 2 for an unusable identity or option."""
    import asyncio

    from zeta_guard.cli.client_action import ACTIONS, UsageError
    from zeta_guard.client.errors import ClientError, IdentityError

    try:
        return asyncio.run(ACTIONS[args.action](args))
    except (UsageError, IdentityError) as error:
        return _say(args, error, 2)
    except ClientError as error:
        return _say(args, error, 1)
    except KeyboardInterrupt:
        return 1


def _say(args: argparse.Namespace, error: Exception, status: int) -> int:
    remedy = getattr(error, "remedy", "")
    if args.json:
        print(json.dumps({"ok": False, "error": str(error), "remedy": remedy}, ensure_ascii=False))
    print(f"zeta-guard client: {error}", file=sys.stderr)
    if remedy:
        print(f"  {remedy}", file=sys.stderr)
    return status
