"""``policy shadow``: what would change if the shadow policy decided, from the running guard or from a decision log."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zeta_guard.cli.admin_client import AdminError, add_json, add_place, guard_of
from zeta_guard.cli.admin_output import moment, print_json, printable
from zeta_guard.errors import ConfigurationError, JsonValue

_SHOWN = 50
_LONGEST_LINE = 8 * 1024 * 1024


@dataclass(slots=True)
class _Figures:
    """Decisions by difference; and difference, rule and product of every change. ``facts`` only of a running guard."""

    differences: Counter[str] = field(default_factory=Counter)
    rules: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    facts: dict[str, Any] = field(default_factory=dict)


def configure_shadow(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``policy shadow``."""
    where = parser.add_mutually_exclusive_group()
    add_place(where)
    where.add_argument("--log", type=Path, metavar="FILE", help="instead: decision log of a guard with a shadow policy")
    parser.add_argument("--revision", help="only answers of this shadow revision (with --log)")
    add_json(parser)
    parser.epilog = (
        "The running guard tells what it has compared since candidate, active bundle or configuration last changed; a decision log\n"
        "goes back further, and holds what all guards wrote to it. Exit status 1 when the shadow would change anything.\n"
        "examples:\n"
        "  zeta-guard policy shadow --config guard.yaml\n"
        "  zeta-guard policy shadow --log decisions.jsonl"
    )


def run_shadow(args: argparse.Namespace) -> int:
    """Show the differences by rule and product."""
    if args.log is not None:
        figures = _of_log(args.log, args.revision)
        nothing = "the log holds no answers of a shadow policy"
    else:
        if args.revision is not None:
            raise ConfigurationError("--revision", "without --log", "--revision together with --log FILE")
        figures = _of_guard(args)
        nothing = f"the shadow policy {figures.facts['revision']} was asked nothing yet"
    if args.json:
        print_json(_as_json(figures))
    else:
        _print(figures, nothing)
    return 1 if set(figures.differences) - {"same", "skipped"} else 0


def _of_guard(args: argparse.Namespace) -> _Figures:
    if args.socket is None and args.config is None:
        raise ConfigurationError(
            "--config", "missing", "--config FILE or --socket PATH of a running guard, or --log FILE"
        )
    shadow: dict[str, Any] | None = guard_of(args).get("/shadow")["shadow"]
    if shadow is None:
        raise AdminError(
            "this guard has no shadow policy", "Name the candidate under policy.shadow; a reload takes it over."
        )
    figures = _Figures(Counter(shadow["counts"]))
    for each in shadow["differences"]:
        figures.rules[each["difference"], each["rule"] or "-", each["product"]] += each["count"]
    figures.facts = {name: shadow[name] for name in ("revision", "active_revision", "since", "asked")}
    return figures


def _of_log(log: Path, revision: str | None) -> _Figures:
    figures = _Figures()
    for event in _events(log):
        shadow = event.get("shadow")
        if not isinstance(shadow, dict) or revision not in (None, shadow.get("revision")):
            continue
        found = str(shadow.get("difference"))
        figures.differences[found] += 1
        if found != "same":
            reasons = shadow.get("reasons")
            candidate = {str(reason) for reason in reasons} if isinstance(reasons, list) else set[str]()
            for rule in sorted(_codes(event.get("result")) ^ candidate) or ["-"]:
                figures.rules[found, rule, _product(event.get("input"))] += 1
    return figures


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


def _as_json(figures: _Figures) -> dict[str, JsonValue]:
    return {
        **figures.facts,
        "differences": dict(figures.differences),
        "rules": [
            {"difference": found, "rule": rule, "product": product, "count": count}
            for (found, rule, product), count in figures.rules.most_common()
        ],
    }


def _print(figures: _Figures, nothing: str) -> None:
    counts = figures.differences
    if figures.facts:
        facts = figures.facts
        print(f"{facts['revision']} beside {facts['active_revision'] or '-'}, since {moment(facts['since'])}")
    if not counts:
        print(nothing)
        return
    print(
        f"would newly deny {counts['newly_deny']}, newly allow {counts['newly_allow']}, "
        f"change otherwise {sum(counts[name] for name in ('reasons', 'lifetimes', 'audience'))}, "
        f"not answer {counts['no_answer']}, decide the same {counts['same']}"
    )
    if counts["skipped"]:
        print(f"not asked {counts['skipped']}: too many answers were outstanding")
    for (found, rule, product), count in figures.rules.most_common(_SHOWN):
        print(f"{count:>8}  {found} by {printable(rule)}  {printable(product)}".rstrip())
    if len(figures.rules) > _SHOWN:
        print(f"          … and {len(figures.rules) - _SHOWN} more; all with --json")
