"""May this request pass? Decided without I/O (``wire-contract`` section 7.1, ``architecture`` section 3).

A pure function of the request's facts, the keys and the configuration. Its verdict is one of three: refuse; *claim this, then
ask that policy*; or *keys of this issuer are missing* (the app loads them and asks again). Tests play it as a script.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from zeta_guard.config.guard import GuardConfig
from zeta_guard.errors import ZetaError
from zeta_guard.gateway.headers import client_data_line, user_info_line
from zeta_guard.gateway.popp import PoppToken, PoppVerifier
from zeta_guard.gateway.route import Route, RouteTable, check_method
from zeta_guard.http.address import parse_address
from zeta_guard.http.facts import IPAddress, RequestFacts
from zeta_guard.http.plain_request import KnownHead
from zeta_guard.jose.dpop import PROOF_KIND, DpopProof, UnprovenProof, check_dpop_proof, proof_life, prove
from zeta_guard.jose.token_hash import TokenHash, token_hash
from zeta_guard.recent import Recent
from zeta_guard.store.claim_key import begin_key, end_key
from zeta_guard.store.contract import Claim, block_subject
from zeta_guard.tokens.access_token import ACR_ORDER, AccessToken
from zeta_guard.tokens.verifier import SLOT, AccessTokenVerifier, MissingKey

_KNOWN_HOLDERS: Final = 10_000


class PresentedToken(NamedTuple):
    """An access token as it came, and its hash. Nothing about it is verified."""

    text: str
    hash: TokenHash


# Text that comes again is the same object again, and found by it without being read.
_tokens: Final[Recent[str, PresentedToken]] = Recent(1024)
_LONGEST_KNOWN: Final = 2048
# As long as the verifier hands out the same token.
_KNOWN_SECONDS: Final = 60
_DPOP: Final = "dpop"
_HASHER: Final = hashlib.sha256()
# What the constructor of a named tuple does, without its call of Python code.
_new: Final = tuple.__new__


@dataclass(frozen=True, slots=True)
class Holder:
    """A verified access token and what follows from it alone: the same for every request that carries it."""

    token: AccessToken
    address: IPAddress | None
    subjects: tuple[str, ...]
    user_info: bytes
    client_data: bytes


class Grant(NamedTuple):
    """What was proven. On a public route nothing was: ``holder`` is None and there is nothing to claim.

    ``claims`` and ``subjects`` go to the store in one trip; the request passes when they are won and not blocked, and when the
    request policy agrees, where the route has one. ``fingerprint`` identifies the request if it may be sent again.
    """

    route: Route
    holder: Holder | None = None
    popp: PoppToken | None = None
    claims: tuple[Claim, ...] = ()
    subjects: tuple[str, ...] = ()
    fingerprint: bytes = b""


class Refuse(NamedTuple):
    """The request does not pass; ``error`` is what the client hears."""

    error: ZetaError
    route: Route | None = None


class MissingKeys(NamedTuple):
    """A trusted issuer signed with a key that is not known: load its keys, then decide again."""

    kind: Literal["token", "popp"]
    issuer: str
    kid: str
    route: Route


class Unproven(NamedTuple):
    """Everything holds that comes before the signature of the DPoP proof."""

    route: Route
    token: AccessToken
    digest: bytes
    """SHA-256 of the token as it came."""
    proof: UnprovenProof


Verdict = Grant | Refuse | MissingKeys
Pseudonyms = Callable[[str], Sequence[str]]


class _Standing(NamedTuple):
    """What was found out about header lines that come again (:class:`KnownHead`): their token may use the route from ``since``
    until ``until``, as long as the verifier hands out the same token."""

    check: AccessCheck
    route: Route
    presented: PresentedToken
    token: AccessToken
    since: float
    until: float


class _Conclusion(NamedTuple):
    """What followed from such lines with the proof of their token's key, for this request of a client at this address.

    The same objects are asked for, not equal ones: whatever might have changed was made anew.
    """

    check: AccessCheck
    token: AccessToken
    method: str
    target: str
    address: IPAddress | None
    holder: Holder
    fingerprint: bytes
    key: hashlib._Hash
    """The key of the proof's claim, but for its ``jti``."""


class AccessCheck:
    """The rules of one configuration.

    ``pseudonyms`` names an institution as the block list does (all names that are in use); without it, blocks of
    institutions are not looked for.
    """

    def __init__(
        self,
        config: GuardConfig,
        *,
        table: RouteTable,
        verifier: AccessTokenVerifier,
        popp: PoppVerifier,
        pseudonyms: Pseudonyms | None = None,
    ) -> None:
        self._table: Final = table
        self._verifier: Final = verifier
        self._popp: Final = popp
        self._pseudonyms: Final = pseudonyms
        self._leeway: Final = config.gateway.token_leeway
        self._skew: Final = config.limits.skew
        self._proof_age: Final = config.limits.proof_age
        self._proof_life: Final = proof_life(past=self._proof_age, ahead=self._skew)
        self._audiences: Final[Mapping[str, tuple[str, ...]]] = {
            issuer.issuer: issuer.audiences for issuer in config.gateway.issuers if issuer.audiences
        }
        self._holders: Final[Recent[str, Holder]] = Recent(_KNOWN_HOLDERS, seconds=_KNOWN_SECONDS)

    def decide(self, facts: RequestFacts) -> Verdict:
        """The verdict on one request. Never raises."""
        verdict = self.begin(facts)
        if type(verdict) is not Unproven:
            return verdict  # type: ignore[return-value]
        try:
            return self.conclude(verdict, prove(verdict.proof), facts)
        except ZetaError as error:
            return Refuse(error, verdict.route)

    def begin(self, facts: RequestFacts, known: KnownHead | None = None) -> Verdict | Unproven:
        """The verdict, or all that can be judged before the signature of the DPoP proof. Never raises.

        ``known`` is the head that ``facts`` were read from, where it came before.
        """
        route = None
        try:
            route = self._table.select(facts.path)
            check_method(route, facts.method)
            if known is not None:
                standing: _Standing | None = known.standing
                if (
                    standing is not None
                    and standing.check is self
                    and standing.route is route
                    and standing.since <= facts.now < standing.until
                ):
                    _, _, presented, token, _, _ = standing
                    if self._verifier.verify(presented.text, now=facts.now, digest=presented.hash.digest) is token:
                        return self._check_proof(route, presented, token, facts)
            if route.rule.public:
                return Grant(route)
            return self._begin(route, facts, known)
        except ZetaError as error:
            return Refuse(error, route)

    def conclude(
        self, begun: Unproven, proof: DpopProof, facts: RequestFacts, known: KnownHead | None = None
    ) -> Verdict:
        """The verdict on a request whose proof is proven; ``known`` as in :meth:`begin`.

        Raises ZetaError where the request is refused.
        """
        route, token, digest, _ = begun
        if proof.jkt != token.jkt:
            raise ZetaError(
                "invalid_dpop_proof",
                "DPoP proof: made with another key than the access token is bound to",
                stage="dpop",
            )
        before: _Conclusion | None = None if known is None else known.conclusion
        if (
            before is None
            or before.check is not self
            or before.token is not token
            or before.method is not facts.method
            or before.target is not facts.target
            or before.address is not facts.client_address
        ):
            holder = self._holder(token, facts.now)
            if route.rule.bind_address:
                check_address(holder, facts.client_address)
            check_acr(token, route)
            fingerprint = _fingerprint(facts, digest)
            key = begin_key(PROOF_KIND, proof.jkt)
            before = _new(
                _Conclusion,
                (self, token, facts.method, facts.target, facts.client_address, holder, fingerprint, key),
            )
            if known is not None:
                known.conclusion = before
        _, _, _, _, _, holder, fingerprint, key = before
        popp = None
        if route.rule.popp is not None:
            checked = self._popp.check(facts.headers.getall("PoPP", ()), route.rule.popp, token, now=facts.now)
            if isinstance(checked, MissingKey):
                return MissingKeys("popp", checked.issuer, checked.kid, route)
            popp = checked
        claim = _new(Claim, (end_key(key, proof.jti), float(proof.issued_at), self._proof_life, "DPoP proof"))
        return _new(Grant, (route, holder, popp, (claim,), holder.subjects, fingerprint))

    def _begin(self, route: Route, facts: RequestFacts, known: KnownHead | None) -> MissingKeys | Unproven:
        presented = read_authorization(facts.headers.getall("Authorization", ()))
        token = self._verifier.verify(presented.text, now=facts.now, digest=presented.hash.digest)
        if isinstance(token, MissingKey):
            return MissingKeys("token", token.issuer, token.kid, route)
        self._check_token(token, route, facts.now)
        if known is not None:
            not_before = token.claims.get("nbf")
            dated = max(token.issued_at, not_before) if type(not_before) is int else token.issued_at
            known.standing = _Standing(
                self, route, presented, token, dated - self._skew, token.expires_at + self._leeway
            )
        return self._check_proof(route, presented, token, facts)

    def _check_proof(
        self, route: Route, presented: PresentedToken, token: AccessToken, facts: RequestFacts
    ) -> Unproven:
        proof = check_dpop_proof(
            facts.headers.getall("DPoP", ()),
            method=facts.method,
            url=facts.url,
            now=facts.now,
            past=self._proof_age,
            ahead=self._skew,
            nonce="absent-ok",
            access_token=presented.hash,
            status=401,
        )
        return _new(Unproven, (route, token, presented.hash.digest, proof))

    def _check_token(self, token: AccessToken, route: Route, now: float) -> None:
        if now >= token.expires_at + self._leeway:
            raise SLOT.refuse(f"expired {math.floor(now) - token.expires_at} s ago; server time is {math.floor(now)}")
        if token.issued_at > now + self._skew:
            raise SLOT.refuse(
                f"'iat' is {token.issued_at - math.floor(now)} s ahead; at most {self._skew} s allowed, "
                f"server time is {math.floor(now)}"
            )
        not_before = token.claims.get("nbf")
        if not_before is not None and (type(not_before) is not int or not_before > now + self._skew):
            raise SLOT.refuse(f"'nbf' does not hold at server time {math.floor(now)}")
        status = route.rule.insufficient_scope_status
        if route.audience not in token.audience:
            raise ZetaError(
                "invalid_token",
                f"access token: 'aud' does not name this service; expected {route.audience}",
                status=status,
                stage="audience",
            )
        # An issuer is believed only for the audiences that the configuration gives it.
        audiences = self._audiences.get(token.issuer)
        if audiences is not None and route.audience not in audiences:
            raise ZetaError(
                "invalid_token",
                "access token: its issuer may not issue tokens for this service",
                status=status,
                stage="audience",
            )
        if not route.scopes <= token.scopes:
            missing = " ".join(sorted(route.scopes - token.scopes))
            raise ZetaError(
                "insufficient_scope", f"access token: lacks the scope {missing}", status=status, stage="scope"
            )

    def _holder(self, token: AccessToken, now: float) -> Holder:
        known = self._holders.young.get(token.jti) or self._holders.get(token.jti)
        # The verifier hands out the same object as long as it remembers the token; equal ids alone prove nothing.
        if known is not None and known.token is token:
            return known
        subjects = [
            block_subject("session", token.session_id),
            block_subject("client", token.client_id),
            block_subject("product", token.product_id),
        ]
        if self._pseudonyms is not None:
            subjects += [block_subject("institution", name) for name in self._pseudonyms(token.telematik_id)]
        address = None if token.ip_address is None else parse_address(token.ip_address)
        holder = Holder(token, address, tuple(subjects), user_info_line(token), client_data_line(token))
        self._holders.put(token.jti, holder, now)
        return holder


def read_authorization(values: Sequence[str]) -> PresentedToken:
    """The token of ``Authorization: DPoP <token>`` (scheme in any case; ``Bearer`` is none of ours).

    Raises ZetaError 401 ``invalid_token``.
    """
    if len(values) != 1:
        raise ZetaError(
            "invalid_token",
            "The request has no access token; send 'Authorization: DPoP <token>'."
            if not values
            else "The request has several Authorization headers; exactly one is expected.",
            stage="authorization",
        )
    value = values[0]
    known = _tokens.young.get(value) or _tokens.get(value)
    if known is not None:
        return known
    scheme, separator, token = value.strip(" \t").partition(" ")
    if scheme.lower() != _DPOP or not separator:
        raise ZetaError(
            "invalid_token",
            "The scheme of Authorization must be DPoP, followed by the access token.",
            stage="authorization",
        )
    token = token.lstrip(" ")
    presented = PresentedToken(token, token_hash(token))
    if len(value) <= _LONGEST_KNOWN:
        _tokens.put(value, presented)
    return presented


def check_address(holder: Holder, address: IPAddress | None) -> None:
    """Raises ZetaError 401 ``invalid_token`` unless the request comes from the address that the token was issued to."""
    if address is None:
        raise ZetaError(
            "invalid_token",
            "access token: the client address is unknown, but the route binds to it",
            stage="address_unknown",
        )
    # An address is parsed once and then the same object, so that mostly nothing is compared.
    if holder.address is not address and holder.address != address:
        raise ZetaError(
            "invalid_token",
            "access token: the client address is not the one that the token was issued to; get a new token",
            stage="address",
        )


def check_acr(token: AccessToken, route: Route) -> None:
    """Raises ZetaError 401 ``insufficient_user_authentication`` when the level of assurance is too low (RFC 9470 §3)."""
    if route.acr_rank < 0:
        return
    rank = ACR_ORDER.index(token.acr) if token.acr in ACR_ORDER else -1
    if rank < route.acr_rank:
        raise ZetaError(
            "insufficient_user_authentication",
            f"access token: 'acr' is too low for this route; expected {ACR_ORDER[route.acr_rank]}",
            stage="acr",
            headers={"zeta-error-origin": "pep"},
        )


def _fingerprint(facts: RequestFacts, token: bytes) -> bytes:
    """What makes a request the same request: token, method, client address, raw target (none of them holds a line break)."""
    address = facts.client_address
    where = "" if address is None else f"{type(address).__name__}/{address._ip}"  # type: ignore[union-attr]
    hasher = _HASHER.copy()
    hasher.update(token + f"{facts.method}\n{where}\n{facts.target}".encode("utf-8", "surrogatepass"))
    return hasher.digest()
