"""``zeta-guard audit verify`` over records that a real writer made."""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from zeta_guard.config.telemetry import Audit as AuditConfig
from zeta_guard.jose.sealing import Secrets
from zeta_guard.telemetry.audit import Audit
from zeta_guard.telemetry.logging import JsonFormatter


@dataclass
class Record:
    folder: Path
    key: Path
    private: Path
    secret: Path
    log: Path

    @property
    def file(self) -> Path:
        (file,) = self.folder.iterdir()
        return file


@pytest.fixture
def record(tmp_path: Path) -> Record:
    """A closed chain of ten acts, its key, and what the security log kept of it."""
    made = Record(
        tmp_path / "audit", tmp_path / "public.pem", tmp_path / "private.pem", tmp_path / "secret", tmp_path / "log"
    )
    made.folder.mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    made.private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    made.key.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    made.secret.write_bytes(bytes(range(32)))
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("zeta_guard.security")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        config = AuditConfig(directory=made.folder, signing_key_file=made.private)
        audit = Audit(config, Secrets.load([made.secret]))
        for number in range(10):
            audit.record("act", number=number)
        audit.close()
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    made.log.write_text(stream.getvalue())
    return made


def test_a_whole_record_is_proven_by_a_process_of_its_own(record: Record, process: Any) -> None:
    outcome = process(
        "audit", "verify", record.folder, "--key", record.key, "--checkpoints", record.log, "--secret", record.secret
    )
    assert outcome.status == 0, outcome.out + outcome.err
    assert "the record holds: 13 records and 2 signed checkpoints in 1 file\n" in outcome.out


def test_a_rewritten_line_is_found(record: Record, zeta_guard: Any) -> None:
    record.file.write_bytes(record.file.read_bytes().replace(b'"number":4', b'"number":5'))
    outcome = zeta_guard("audit", "verify", record.file, "--key", record.key)
    assert outcome.status == 1
    assert f"{record.file.name}, line 7: was rewritten" in outcome.out
    assert "broken in 1 place" in outcome.out
    told = zeta_guard("audit", "verify", record.file, "--key", record.key, "--json").json
    assert not told["ok"]
    assert told["problems"][0]["line"] == 7


def test_a_cut_end_is_found_with_the_kept_checkpoints_only(record: Record, zeta_guard: Any) -> None:
    lines = record.file.read_bytes().splitlines(keepends=True)
    record.file.write_bytes(b"".join(lines[:6]))
    without = zeta_guard("audit", "verify", record.file, "--key", record.key)
    assert without.status == 0
    assert "4 records stand after the last checkpoint" in without.out
    assert "no final checkpoint" in without.err
    outcome = zeta_guard("audit", "verify", record.file, "--key", record.key, "--checkpoints", record.log)
    assert outcome.status == 1
    assert "missing at the end" in outcome.out


def test_another_key_proves_nothing(record: Record, zeta_guard: Any, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    other.write_bytes(
        ec.generate_private_key(ec.SECP256R1())
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    assert zeta_guard("audit", "verify", record.file, "--key", other).status == 1


def test_wrong_usage_is_named(record: Record, zeta_guard: Any, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments, words in (
        ((record.file, "--key", record.private), "openssl pkey"),
        ((record.file, "--key", tmp_path / "none"), "cannot be read"),
        ((tmp_path / "none", "--key", record.key), "no file"),
        ((empty, "--key", record.key), "holds no audit-"),
        ((record.file, "--key", record.key, "--checkpoints", record.key), "no audit_checkpoint line"),
    ):
        outcome = zeta_guard("audit", "verify", *arguments)
        assert outcome.status == 2
        assert words in outcome.err
