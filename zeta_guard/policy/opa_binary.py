"""The ``opa`` program, which compiles, tests and explains Rego. Only policy authors need it; the guard never runs it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from zeta_guard.errors import ConfigurationError

ENVIRONMENT = "ZETA_GUARD_OPA"
"""Names the program when it is not on the PATH."""


def find_opa() -> Path:
    """Path of the program. Raises ConfigurationError that says how to get it."""
    named = os.environ.get(ENVIRONMENT)
    found = shutil.which(named or "opa")
    if found is None:
        raise ConfigurationError(
            ENVIRONMENT if named else "opa",
            f"{named!r} is no program" if named else "the program is not on the PATH",
            "the opa program, 1.0 or later",
            "Get it from https://www.openpolicyagent.org/docs#1-download-opa, put it on the PATH or name it in "
            f"the environment variable {ENVIRONMENT}. Only those who edit policies need it.",
        )
    return Path(found)


def run_opa(
    arguments: Sequence[str], *, folder: Path, stdin: bytes = b"", environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run it in ``folder`` and capture everything; at most 120 s."""
    return subprocess.run(  # noqa: S603
        [str(find_opa()), *arguments],
        cwd=folder,
        input=stdin,
        capture_output=True,
        check=False,
        timeout=120,
        env={**os.environ, **(environment or {})},
    )
