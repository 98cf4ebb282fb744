"""What a session remembers: everything that a refresh needs again, sealed (``wire-contract`` 4.3, ``architecture`` section 5)."""

from __future__ import annotations

import base64
import hashlib
import os
from typing import Final, NamedTuple

import orjson

from zeta_guard.authorization_server.audience import Target
from zeta_guard.authorization_server.client_statement import ClientStatement
from zeta_guard.errors import ZetaError, unavailable
from zeta_guard.jose.sealing import Sealer, SealingError, Secrets
from zeta_guard.recent import Recent
from zeta_guard.store.contract import Session

_VERSION: Final = 2
"""JSON, a line end, the certificate as it is. Version 1 was JSON alone, with the certificate in base64."""

_OPENED: Final = 2048
"""Contents that are remembered as they were opened: some three kibibytes each, nothing of a token among it."""

_HASHER: Final = hashlib.sha256()
_Place = tuple[str, str, str]
"""Session, client, thumbprint of the DPoP key: where a content belongs."""


def new_session_id() -> str:
    """128 random bits, 32 characters."""
    return os.urandom(16).hex()


def new_jti() -> str:
    """128 random bits, 32 characters."""
    return os.urandom(16).hex()


class SessionContent(NamedTuple):
    """The sealed part. ``leaf``: certificate (DER) that opened the session; ``client_address``: where it was opened from."""

    leaf: bytes
    statement: ClientStatement
    scopes: tuple[str, ...]
    target: Target
    granted_audience: tuple[str, ...]
    client_address: str
    registered_at: int | None


class SessionSealer:
    """Seals and opens session contents; a content opens only for its own session, client and DPoP key."""

    def __init__(self, keys: Secrets) -> None:
        self._sealer: Final = Sealer(keys.derive("session"))
        self._opened: Final[Recent[bytes, tuple[_Place, SessionContent]]] = Recent(_OPENED)

    def seal(self, content: SessionContent, *, session_id: str, client_id: str, jkt: str) -> bytes:
        """Sealed bytes for ``Session.sealed``."""
        plain = orjson.dumps(
            {
                "version": _VERSION,
                "statement": content.statement._asdict(),
                "scopes": content.scopes,
                "contract": content.target.version,
                "audience": content.target.audience,
                "resource": content.target.resource,
                "granted_audience": content.granted_audience,
                "client_address": content.client_address,
                "registered_at": content.registered_at,
            },
            option=orjson.OPT_APPEND_NEWLINE,
        )
        place = (session_id, client_id, jkt)
        sealed = self._sealer.seal(plain + content.leaf, _associated(place))
        self._opened.put(_digest(sealed), (place, content))
        return sealed

    def open(self, session: Session) -> SessionContent:
        """The content. Raises ZetaError ``invalid_grant`` when it was sealed under a secret that is gone, or for another session."""
        place = (session.session_id, session.client_id, session.jkt)
        # A refresh finds the bytes that the one before found; they mean the same, and only at the same place.
        digest = _digest(session.sealed)
        known = self._opened.get(digest)
        if known is not None and known[0] == place:
            return known[1]
        content = self._open(session.sealed, place)
        self._opened.put(digest, (place, content))
        return content

    def _open(self, sealed: bytes, place: _Place) -> SessionContent:
        try:
            plain = self._sealer.open(sealed, _associated(place))
        except SealingError:
            raise ZetaError(
                "invalid_grant", "the session can no longer be read; make a complete token exchange", stage="session"
            ) from None
        # No JSON of ours has a line end inside; of an older version there is none at all.
        head, _, leaf = plain.partition(b"\n")
        members = orjson.loads(head)
        if members["version"] > _VERSION:
            # A newer replica wrote it; this one must neither guess nor end the session.
            raise unavailable("the session was written by a newer version of the guard", stage="session")
        return SessionContent(
            leaf=leaf or base64.b64decode(members["leaf"]),
            statement=ClientStatement(**members["statement"]),
            scopes=tuple(members["scopes"]),
            target=Target(members["contract"], tuple(members["audience"]), members["resource"]),
            granted_audience=tuple(members["granted_audience"]),
            client_address=members["client_address"],
            registered_at=members["registered_at"],
        )


def _associated(place: _Place) -> bytes:
    return orjson.dumps(["session", *place])


def _digest(sealed: bytes) -> bytes:
    # Copying a hasher saves OpenSSL the search for the algorithm.
    hasher = _HASHER.copy()
    hasher.update(sealed)
    return hasher.digest()
