"""The last good bundle and the highest order number, kept in a file so that a restart without its source can decide."""

from __future__ import annotations

import base64
import json
import os
from dataclasses import dataclass
from pathlib import Path

from zeta_guard.errors import ConfigurationError
from zeta_guard.policy.bundle import BundleError, read_archive, write_archive
from zeta_guard.policy.fetched import Fetched


@dataclass(frozen=True, slots=True)
class Kept:
    """What was kept. The bundle is verified again before it decides: the file is believed in nothing."""

    highest: tuple[int, str] | None
    confirmed_at: float
    fetched: Fetched | None


class KeptBundle:
    """One file, written atomically with mode 0600."""

    def __init__(self, file: Path, where: str) -> None:
        self._file = file
        self._where = where

    def load(self) -> Kept | None:
        """What an earlier run kept, None at the first run. Raises ConfigurationError for a damaged file: a lost order number
        would let an old bundle in."""
        try:
            raw = self._file.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigurationError(self._where, str(self._file), f"a readable file ({error.strerror})") from None
        try:
            document = json.loads(raw)
            order, digest = document["order"], document["digest"]
            highest = None if order is None else (int(order), str(digest))
            archive = base64.b64decode(document["archive"], validate=True)
            return Kept(highest, float(document["confirmed_at"]), Fetched(read_archive(archive), archive))
        except (ValueError, KeyError, TypeError, BundleError):
            raise ConfigurationError(
                self._where,
                f"{self._file} is damaged",
                "a file that this guard wrote",
                "Remove it after checking that the source serves the current bundle; the order number starts anew then.",
            ) from None

    def save(self, fetched: Fetched, highest: tuple[int, str] | None, now: float) -> None:
        """Replace the file. Raises BundleError when it cannot be written."""
        archive = write_archive(fetched.bundle.files) if fetched.archive is None else fetched.archive
        order, digest = highest if highest is not None else (None, fetched.bundle.digest)
        document = {
            "order": order,
            "digest": digest,
            "revision": fetched.bundle.manifest.revision,
            "confirmed_at": now,
            "archive": base64.b64encode(archive).decode(),
        }
        scratch = self._file.with_name(f".{self._file.name}.{os.getpid()}")
        try:
            descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as stream:
                json.dump(document, stream)
                stream.flush()
                os.fsync(stream.fileno())
            scratch.replace(self._file)
        except OSError as error:
            raise BundleError(f"{self._where}: cannot be written ({error.strerror})") from error
