"""What the store promises (``architecture`` section 5, ``security`` section 3).

``memory.py`` and ``redis.py`` keep these promises; one test suite runs against both. A store that cannot be reached raises
:class:`zeta_guard.errors.ZetaError` with 503 ``temporarily_unavailable``: nobody wins (fail closed). All times are seconds
of the wall clock of the caller's request (``now``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, NamedTuple, Protocol


@dataclass(frozen=True, slots=True)
class Epoch:
    """One life of the store's memory. What is dated at or before ``started_at`` cannot be judged and is refused."""

    identity: str
    started_at: float


class Claim(NamedTuple):
    """One thing that may happen once.

    ``key``: SHA-256 over length-delimited parts (:func:`claim_key`). ``dated``: when the thing was made (``iat`` of a proof,
    issue time of a nonce; for an assertion without ``iat`` its ``exp`` minus the longest allowed life); refused when at or
    before the epoch's start. ``ttl``: whole seconds it must be remembered.
    """

    key: bytes
    dated: float
    ttl: int
    what: str = "proof"


class ClaimStatus(StrEnum):
    """How a trip of claims ended."""

    WON = "won"
    LOST = "lost"
    """Somebody claimed it before."""
    BLOCKED = "blocked"
    """A block stands against the session, client, institution or product."""
    STALE = "stale"
    """Dated at or before the start of the store's epoch."""
    EMPTY = "empty"
    """A bucket that was to be charged is empty (:meth:`Store.spend` only)."""


@dataclass(frozen=True, slots=True)
class ClaimOutcome:
    """``index`` points at the claim (LOST, STALE), the subject (BLOCKED) or the charge (EMPTY) that decided; ``reason`` is the
    block's reason, ``bucket`` the empty bucket's state."""

    status: ClaimStatus
    index: int = -1
    reason: str = ""
    bucket: Bucket | None = None


@dataclass(frozen=True, slots=True)
class Block:
    """A refusal effective everywhere. ``subject`` is made by :func:`block_subject`.

    ``reason``: ``reuse``, ``revoked``, ``terminated``, ``client_vanished``, ``emergency``. ``until`` is the end of the block.
    """

    subject: str
    reason: str
    until: float
    created_at: float
    note: str = ""


SubjectKind = Literal["session", "client", "institution", "product"]


def block_subject(kind: SubjectKind, identifier: str) -> str:
    """Name under which something is blocked. ``institution`` takes the *pseudonym* of the Telematik-ID, never the id."""
    return f"{kind}:{identifier}"


class ClientState(StrEnum):
    """Life of a registration."""

    PENDING = "pending"
    VALID = "valid"


class Client(NamedTuple):
    """A registered client instance. ``institution`` is the pseudonym (keyed hash) of the Telematik-ID once bound."""

    client_id: str
    key_thumbprint: str
    jwk: dict[str, str]
    client_name: str
    registered_at: int
    state: ClientState = ClientState.PENDING
    institution: str | None = None
    platform: str | None = None
    last_used_at: int = 0
    metadata: Mapping[str, list[str]] = {}
    """grant_types, response_types, redirect_uris as registered."""


class BindStatus(StrEnum):
    """How a binding ended."""

    BOUND = "bound"
    ALREADY = "already"
    """Bound to the same institution before."""
    FOREIGN = "foreign"
    """Bound to another institution, or its platform differs."""
    GONE = "gone"
    TOO_MANY = "too_many"
    """The institution made too many new bindings this hour."""


@dataclass(frozen=True, slots=True)
class BindOutcome:
    """``evicted`` are the least recently used clients that left because the institution had too many."""

    status: BindStatus
    evicted: tuple[str, ...] = ()


class Session(NamedTuple):
    """A session. ``sealed`` holds what a refresh needs again; the store cannot read it."""

    session_id: str
    client_id: str
    institution: str
    jkt: str
    refresh_jti: str
    started_at: int
    expires_at: int
    sealed: bytes
    product_id: str = ""


class RotateStatus(StrEnum):
    """How a rotation ended."""

    WON = "won"
    SUCCESSOR = "successor"
    """Within the grace window, same key, successor unused: ``sealed_answer`` is the answer given before."""
    REUSED = "reused"
    GONE = "gone"
    ENDED = "ended"
    """``reason`` says why the session was ended (block reason)."""


class RotateOutcome(NamedTuple):
    """Result of :meth:`Store.rotate_session`."""

    status: RotateStatus
    sealed_answer: bytes = b""
    reason: str = ""


class Bucket(NamedTuple):
    """State of a token bucket after one take."""

    allowed: bool
    limit: int
    remaining: int
    reset: int
    """Whole seconds until the bucket is full again (0 when full)."""
    retry_after: int
    """Whole seconds until the next take can succeed (0 when allowed)."""


@dataclass(frozen=True, slots=True)
class KeyAge:
    """When a key was seen first, and last before this use (Unix seconds). A key that is new was seen now, both times."""

    first_seen: float
    last_seen: float


class Charge(NamedTuple):
    """One token of a shared bucket."""

    bucket: str
    per_minute: int
    burst: int


class LookUp(NamedTuple):
    """What one trip found. ``cached``: the cached values that exist, by key. ``seen`` is for the store alone: with it a later
    change is made only if what it depends on is still as it was found here."""

    client: Client | None
    session: Session | None
    cached: Mapping[str, bytes]
    seen: object = None


class ReplayStore(Protocol):
    """What the gateway needs; its Redis user may do no more."""

    @property
    def epoch(self) -> Epoch:
        """The current epoch."""

    async def claim(
        self, claims: Sequence[Claim], subjects: Sequence[str], *, owner: str, fingerprint: bytes, now: float
    ) -> ClaimOutcome:
        """Claim all or nothing, after looking at the blocks of ``subjects``, in one trip.

        ``owner`` is the id of this request: a claim repeated by its own owner after a lost answer counts as won.
        ``fingerprint`` (32 bytes) identifies method, raw target, token and client address, for :meth:`mark_resendable`.
        A claim marked as resendable is won again, twice at most, by the same fingerprint.
        """

    def claim_soon(
        self,
        claims: Sequence[Claim],
        subjects: Sequence[str],
        *,
        owner: str,
        fingerprint: bytes,
        now: float,
        then: Callable[[ClaimOutcome | None], None],
    ) -> None:
        """As :meth:`claim`, for a caller that goes on in ``then``, which is called once, possibly before this returns.

        None says that the answer cannot be had in this way: ask :meth:`claim`, which finds what this call may have won.
        Raises what :meth:`claim` raises, then without a call.
        """

    async def mark_resendable(self, key: bytes, *, owner: str, fingerprint: bytes) -> None:
        """Let the same request come again with the same proof (429 and 502 with the backend never reached)."""

    async def blocks(self, *, now: float) -> Sequence[Block]:
        """All blocks in force; gateways read it once a second for their open sockets."""


class Store(ReplayStore, Protocol):
    """All promises; what the authorization server needs."""

    async def start(self) -> None:
        """Connect, check the server's settings and learn the epoch. Raises ConfigurationError or ZetaError."""

    async def close(self) -> None:
        """Close connections."""

    async def ping(self) -> None:
        """Raise ZetaError when the store does not answer (readiness line)."""

    async def look_up(
        self, client_id: str, *, session_id: str | None = None, cached: Sequence[str] = (), now: float
    ) -> LookUp:
        """:meth:`get_client`, :meth:`get_session` and :meth:`get_cached` of several keys in one trip."""

    async def spend(
        self,
        claims: Sequence[Claim],
        subjects: Sequence[str],
        charges: Sequence[Charge],
        *,
        owner: str,
        fingerprint: bytes,
        now: float,
    ) -> ClaimOutcome:
        """:meth:`take` for each of ``charges``, then :meth:`claim`, in one trip. An empty bucket ends it: EMPTY."""

    # registrations
    async def register_client(self, client: Client, *, ttl: int, most_pending: int, now: float) -> Client:
        """Store a pending client, or return the one that has this key already, unchanged. Too many pending: ZetaError 503."""

    async def get_client(self, client_id: str, *, now: float) -> Client | None:
        """The client, or None when unknown or vanished."""

    async def touch_client(self, client_id: str, *, ttl: int, now: float) -> None:
        """Note a use."""

    async def bind_client(
        self, client_id: str, *, institution: str, platform: str, ttl: int, most: int, new_per_hour: int, now: float
    ) -> BindOutcome:
        """Bind a pending client to an institution (compare-and-set), or confirm the binding; evict beyond ``most``."""

    async def list_clients(self, institution: str, *, now: float) -> Sequence[Client]:
        """Clients of an institution, least recently used first."""

    async def delete_client(self, client_id: str, *, now: float) -> None:
        """Delete a client and its key index."""

    # sessions
    async def start_session(self, session: Session, *, seen: object = None, client_ttl: int = 0, now: float) -> bool:
        """Write a new session.

        With ``seen`` (of the client's :meth:`look_up`) the client's use is noted in the same step, as by
        :meth:`touch_client`; False, and nothing written, when it is not bound or its record is not as it was seen.
        """

    async def get_session(self, session_id: str, *, now: float) -> Session | None:
        """The session, or None when unknown or over. An ended one is kept until its expiry as a block."""

    async def rotate_session(
        self,
        session_id: str,
        *,
        presented_jti: str,
        successor_jti: str,
        jkt: str,
        sealed_answer: bytes,
        grace: int,
        seen: object = None,
        client_ttl: int | None = None,
        now: float,
    ) -> RotateOutcome:
        """Atomically replace the refresh token; of two callers one wins, the other gets its answer within ``grace``.

        Called last. REUSED ends the session in the same step (block reason ``reuse``). ``seen`` (of this session's
        :meth:`look_up`) saves a trip where nothing has changed since. With ``client_ttl`` a rotation that is WON notes a use
        of the session's client too, as :meth:`touch_client` does.
        """

    async def end_session(self, session_id: str, *, reason: str, ttl: int, now: float) -> bool:
        """Block the session for ``ttl`` seconds and drop its record. False when it was unknown."""

    async def list_sessions(self, *, institution: str | None = None, now: float) -> Sequence[Session]:
        """Live sessions, newest first (administration)."""

    # blocks
    async def block(self, block: Block, *, now: float) -> None:
        """Refuse a subject everywhere until ``block.until``."""

    async def unblock(self, subject: str) -> bool:
        """Lift a block. False when there was none."""

    # shared small things
    async def get_cached(self, key: str, *, now: float) -> bytes | None:
        """A cached value (OCSP answers)."""

    async def put_cached(self, key: str, value: bytes, *, ttl: int, now: float) -> None:
        """Cache a value, at most 64 KiB."""

    async def take(self, bucket: str, *, per_minute: int, burst: int, now: float) -> Bucket:
        """Take one token from a shared bucket."""

    async def see_key(self, jkt: str, *, ttl: int, now: float) -> KeyAge:
        """Note that a DPoP key is used now, and tell when it was seen before. Forgotten ``ttl`` seconds after its last use."""
