"""Which reason code comes from which file and line: read from the METADATA of the rules by ``opa inspect``.

A rule names its codes in METADATA, ``custom.reasons``: code → what it means. The line is that of the first literal of the
code below that METADATA.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from zeta_guard.errors import JsonValue
from zeta_guard.policy.bundle import BundleError
from zeta_guard.policy.opa_binary import run_opa

_CODE = re.compile(r'"code"\s*:\s*"([A-Za-z0-9_.-]{1,64})"')


def reason_table(folder: Path) -> list[dict[str, JsonValue]]:
    """``[{"code", "file", "line", "description"}]`` for every literal ``"code": "…"`` in the sources of ``folder``."""
    meaning = _meanings(folder)
    table: list[dict[str, JsonValue]] = []
    for path in sorted(folder.rglob("*.rego")):
        name = path.relative_to(folder).as_posix()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            table.extend(
                {"code": code, "file": name, "line": number, "description": meaning.get((name, code), "")}
                for code in _CODE.findall(line.split("#", 1)[0])
            )
    return table


def _meanings(folder: Path) -> dict[tuple[str, str], str]:
    done = run_opa(["inspect", "--annotations", "--format", "json", "."], folder=folder)
    if done.returncode != 0:
        raise BundleError("opa inspect failed:\n" + (done.stderr or done.stdout).decode(errors="replace").strip())
    found: dict[tuple[str, str], str] = {}
    for entry in json.loads(done.stdout).get("annotations") or []:
        reasons = entry.get("annotations", {}).get("custom", {}).get("reasons", {})
        file = entry.get("location", {}).get("file", "").removeprefix("./").removeprefix("/")
        if isinstance(reasons, dict):
            found.update({(file, str(code)): str(text) for code, text in reasons.items()})
    return found
