"""``policy replay`` and ``policy diff``: what a change does before it bites."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from zeta_guard.errors import JsonValue
from zeta_guard.policy.comparison import Comparison, DataChange, compare
from zeta_guard.policy.recorded import read_log
from zeta_guard.policy.replay import Replay, replay
from zeta_guard.policy.sealed_input import load_opening_key
from zeta_guard.policy.workbench import open_bundle

_SHOWN = 20

_WORDS = {
    "same": "decided as before",
    "newly_deny": "would newly be denied",
    "newly_allow": "would newly be allowed",
    "reasons": "denied for other reasons",
    "lifetimes": "allowed with other lifetimes",
    "audience": "allowed for another audience",
    "newly_answered": "had no answer and would have one",
    "no_answer": "would have no answer",
    "undecidable": "undecidable: the log masks what the candidate reads",
    "unreadable": "no decision could be read",
}


def configure_replay(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``policy replay``."""
    parser.add_argument("log", type=Path, metavar="LOG", help="decision log, one JSON object per line")
    parser.add_argument(
        "--bundle", required=True, metavar="NEW", help="the candidate: package:NAME, .tar.gz or sources"
    )
    parser.add_argument("--open-with", type=Path, metavar="KEY", help="PEM private key that opens sealed inputs")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.epilog = "Exit status 1 when anything would change or cannot be told.\nexample: zeta-guard policy replay decisions.jsonl --bundle policies/demo"


def run_replay(args: argparse.Namespace) -> int:
    """Ask the candidate everything that was asked."""
    key = load_opening_key(args.open_with) if args.open_with is not None else None
    outcome = replay(read_log(args.log, key=key), open_bundle(args.bundle))
    if args.json:
        print(json.dumps(outcome.as_json(), ensure_ascii=False))
    else:
        _print_replay(outcome)
    return 0 if outcome.unchanged else 1


def _print_replay(outcome: Replay) -> None:
    for name, words in _WORDS.items():
        if outcome.counts[name]:
            print(f"{outcome.counts[name]:>8}  {words}")
    for (found, rule), count in outcome.rules.most_common(_SHOWN):
        print(f"{count:>8}  {found} by {rule}")
    for member, count in outcome.hidden.most_common(_SHOWN):
        print(f"{count:>8}  masked: {member}  (open the sealed inputs with --open-with)")
    if outcome.apparent:
        print("of the undecidable, if no masked address or institution is on a list:")
        for name, count in outcome.apparent.most_common():
            print(f"{count:>8}  {_WORDS[name]}")
        for (found, rule), count in outcome.apparent_rules.most_common(_SHOWN):
            print(f"{count:>8}  {found} by {rule}")
    for example in outcome.examples[:_SHOWN]:
        print(
            f"  line {example['line']}: "
            + json.dumps({k: v for k, v in example.items() if k != "line"}, ensure_ascii=False)
        )
    if not outcome.counts:
        print("the log holds no decisions")


def configure_diff(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``policy diff``."""
    parser.add_argument("before", metavar="A", help="package:NAME, .tar.gz or sources")
    parser.add_argument("after", metavar="B", help="the same")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.epilog = "Exit status 1 when they differ.\nexample: zeta-guard policy diff package:demo policies/demo"


def run_diff(args: argparse.Namespace) -> int:
    """Data entry by entry, rules by file and reason."""
    found = compare(open_bundle(args.before).bundle, open_bundle(args.after).bundle)
    if args.json:
        print(json.dumps(_diff_json(found), ensure_ascii=False))
    else:
        _print_diff(found)
    return 0 if found.equal else 1


def _diff_json(found: Comparison) -> dict[str, JsonValue]:
    return {
        "equal": found.equal,
        "revisions": list[JsonValue](found.revisions),
        "data": [
            {"path": list[JsonValue](each.path), "kind": each.kind, "before": each.before, "after": each.after}
            for each in found.data
        ],
        "files": dict(found.files),
        "reasons": dict(found.reasons),
    }


def _print_diff(found: Comparison) -> None:
    print(f"revision {found.revisions[0] or '-'} -> {found.revisions[1] or '-'}")
    for name, kind in found.files.items():
        print(f"  rules {kind}: {name}")
    for code, kind in found.reasons.items():
        print(f"  reason {kind}: {code}")
    for each in found.data[: _SHOWN * 5]:
        print(f"  data {each.kind}: {_change(each)}")
    if len(found.data) > _SHOWN * 5:
        print(f"  … and {len(found.data) - _SHOWN * 5} more entries")
    if found.equal:
        print("  no difference in rules and data")


def _change(each: DataChange) -> str:
    before, after = (json.dumps(value, ensure_ascii=False)[:120] for value in (each.before, each.after))
    values = {"added": after, "removed": before, "changed": f"{before} -> {after}"}[each.kind]
    return f"{'/'.join(each.path)}: {values}"
