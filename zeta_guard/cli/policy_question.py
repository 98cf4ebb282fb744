"""Reading a question from a file or standard input, and printing a decision."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from zeta_guard.errors import ConfigurationError, JsonValue
from zeta_guard.http.address import ip_prefixes, parse_address
from zeta_guard.policy.contract import Decision, Question
from zeta_guard.policy.decision_log import result_of

DEFAULT_BUNDLE = "package:demo"


def add_bundle(parser: argparse.ArgumentParser) -> None:
    """``--bundle`` and ``--json``."""
    parser.add_argument(
        "--bundle",
        default=DEFAULT_BUNDLE,
        metavar="BUNDLE",
        help=f"package:NAME, a .tar.gz file, a folder of sources, or a guard's state_file (default: {DEFAULT_BUNDLE})",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def read_question(name: str, given: str | None) -> tuple[Question, dict[str, JsonValue]]:
    """The document of ``name`` (``-`` is standard input) and which question it is. Raises ConfigurationError.

    ``{"input": {…}}`` is unwrapped. Where an address stands without its networks, they are added as the guard would.
    """
    try:
        raw = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        document = json.loads(raw)
    except OSError as error:
        raise ConfigurationError(
            "INPUT", f"{name} ({error.strerror})", "a JSON file, or - for standard input"
        ) from None
    except (ValueError, RecursionError):
        raise ConfigurationError("INPUT", f"{name} is no JSON", "the input document of a question") from None
    if isinstance(document, dict) and isinstance(document.get("input"), dict):
        document = document["input"]
    if not isinstance(document, dict):
        raise ConfigurationError("INPUT", f"{name} is no JSON object", "the input document of a question")
    for section in (document.get("authorization_request"), document.get("request")):
        if isinstance(section, dict) and "ip_prefixes" not in section:
            address = parse_address(str(section.get("ip_address", "")))
            if address is not None:
                section["ip_prefixes"] = list[JsonValue](ip_prefixes(address))
    question: Question = "token"
    if given == "request" or (given is None and "request" in document and "authorization_request" not in document):
        question = "request"
    return question, document


def print_decision(decision: Decision, *, as_json: bool) -> None:
    """The decision, for people or as one JSON object."""
    if as_json:
        print(json.dumps({"revision": decision.revision, **result_of(decision)}, ensure_ascii=False))
        return
    print(f"{'allow' if decision.allow else 'deny'}  (bundle {decision.revision}, {decision.milliseconds:.2f} ms)")
    for reason in decision.reasons:
        print(f"  {reason.code or '-'}: {reason.message}")
    if decision.access_token_ttl is not None:
        print(f"  access token {decision.access_token_ttl} s, refresh token {decision.refresh_token_ttl} s")
    if decision.audience:
        print(f"  audience {', '.join(decision.audience)}")
