"""``policy explain``: why the policy says no, for an input or for a decision of the log."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from zeta_guard.cli.policy_question import add_bundle, read_question
from zeta_guard.errors import ConfigurationError
from zeta_guard.policy.explain import ExplainedReason, Explanation, explain, explain_recorded
from zeta_guard.policy.recorded import Recorded, read_log
from zeta_guard.policy.sealed_input import load_opening_key
from zeta_guard.policy.workbench import Workbench, open_bundle


def configure_explain(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``policy explain``."""
    parser.add_argument(
        "input", metavar="INPUT", help="JSON file with an input, - for standard input, or with --log an id"
    )
    parser.add_argument(
        "--log", type=Path, metavar="FILE", help="decision log; INPUT is a decision_id or request id in it"
    )
    parser.add_argument("--open-with", type=Path, metavar="KEY", help="PEM private key that opens sealed inputs")
    parser.add_argument("--question", choices=("token", "request"), help="default: by the document's members")
    add_bundle(parser)
    parser.epilog = (
        "Exit status 1 when the policy denies.\n"
        "examples:\n"
        "  zeta-guard policy explain question.json --bundle policies/demo\n"
        "  zeta-guard policy explain 2f1c… --log decisions.jsonl --bundle active.tar.gz"
    )


def run_explain(args: argparse.Namespace) -> int:
    """Explain to people, or with ``--json`` to scripts."""
    workbench = open_bundle(args.bundle)
    notes: list[str] = []
    explanation = _explanation(args, workbench, notes)
    if not explanation.decision.allow and not explanation.traced:
        notes.append("opa is not at hand: rules are named, the values they saw are not")
    if args.json:
        print(json.dumps({**explanation.as_json(), "notes": notes}, ensure_ascii=False))
    else:
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
        _print(explanation)
    return 0 if explanation.decision.allow else 1


def _explanation(args: argparse.Namespace, workbench: Workbench, notes: list[str]) -> Explanation:
    if args.log is None:
        return explain(workbench, *read_question(args.input, args.question))
    recorded = _find(args)
    explanation = explain_recorded(workbench, recorded)
    if recorded.decision is not None:
        if recorded.decision.revision != workbench.evaluator.policy.revision:
            notes.append(
                f"the recorded decision was made by revision {recorded.decision.revision or '-'}: "
                "explain it with that bundle to see its rules"
            )
        codes = ", ".join(reason.code or reason.message for reason in recorded.decision.reasons)
        notes.append(f"recorded: {'allow' if recorded.decision.allow else f'deny ({codes})'} at {recorded.time}")
    if explanation.hidden:
        notes.append(
            f"the log masks what the rules read ({', '.join(explanation.hidden)}); "
            "a log with sealed inputs is opened with --open-with"
        )
    if explanation.doubtful:
        codes = ", ".join(reason.code or reason.message for reason in explanation.doubtful)
        why = "of the mask" if explanation.decision is recorded.decision else "of the mask, or of the other bundle"
        notes.append(f"not recorded then, only seen now because {why}: {codes}")
    return explanation


def _find(args: argparse.Namespace) -> Recorded:
    key = load_opening_key(args.open_with) if args.open_with is not None else None
    for line in read_log(args.log, key=key):
        if isinstance(line, Recorded) and args.input in (line.decision_id, line.request_id) and args.input:
            return line
    raise ConfigurationError("INPUT", f"{args.input!r} is not in {args.log}", "a decision_id or request id of that log")


def _print(explanation: Explanation) -> None:
    decision = explanation.decision
    if decision.allow:
        print(f"allow (bundle {decision.revision}): no rule has a reason against it")
        return
    print(f"deny (bundle {decision.revision}):")
    for each in explanation.reasons:
        _print_reason(each)
        if explanation.hidden and explanation.traced and each.source is not None and not each.seen:
            print("    what it saw is masked in the log")
    if not explanation.reasons:
        print("  the policy names no reason")


def _print_reason(each: ExplainedReason) -> None:
    spec = f"  [{each.reason.spec}]" if each.reason.spec else ""
    print(f"  {each.reason.code or '-'}: {each.reason.message}{spec}")
    if each.source is None:
        print("    the bundle does not say which rule this is")
        return
    print(
        f"    rule {each.source.file}:{each.source.line}"
        + (f": {each.source.description}" if each.source.description else "")
    )
    for seen in each.seen:
        values = ", ".join(f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in seen.values.items())
        print(f"    {'did not hold' if seen.failed else 'held'}: {seen.file}:{seen.line}: {seen.source}")
        if values:
            print(f"      saw {values}")
