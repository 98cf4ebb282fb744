"""``zeta-guard init``: a commented configuration with everything it needs, asking nothing."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.description = (
        "Writes guard.yaml with comments, a secret, a signing key, a self-signed TLS certificate and an empty folder for "
        "trust anchors. Nothing that exists is replaced."
    )
    parser.epilog = "Example: zeta-guard init guard --for vsdm"
    parser.add_argument("directory", type=Path, metavar="DIR", help="folder to write to (made when missing)")
    parser.add_argument(
        "--for",
        dest="purpose",
        choices=("vsdm", "popp", "generic"),
        default="generic",
        help="service that will be protected (default: generic)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Exit status 0 when everything was written, 2 when the folder holds a configuration already."""
    import json

    from zeta_guard.cli.init_folder import write_folder

    written = write_folder(args.directory, args.purpose)
    config = args.directory / "guard.yaml"
    if args.json:
        print(json.dumps({"config_file": str(config), "written": [str(path) for path in written]}))
        return 0
    for path in written:
        print(f"wrote {path}")
    print(f"next: zeta-guard check {config}", file=sys.stderr)
    return 0
