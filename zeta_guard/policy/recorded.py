"""Decisions that were written down: lines of this guard's decision log or of OPA's, read back for replay and explanation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cryptography.hazmat.primitives.asymmetric import ec

from zeta_guard.errors import ConfigurationError, JsonValue
from zeta_guard.http.address import ip_prefixes, parse_address
from zeta_guard.policy.answer import MalformedAnswerError, read_decision
from zeta_guard.policy.contract import Decision, Question
from zeta_guard.policy.sealed_input import SealedInputError, open_input

_LONGEST_LINE = 8 * 1024 * 1024
_ADDRESS_SECTIONS = ("authorization_request", "request")


@dataclass(frozen=True, slots=True)
class Recorded:
    """One line. ``hidden`` names what of the input is masked (``user_info/identifier``), empty when it is whole.

    ``decision`` is None for a line that recorded that there was no answer.
    """

    number: int
    decision_id: str
    time: str
    question: Question
    document: dict[str, JsonValue]
    hidden: tuple[str, ...]
    decision: Decision | None
    request_id: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A line that is no decision."""

    number: int
    why: str


def read_log(file: Path, *, key: ec.EllipticCurvePrivateKey | None = None) -> Iterator[Recorded | Unreadable]:
    """All lines of ``file``; with ``key`` sealed inputs are opened. Raises ConfigurationError when the file cannot be read."""
    try:
        with file.open("rb") as stream:
            for number, raw in enumerate(stream, start=1):
                if not raw.strip():
                    continue
                if len(raw) > _LONGEST_LINE:
                    yield Unreadable(number, "line is longer than 8 MiB")
                    continue
                yield _line(number, raw, key)
    except OSError as error:
        raise ConfigurationError(
            "LOG", f"{file} ({error.strerror})", "a decision log, one JSON object per line"
        ) from None


def _line(number: int, raw: bytes, key: ec.EllipticCurvePrivateKey | None) -> Recorded | Unreadable:
    try:
        event = json.loads(raw)
    except (ValueError, RecursionError):
        return Unreadable(number, "no JSON")
    if not isinstance(event, dict) or not isinstance(event.get("input"), dict):
        return Unreadable(number, "no decision with an input")
    question = _question(event)
    if question is None:
        return Unreadable(number, "neither the token nor the request question")
    document: dict[str, JsonValue] = event["input"]
    pointers = [*_pointers(event.get("erased")), *_pointers(event.get("masked"))]
    sealed = event.get("sealed_input")
    if key is not None and isinstance(sealed, str):
        try:
            document, pointers = open_input(sealed, key), []
        except SealedInputError as error:
            return Unreadable(number, str(error))
    return Recorded(
        number=number,
        decision_id=str(event.get("decision_id", "")),
        time=str(event.get("timestamp", "")),
        question=question,
        document=document,
        hidden=_restore_prefixes(document, pointers),
        decision=_decision(event),
        request_id=str(event.get("req_id", "")),
    )


def _question(event: dict[str, Any]) -> Question | None:
    given: Literal["token", "request"]
    for given in ("token", "request"):
        if event.get("question") == given:
            return given
    path = str(event.get("path", "")).replace(".", "/")
    if "question" in event:
        return None
    if path.startswith("policies/zeta/authz"):
        return "token"
    return "request" if path.startswith("policies/zeta/request") else None


def _pointers(value: object) -> list[str]:
    texts = value if isinstance(value, list) else []
    return [str(text).removeprefix("/input/").strip("/") for text in texts]


def _restore_prefixes(document: dict[str, JsonValue], pointers: list[str]) -> tuple[str, ...]:
    """The networks of an address that was written down are not lost."""
    hidden = set(pointers)
    for name in _ADDRESS_SECTIONS:
        section = document.get(name)
        text = section.get("ip_address") if isinstance(section, dict) else None
        address = parse_address(text) if isinstance(text, str) else None
        if isinstance(section, dict) and address is not None and f"{name}/ip_prefixes" in hidden:
            section["ip_prefixes"] = list[JsonValue](ip_prefixes(address))
            hidden.discard(f"{name}/ip_prefixes")
    return tuple(sorted(hidden))


def _decision(event: dict[str, Any]) -> Decision | None:
    bundles = event.get("bundles")
    revisions = [
        str(bundle.get("revision", ""))
        for bundle in (bundles.values() if isinstance(bundles, dict) else ())
        if isinstance(bundle, dict)
    ]
    try:
        return read_decision(
            event.get("result"),
            decision_id=str(event.get("decision_id", "")),
            revision=",".join(revisions),
            milliseconds=0.0,
        )
    except MalformedAnswerError:
        return None
