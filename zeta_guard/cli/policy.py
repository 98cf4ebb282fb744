"""``zeta-guard policy …``: build, sign and verify bundles; test, ask, explain and compare them."""

from __future__ import annotations

import argparse
from importlib import import_module

ACTIONS = {
    "test": ("policy_ask", "run the tests beside the rules, with coverage"),
    "eval": ("policy_ask", "ask a bundle one question"),
    "explain": ("policy_explain", "which rule said no, where it stands, what it saw"),
    "replay": ("policy_compare", "what a candidate would have decided about recorded questions"),
    "diff": ("policy_compare", "what changed between two bundles"),
    "build": ("policy_build", "compile sources to a bundle for the embedded engine, and sign it"),
    "sign": ("policy_build", "sign a built bundle"),
    "verify": ("policy_build", "verify signatures and print what a bundle is"),
    "shadow": ("policy_shadow", "what would change if the shadow policy decided"),
}

_EXAMPLES = """\
examples:
  zeta-guard policy test policies/demo
  zeta-guard policy explain question.json --bundle policies/demo
  zeta-guard policy build policies/demo --output demo.tar.gz --sign key.pem --key-id operator
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the actions; each configures itself."""
    parser.epilog = _EXAMPLES
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, (module, summary) in ACTIONS.items():
        action = actions.add_parser(
            name, help=summary, description=summary, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        getattr(import_module(f"zeta_guard.cli.{module}"), f"configure_{name}")(action)


def run(args: argparse.Namespace) -> int:
    """Run the action. 0 as it should be, 1 the answer is no, 2 wrong usage (raised as ConfigurationError)."""
    module, _ = ACTIONS[args.action]
    return int(getattr(import_module(f"zeta_guard.cli.{module}"), f"run_{args.action}")(args))
