"""``zeta-guard audit``: proves the audit record, offline."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zeta_guard.cli.admin_output import count, print_json
from zeta_guard.errors import ConfigurationError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

    from zeta_guard.telemetry.audit_verification import Verification

_LARGEST_KEY = 64 * 1024


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.description = "Proves the audit record."
    parser.epilog = "Example: zeta-guard audit verify /var/lib/zeta-guard/audit --key audit-public.pem"
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    verify = actions.add_parser(
        "verify",
        help="prove that nothing was rewritten, reordered or cut out",
        description=(
            "Proves that no line was rewritten, reordered or cut out. Cutting the end off is found only against the "
            "checkpoints that the security log kept (--checkpoints)."
        ),
    )
    verify.epilog = "Example: zeta-guard audit verify audit/*.jsonl --key audit-public.pem --checkpoints security.log"
    verify.add_argument("files", nargs="+", type=Path, metavar="FILE", help="audit files, or folders of them")
    verify.add_argument(
        "--key", type=Path, required=True, metavar="PEM", help="public key (or certificate) of audit.signing_key_file"
    )
    verify.add_argument(
        "--checkpoints",
        type=Path,
        action="append",
        default=[],
        metavar="LOG",
        help="JSON log with audit_checkpoint lines",
    )
    verify.add_argument(
        "--secret",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="secret file: checks each line's MAC, too",
    )
    verify.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Exit status 0 when the record holds, 1 when it does not, 2 for an unusable key or no file."""
    from zeta_guard.telemetry.audit_verification import verify

    key = _public_key(args.key)
    secrets = None
    if args.secret:
        from zeta_guard.jose.sealing import Secrets

        secrets = Secrets.load(args.secret)
    kept = [checkpoint for log in args.checkpoints for checkpoint in _checkpoints(log)]
    if args.checkpoints and not kept:
        raise ConfigurationError("--checkpoints", "no audit_checkpoint line", "a log in JSON with such lines")
    files = _files(args.files)
    result = verify(files, key, checkpoints=kept, secrets=secrets)
    if args.json:
        print_json(
            {
                "ok": result.ok,
                "files": len(files),
                "records": result.records,
                "checkpoints": result.checkpoints,
                "unproven": result.unproven,
                "open_writers": list(result.open_writers),
                "problems": [
                    {"place": problem.place, "line": problem.line, "what": problem.what} for problem in result.problems
                ],
            }
        )
    else:
        _print(result, len(files))
    return 0 if result.ok else 1


def _print(result: Verification, files: int) -> None:
    for problem in result.problems:
        line = f", line {problem.line}" if problem.line else ""
        print(f"{problem.place}{line}: {problem.what}")
    verdict = (
        "the record holds" if result.ok else f"the record is broken in {count(len(result.problems), 'place', 'places')}"
    )
    print(
        f"{verdict}: {count(result.records, 'record', 'records')} and "
        f"{count(result.checkpoints, 'signed checkpoint', 'signed checkpoints')} in {count(files, 'file', 'files')}"
    )
    if result.unproven:
        print(f"{count(result.unproven, 'record stands', 'records stand')} after the last checkpoint of their chain")
    for writer in result.open_writers:
        print(
            f"{writer}: no final checkpoint; the process still runs, crashed, or its end was cut off", file=sys.stderr
        )


def _files(named: list[Path]) -> list[Path]:
    files: list[Path] = []
    for path in named:
        if path.is_dir():
            found = sorted(path.glob("audit-*.jsonl"))
            if not found:
                raise ConfigurationError("FILE", f"{path} holds no audit-*.jsonl", "a folder of audit files")
            files += found
        elif path.is_file():
            files.append(path)
        else:
            raise ConfigurationError("FILE", f"no file {path}", "audit files, or folders of them")
    return files


def _public_key(path: Path) -> ec.EllipticCurvePublicKey:
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        with path.open("rb") as opened:
            raw = opened.read(_LARGEST_KEY)
    except OSError as error:
        raise ConfigurationError("--key", f"{path} cannot be read ({error.strerror})", "a PEM file") from None
    key: object = None
    try:
        if b"BEGIN CERTIFICATE" in raw:
            key = x509.load_pem_x509_certificate(raw).public_key()
        else:
            key = serialization.load_pem_public_key(raw)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigurationError(
            "--key",
            f"{path.name} holds no public key on P-256",
            "the public key of audit.signing_key_file (PEM), or a certificate with it",
            f"Make it where the private key is: openssl pkey -in KEY -pubout -out {path.name}",
        )
    return key


def _checkpoints(path: Path) -> list[dict[str, Any]]:
    kept: list[dict[str, Any]] = []
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if "audit_checkpoint" not in line:
                    continue
                try:
                    document = json.loads(line)
                except ValueError:
                    continue
                if isinstance(document, dict) and document.get("event") == "audit_checkpoint":
                    # In a log line the name belongs to the line's own time.
                    kept.append({**document, "time": document.get("time_", document.get("time"))})
    except OSError as error:
        raise ConfigurationError("--checkpoints", f"{path} cannot be read ({error.strerror})", "a log file") from None
    return kept
