"""The audit record: chained, keyed forward, signed at checkpoints (``security`` section 7; A_28749).

Every process writes its own chain. A line is ``{"writer", "sequence", "time", "event", "fields", "head", "mac"}``:

- ``head`` is SHA-256 over the head before and the line without ``head`` and ``mac``;
- ``mac`` is HMAC-SHA-256 over ``head`` with a key that is stepped forward by hash after every line and then overwritten:
  whoever takes over the process cannot rewrite what was written before;
- a checkpoint is a line whose fields carry the ES256 signature over writer, count and head. It also goes to the security log,
  so that whoever cuts the file off must also reach the log.

:mod:`zeta_guard.telemetry.audit_verification` proves a chain.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

import orjson
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from prometheus_client import CollectorRegistry, Counter, Gauge

from zeta_guard.config import telemetry as telemetry_config
from zeta_guard.errors import ConfigurationError, unavailable
from zeta_guard.telemetry.logging import log_event, time_text
from zeta_guard.telemetry.redaction import mask

CHECKPOINT: Final = "checkpoint"
LARGEST_FILE: Final = 64 * 1024 * 1024
"""Bytes after which the chain goes on in the next file."""

_logger = logging.getLogger("zeta_guard.security")


class KeySource(Protocol):
    """Where the first MAC key comes from; :class:`zeta_guard.jose.sealing.Secrets` is one."""

    def derive(self, label: str, context: bytes = b"") -> tuple[bytes, ...]:
        """Keys of 32 bytes for a purpose, current first."""


def first_head(writer: str) -> bytes:
    """The head before the first line of a writer."""
    return hashlib.sha256(b"zeta-guard audit\0" + writer.encode()).digest()


def next_head(head: bytes, body: bytes) -> bytes:
    """The head after a line; ``body`` is the line without ``head`` and ``mac``."""
    return hashlib.sha256(head + body).digest()


def next_key(key: bytes | bytearray) -> bytearray:
    """The key of the following line."""
    return bytearray(hashlib.sha256(b"zeta-guard audit key\0" + key).digest())


def line_mac(key: bytes | bytearray, head: bytes) -> str:
    """``mac`` of the line with this head, hexadecimal."""
    return hmac.digest(key, head, "sha256").hex()


def checkpoint_bytes(writer: str, count: int, head: str, moment: str, *, final: bool) -> bytes:
    """What the signature of a checkpoint is made over: ``count`` lines stand before it, the last of them with ``head``."""
    return orjson.dumps(
        {"count": count, "final": final, "head": head, "time": moment, "writer": writer}, option=orjson.OPT_SORT_KEYS
    )


class AuditMetrics:
    """Whether the record is being written: a full disk stops logins, so that somebody should hear before they do."""

    def __init__(self, registry: CollectorRegistry) -> None:
        lines = Counter(
            "zeta_guard_audit_lines",
            "Records and checkpoints of the audit record, by what became of them (written, failed).",
            ["kind", "outcome"],
            registry=registry,
        )
        self._lines = {
            (kind, failed): lines.labels(kind, "failed" if failed else "written")
            for kind in ("record", "checkpoint")
            for failed in (False, True)
        }
        self._failing = Gauge(
            "zeta_guard_audit_failing",
            "1 while the audit record cannot be written: logins and administration are refused.",
            registry=registry,
        )

    def note(self, kind: str, *, failed: bool) -> None:
        """Count one line and remember whether it could be written."""
        self._lines[kind, failed].inc()
        self._failing.set(int(failed))


class Audit:
    """Writes the record of one process. Without ``audit.directory`` it does nothing and :attr:`enabled` is False."""

    def __init__(
        self,
        config: telemetry_config.Audit,
        secrets: KeySource,
        *,
        clock: Callable[[], float] = time.time,
        largest_file: int = LARGEST_FILE,
        registry: CollectorRegistry | None = None,
    ) -> None:
        """Open the first file and sign its beginning. Raises ConfigurationError when folder or key cannot be used.

        With ``registry`` it counts records and says whether they can be written (``zeta_guard_audit_…``).
        """
        self._metrics: Final = AuditMetrics(registry) if registry is not None else None
        self._clock = clock
        self._largest = largest_file
        self._interval = config.checkpoint_seconds
        self._secrets = secrets
        self._timer: asyncio.TimerHandle | None = None
        self._descriptor = -1
        self._failing: str | None = None
        self.enabled: Final = config.directory is not None
        if config.directory is not None:
            self._directory = config.directory
            self._signing_key = _load_signing_key(config.signing_key_file)
            try:
                config.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._begin()
            except OSError as error:
                raise ConfigurationError(
                    "audit.directory", f"cannot be written ({error.strerror})", "a folder this process may write to"
                ) from None

    def record(self, event: str, /, **fields: Any) -> None:
        """Append one line. Raises :class:`ZetaError` 503 when it cannot be written: then the caller must not go on.

        Nothing secret and nobody's plain Telematik-ID belongs into ``fields``; what looks like one is masked.
        """
        if not self.enabled:
            return
        try:
            if os.getpid() != self._pid:
                # A forked process must not continue its parent's chain.
                os.close(self._descriptor)
                self._begin()
            self._append(event, fields)
            now = self._clock()
            if now - self._unproven_since >= self._interval:
                self.checkpoint()
        except OSError as error:
            self._note_failure("record", error)
            raise unavailable("The audit record cannot be written.", stage="audit") from None
        finally:
            # Also after a failure: the next checkpoint finds out whether it can be written again.
            self._arm()
        self._note_success("record")

    @property
    def failing(self) -> str | None:
        """None while records can be written, else one line for the readiness of the process."""
        return self._failing

    def checkpoint(self, *, final: bool = False) -> None:
        """Sign count and head now. Raises OSError when it cannot be written."""
        count, head, moment = self._sequence, self._head.hex(), time_text(self._clock())
        signed = checkpoint_bytes(self._writer, count, head, moment, final=final)
        r, s = decode_dss_signature(self._signing_key.sign(signed, ec.ECDSA(hashes.SHA256())))
        # Hexadecimal, because the log masks what looks like a token.
        signature = (r.to_bytes(32, "big") + s.to_bytes(32, "big")).hex()
        fields: dict[str, Any] = {"count": count, "head": head, "time": moment, "final": final, "signature": signature}
        self._append(CHECKPOINT, fields)
        os.fsync(self._descriptor)
        self._unproven_since = self._clock()
        log_event(_logger, logging.INFO, "audit_checkpoint", writer=self._writer, **fields)

    def close(self) -> None:
        """Sign the end of the chain and close the file."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._descriptor < 0:
            return
        try:
            if os.getpid() == self._pid:
                self.checkpoint(final=True)
        except OSError as error:
            log_event(_logger, logging.ERROR, "audit_failed", reason=error.strerror or "unknown")
        os.close(self._descriptor)
        self._descriptor = -1

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._timer = None
        self._writer = f"{socket.gethostname()}.{self._pid}.{os.urandom(6).hex()}"
        self._sequence = 0
        self._head = first_head(self._writer)
        self._key = bytearray(self._secrets.derive("audit", self._writer.encode())[0])
        self._part = 0
        self._unproven_since = self._clock()
        self._open_part()
        self._append("opened", {})
        self.checkpoint()

    def _open_part(self) -> None:
        self._part += 1
        path = self._directory / f"audit-{self._writer}-{self._part:04}.jsonl"
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        if self._part > 1:
            os.close(self._descriptor)
        self._descriptor = descriptor
        self._size = 0

    def _append(self, event: str, fields: dict[str, Any]) -> None:
        if self._size >= self._largest:
            self._open_part()
        body = orjson.dumps(
            {
                "writer": self._writer,
                "sequence": self._sequence + 1,
                "time": time_text(self._clock()),
                "event": event,
                "fields": fields,
            },
            default=str,
            option=orjson.OPT_NON_STR_KEYS,
        )
        body = mask(body.decode()).encode()
        head = next_head(self._head, body)
        line = body[:-1] + f',"head":"{head.hex()}","mac":"{line_mac(self._key, head)}"}}\n'.encode()
        written = os.write(self._descriptor, line)
        if written != len(line):
            # Half a line would break the chain for every later one.
            os.ftruncate(self._descriptor, self._size)
            raise OSError(28, "only a part could be written")
        self._size += written
        self._sequence += 1
        self._head = head
        spent, self._key = self._key, next_key(self._key)
        spent[:] = bytes(len(spent))

    def _arm(self) -> None:
        if self._timer is not None or self._descriptor < 0:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        self._timer = loop.call_later(self._interval, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        try:
            self.checkpoint()
        except OSError as error:
            self._note_failure("checkpoint", error)
            self._arm()
        else:
            self._note_success("checkpoint")

    def _note_failure(self, kind: str, error: OSError) -> None:
        reason = error.strerror or "unknown"
        self._failing = f"records cannot be written ({reason}): logins and administration are refused"
        log_event(_logger, logging.ERROR, "audit_failed", reason=reason)
        if self._metrics is not None:
            self._metrics.note(kind, failed=True)

    def _note_success(self, kind: str) -> None:
        self._failing = None
        if self._metrics is not None:
            self._metrics.note(kind, failed=False)


def _load_signing_key(path: Path | None) -> ec.EllipticCurvePrivateKey:
    where, expected = "audit.signing_key_file", "a PKCS#8 PEM file with an EC P-256 key, not encrypted"
    remedy = "Make one with: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256"
    if path is None:
        raise ConfigurationError(where, "missing", expected, remedy)
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigurationError(where, f"{path.name} cannot be read", expected, remedy) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigurationError(where, f"{path.name} holds another kind of key", expected, remedy)
    return key
