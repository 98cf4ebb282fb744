from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from zeta_guard.config import telemetry as telemetry_config
from zeta_guard.errors import ConfigurationError, ZetaError
from zeta_guard.telemetry import audit as module
from zeta_guard.telemetry.audit import Audit
from zeta_guard.telemetry.audit_verification import Verification, verify

KEY = ec.generate_private_key(ec.SECP256R1())
PUBLIC = KEY.public_key()


class Secrets:
    """Stands for the secret files: any bytes by label and context."""

    def derive(self, label: str, context: bytes = b"") -> tuple[bytes, ...]:
        return (hashlib.sha256(b"current" + label.encode() + context).digest(), b"\0" * 32)


class Clock:
    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(tmp_path: Path, clock: Clock) -> Iterator[Callable[..., Audit]]:
    made: list[Audit] = []
    key_file = tmp_path / "audit.key"
    key_file.write_bytes(
        KEY.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )

    def build(**values: Any) -> Audit:
        largest = values.pop("largest_file", module.LARGEST_FILE)
        registry = values.pop("registry", None)
        config = telemetry_config.Audit(directory=tmp_path, signing_key_file=key_file, **values)
        made.append(Audit(config, Secrets(), clock=clock, largest_file=largest, registry=registry))
        return made[-1]

    yield build
    for audit in made:
        audit.close()


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("audit-*.jsonl"))


def _verify(folder: Path, **options: Any) -> Verification:
    return verify(_files(folder), PUBLIC, **options)


def _lines(folder: Path) -> list[bytes]:
    return b"".join(path.read_bytes() for path in _files(folder)).splitlines(keepends=True)


def test_record_that_was_closed_verifies(make: Callable[..., Audit], tmp_path: Path) -> None:
    audit = make()
    for number in range(10):
        audit.record("token_issued", client_id=f"c{number}")
    audit.close()
    result = _verify(tmp_path, secrets=Secrets())
    assert result == Verification(records=13, checkpoints=2, unproven=0, open_writers=(), problems=())
    assert result.ok
    third = json.loads(_lines(tmp_path)[2])
    assert (third["sequence"], third["event"], third["fields"]) == (3, "token_issued", {"client_id": "c0"})
    assert _files(tmp_path)[0].stat().st_mode & 0o777 == 0o600


def test_running_record_verifies_and_says_what_is_not_proven_yet(make: Callable[..., Audit], tmp_path: Path) -> None:
    audit = make()
    audit.record("a")
    audit.record("b")
    result = _verify(tmp_path)
    assert result.ok
    assert result.unproven == 2
    assert len(result.open_writers) == 1


def test_checkpoints_come_with_time_and_go_to_the_security_log(
    make: Callable[..., Audit],
    clock: Clock,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging.getLogger("zeta_guard"), "propagate", True)
    caplog.set_level(logging.INFO)
    audit = make(checkpoint_seconds=60)
    audit.record("a")
    clock.now += 60
    audit.record("b")
    assert _verify(tmp_path).unproven == 0
    kept = [getattr(record, "event_fields") for record in caplog.records if record.getMessage() == "audit_checkpoint"]
    assert [fields["count"] for fields in kept] == [1, 4]
    assert _verify(tmp_path, checkpoints=kept).ok


async def test_last_records_are_signed_by_a_timer(make: Callable[..., Audit], tmp_path: Path) -> None:
    audit = make(checkpoint_seconds=1)
    audit.record("a")
    assert _verify(tmp_path).unproven == 1
    async with asyncio.timeout(5):
        while _verify(tmp_path).unproven:  # noqa: ASYNC110 - a file has no event
            await asyncio.sleep(0.05)
    audit.close()
    assert _verify(tmp_path).ok


def test_chain_goes_on_in_the_next_file(make: Callable[..., Audit], tmp_path: Path) -> None:
    audit = make(largest_file=2000)
    for _ in range(30):
        audit.record("token_issued", client_id="c")
    audit.close()
    assert len(_files(tmp_path)) > 3
    assert _verify(tmp_path, secrets=Secrets()).ok
    _files(tmp_path)[1].unlink()
    assert not _verify(tmp_path).ok


def test_every_process_has_its_own_chain(make: Callable[..., Audit], tmp_path: Path) -> None:
    first, second = make(), make()
    first.record("a")
    second.record("b")
    first.close()
    second.close()
    assert len({json.loads(line)["writer"] for line in _lines(tmp_path)}) == 2
    assert _verify(tmp_path).ok


def test_forked_process_begins_its_own_chain(make: Callable[..., Audit], tmp_path: Path) -> None:
    audit = make()
    audit.record("parent")
    with warnings.catch_warnings():
        # Newer interpreters warn about threads of other tests; the child only writes and leaves.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        audit.record("child")
        audit.close()
        os._exit(0)
    os.waitpid(child, 0)
    audit.record("parent")
    audit.close()
    assert len(_files(tmp_path)) == 2
    assert _verify(tmp_path, secrets=Secrets()).ok


def _write(make: Callable[..., Audit], folder: Path, clock: Clock) -> list[bytes]:
    audit = make()
    for number in range(6):
        audit.record("token_issued", client_id=f"c{number}")
        clock.now += 25
    audit.close()
    return _lines(folder)


@pytest.mark.parametrize(
    ("attack", "what"),
    [
        (lambda lines: [lines[0], lines[1], lines[3], lines[2], *lines[4:]], "out of order"),
        (lambda lines: [*lines[:3], *lines[4:]], "missing"),
        (lambda lines: lines[1:], "missing"),
        (lambda lines: [*lines[:3], lines[2], *lines[3:]], "doubled"),
        (lambda lines: [line.replace(b'"c0"', b'"cX"') for line in lines], "rewritten"),
        (lambda lines: [line.replace(b'"time":"2023', b'"time":"2022', 1) for line in lines], "rewritten"),
        (lambda lines: [*lines[:-1], lines[-1][:-20]], "cut off"),
        (lambda lines: [*lines[:4], b"garbage\n", *lines[4:]], "not a line"),
        (lambda lines: [*lines, lines[-1]], "after the final checkpoint"),
    ],
)
def test_changed_record_does_not_verify(
    attack: Callable[[list[bytes]], list[bytes]], what: str, make: Callable[..., Audit], tmp_path: Path, clock: Clock
) -> None:
    lines = _write(make, tmp_path, clock)
    assert _verify(tmp_path).ok
    _files(tmp_path)[0].write_bytes(b"".join(attack(lines)))
    result = _verify(tmp_path)
    assert any(what in problem.what for problem in result.problems), result.problems


def _forge(lines: list[bytes], old: bytes, new: bytes) -> list[bytes]:
    """Rewrite a line and all heads after it, as somebody with the file but without keys can."""
    head = module.first_head(json.loads(lines[0])["writer"])
    forged = []
    for line in lines:
        body = re.sub(rb',"head":"[0-9a-f]{64}","mac":"[0-9a-f]{64}"\}\n$', b"}", line).replace(old, new)
        head = module.next_head(head, body)
        mac = json.loads(line)["mac"]
        forged.append(body[:-1] + f',"head":"{head.hex()}","mac":"{mac}"}}\n'.encode())
    return forged


def test_rewriting_with_recomputed_heads_is_found_by_the_checkpoints_alone(
    make: Callable[..., Audit], tmp_path: Path, clock: Clock
) -> None:
    lines = _write(make, tmp_path, clock)
    _files(tmp_path)[0].write_bytes(b"".join(_forge(lines, b'"c0"', b'"cX"')))
    assert any("checkpoint" in problem.what for problem in _verify(tmp_path).problems)


def test_rewriting_after_the_last_checkpoint_is_found_with_the_secrets(
    make: Callable[..., Audit], tmp_path: Path
) -> None:
    audit = make()
    audit.record("token_issued", client_id="c0")
    _files(tmp_path)[0].write_bytes(b"".join(_forge(_lines(tmp_path), b'"c0"', b'"cX"')))
    assert _verify(tmp_path).ok
    assert _verify(tmp_path).unproven == 1
    assert any("MAC" in problem.what for problem in _verify(tmp_path, secrets=Secrets()).problems)


def test_checkpoint_signed_by_another_key_is_found(make: Callable[..., Audit], tmp_path: Path, clock: Clock) -> None:
    _write(make, tmp_path, clock)
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    assert any("signature" in problem.what for problem in verify(_files(tmp_path), other).problems)


def test_truncation_at_a_checkpoint_is_found_with_the_security_log(
    make: Callable[..., Audit], tmp_path: Path, clock: Clock
) -> None:
    lines = _write(make, tmp_path, clock)
    records = [json.loads(line) for line in lines]
    kept = [{"writer": one["writer"], **one["fields"]} for one in records if one["event"] == "checkpoint"]
    assert len(kept) >= 3
    assert _verify(tmp_path, checkpoints=kept).ok
    second = next(index for index, one in enumerate(records) if one["event"] == "checkpoint" and index > 1)
    for end in range(second + 1, len(lines)):
        _files(tmp_path)[0].write_bytes(b"".join(lines[:end]))
        assert _verify(tmp_path).ok
        assert any("missing at the end" in problem.what for problem in _verify(tmp_path, checkpoints=kept).problems)
    path = _files(tmp_path)[0]
    path.unlink()
    assert any("whole chain" in problem.what for problem in verify([], PUBLIC, checkpoints=kept).problems)
    assert "cannot be read" in verify([path], PUBLIC).problems[0].what


def test_forged_checkpoint_in_the_security_log_is_found(
    make: Callable[..., Audit], tmp_path: Path, clock: Clock
) -> None:
    lines = _write(make, tmp_path, clock)
    record = json.loads(lines[-1])
    kept = {"writer": record["writer"], **record["fields"], "count": 3}
    assert any("signature" in problem.what for problem in _verify(tmp_path, checkpoints=[kept]).problems)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.lists(st.binary(max_size=40), max_size=6), st.integers(0, 20), st.integers(0, 400))
def test_any_bytes_in_the_files_are_a_result(
    tmp_path_factory: pytest.TempPathFactory, garbage: list[bytes], line: int, cut: int
) -> None:
    path = tmp_path_factory.mktemp("audit") / "audit-x.jsonl"
    seal = b',"head":"' + b"0" * 64 + b'","mac":"' + b"0" * 64 + b'"}'
    path.write_bytes(b"\n".join(part + seal for part in garbage) + b"\n" if garbage else b"")
    assert verify([path], PUBLIC, checkpoints=[{}, {"writer": 1, "count": "x"}], secrets=Secrets()).problems


def test_record_that_cannot_be_written_is_a_503_and_leaves_the_chain_whole(
    make: Callable[..., Audit], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = make()
    audit.record("a")
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, raw: real(descriptor, bytes(raw)[:10]))
    with pytest.raises(ZetaError) as caught:
        audit.record("b")
    assert (caught.value.status, caught.value.code) == (503, "temporarily_unavailable")
    monkeypatch.setattr(os, "write", real)
    audit.record("c")
    audit.close()
    assert _verify(tmp_path, secrets=Secrets()).ok
    assert b'"event":"b"' not in b"".join(_lines(tmp_path))


async def test_a_failing_record_is_measured_until_it_can_be_written_again(make: Callable[..., Audit]) -> None:
    registry = CollectorRegistry()

    def value(name: str, **labels: str) -> float:
        return registry.get_sample_value(f"zeta_guard_audit_{name}", labels) or 0.0

    audit = make(registry=registry, checkpoint_seconds=1)
    audit.record("good")
    assert (value("failing"), value("lines_total", kind="record", outcome="written")) == (0, 1)
    kept = os.dup(audit._descriptor)
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, audit._descriptor)
    os.close(full)
    try:
        with pytest.raises(ZetaError):
            audit.record("lost")
        assert (value("failing"), value("lines_total", kind="record", outcome="failed")) == (1, 1)
        async with asyncio.timeout(5):
            while not value("lines_total", kind="checkpoint", outcome="failed"):  # noqa: ASYNC110 - only the clock knows
                await asyncio.sleep(0.02)
    finally:
        os.dup2(kept, audit._descriptor)
        os.close(kept)
    # Nobody has to log in for the alarm to end: the next checkpoint tries.
    async with asyncio.timeout(5):
        while value("failing"):  # noqa: ASYNC110 - only the clock knows
            await asyncio.sleep(0.02)
    assert audit.failing is None
    assert value("lines_total", kind="checkpoint", outcome="written") == 1


def test_without_a_directory_nothing_fails_and_nothing_counts() -> None:
    registry = CollectorRegistry()
    Audit(telemetry_config.Audit(), Secrets(), registry=registry).record("x")
    assert registry.get_sample_value("zeta_guard_audit_failing") == 0
    labels = {"kind": "record", "outcome": "written"}
    assert registry.get_sample_value("zeta_guard_audit_lines_total", labels) == 0


def test_closed_record_cannot_be_written(make: Callable[..., Audit]) -> None:
    audit = make()
    audit.close()
    with pytest.raises(ZetaError):
        audit.record("late")


def test_old_keys_do_not_remain(make: Callable[..., Audit]) -> None:
    audit = make()
    before = audit._key
    copy = bytes(before)
    audit.record("a")
    assert before == bytes(32)
    assert audit._key == module.next_key(copy)


def test_tokens_in_fields_are_masked(make: Callable[..., Audit], tmp_path: Path) -> None:
    audit = make()
    audit.record("oops", note="eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln")
    assert b"eyJ" not in b"".join(_lines(tmp_path))
    assert _verify(tmp_path, secrets=Secrets()).ok


def test_without_a_directory_nothing_is_written(tmp_path: Path) -> None:
    audit = Audit(telemetry_config.Audit(), Secrets())
    assert not audit.enabled
    audit.record("a")
    audit.close()


@pytest.mark.parametrize("kind", ["missing", "absent", "garbage", "p384"])
def test_signing_key_that_is_none_is_a_configuration_error(kind: str, tmp_path: Path) -> None:
    key_file: Path | None = tmp_path / "key"
    if kind == "missing":
        key_file = None
    elif kind == "garbage":
        (tmp_path / "key").write_text("garbage")
    elif kind == "p384":
        other = ec.generate_private_key(ec.SECP384R1())
        (tmp_path / "key").write_bytes(
            other.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
    with pytest.raises(ConfigurationError) as caught:
        Audit(telemetry_config.Audit(directory=tmp_path, signing_key_file=key_file), Secrets())
    assert caught.value.path == "audit.signing_key_file"
    assert caught.value.remedy


def test_a_folder_that_does_not_exist_is_made_for_its_owner_alone(make: Callable[..., Audit], tmp_path: Path) -> None:
    folder = tmp_path / "some" / "where"
    config = telemetry_config.Audit(directory=folder, signing_key_file=tmp_path / "audit.key")
    Audit(config, Secrets()).close()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert list(folder.iterdir())


def test_a_folder_that_cannot_be_made_is_a_configuration_error(make: Callable[..., Audit], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    config = telemetry_config.Audit(directory=tmp_path / "file" / "audit", signing_key_file=tmp_path / "audit.key")
    with pytest.raises(ConfigurationError) as caught:
        Audit(config, Secrets())
    assert caught.value.path == "audit.directory"


@pytest.mark.parametrize(
    "body",
    [
        b'{"writer":1,"sequence":1,"fields":{}}',
        b'{"writer":"w","sequence":true,"fields":{}}',
        b'{"writer":"w","sequence":"1","fields":{}}',
        b'{"writer":"w","sequence":1,"fields":[]}',
        b'{"writer":"w","sequence":1,"event":"checkpoint"}',
        b"{}",
    ],
)
def test_line_without_its_members_is_named(body: bytes, tmp_path: Path) -> None:
    head = module.next_head(module.first_head("w"), body).hex()
    path = tmp_path / "audit-w-0001.jsonl"
    path.write_bytes(body[:-1] + f',"head":"{head}","mac":"{"0" * 64}"}}\n'.encode())
    assert "lacks" in verify([path], PUBLIC).problems[0].what


def _kept(lines: list[bytes]) -> dict[str, Any]:
    record = json.loads(lines[-1])
    return {"writer": record["writer"], **record["fields"]}


def test_signature_has_exactly_one_form(make: Callable[..., Audit], tmp_path: Path, clock: Clock) -> None:
    kept = _kept(_write(make, tmp_path, clock))
    assert _verify(tmp_path, checkpoints=[kept]).ok
    longer = kept | {"signature": kept["signature"][:64] + "00" + kept["signature"][64:]}
    assert not _verify(tmp_path, checkpoints=[longer]).ok


def test_signed_checkpoint_of_another_history_is_found(
    make: Callable[..., Audit], tmp_path: Path, clock: Clock
) -> None:
    kept = _kept(_write(make, tmp_path, clock)) | {"head": "0" * 64}
    signed = module.checkpoint_bytes(kept["writer"], kept["count"], kept["head"], kept["time"], final=kept["final"])
    r, s = decode_dss_signature(KEY.sign(signed, ec.ECDSA(hashes.SHA256())))
    kept["signature"] = (r.to_bytes(32, "big") + s.to_bytes(32, "big")).hex()
    assert "is not the one" in _verify(tmp_path, checkpoints=[kept]).problems[0].what
