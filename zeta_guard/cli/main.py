"""``zeta-guard``: finds the subcommand, runs it, turns errors into words and exit statuses (``surface`` section 1).

Exit status: 0 it is as it should be; 1 it ran and the answer is no; 2 wrong usage or configuration.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from zeta_guard import __version__
from zeta_guard.errors import ConfigurationError, ConfigurationErrors, GuardError

COMMANDS = {
    "demo": "play the whole story on loopback and print it",
    "init": "write a commented configuration that starts",
    "check": "name every mistake of a configuration, with path, value and remedy",
    "serve": "run the guard",
    "config": "print the JSON Schema of the configuration, or what a running guard has in force",
    "client": "a ZETA client: get a token, call a URL, smoke-test a guard",
    "policy": "test, explain, build, sign and compare policy bundles",
    "sessions": "list and end sessions",
    "clients": "list the clients of an institution",
    "keys": "list and rotate signing keys",
    "block": "block an institution, client or product at once",
    "explain": "from a request id to the reason, stage and decision",
    "audit": "prove the audit chain",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; never a traceback for what a user can cause."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="zeta-guard",
        description="Zero Trust gateway for the German health network.",
        epilog="Example: zeta-guard demo    (every command has --help with an example of its own)",
    )
    parser.add_argument("--version", action="version", version=f"zeta-guard {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    wanted = next((word for word in arguments if not word.startswith("-")), None)
    runners = {}
    for name, summary in COMMANDS.items():
        module_name = f"zeta_guard.cli.{name}"
        if find_spec(module_name) is None:
            continue
        subparser = subparsers.add_parser(
            name, help=summary, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
        )
        if name == wanted:  # only the wanted command is imported: the others' imports cost start time
            module = import_module(module_name)
            module.configure(subparser)
            runners[name] = module.run
    args = parser.parse_args(arguments)
    if args.command is None:
        parser.print_help()
        return 2
    try:
        return int(runners[args.command](args))
    except ConfigurationErrors as errors:
        for error in errors.errors:
            print_configuration_error(error)
        return 2
    except ConfigurationError as error:
        print_configuration_error(error)
        return 2
    except GuardError as error:
        print(f"zeta-guard {args.command}: {error}", file=sys.stderr)
        if error.remedy:
            print(f"  what to do: {error.remedy}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read the output has enough; the interpreter's own flush at exit must not complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # noqa: BLE001 - the outermost edge
        print(f"zeta-guard {args.command}: a defect of this program: {_place(error)}", file=sys.stderr)
        print("  what to do: please report it with this line; nothing of your input is in it", file=sys.stderr)
        return 1


def _place(error: BaseException) -> str:
    """Type and place, never the message: it may quote a secret."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return type(error).__name__ + where


def print_configuration_error(error: ConfigurationError) -> None:
    """Path, value seen, what is allowed, what to do."""
    print(f"{error.path}: {error.seen}", file=sys.stderr)
    print(f"  expected: {error.expected}", file=sys.stderr)
    if error.remedy:
        print(f"  what to do: {error.remedy}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
