"""A source bundle and what it includes, laid out as one folder for ``opa``.

The manifest of a source bundle names shared folders (``metadata.zeta_guard.include``, relative to the bundle). They are
laid beside its own files under their folder's name, so that OPA's messages name ``lib/address.rego`` as the author knows it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zeta_guard.policy.bundle import MANIFEST, BundleError, Manifest, read_manifest


@contextmanager
def staged(source: Path, *, tests: bool) -> Iterator[tuple[Path, Manifest]]:
    """Yield a temporary folder with the complete bundle, with or without ``*_test.rego``, and its manifest."""
    manifest_file = source / MANIFEST
    if not manifest_file.is_file():
        bundles = sorted(str(each.parent) for each in source.glob(f"*/{MANIFEST}"))
        raise BundleError(
            f"{source}: has no {MANIFEST}",
            f"Name the bundles in it: {' '.join(bundles)}"
            if bundles
            else 'Write {"revision": "…", "roots": ["policies/zeta", …]} beside the rules.',
        )
    manifest = read_manifest(manifest_file.read_bytes())
    with tempfile.TemporaryDirectory(prefix="zeta-guard-policy-") as name:
        folder = Path(name)
        _copy(source, folder, tests=tests)
        for include in manifest.include:
            shared = (source / include).resolve()
            if not shared.is_dir():
                raise BundleError(f"{manifest_file}: include {include!r} is no folder")
            _copy(shared, folder / shared.name, tests=tests)
        yield folder, manifest


def _copy(source: Path, target: Path, *, tests: bool) -> None:
    for path in sorted(source.rglob("*")):
        if path.is_symlink():
            raise BundleError(f"{path}: is a symbolic link")
        if not path.is_file() or (not tests and path.name.endswith("_test.rego")):
            continue
        wanted = path.suffix == ".rego" or path.name in ("data.json", "data.yaml", "data.yml", MANIFEST)
        if wanted:
            destination = target / path.relative_to(source)
            destination.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, destination)
