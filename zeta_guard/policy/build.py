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
    SIGNATURES,
    Bundle,
    BundleError,
    Manifest,
    read_archive,
    read_bundle,
    write_archive,
)
from zeta_guard.policy.input_reads import reads_time
from zeta_guard.policy.opa_binary import run_opa
from zeta_guard.policy.prefix_list import check_prefix_lists
from zeta_guard.policy.reason_table import reason_table
from zeta_guard.policy.staging import staged
from zeta_guard.policy.user_list import check_user_lists

ENTRYPOINTS: Final = ("policies/zeta/authz/decision", "policies/zeta/request/decision")


@dataclass(frozen=True, slots=True)
class Built:
    """What came out: the archive and the bundle in it."""

    archive: bytes
    bundle: Bundle


def build(source: Path, *, revision: str | None = None, order: int | None = None) -> Built:
    """Compile the folder of sources ``source`` with ``opa``; deterministic for the same sources and the same ``opa``.

    ``revision`` and ``order`` replace those of its manifest. Raises BundleError with OPA's own message when the sources do
    not compile, ConfigurationError when there is no ``opa``.
    """
    with staged(source, tests=False) as (folder, manifest):
        return _build(folder, manifest, revision=revision, order=order, signers=())


def build_published(
    bundle: Bundle, *, revision: str | None = None, order: int | None = None, signers: tuple[str, ...] = ()
) -> Built:
    """The same for a publisher's bundle of sources; ``signers`` are the key ids of its signatures that were verified."""
    with tempfile.TemporaryDirectory(prefix="zeta-guard-policy-") as name:
        folder = Path(name)
        for file, content in bundle.files.items():
            if not file.endswith("_test.rego") and file not in (SIGNATURES, MODULE):
                target = folder / file
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
        # Code that the publisher compiled is compiled anew, from the sources that were signed.
        written = folder / MANIFEST
        if written.is_file():
            document = json.loads(written.read_bytes())
            document.pop("wasm", None)
            written.write_bytes(_canonical(document))
        return _build(folder, bundle.manifest, revision=revision, order=order, signers=signers)


def _build(
    folder: Path, manifest: Manifest, *, revision: str | None, order: int | None, signers: tuple[str, ...]
) -> Built:
    entrypoints = _entrypoints(folder)
    compiled = _compile(folder, entrypoints)
    sources = {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.rego"))}
    document: dict[str, JsonValue] = json.loads(compiled.files[MANIFEST])
    document["revision"] = manifest.revision if revision is None else revision
    own: dict[str, JsonValue] = {
        "order": manifest.order if order is None else order,
        "signers": list[JsonValue](signers),
        "reasons": list[JsonValue](reason_table(folder)),
        "reads": {entrypoint: list[JsonValue](_reads(folder, entrypoint)) for entrypoint in entrypoints},
    }
    document["metadata"] = {METADATA: {name: value for name, value in own.items() if value is not None}}
    # OPA strips comments from the sources that it packs; the originals keep the line numbers of the reason table true.
    files = {**sources, MODULE: compiled.files[MODULE], "data.json": _canonical(compiled.document())}
    files[MANIFEST] = _canonical(document)
    bundle = read_bundle(files)
    _check_time(bundle)
    document_of_data = bundle.document()
    check_prefix_lists(document_of_data)
    check_user_lists(document_of_data)
    return Built(write_archive(files), bundle)


def _check_time(bundle: Bundle) -> None:
    """A remembered decision must not depend on when it was made."""
    if (
        ENTRYPOINTS[1] in bundle.manifest.entrypoints
        and reads_time(bundle, ENTRYPOINTS[1])
        and any(b"cache_seconds" in content for name, content in bundle.files.items() if name.endswith(".rego"))
    ):
        raise BundleError(
            "the request policy reads input.time and says cache_seconds",
            "A decision that depends on the time cannot be remembered: remove one of the two.",
        )


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


def _reads(folder: Path, entrypoint: str) -> list[str]:
    """What the rules behind an entry point read of the input, as OPA's compiler sees it; ``""`` is all of it."""
    query = "data." + entrypoint.replace("/", ".")
    done = run_opa(["deps", "--format", "json", "--data", ".", query], folder=folder)
    if done.returncode != 0:
        raise BundleError("opa deps failed:\n" + (done.stderr or done.stdout).decode(errors="replace").strip())
    found = set()
    for reference in json.loads(done.stdout).get("base") or []:
        if reference and reference[0].get("value") == "input":
            names = []
            for term in reference[1:]:
                if term.get("type") != "string":
                    break
                names.append(str(term["value"]))
            found.add("/".join(names))
    return sorted(found)


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
