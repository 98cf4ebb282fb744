"""Records of clients and sessions as bytes: a schema version and a MAC over name and content.

Who can write to the store but does not have the secret files can make no record and move none to another name.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Sequence
from typing import Any, Final

import orjson
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.hmac import HMAC

from zeta_guard.recent import Recent
from zeta_guard.store.contract import Client, ClientState, Session
from zeta_guard.store.session_record import SessionRecord

PLAIN: Final = 1
"""Version of records that are JSON alone."""

WITH_TAIL: Final = 2
"""Version of records that are JSON, a line end, and bytes as they are: base64 of a session's two cost more than its MAC.

A release that writes a version reads the one before it too.
"""

# What the constructor of a named tuple does, without its call of Python code.
_new: Final = tuple.__new__
_PLAIN: Final = bytes((PLAIN,))
_WITH_TAIL: Final = bytes((WITH_TAIL,))
_MAC_BYTES: Final = 32
_LENGTH_BYTES: Final = 4
_CLIENTS: Final = 4096
_LARGEST_CLIENT: Final = 1024
"""Bytes of a record that is remembered; clients as they come have half of it."""
_STATES: Final = {state.value: state for state in ClientState}


class RecordSeal:
    """Makes and reads sealed records. ``keys``: current first; the others only read."""

    __slots__ = ("_clients", "_macs")

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._clients: Final[Recent[bytes, tuple[bytes, Client]]] = Recent(_CLIENTS)
        # Copies of a keyed MAC save the search for the algorithm and the hashing of the key.
        self._macs: Final = tuple(HMAC(key, hashes.SHA256()) for key in keys)

    def seal(self, name: bytes, content: dict[str, Any], tail: bytes | None = None) -> bytes:
        """Version, MAC, JSON, and where there is one the tail."""
        if tail is None:
            version, body = _PLAIN, orjson.dumps(content)
        else:
            version, body = _WITH_TAIL, orjson.dumps(content, option=orjson.OPT_APPEND_NEWLINE) + tail
        return b"".join((version, _mac(self._macs[0], name, version, body), body))

    def open(self, name: bytes, sealed: bytes) -> tuple[dict[str, Any], bytes | None] | None:
        """Content and tail, or None when this guard did not write it under this name."""
        version = sealed[:1]
        if len(sealed) <= 1 + _MAC_BYTES or version not in (_PLAIN, _WITH_TAIL):
            return None
        mac, body = sealed[1 : 1 + _MAC_BYTES], sealed[1 + _MAC_BYTES :]
        for keyed in self._macs:
            if hmac.compare_digest(mac, _mac(keyed, name, version, body)):
                break
        else:
            return None
        if version == _PLAIN:
            return orjson.loads(body), None
        # No JSON of ours has a line end inside.
        content, _, tail = body.partition(b"\n")
        return orjson.loads(content), tail

    def open_client(self, name: bytes, sealed: bytes, last_used_at: int) -> Client | None:
        """The client of a sealed record, or None as in :meth:`open`.

        The record of a client is written when it registers and when it is bound; the same bytes under the same name, seen
        again, are the same client.
        """
        known = self._clients.get(sealed)
        if known is not None and known[0] == name:
            client = known[1]
            return client if client.last_used_at == last_used_at else client._replace(last_used_at=last_used_at)
        content = self.open(name, sealed)
        if content is None:
            return None
        client = read_client(content[0], last_used_at)
        if len(sealed) <= _LARGEST_CLIENT:
            self._clients.put(sealed, (name, client))
        return client


def _mac(keyed: HMAC, name: bytes, version: bytes, body: bytes) -> bytes:
    mac = keyed.copy()
    mac.update(b"".join((len(name).to_bytes(4, "big"), name, version)))
    mac.update(body)
    return mac.finalize()


def client_content(client: Client) -> dict[str, Any]:
    """A client as JSON."""
    return client._asdict()


def read_client(content: dict[str, Any], last_used_at: int) -> Client:
    """The client; uses are noted beside the sealed record."""
    return Client(**{**content, "state": _STATES[content["state"]], "last_used_at": last_used_at})


def session_content(record: SessionRecord) -> tuple[dict[str, Any], bytes]:
    """A session as JSON and tail: the length of its sealed part (4 bytes, big endian), that part, the sealed answer."""
    session, previous_jti, rotated_at, answer = record
    content = session._asdict()
    sealed = content.pop("sealed")
    tail = len(sealed).to_bytes(_LENGTH_BYTES, "big") + sealed + answer
    return {"session": content, "previous_jti": previous_jti, "rotated_at": rotated_at}, tail


def read_session(content: dict[str, Any], tail: bytes | None) -> SessionRecord:
    """The session; without a tail one of the version before."""
    if tail is None:
        sealed, answer = base64.b64decode(content["session"]["sealed"]), base64.b64decode(content["sealed_answer"])
    else:
        end = _LENGTH_BYTES + int.from_bytes(tail[:_LENGTH_BYTES], "big")
        sealed, answer = tail[_LENGTH_BYTES:end], tail[end:]
    members = content["session"]
    members["sealed"] = sealed
    return _new(SessionRecord, (Session(**members), content["previous_jti"], content["rotated_at"], answer))
