"""``policy test`` and ``policy eval``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from zeta_guard.cli.policy_question import add_bundle, print_decision, read_question
from zeta_guard.policy.opa_binary import run_opa
from zeta_guard.policy.staging import staged
from zeta_guard.policy.workbench import open_bundle


def configure_test(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``policy test``."""
    parser.add_argument("sources", type=Path, nargs="+", metavar="SRC", help="folder of sources with a .manifest")
    parser.add_argument("--run", metavar="REGEX", help="only tests whose name matches (no coverage then)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.epilog = (
        "Exit status 1 when a test fails or a rule is not covered.\nexample: zeta-guard policy test policies/demo"
    )


def run_test(args: argparse.Namespace) -> int:
    """Format, types, tests, coverage: what CI asks of a bundle, in one command."""
    results = [_test(source, args.run) for source in args.sources]
    if args.json:
        print(json.dumps({"ok": all(each["ok"] for each in results), "bundles": results}))
    else:
        for each in results:
            print(f"{each['bundle']}: {'ok' if each['ok'] else 'NOT ok'}, {each['passed']} tests passed", end="")
            print(f", coverage {each['coverage']} %" if each["coverage"] is not None else "")
            for problem in each["problems"]:
                print(f"  {problem}", file=sys.stderr)
    return 0 if all(each["ok"] for each in results) else 1


def _test(source: Path, pattern: str | None) -> dict[str, Any]:
    problems: list[str] = []
    coverage: float | None = None
    with staged(source, tests=True) as (folder, _):
        unformatted = run_opa(["fmt", "--list", "."], folder=folder)
        problems += [f"{name.decode()}: not formatted, run: opa fmt -w" for name in unformatted.stdout.splitlines()]
        checked = run_opa(["check", "--strict", "."], folder=folder)
        if checked.returncode != 0:
            problems.append(checked.stderr.decode(errors="replace").strip())
            return {"bundle": str(source), "ok": False, "passed": 0, "coverage": None, "problems": problems}
        only = ["--run", pattern] if pattern else []
        tested = run_opa(["test", "--format", "json", "--verbose", *only, "."], folder=folder)
        outcomes = json.loads(tested.stdout or b"[]") or []
        passed = sum(1 for each in outcomes if not any(each.get(flag) for flag in ("fail", "error", "skip")))
        problems += [
            f"{each['location']['file']}:{each['location']['row']}: {each['name']} failed"
            for each in outcomes
            if each.get("fail") or each.get("error")
        ]
        if not pattern and not problems:
            coverage, uncovered = _coverage(folder)
            problems += uncovered
        if passed == 0:
            problems.append("no test has run")
    return {
        "bundle": str(source),
        "ok": not problems,
        "passed": passed,
        "coverage": coverage,
        "problems": problems,
    }


def _coverage(folder: Path) -> tuple[float, list[str]]:
    report = json.loads(run_opa(["test", "--coverage", "--format", "json", "."], folder=folder).stdout)
    uncovered = [
        f"{name}:{rows['start']['row']}: not covered by any test"
        for name, file in sorted(report.get("files", {}).items())
        for rows in file.get("not_covered", [])
    ]
    return float(report.get("coverage", 0)), uncovered


def configure_eval(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``policy eval``."""
    parser.add_argument("input", metavar="INPUT", help="JSON file with the input document, - for standard input")
    parser.add_argument("--question", choices=("token", "request"), help="default: by the document's members")
    add_bundle(parser)
    parser.epilog = (
        "Exit status 1 when the policy denies.\nexample: zeta-guard policy eval question.json --bundle policies/demo"
    )


def run_eval(args: argparse.Namespace) -> int:
    """Ask one question."""
    question, document = read_question(args.input, args.question)
    decision = open_bundle(args.bundle).decide(question, document)
    print_decision(decision, as_json=args.json)
    return 0 if decision.allow else 1
