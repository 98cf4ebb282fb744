"""The client assertion of a registered client (RFC 7523 §3, ``wire-contract`` section 4.1 step 2)."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec

from zeta_guard.authorization_server.grant_type import JWT_BEARER
from zeta_guard.authorization_server.nonce import CLOCK_DIFFERENCE
from zeta_guard.errors import JsonValue, ZetaError
from zeta_guard.jose.claims import integer, member, optional_integer, single_audience, text
from zeta_guard.jose.jwk import parse_public_jwk
from zeta_guard.jose.jws import CompactJws, parse_jws, verify_es256
from zeta_guard.jose.slot import Slot
from zeta_guard.store.claim_key import claim_key
from zeta_guard.store.contract import Claim, Client

SLOT: Final = Slot("client assertion", "invalid_client", 400)
# What the constructor of a named tuple does, without its call of Python code.
_new: Final = tuple.__new__
LONGEST_JTI: Final = 256
LONGEST_CLIENT_ID: Final = 128


class AssertionTimes(NamedTuple):
    """What the assertion says about its own time; ``issued_at`` None: it does not say."""

    expires_at: int
    issued_at: int | None


class UnverifiedAssertion(NamedTuple):
    """An assertion whose claims hold for this server and this moment; its signature was not checked."""

    jws: CompactJws
    client_id: str
    jti: str
    times: AssertionTimes


class ClientAssertion(NamedTuple):
    """A client that has proved itself with its registered key. Whether the assertion came before, the store knows.

    ``jkt`` is the key's thumbprint. ``statement`` is the member ``client_statement``, not judged yet.
    """

    client: Client
    key: ec.EllipticCurvePublicKey
    jkt: str
    jti: str
    times: AssertionTimes
    statement: dict[str, JsonValue] | None

    def claim(self, *, now: float, dated: float) -> Claim:
        """What to claim: made of key and ``jti``, remembered until the assertion has expired everywhere."""
        return assertion_claim(self.client.key_thumbprint, self.jti, self.times, now=now, dated=dated)


def assertion_claim(key: str, jti: str, times: AssertionTimes, *, now: float, dated: float) -> Claim:
    """The claim of an assertion verified with the key of thumbprint ``key``. ``dated``: Unix seconds of its making."""
    ttl = max(0, math.ceil(times.expires_at - now)) + CLOCK_DIFFERENCE + 1
    return _new(Claim, (claim_key("assertion", key, jti), dated, ttl, "assertion"))


def read_assertion(
    form: Mapping[str, str], *, audiences: Collection[str], now: float, skew: int, longest_life: int, max_bytes: int
) -> UnverifiedAssertion:
    """Everything about an assertion that can be checked without its key. Pure.

    ``longest_life``: how many seconds ahead ``exp`` may lie. ``skew``: how many seconds ahead ``iat`` and ``nbf`` may lie.
    Raises ZetaError ``invalid_request`` when parameters are missing, ``invalid_client`` 400 for everything else.
    """
    if form.get("client_assertion_type") != JWT_BEARER:
        raise ZetaError("invalid_request", f"'client_assertion_type' must be {JWT_BEARER}", stage="client_assertion")
    token = form.get("client_assertion")
    if token is None:
        raise ZetaError("invalid_request", "'client_assertion' is missing", stage="client_assertion")
    jws = parse_jws(token, SLOT, typ="JWT", max_bytes=max_bytes)
    claims = jws.claims
    client_id = text(claims, "sub", SLOT)
    if len(client_id) > LONGEST_CLIENT_ID:
        raise SLOT.refuse(f"'sub' is longer than {LONGEST_CLIENT_ID} characters")
    if text(claims, "iss", SLOT) != client_id:
        raise SLOT.refuse("'iss' and 'sub' differ; expected the client id in both")
    if form.get("client_id", client_id) != client_id:
        raise SLOT.refuse("'sub' is not the client_id of the request")
    if single_audience(claims, SLOT) not in audiences:
        raise SLOT.refuse(f"'aud' is not this server; expected {' or '.join(sorted(audiences))}")
    times = _times(jws, now=now, skew=skew, longest_life=longest_life)
    jti = text(claims, "jti", SLOT)
    if len(jti) > LONGEST_JTI:
        raise SLOT.refuse(f"'jti' is longer than {LONGEST_JTI} characters")
    return _new(UnverifiedAssertion, (jws, client_id, jti, times))


def _times(jws: CompactJws, *, now: float, skew: int, longest_life: int) -> AssertionTimes:
    expires_at = integer(jws.claims, "exp", SLOT)
    here = math.floor(now)
    if expires_at <= now:
        raise SLOT.refuse(f"expired {here - expires_at} s ago; server time is {here}")
    if expires_at > now + longest_life:
        raise SLOT.refuse(
            f"'exp' is {expires_at - here} s ahead; at most {longest_life} s allowed, server time is {here}"
        )
    for name in ("iat", "nbf"):
        moment = optional_integer(jws.claims, name, SLOT)
        if moment is not None and moment > now + skew:
            raise SLOT.refuse(f"'{name}' is {moment - here} s ahead; at most {skew} s allowed, server time is {here}")
    return _new(AssertionTimes, (expires_at, optional_integer(jws.claims, "iat", SLOT)))


def verify_assertion(assertion: UnverifiedAssertion, client: Client) -> ClientAssertion:
    """Check the signature with the *registered* key. A ``jwk`` in the header is only compared (it proves nothing).

    Raises ZetaError ``invalid_client`` 400.
    """
    registered = parse_public_jwk(client.jwk, SLOT)
    header = assertion.jws.header
    # The JWK that was registered is the registered key; any other spelling is read.
    if (
        "jwk" in header
        and header["jwk"] != client.jwk
        and parse_public_jwk(header["jwk"], SLOT).thumbprint != registered.thumbprint
    ):
        raise SLOT.refuse("header 'jwk' is not the registered key")
    verify_es256(assertion.jws, registered.key, SLOT)
    claims = assertion.jws.claims
    statement = member(claims, "client_statement", SLOT) if "client_statement" in claims else None
    return _new(
        ClientAssertion,
        (client, registered.key, registered.thumbprint, assertion.jti, assertion.times, statement),
    )


def unknown_client() -> ZetaError:
    """401: the one answer after which a client registers anew."""
    return ZetaError(
        "invalid_client",
        "the client is not known here, or its registration has vanished; register again",
        status=401,
        stage="unknown_client",
    )
