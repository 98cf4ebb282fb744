"""``zeta-guard policy build``: from Rego sources to the signed bundle that the embedded engine loads."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from zeta_guard.errors import JsonValue
from zeta_guard.policy.bundle import (
    MANIFEST,
    METADATA,
    MODULE,
    Bundle,
    BundleError,
    read_archive,
    read_bundle,
    write_archive,
)
from zeta_guard.policy.opa_binary import run_opa
from zeta_guard.policy.prefix_list import check_prefix_lists
from zeta_guard.policy.reason_table import reason_table
from zeta_guard.policy.staging import staged

ENTRYPOINTS: Final = ("policies/zeta/authz/decision", "policies/zeta/request/decision")


@dataclass(frozen=True, slots=True)
class Built:
    """What came out: the archive and the bundle in it."""

    archive: bytes
    bundle: Bundle


def build(
    source: Path, *, revision: str | None = None, order: int | None = None, signers: tuple[str, ...] = ()
) -> Built:
    """Compile the bundle of sources in ``source`` with ``opa``; deterministic for the same sources and the same ``opa``.

    ``signers`` are the key ids of the publisher's signatures that were verified before. Raises BundleError with OPA's own
    message when the sources do not compile, ConfigurationError when there is no ``opa``.
    """
    with staged(source, tests=False) as (folder, manifest):
        entrypoints = _entrypoints(folder)
        compiled = _compile(folder, entrypoints)
        sources = read_bundle({p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.rego")})
        document: dict[str, JsonValue] = json.loads(compiled.files[MANIFEST])
        document["revision"] = manifest.revision if revision is None else revision
        own: dict[str, JsonValue] = {
            "order": manifest.order if order is None else order,
            "signers": list(signers),
            "reasons": reason_table(folder),
        }
        document["metadata"] = {METADATA: {name: value for name, value in own.items() if value is not None}}
    # OPA strips comments from the sources that it packs; the originals keep the line numbers of the reason table true.
    files = {**sources.files, MODULE: compiled.files[MODULE], "data.json": _canonical(compiled.document())}
    files[MANIFEST] = _canonical(document)
    bundle = read_bundle(files)
    check_prefix_lists(bundle.document())
    return Built(write_archive(files), bundle)


def _entrypoints(folder: Path) -> list[str]:
    found = [name for name in ENTRYPOINTS if _package_exists(folder, name.rpartition("/")[0].replace("/", "."))]
    if ENTRYPOINTS[0] not in found:
        raise BundleError(f"no rule {ENTRYPOINTS[0]!r}", "Write 'package policies.zeta.authz' with a rule 'decision'.")
    return found


def _package_exists(folder: Path, package: str) -> bool:
    return any(
        line.split() == ["package", package]
        for path in folder.rglob("*.rego")
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith("package")
    )


def _compile(folder: Path, entrypoints: list[str]) -> Bundle:
    with tempfile.TemporaryDirectory(prefix="zeta-guard-build-") as name:
        target = Path(name) / "bundle.tar.gz"
        arguments = ["build", "--bundle", ".", "--target", "wasm", "--output", str(target)]
        for entrypoint in entrypoints:
            arguments += ["--entrypoint", entrypoint]
        done = run_opa(arguments, folder=folder)
        if done.returncode != 0:
            text = (done.stderr or done.stdout).decode(errors="replace").strip()
            raise BundleError(f"opa build failed:\n{text}")
        return read_archive(target.read_bytes())


def _canonical(document: dict[str, JsonValue]) -> bytes:
    return (json.dumps(document, ensure_ascii=False, sort_keys=True, indent=1) + "\n").encode()
