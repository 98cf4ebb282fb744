"""``policy shadow``: what would change if the shadow policy decided, from the decision log."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

from zeta_guard.errors import ConfigurationError, JsonValue

_SHOWN = 50
_LONGEST_LINE = 8 * 1024 * 1024


def configure_shadow(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``policy shadow``."""
    parser.add_argument(
        "--log", type=Path, required=True, metavar="FILE", help="decision log of a guard with a shadow policy"
    )
    parser.add_argument("--revision", help="only answers of this shadow revision")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.epilog = (
        "Exit status 1 when the shadow would change anything.\nexample: zeta-guard policy shadow --log decisions.jsonl"
    )


def run_shadow(args: argparse.Namespace) -> int:
    """Count the differences by rule and product."""
    differences: Counter[str] = Counter()
    rules: Counter[tuple[str, str, str]] = Counter()
    for event in _events(args.log):
        shadow = event.get("shadow")
        if not isinstance(shadow, dict) or args.revision not in (None, shadow.get("revision")):
            continue
        found = str(shadow.get("difference"))
        differences[found] += 1
        if found != "same":
            for rule in sorted(_codes(event.get("result")) ^ set(map(str, shadow.get("reasons", [])))) or ["-"]:
                rules[found, rule, _product(event.get("input"))] += 1
    if args.json:
        print(json.dumps(_as_json(differences, rules), ensure_ascii=False))
    else:
        _print(differences, rules)
    return 1 if any(name != "same" for name in differences) else 0


def _events(log: Path) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    try:
        with log.open("rb") as stream:
            for raw in stream:
                if len(raw) > _LONGEST_LINE:
                    continue
                try:
                    event = json.loads(raw)
                except (ValueError, RecursionError):
                    continue
                if isinstance(event, dict) and "shadow" in event:
                    found.append({name: event.get(name) for name in ("shadow", "result", "input")})
    except OSError as error:
        raise ConfigurationError(
            "--log", f"{log} ({error.strerror})", "a decision log, one JSON object per line"
        ) from None
    return found


def _codes(result: object) -> set[str]:
    reasons = result.get("reasons", []) if isinstance(result, dict) else []
    if not isinstance(reasons, list):
        return set()
    return {str(each.get("code") or each.get("message")) for each in reasons if isinstance(each, dict)}


def _product(document: object) -> str:
    for name in ("client_registration_data", "client"):
        section = document.get(name) if isinstance(document, dict) else None
        if isinstance(section, dict):
            return f"{section.get('product_id', '')} {section.get('product_version', '')}".strip()
    return ""


def _as_json(differences: Counter[str], rules: Counter[tuple[str, str, str]]) -> dict[str, JsonValue]:
    return {
        "differences": dict(differences),
        "rules": [
            {"difference": found, "rule": rule, "product": product, "count": count}
            for (found, rule, product), count in rules.most_common()
        ],
    }


def _print(differences: Counter[str], rules: Counter[tuple[str, str, str]]) -> None:
    if not differences:
        print("the log holds no answers of a shadow policy")
        return
    print(
        f"would newly deny {differences['newly_deny']}, newly allow {differences['newly_allow']}, "
        f"change otherwise {sum(differences[name] for name in ('reasons', 'lifetimes', 'audience'))}, "
        f"not answer {differences['no_answer']}, decide the same {differences['same']}"
    )
    for (found, rule, product), count in rules.most_common(_SHOWN):
        print(f"{count:>8}  {found} by {rule}  {product}")
