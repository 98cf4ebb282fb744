"""What administration offers over HTTP: sessions, blocks, keys, clients, configuration, refusals. JSON in, JSON out.

Reads are GET, writes are POST. Every write is an audit record made before anything is done (``security`` section 7); where the
record cannot be written the answer is 503 and nothing has happened. Times are Unix seconds. A Telematik-ID comes in bodies
only, never in a URL, and no answer holds one: institutions are named by their pseudonyms.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Final, cast

from aiohttp import web

from zeta_guard.errors import JsonValue, ZetaError
from zeta_guard.http.body import parse_json_body, read_body
from zeta_guard.runtime.admin_config import effective_config
from zeta_guard.runtime.admin_decision import decided_by
from zeta_guard.runtime.admin_question import Question
from zeta_guard.runtime.admin_refusals import RecentRefusals
from zeta_guard.store.contract import Block, Client, Store, SubjectKind, block_subject
from zeta_guard.telemetry.redaction import mask

if TYPE_CHECKING:
    from zeta_guard.authorization_server.administration import Administration, SessionEntry
    from zeta_guard.runtime.generation import Generation

BODY_LIMIT: Final = 16 * 1024
BODY_SECONDS: Final = 5.0
MOST_LISTED: Final = 100_000
USUALLY_LISTED: Final = 1000
LONGEST_BLOCK: Final = 366 * 86_400
LONGEST_NOTE: Final = 200
KINDS: Final = ("institution", "client", "product", "session")
EMERGENCY: Final = "emergency"

Document = dict[str, JsonValue]
_Read = Callable[[Question, float], Awaitable[Document]]
_Write = Callable[[Question, str, float], Awaitable[Document]]


class AdminApi:
    """The acts by path. ``generation`` is asked for each request, so that a reload counts at once."""

    def __init__(
        self,
        *,
        generation: Callable[[], Generation | None],
        store: Store,
        refusals: RecentRefusals,
        clock: Callable[[], float],
    ) -> None:
        self._generation = generation
        self._store = store
        self._refusals = refusals
        self._clock = clock
        self._reads: Final[Mapping[str, _Read]] = {
            "/sessions": self._sessions,
            "/clients": self._clients,
            "/blocks": self._blocks,
            "/keys": self._keys,
            "/config": self._config,
            "/refusals": self._latest_refusals,
            "/shadow": self._shadow,
        }
        self._writes: Final[Mapping[str, _Write]] = {
            "/pseudonyms": self._pseudonyms,
            "/sessions/end": self._end_sessions,
            "/blocks/add": self._add_block,
            "/blocks/remove": self._remove_block,
            "/keys/rotate": self._rotate_keys,
        }

    async def answer(
        self, request: web.BaseRequest, *, actor: str, check_write: Callable[[web.BaseRequest], None]
    ) -> Document:
        """The document for one request. Raises ZetaError for whatever cannot be done, ConfigurationError for a bad key folder."""
        path, now = request.path, self._clock()
        write = self._writes.get(path)
        if write is not None:
            _expect_method(request, "POST")
            check_write(request)
            raw = await read_body(request, limit=BODY_LIMIT, idle_seconds=BODY_SECONDS)
            return await write(Question(parse_json_body(raw, request.headers.get("Content-Type"))), actor, now)
        if path.startswith("/refusals/"):
            _expect_method(request, "GET")
            return self._refusal(path.removeprefix("/refusals/"))
        read = self._reads.get(path)
        if read is None:
            served = ", ".join(sorted([*self._reads, *self._writes, "/refusals/REQUEST_ID"]))
            raise ZetaError("resource_not_found", f"administration serves {served}", stage="administration")
        _expect_method(request, "GET")
        return await read(Question.of_query(request.query), now)

    # reads

    async def _sessions(self, question: Question, now: float) -> Document:
        institution = question.optional_text("institution")
        client_id = question.optional_text("client_id")
        most = question.integer("limit", 1, MOST_LISTED, default=USUALLY_LISTED)
        question.end()
        sessions = await self._administration().list_sessions(institution=institution, now=now)
        if client_id is not None:
            sessions = [session for session in sessions if session.client_id == client_id]
        return {"total": len(sessions), "sessions": [_session(session) for session in sessions[:most]]}

    async def _clients(self, question: Question, now: float) -> Document:
        institution = question.text("institution")
        question.end()
        self._administration()
        clients = await self._store.list_clients(institution, now=now)
        return {"total": len(clients), "clients": [_client(client) for client in clients]}

    async def _blocks(self, question: Question, now: float) -> Document:
        reason = question.optional_text("reason")
        most = question.integer("limit", 1, MOST_LISTED, default=USUALLY_LISTED)
        question.end()
        blocks = [block for block in await self._store.blocks(now=now) if reason in (None, block.reason)]
        blocks.sort(key=lambda block: block.created_at, reverse=True)
        return {"total": len(blocks), "blocks": [_block(block) for block in blocks[:most]]}

    async def _keys(self, question: Question, now: float) -> Document:
        question.end()
        keys = self._administration().list_keys(now=now)
        return {
            "keys": [
                {
                    "kid": key.kid,
                    "file": key.file,
                    "state": key.state.value,
                    "signs_from": key.signs_from,
                    "until": key.until,
                }
                for key in keys
            ]
        }

    async def _config(self, question: Question, now: float) -> Document:
        question.end()
        generation = self._current()
        return {"role": generation.role, "config": effective_config(generation.config)}

    async def _shadow(self, question: Question, now: float) -> Document:
        question.end()
        return {"shadow": self._current().policy.shadow_summary()}

    async def _latest_refusals(self, question: Question, now: float) -> Document:
        count = question.integer("limit", 1, self._refusals.most, default=20)
        question.end()
        return {
            "remembered": len(self._refusals),
            "refusals": [refusal.document() for refusal in self._refusals.latest(count)],
        }

    def _refusal(self, request_id: str) -> Document:
        refusal = self._refusals.find(request_id)
        if refusal is None:
            raise ZetaError(
                "resource_not_found",
                f"this process remembers its last {self._refusals.most} refusals "
                f"({len(self._refusals)} now), and that request is not among them",
                stage="administration",
                remedy="Ask the other replicas, and look for the id in the request log.",
            )
        document = refusal.document()
        generation = self._generation()
        if refusal.decision_id is not None and generation is not None:
            document["policy"] = decided_by(generation.config.policy, door=refusal.door)
        return document

    # writes

    async def _pseudonyms(self, question: Question, actor: str, now: float) -> Document:
        telematik_id = question.text("telematik_id")
        question.end()
        return {"pseudonyms": list(self._administration().pseudonyms(telematik_id))}

    async def _end_sessions(self, question: Question, actor: str, now: float) -> Document:
        session_id = question.optional_text("session_id")
        administration = self._administration()
        if session_id is not None:
            question.end()
            known = await administration.end_session(session_id, actor=actor, now=now)
            return {"ended": int(known), "known": known}
        institutions = self._institutions(question, administration)
        question.end()
        ended = 0
        for institution in institutions:
            ended += await administration.end_sessions_of(institution, actor=actor, now=now)
        return {"ended": ended, "known": ended > 0}

    async def _add_block(self, question: Question, actor: str, now: float) -> Document:
        generation, administration = self._current(), self._administration()
        kind, identifiers = self._subject(question, administration)
        longest = generation.config.authorization_server.lifetimes.refresh_token_cap
        seconds = question.integer("seconds", 1, LONGEST_BLOCK, default=longest)
        note = mask(question.optional_text("note", most=LONGEST_NOTE) or "")
        question.end()
        standing = await self._standing(kind, identifiers, now)
        if any(block.reason != EMERGENCY for block in standing):
            raise ZetaError("invalid_request", "it was ended already and stays ended", stage="administration")
        blocks = [
            await administration.add_block(kind, identifier, seconds=seconds, note=note, actor=actor, now=now)
            for identifier in identifiers
        ]
        ended = 0
        if kind == "institution":
            # A gateway apart from the authorization server has no pseudonyms: it knows an institution by its sessions only.
            for identifier in identifiers:
                ended += await administration.end_sessions_of(identifier, actor=actor, now=now)
        return {"blocks": [_block(block) for block in blocks], "ended_sessions": ended}

    async def _remove_block(self, question: Question, actor: str, now: float) -> Document:
        administration = self._administration()
        kind, identifiers = self._subject(question, administration)
        question.end()
        standing = await self._standing(kind, identifiers, now)
        if any(block.reason != EMERGENCY for block in standing):
            raise ZetaError(
                "invalid_request",
                "that is no emergency block; what was ended stays ended",
                stage="administration",
                remedy="A new token exchange starts a new session.",
            )
        removed = [await administration.remove_block(kind, one, actor=actor) for one in identifiers]
        return {"removed": any(removed)}

    async def _rotate_keys(self, question: Question, actor: str, now: float) -> Document:
        question.end()
        administration = self._administration()
        written = administration.rotate_keys(actor=actor, now=now)
        entry = next(key for key in administration.list_keys(now=now) if key.kid == written.kid)
        return {
            "kid": written.kid,
            "file": written.path.name,
            "state": entry.state.value,
            "signs_from": entry.signs_from,
        }

    # what they share

    def _current(self) -> Generation:
        generation = self._generation()
        if generation is None:
            raise ZetaError("temporarily_unavailable", "the guard starts or stops", stage="administration")
        return generation

    def _administration(self) -> Administration:
        from zeta_guard.authorization_server.administration import Administration

        server = self._current().authorization_server
        if server is None:
            raise ZetaError(
                "resource_not_found",
                "this process is a gateway only and may not do that",
                stage="administration",
                remedy="Ask a process with the role 'authorization-server' or 'all'.",
            )
        return Administration(server.dependencies)

    def _institutions(self, question: Question, administration: Administration) -> tuple[str, ...]:
        telematik_id = question.optional_text("telematik_id")
        if telematik_id is not None:
            return administration.pseudonyms(telematik_id)
        return (question.text("institution"),)

    def _subject(self, question: Question, administration: Administration) -> tuple[SubjectKind, tuple[str, ...]]:
        """Kind and names of what is blocked; an institution by Telematik-ID has one name per secret."""
        kind = cast(SubjectKind, question.choice("kind", KINDS))
        if kind == "institution":
            return kind, self._institutions(question, administration)
        return kind, (question.text("identifier"),)

    async def _standing(self, kind: SubjectKind, identifiers: tuple[str, ...], now: float) -> list[Block]:
        subjects = {block_subject(kind, identifier) for identifier in identifiers}
        return [block for block in await self._store.blocks(now=now) if block.subject in subjects]


def _expect_method(request: web.BaseRequest, method: str) -> None:
    if request.method != method:
        raise ZetaError(
            "method_not_allowed", f"this path accepts {method}", headers={"Allow": method}, stage="administration"
        )


def _session(session: SessionEntry) -> JsonValue:
    return {
        "session_id": session.session_id,
        "client_id": session.client_id,
        "institution": session.institution,
        "product_id": session.product_id,
        "started_at": session.started_at,
        "expires_at": session.expires_at,
    }


def _client(client: Client) -> JsonValue:
    return {
        "client_id": client.client_id,
        "client_name": client.client_name,
        "state": client.state.value,
        "platform": client.platform,
        "registered_at": client.registered_at,
        "last_used_at": client.last_used_at,
    }


def _block(block: Block) -> JsonValue:
    kind, _, identifier = block.subject.partition(":")
    return {
        "kind": kind,
        "identifier": identifier,
        "reason": block.reason,
        "since": block.created_at,
        "until": block.until,
        "note": block.note,
    }
