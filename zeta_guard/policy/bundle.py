"""A bundle: OPA's layout of policy, data and manifest, read from an archive or a folder into memory.

Nothing is unpacked to disk. Limits: 4096 files, 64 MiB packed, 256 MiB unpacked.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from zeta_guard.errors import GuardError, JsonValue

MAX_FILES: Final = 4096
MAX_PACKED_BYTES: Final = 64 * 1024 * 1024
MAX_UNPACKED_BYTES: Final = 256 * 1024 * 1024
MANIFEST: Final = ".manifest"
SIGNATURES: Final = ".signatures.json"
MODULE: Final = "policy.wasm"
METADATA: Final = "zeta_guard"
"""Member of the manifest's ``metadata`` that this project writes and reads."""


class BundleError(GuardError):
    """A bundle that cannot be used; the text says which part and why, ``remedy`` what to do."""

    def __init__(self, text: str, remedy: str = "") -> None:
        super().__init__(text)
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class ReasonSource:
    """Where a reason code comes from: file and line inside the bundle, and what its METADATA says."""

    code: str
    file: str
    line: int
    description: str = ""


@dataclass(frozen=True, slots=True)
class Manifest:
    """``.manifest``: what the bundle is and which parts of the document tree it owns. ``order`` grows with each release."""

    revision: str
    roots: tuple[str, ...]
    entrypoints: tuple[str, ...]
    order: int | None
    signers: tuple[str, ...]
    reasons: tuple[ReasonSource, ...]
    include: tuple[str, ...]
    reads: Mapping[str, tuple[str, ...]] | None
    """Entry point → what its rules read of the input (``user_info/professionOID``); None when nobody found out."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """Files by their name inside the bundle, and the parsed manifest. ``digest`` covers all files but the signatures."""

    files: Mapping[str, bytes]
    manifest: Manifest
    digest: str

    @property
    def code(self) -> bytes | None:
        """``policy.wasm``, None in a bundle of sources."""
        return self.files.get(MODULE)

    @property
    def signed(self) -> bool:
        """Whether it carries signatures; says nothing about whether they hold."""
        return SIGNATURES in self.files

    def document(self) -> dict[str, JsonValue]:
        """All ``data.json`` files merged below their folders. Raises BundleError on a conflict or what is outside the roots."""
        tree: dict[str, JsonValue] = {}
        for name in sorted(self.files):
            path = PurePosixPath(name)
            if path.name in ("data.yaml", "data.yml"):
                raise BundleError(
                    f"{name}: data must be JSON in a built bundle", "Build it with 'zeta-guard policy build'."
                )
            if path.name == "data.json":
                _merge(tree, path.parent.parts, _json_object(self.files[name], name), name)
        _check_roots(tree, self.manifest.roots)
        return tree


def read_bundle(files: Mapping[str, bytes]) -> Bundle:
    """Parse the manifest of ``files``. Raises BundleError."""
    digest = hashlib.sha256()
    for name in sorted(files):
        if name != SIGNATURES:
            digest.update(f"{len(name)}:{name}:".encode() + hashlib.sha256(files[name]).digest())
    return Bundle(dict(files), read_manifest(files.get(MANIFEST, b"{}")), digest.hexdigest())


def read_archive(raw: bytes) -> Bundle:
    """A ``.tar.gz`` bundle. Links, devices, absolute names, ``..`` and repeated names are refused. Raises BundleError."""
    if len(raw) > MAX_PACKED_BYTES:
        raise BundleError(f"archive is larger than {MAX_PACKED_BYTES} bytes")
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(raw)) as stream:
            unpacked = stream.read(MAX_UNPACKED_BYTES + 1)
        if len(unpacked) > MAX_UNPACKED_BYTES:
            raise BundleError(f"archive unpacks to more than {MAX_UNPACKED_BYTES} bytes")
        return read_bundle(_members(unpacked))
    except (OSError, EOFError, zlib.error, tarfile.TarError, UnicodeError, ValueError, MemoryError) as error:
        raise BundleError("archive is no gzip-compressed tar file, or damaged") from error


def _members(unpacked: bytes) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    total = 0
    with tarfile.open(fileobj=io.BytesIO(unpacked), mode="r:") as archive:
        for member in archive:
            if member.isdir():
                continue
            if not member.isreg():
                raise BundleError(f"archive holds {_shown(member.name)}, which is no regular file")
            name = _inside(member.name)
            if name in files:
                raise BundleError(f"archive holds {_shown(name)} twice")
            if len(files) >= MAX_FILES:
                raise BundleError(f"archive holds more than {MAX_FILES} files")
            # A sparse member claims a size that the archive does not have.
            total += member.size
            if member.sparse is not None or total > MAX_UNPACKED_BYTES:
                raise BundleError(f"archive unpacks to more than {MAX_UNPACKED_BYTES} bytes")
            content = archive.extractfile(member)
            files[name] = content.read() if content is not None else b""
    return files


def _inside(name: str) -> str:
    """The name without OPA's leading slash; refuses what could point out of the bundle."""
    parts = name.removeprefix("/").removeprefix("./").split("/")
    if any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in parts):
        raise BundleError(f"archive holds the name {_shown(name)}, which points out of the bundle")
    return "/".join(parts)


def _shown(name: str) -> str:
    return repr(name[:200])


def read_folder(folder: Path) -> Bundle:
    """A bundle as a folder; symbolic links are refused. Raises BundleError."""
    files: dict[str, bytes] = {}
    total = 0
    try:
        for path in sorted(folder.rglob("*")):
            if path.is_symlink():
                raise BundleError(f"{path}: is a symbolic link")
            if not path.is_file():
                continue
            total += path.stat().st_size
            if len(files) >= MAX_FILES or total > MAX_UNPACKED_BYTES:
                raise BundleError(f"{folder}: more than {MAX_FILES} files or {MAX_UNPACKED_BYTES} bytes")
            files[path.relative_to(folder).as_posix()] = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{folder}: {error.strerror or 'cannot be read'}") from error
    return read_bundle(files)


def write_archive(files: Mapping[str, bytes]) -> bytes:
    """The same bytes for the same files, always: sorted names, no times, no owners. Names begin with ``/`` as OPA's do."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted(files):
            member = tarfile.TarInfo("/" + name)
            member.size = len(files[name])
            member.mode = 0o600
            archive.addfile(member, io.BytesIO(files[name]))
    return gzip.compress(packed.getvalue(), compresslevel=9, mtime=0)


def read_manifest(raw: bytes) -> Manifest:
    """Parse ``.manifest``. Raises BundleError when a member that counts has the wrong type."""
    document = _json_object(raw, MANIFEST)
    metadata = document.get("metadata")
    own = metadata.get(METADATA) if isinstance(metadata, dict) else None
    own = own if isinstance(own, dict) else {}
    revision = document.get("revision", "")
    order = own.get("order")
    if not isinstance(revision, str) or len(revision) > 256 or not revision.isprintable():
        raise BundleError(f"{MANIFEST}: revision is no printable text of at most 256 characters")
    if order is not None and (isinstance(order, bool) or not isinstance(order, int)):
        raise BundleError(f"{MANIFEST}: metadata.{METADATA}.order is no integer")
    modules = document.get("wasm", [])
    if not isinstance(modules, list):
        raise BundleError(f"{MANIFEST}: wasm is no list")
    entrypoints = [module.get("entrypoint") for module in modules if isinstance(module, dict)]
    return Manifest(
        revision=revision,
        roots=tuple(_texts(document.get("roots", [""]), "roots")),
        entrypoints=tuple(_texts(entrypoints, "wasm")),
        order=order,
        signers=tuple(_texts(own.get("signers", []), "signers")),
        reasons=tuple(_reason(entry) for entry in _list(own.get("reasons", []), "reasons")),
        include=tuple(_texts(own.get("include", []), "include")),
        reads=_reads(own.get("reads")),
    )


def _reads(value: JsonValue) -> Mapping[str, tuple[str, ...]] | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise BundleError(f"{MANIFEST}: metadata.{METADATA}.reads is no object")
    return {name: tuple(_texts(paths, "reads")) for name, paths in value.items()}


def _reason(entry: JsonValue) -> ReasonSource:
    if isinstance(entry, dict):
        code, file, line = entry.get("code"), entry.get("file"), entry.get("line")
        description = entry.get("description", "")
        if isinstance(code, str) and isinstance(file, str) and isinstance(line, int) and isinstance(description, str):
            return ReasonSource(code, file, line, description)
    raise BundleError(f"{MANIFEST}: metadata.{METADATA}.reasons holds an entry without code, file and line")


def _list(value: JsonValue, name: str) -> list[JsonValue]:
    if not isinstance(value, list):
        raise BundleError(f"{MANIFEST}: {name} is no list")
    return value


def _texts(value: object, name: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(member, str) for member in value):
        raise BundleError(f"{MANIFEST}: {name} is no list of texts")
    return [str(member) for member in value]


def _json_object(raw: bytes, name: str) -> dict[str, JsonValue]:
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{name}: is no JSON") from error
    if not isinstance(document, dict):
        raise BundleError(f"{name}: is no JSON object")
    return document


def _merge(tree: dict[str, JsonValue], path: tuple[str, ...], value: dict[str, JsonValue], name: str) -> None:
    for part in path:
        below = tree.setdefault(part, {})
        if not isinstance(below, dict):
            raise BundleError(f"{name}: lies below something that is no object")
        tree = below
    for member, content in value.items():
        present = tree.get(member)
        if isinstance(present, dict) and isinstance(content, dict):
            _merge(present, (), content, name)
        elif member in tree:
            raise BundleError(f"{name}: {_shown(member)} is there twice")
        else:
            tree[member] = content


def _check_roots(tree: Mapping[str, JsonValue], roots: tuple[str, ...]) -> None:
    """Data outside the roots could be another bundle's: OPA refuses them, and so does the guard."""
    owned = [tuple(part for part in root.split("/") if part) for root in roots]

    def check(value: JsonValue, path: tuple[str, ...]) -> None:
        if any(path[: len(root)] == root for root in owned):
            return
        if isinstance(value, dict) and any(root[: len(path)] == path for root in owned):
            for member, below in value.items():
                check(below, (*path, member))
            return
        raise BundleError(f"data {_shown('/'.join(path))} is outside the roots of the manifest")

    for member, below in tree.items():
        check(below, (member,))
