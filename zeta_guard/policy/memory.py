"""Decisions that need not be made twice: the same rules over the same data say the same about the same question.

The sandbox has no clock, no randomness and no network (:mod:`zeta_guard.policy.wasm`), so that an answer depends on the bundle and
on the bytes of the question alone. A client that refreshes asks the same question again, but for the moment of its
attestation; where no rule reads that moment, it is left out of what is evaluated and of what is remembered.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

import orjson

from zeta_guard.errors import JsonValue
from zeta_guard.policy.bundle import Bundle
from zeta_guard.policy.contract import Decision
from zeta_guard.policy.input_reads import read_members
from zeta_guard.recent import Recent

_SECTION: Final = "client_registration_data"
_MOMENT: Final = "attestation_timestamp"
_DECISIONS: Final = 4096
_MOST_REASONS: Final = 4
"""A decision with more reasons is made anew: what is remembered stays small."""

_HASHER: Final = hashlib.sha256()


class DecisionMemory:
    """What one bundle has decided about tokens, by the SHA-256 of the question. Ends with its bundle."""

    __slots__ = ("_decisions", "_timeless")

    def __init__(self, bundle: Bundle, entrypoint: str) -> None:
        self._timeless: Final = not read_members(bundle, entrypoint, (f"{_SECTION}/{_MOMENT}",))
        self._decisions: Final[Recent[bytes, Decision]] = Recent(_DECISIONS)

    def question(self, document: Mapping[str, JsonValue]) -> bytes:
        """The question as JSON, without what no rule reads and what differs each time. It is evaluated as it is remembered."""
        client = document.get(_SECTION)
        if self._timeless and isinstance(client, dict) and _MOMENT in client:
            client = client.copy()
            del client[_MOMENT]
            document = {**document, _SECTION: client}
        return orjson.dumps(document)

    def key(self, question: bytes) -> bytes:
        """The name of a question. Nothing of whom it is about is kept."""
        digest = _HASHER.copy()
        digest.update(question)
        return digest.digest()

    def recall(self, key: bytes) -> Decision | None:
        """The decision as it was made, with the id that it had then."""
        return self._decisions.get(key)

    def remember(self, key: bytes, decision: Decision) -> None:
        """Note a decision."""
        if len(decision.reasons) <= _MOST_REASONS:
            self._decisions.put(key, decision)
