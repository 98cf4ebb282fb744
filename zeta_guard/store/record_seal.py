"""Records of clients and sessions as bytes: a schema version and a MAC over name and content.

Who can write to the store but does not have the secret files can make no record and move none to another name.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any, Final

import orjson

from zeta_guard.store.contract import Client, ClientState, Session
from zeta_guard.store.session_record import SessionRecord

SCHEMA: Final = 1
"""Version written. A release that writes N reads N and N-1."""

_MAC_BYTES: Final = 32
_SESSION_MEMBERS: Final = tuple(member.name for member in fields(Session))


class RecordSeal:
    """Makes and reads sealed records. ``keys``: current first; the others only read."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys: Final = tuple(keys)

    def seal(self, name: bytes, content: dict[str, Any]) -> bytes:
        """Version, MAC, JSON."""
        body = bytes((SCHEMA,)) + orjson.dumps(content)
        return body[:1] + _mac(self._keys[0], name, body) + body[1:]

    def open(self, name: bytes, sealed: bytes) -> dict[str, Any] | None:
        """The content, or None when this guard did not write it under this name."""
        if len(sealed) <= 1 + _MAC_BYTES or sealed[0] != SCHEMA:
            return None
        mac, body = sealed[1 : 1 + _MAC_BYTES], sealed[:1] + sealed[1 + _MAC_BYTES :]
        if not any(hmac.compare_digest(mac, _mac(key, name, body)) for key in self._keys):
            return None
        content: dict[str, Any] = orjson.loads(body[1:])
        return content


def _mac(key: bytes, name: bytes, body: bytes) -> bytes:
    return hmac.digest(key, len(name).to_bytes(4, "big") + name + body, "sha256")


def client_content(client: Client) -> dict[str, Any]:
    """A client as JSON."""
    return asdict(client)


def read_client(content: dict[str, Any], last_used_at: int) -> Client:
    """The client; uses are noted beside the sealed record."""
    return Client(**{**content, "state": ClientState(content["state"]), "last_used_at": last_used_at})


def session_content(record: SessionRecord) -> dict[str, Any]:
    """A session as JSON."""
    session = record.session
    # Written out: asdict copies every value by recursion, at each refresh.
    content: dict[str, Any] = {name: getattr(session, name) for name in _SESSION_MEMBERS}
    content["sealed"] = base64.b64encode(session.sealed).decode()
    return {
        "session": content,
        "previous_jti": record.previous_jti,
        "rotated_at": record.rotated_at,
        "sealed_answer": base64.b64encode(record.sealed_answer).decode(),
    }


def read_session(content: dict[str, Any]) -> SessionRecord:
    """The session."""
    session = {**content["session"], "sealed": base64.b64decode(content["session"]["sealed"])}
    return SessionRecord(
        Session(**session),
        content["previous_jti"],
        content["rotated_at"],
        base64.b64decode(content["sealed_answer"]),
    )
