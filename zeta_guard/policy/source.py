"""Where a bundle comes from: the package, a folder, a file, an HTTPS URL, a registry."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Final, Protocol

from zeta_guard.config.policy import EmbeddedEngine
from zeta_guard.errors import ConfigurationError
from zeta_guard.http.outbound import Outbound, OutboundError
from zeta_guard.policy.bundle import MAX_PACKED_BYTES, BundleError, read_archive, read_folder
from zeta_guard.policy.fetched import Fetched
from zeta_guard.policy.registry import RegistrySource

PACKAGED: Final = Path(__file__).parent / "bundles"
"""Folder of the bundles that ship with the guard."""

_FETCH_SECONDS: Final = 30.0


class Source(Protocol):
    """``packaged``: the bundle is part of the guard and needs no signature. ``polled``: it can change while we run."""

    packaged: bool
    polled: bool

    async def fetch(self) -> Fetched | None:
        """The bundle, or None when it is still the one fetched before. Raises BundleError; then the next call fetches again."""


class PackagedSource:
    """``package:NAME``."""

    packaged = True
    polled = False

    def __init__(self, name: str, where: str) -> None:
        self._file = PACKAGED / f"{name}.tar.gz"
        known = sorted(path.name.removesuffix(".tar.gz") for path in PACKAGED.glob("*.tar.gz"))
        if name not in known:
            raise ConfigurationError(where, f"package:{name}", " or ".join(f"package:{each}" for each in known))

    async def fetch(self) -> Fetched | None:
        return self.read()

    def read(self) -> Fetched:
        """The bundle, at once: it is small and on the local disk."""
        raw = self._file.read_bytes()
        return Fetched(read_archive(raw), raw)


class FileSource:
    """A ``.tar.gz`` file, or a folder with a built bundle; read whole at each look, off the event loop."""

    packaged = False
    polled = True

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = ""

    async def fetch(self) -> Fetched | None:
        return await asyncio.to_thread(self._read)

    def _read(self) -> Fetched | None:
        if self._path.is_dir():
            bundle = read_folder(self._path)
            stamp, archive = bundle.digest + str(bundle.files.get(".signatures.json")), None
        else:
            try:
                if self._path.stat().st_size > MAX_PACKED_BYTES:
                    raise BundleError(f"{self._path}: is larger than {MAX_PACKED_BYTES} bytes")
                archive = self._path.read_bytes()
            except OSError as error:
                raise BundleError(f"{self._path}: {error.strerror or 'cannot be read'}") from error
            stamp = hashlib.sha256(archive).hexdigest()
            if stamp == self._seen:
                return None
            bundle = read_archive(archive)
        if stamp == self._seen:
            return None
        self._seen = stamp
        return Fetched(bundle, archive)


class UrlSource:
    """``https://…``, polled with its ETag."""

    packaged = False
    polled = True

    def __init__(self, url: str, outbound: Outbound, ca_file: Path | None) -> None:
        self._url = url
        self._outbound = outbound
        self._ca_file = ca_file
        self._etag: str | None = None

    async def fetch(self) -> Fetched | None:
        try:
            answer = await self._outbound.get(
                self._url,
                accept="application/gzip, application/octet-stream",
                max_bytes=MAX_PACKED_BYTES,
                timeout=_FETCH_SECONDS,
                etag=self._etag,
                ca_file=self._ca_file,
            )
            answer.expect(200, 304)
        except OutboundError as error:
            raise BundleError(f"bundle cannot be fetched: {error}", error.remedy) from error
        if answer.status == 304:
            return None
        fetched = Fetched(await asyncio.to_thread(read_archive, answer.body), answer.body)
        self._etag = answer.etag
        return fetched


def open_source(config: EmbeddedEngine, *, where: str, outbound: Outbound) -> Source:
    """The source that ``bundle`` of the configuration names. Raises ConfigurationError; ``where`` is the section's path."""
    bundle = config.bundle
    if bundle.startswith("package:"):
        return PackagedSource(bundle.removeprefix("package:"), f"{where}.bundle")
    if bundle.startswith("https://"):
        return UrlSource(bundle, outbound, config.ca_file)
    if bundle.startswith("oci://"):
        return RegistrySource(
            bundle,
            where=where,
            outbound=outbound,
            ca_file=config.ca_file,
            credentials_file=config.credentials_file,
        )
    if "://" in bundle:
        raise ConfigurationError(
            f"{where}.bundle", bundle, "package:NAME, a folder, a .tar.gz file, an https URL or oci://…"
        )
    path = Path(bundle)
    if not path.exists():
        raise ConfigurationError(
            f"{where}.bundle",
            f"{path} does not exist",
            "a folder or a .tar.gz file",
            "Build one: zeta-guard policy build SRC -o OUT",
        )
    return FileSource(path)
