"""Proves an audit record: nothing rewritten, nothing reordered, nothing cut out (``zeta-guard audit verify``)."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from zeta_guard.telemetry.audit import (
    CHECKPOINT,
    KeySource,
    checkpoint_bytes,
    first_head,
    line_mac,
    next_head,
    next_key,
)

_SEAL: Final = re.compile(rb',"head":"([0-9a-f]{64})","mac":"([0-9a-f]{64})"\}')
_SEAL_LENGTH: Final = len(',"head":"","mac":""}') + 128


@dataclass(frozen=True, slots=True)
class Problem:
    """A place where the record does not hold. ``line`` counts from 1; 0 when it concerns the whole chain."""

    place: str
    line: int
    what: str


@dataclass(frozen=True, slots=True)
class Verification:
    """Result for all chains that were given.

    ``unproven`` counts lines after the last signed checkpoint of their chain: they are chained, but whoever can write the
    file could have added or cut them. ``open_writers`` have no final checkpoint: they still run, crashed, or lost their end.
    """

    records: int
    checkpoints: int
    unproven: int
    open_writers: tuple[str, ...]
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.problems


@dataclass(slots=True)
class _Chain:
    writer: str
    head: bytes
    keys: list[bytearray]
    sequence: int = 0
    checkpoints: int = 0
    proven: int = 0
    final: bool = False
    heads: dict[int, str] = field(default_factory=dict)


def verify(
    files: Iterable[Path],
    public_key: ec.EllipticCurvePublicKey,
    *,
    checkpoints: Sequence[Mapping[str, Any]] = (),
    secrets: KeySource | None = None,
) -> Verification:
    """Verify the chains in ``files`` (any order; the parts of a chain are put in order by name).

    ``checkpoints`` are those that the security log kept (members ``writer``, ``count``, ``head``, ``time``, ``final``,
    ``signature``): with them a record that was cut off at its end, or a whole chain that is gone, is found. ``secrets`` are
    needed only to check the MAC of each line, which also covers the lines after the last checkpoint. Never raises for what
    stands in the files.
    """
    problems: list[Problem] = []
    chains: dict[str, _Chain] = {}
    wanted = {str(kept.get("writer")): set[int]() for kept in checkpoints}
    for kept in checkpoints:
        if isinstance(kept.get("count"), int):
            wanted[str(kept.get("writer"))].add(kept["count"])
    for path in sorted(files, key=lambda item: item.name):
        try:
            raw = path.read_bytes()
        except OSError as error:
            problems.append(Problem(path.name, 0, f"cannot be read ({error.strerror})"))
            continue
        if raw and not raw.endswith(b"\n"):
            problems.append(Problem(path.name, raw.count(b"\n") + 1, "the last line is cut off"))
        for number, line in enumerate(raw.splitlines(), 1):
            what = _check_line(line, chains, public_key, secrets, wanted)
            if what is not None:
                problems.append(Problem(path.name, number, what))
    problems += _check_kept(checkpoints, chains, public_key)
    return Verification(
        records=sum(chain.sequence for chain in chains.values()),
        checkpoints=sum(chain.checkpoints for chain in chains.values()),
        unproven=sum(chain.sequence - chain.proven for chain in chains.values()),
        open_writers=tuple(sorted(chain.writer for chain in chains.values() if not chain.final)),
        problems=tuple(problems),
    )


def _check_line(
    line: bytes,
    chains: dict[str, _Chain],
    public_key: ec.EllipticCurvePublicKey,
    secrets: KeySource | None,
    wanted: Mapping[str, set[int]],
) -> str | None:
    seal = _SEAL.fullmatch(line, max(0, len(line) - _SEAL_LENGTH))
    body = line[: len(line) - _SEAL_LENGTH] + b"}"
    try:
        record = orjson.loads(body) if seal else None
    except orjson.JSONDecodeError:
        record = None
    if seal is None or not isinstance(record, dict):
        return "is not a line of an audit record"
    writer, sequence, fields = record.get("writer"), record.get("sequence"), record.get("fields")
    if not isinstance(writer, str) or type(sequence) is not int or not isinstance(fields, dict):
        return "lacks writer, sequence or fields"
    chain = chains.get(writer)
    if chain is None:
        keys = [bytearray(key) for key in secrets.derive("audit", writer.encode())] if secrets else []
        chain = chains[writer] = _Chain(writer, first_head(writer), keys)
    if chain.final:
        return "stands after the final checkpoint"
    expected = chain.sequence + 1
    if sequence != expected:
        # The chain is taken up again here, so that one hole is one problem and not one for every later line.
        chain.head, chain.sequence = bytes.fromhex(seal[1].decode()), sequence
        for _ in range(min(max(0, sequence - expected + 1), 1_000_000)):
            chain.keys = [next_key(key) for key in chain.keys]
        return f"has sequence {sequence}, expected {expected}: lines are missing, doubled or out of order"
    return _check_seal(chain, sequence, seal, body, record, public_key, secrets is not None, wanted)


def _check_seal(
    chain: _Chain,
    sequence: int,
    seal: re.Match[bytes],
    body: bytes,
    record: Mapping[str, Any],
    public_key: ec.EllipticCurvePublicKey,
    check_mac: bool,
    wanted: Mapping[str, set[int]],
) -> str | None:
    before = chain.head.hex()
    head = next_head(chain.head, body)
    written, mac = seal[1].decode(), seal[2].decode()
    found: str | None = None
    if head.hex() != written:
        found = "was rewritten: its head does not follow from the line before"
    elif check_mac and not any(hmac.compare_digest(line_mac(key, head), mac) for key in chain.keys):
        found = "was rewritten: its MAC is wrong"
    elif record.get("event") == CHECKPOINT:
        fields = record["fields"]
        if fields.get("count") != sequence - 1 or fields.get("head") != before:
            found = "is a checkpoint of another chain or place"
        elif not _signed(chain.writer, fields, public_key):
            found = "is a checkpoint whose signature is wrong"
        else:
            chain.checkpoints += 1
            chain.proven = sequence
            chain.final = fields.get("final") is True
    chain.head = bytes.fromhex(written)
    chain.sequence = sequence
    chain.keys = [next_key(key) for key in chain.keys]
    if sequence in wanted.get(chain.writer, ()):
        chain.heads[sequence] = written
    return found


def _signed(writer: str, fields: Mapping[str, Any], public_key: ec.EllipticCurvePublicKey) -> bool:
    try:
        raw = bytes.fromhex(fields["signature"])
        signed = checkpoint_bytes(
            writer, fields["count"], fields["head"], fields["time"], final=fields.get("final") is True
        )
        if len(raw) != 64:
            return False
        signature = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
        public_key.verify(signature, signed, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, KeyError, ValueError, TypeError):
        return False
    return True


def _check_kept(
    checkpoints: Sequence[Mapping[str, Any]], chains: Mapping[str, _Chain], public_key: ec.EllipticCurvePublicKey
) -> list[Problem]:
    problems: list[Problem] = []
    for kept in checkpoints:
        writer, count = str(kept.get("writer")), kept.get("count")
        if not _signed(writer, kept, public_key) or not isinstance(count, int):
            problems.append(Problem(writer, 0, "the security log holds a checkpoint whose signature is wrong"))
            continue
        chain = chains.get(writer)
        if chain is None:
            problems.append(Problem(writer, 0, "the whole chain is missing"))
        elif chain.sequence <= count:
            # The checkpoint itself is line count + 1.
            problems.append(Problem(writer, 0, f"lines {chain.sequence + 1} to {count + 1} are missing at the end"))
        elif chain.heads.get(count) != kept.get("head"):
            problems.append(Problem(writer, 0, f"line {count} is not the one that the security log's checkpoint names"))
    return problems
