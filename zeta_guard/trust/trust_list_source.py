"""A trust list that is fetched again and again, and never goes back (``security`` section 5).

The last good list stays in ``state_file``: after a restart it is there before the source answers, and with it the highest
sequence number ever seen. A list with a lower number, or with the same number and other content, is refused and alarms.
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from cryptography import x509

from zeta_guard.config.trust import TrustListSource as TrustListConfig
from zeta_guard.errors import ConfigurationError, GuardError
from zeta_guard.http.outbound import Outbound
from zeta_guard.telemetry.logging import log_event
from zeta_guard.trust.anchor_directory import load_certificates
from zeta_guard.trust.anchors import TrustAnchors
from zeta_guard.trust.metrics import TrustMetrics
from zeta_guard.trust.trust_list import TrustList, read_trust_list
from zeta_guard.trust.trust_list_signature import MAX_LIST_BYTES, TrustListError

_LOGGER = logging.getLogger("zeta_guard.trust")

FILE_PAUSE: Final = 10.0
"""A file is looked at (not read) this often, in seconds."""

RETRY_PAUSE: Final = 300.0
"""After a failed fetch the next one comes at the latest after these seconds."""

ALARMS: Final = frozenset({"sequence_lower", "sequence_same_other_content", "signature", "signer", "document_type"})
"""Refusals that point at an attack."""


class TrustListSource:
    """Reads, verifies and keeps the trust list of one configuration.

    ``admit`` looks at anchors before they are taken and raises GuardError; ``alarm`` is told the reason of each alarm.
    """

    def __init__(
        self,
        config: TrustListConfig,
        identifiers: Sequence[str],
        outbound: Outbound,
        metrics: TrustMetrics,
        *,
        admit: Callable[[TrustAnchors], None],
        alarm: Callable[[str], None],
    ) -> None:
        self._config = config
        self._identifiers = tuple(identifiers)
        self._outbound = outbound
        self._metrics = metrics
        self._admit = admit
        self._alarm = alarm
        self._signers: list[x509.Certificate] = []
        self._current: TrustList | None = None
        self._etag: str | None = None
        self._file_seen: tuple[int, int, int] | None = None
        self._failed = False

    @property
    def current(self) -> TrustList | None:
        """The list in use."""
        return self._current

    @property
    def pause(self) -> float:
        """Seconds until the next look."""
        if self._config.file is not None:
            return min(FILE_PAUSE, self._config.refresh)
        return min(RETRY_PAUSE, self._config.refresh) if self._failed else self._config.refresh

    async def start(self, *, now: float) -> TrustAnchors:
        """The list kept from last time and the one at the source, whichever is newer.

        Raises ConfigurationError when the pinned signers cannot be read or neither list is usable.
        """
        self._signers = [
            certificate for path in self._config.anchors for certificate in load_certificates(path, "trust.tsl.anchors")
        ]
        await self._restore(now)
        try:
            await self.refresh(now=now)
        except GuardError as error:
            if self._current is None:
                raise ConfigurationError(
                    "trust.tsl",
                    str(error),
                    "a trust list signed by one of the pinned signers (trust.tsl.anchors)",
                    "Check the source and the certificates in 'anchors'.",
                ) from error
            log_event(_LOGGER, logging.WARNING, "trust_list_refresh_failed", reason=str(error), kept="state_file")
        if self._current is None:
            raise ConfigurationError("trust.tsl", "no trust list", "a trust list at 'file' or 'url'")
        return self._current.anchors(self._config.grace)

    async def refresh(self, *, now: float) -> TrustAnchors | None:
        """Look at the source. None when it holds the list in use; GuardError when it fails or what it holds is refused."""
        self._failed = True
        raw = await self._fetch()
        changed = raw is not None and await self._consider(raw, now)
        self._failed = False
        return self._current.anchors(self._config.grace) if changed and self._current is not None else None

    async def _fetch(self) -> bytes | None:
        if self._config.file is not None:
            return await asyncio.to_thread(self._read_changed_file, self._config.file)
        assert self._config.url is not None
        answer = await self._outbound.get(
            self._config.url, accept="application/xml, text/xml", max_bytes=MAX_LIST_BYTES, etag=self._etag
        )
        answer.expect(200, 304)
        if answer.status == 304:
            return None
        self._etag = answer.etag
        return answer.body

    def _read_changed_file(self, path: Path) -> bytes | None:
        try:
            status = path.stat()
            seen = (status.st_ino, status.st_size, status.st_mtime_ns)
            if seen == self._file_seen:
                return None
            if status.st_size > MAX_LIST_BYTES:
                raise TrustListError("too_large", f"the trust list has more than {MAX_LIST_BYTES} bytes")
            raw = path.read_bytes()
        except OSError as error:
            raise TrustListError("unreadable", f"{path}: {error.strerror}") from error
        self._file_seen = seen
        return raw

    async def _consider(self, raw: bytes, now: float) -> bool:
        try:
            found = await self._read(raw, now)
            self._refuse_older(found)
        except TrustListError as error:
            # The next look must not take "not modified" for "still good".
            self._etag = None
            if error.reason in ALARMS:
                self._alarm(error.reason)
            raise
        if self._current is not None and found.digest == self._current.digest:
            return False
        self._admit(found.anchors(self._config.grace))
        self._adopt(found)
        if self._config.state_file is not None:
            await asyncio.to_thread(_write, self._config.state_file, raw)
        return True

    def _refuse_older(self, found: TrustList) -> None:
        if self._current is None:
            return
        if found.sequence < self._current.sequence:
            raise TrustListError(
                "sequence_lower",
                f"the trust list has sequence number {found.sequence}, {self._current.sequence} was seen before",
            )
        if found.sequence == self._current.sequence and found.digest != self._current.digest:
            raise TrustListError(
                "sequence_same_other_content",
                f"the trust list has sequence number {found.sequence} like the one in use, but other content",
            )

    async def _restore(self, now: float) -> None:
        path = self._config.state_file
        if path is None:
            return
        try:
            raw = await asyncio.to_thread(path.read_bytes)
        except FileNotFoundError:
            return
        except OSError as error:
            raise ConfigurationError("trust.tsl.state_file", f"{path}: {error.strerror}", "a readable file") from error
        try:
            found = await self._read(raw, now)
        except TrustListError as error:
            log_event(_LOGGER, logging.ERROR, "trust_list_state_unusable", reason=error.reason)
            self._metrics.refreshes.labels("state_unusable").inc()
            return
        self._admit(found.anchors(self._config.grace))
        self._adopt(found)

    async def _read(self, raw: bytes, now: float) -> TrustList:
        # A tenth of a second of parsing: in a thread, so that no request waits for it.
        return await asyncio.to_thread(read_trust_list, raw, self._signers, identifiers=self._identifiers, now=now)

    def _adopt(self, found: TrustList) -> None:
        self._current = found
        self._metrics.sequence.set(found.sequence)
        self._metrics.issued.set(found.issued_at)
        self._metrics.next_update.set(found.next_update)
        log_event(
            _LOGGER,
            logging.INFO,
            "trust_list_loaded",
            sequence=found.sequence,
            authorities=len(found.authorities),
            responders=len(found.responders),
            skipped=found.skipped,
        )


def _write(path: Path, raw: bytes) -> None:
    """Replace the file in one step, so that a crash leaves the old one or the new one."""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        log_event(_LOGGER, logging.ERROR, "trust_list_state_not_written", reason=error.strerror or "unknown")
