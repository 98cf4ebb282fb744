"""The one error family.

Everything that can be refused is a :class:`ZetaError` with a stable code; everything that an operator configured wrongly is
a :class:`ConfigurationError`. Low-level errors (``ValueError`` of a parser, ``OSError`` of a socket) are translated once, at
the boundary where they are understood, and never leak out of a verifier.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]


class GuardError(Exception):
    """Base of all errors of this project. ``remedy`` tells a person what to do next."""

    remedy: str = ""


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """What one error code means: its usual status and, for ``/errors/<code>``, words for people."""

    status: int
    meaning: str
    remedy: str


ERROR_KINDS: Final[Mapping[str, ErrorKind]] = {
    "invalid_request": ErrorKind(
        400,
        "The request is malformed: a parameter is missing, repeated, of the wrong type or too large.",
        "Compare the request with the API description; the description names the offending part.",
    ),
    "invalid_client": ErrorKind(
        400,
        "The client is not known here (401), or its client assertion or client statement does not hold (400).",
        "On 401 register again; on 400 compare the named claim with the value that was expected.",
    ),
    "invalid_client_metadata": ErrorKind(
        400,
        "The registration request holds a member that is missing, of the wrong type or not allowed.",
        "Correct the member that the description names and register again.",
    ),
    "invalid_grant": ErrorKind(
        400,
        "The subject token, nonce, certificate or refresh token is not valid, expired, used before or not this client's.",
        "Fetch a new nonce and make a complete token exchange.",
    ),
    "invalid_dpop_proof": ErrorKind(
        401,
        "The DPoP proof is missing, malformed, expired, used before or made with another key.",
        "Make a fresh proof for exactly this method and URL with the key that the token is bound to.",
    ),
    "invalid_token": ErrorKind(
        401,
        "The access token is missing, malformed, expired, blocked or not meant for this place.",
        "Get a new access token from the token endpoint.",
    ),
    "insufficient_scope": ErrorKind(
        401,
        "The access token does not carry a scope that this route needs.",
        "Ask the token endpoint for a token with the scope that the description names.",
    ),
    "insufficient_user_authentication": ErrorKind(
        401,
        "The route asks for a stronger authentication than the token shows.",
        "Authenticate again with the level of assurance that the description names.",
    ),
    "unsupported_grant_type": ErrorKind(
        400,
        "The token endpoint does not offer this grant.",
        "Use one of grant_types_supported in the metadata of the authorization server.",
    ),
    "invalid_scope": ErrorKind(
        400,
        "A requested scope is unknown or exceeds what the session was granted.",
        "Ask only for scopes_supported and, on refresh, only for scopes of the session.",
    ),
    "invalid_target": ErrorKind(
        400,
        "The requested audience or resource is not one that this guard protects.",
        "Send the member 'resource' of the protected-resource metadata as 'audience'.",
    ),
    "access_denied": ErrorKind(
        403,
        "The policy said no. 'reasons' lists why, 'decision_id' identifies the decision.",
        "Check the reasons; the operator can look the decision up by its id.",
    ),
    "session_terminated": ErrorKind(
        403,
        "The session was ended by an administrator or by policy.",
        "Ask the operator with the request id; a new token exchange starts a new session if policy permits.",
    ),
    "refresh_token_revoked": ErrorKind(
        403,
        "The session of this refresh token was ended by a revocation request.",
        "Make a complete token exchange.",
    ),
    "popp_missing": ErrorKind(
        400,
        "This route needs a PoPP token and none came.",
        "Send the header 'PoPP' with the token that the PoPP service issued.",
    ),
    "popp_invalid": ErrorKind(
        403,
        "The PoPP token does not hold: signature, issuer, form or age.",
        "Get a new PoPP token for the patient; the description names what was wrong.",
    ),
    "popp_invalid_actor": ErrorKind(
        403,
        "The PoPP token was issued to another institution than the access token.",
        "Use the PoPP token that your own institution obtained.",
    ),
    "resource_not_found": ErrorKind(
        404, "No route leads there.", "Check the path against the service's API description."
    ),
    "method_not_allowed": ErrorKind(
        405, "The route or endpoint does not accept this method.", "Use a method of the 'Allow' header."
    ),
    "misdirected_request": ErrorKind(
        421, "The Host header names another authority than this guard's.", "Use the public URL of the guard."
    ),
    "rate_limit_exceeded": ErrorKind(
        429, "Too many requests in a short time.", "Wait for the seconds that 'Retry-After' names."
    ),
    "server_error": ErrorKind(
        500, "The guard or the service behind it failed on this request.", "Tell the operator the request id."
    ),
    "bad_gateway": ErrorKind(
        502, "The service behind the guard cannot be reached or answered garbage.", "Try again later."
    ),
    "temporarily_unavailable": ErrorKind(
        503,
        "Something that the decision needs (store, policy engine, keys, OCSP) is away; nothing passes unchecked.",
        "Try again after the seconds that 'Retry-After' names.",
    ),
    "gateway_timeout": ErrorKind(504, "The service behind the guard did not answer in time.", "Try again later."),
    "unsupported_response_type": ErrorKind(
        400, "The authorization code flow is not offered.", "Use the token exchange at the token endpoint."
    ),
}


class ZetaError(GuardError):
    """A refusal that reaches a client as the one error body (``wire-contract`` section 8).

    ``description`` says what was wrong and what was expected. It never holds a token, a key, a patient's id or an internal
    address. ``status`` defaults to the usual status of ``code``. ``headers`` are added to the answer, ``members`` to the
    body. ``stage`` names the step that refused, for logs, metrics and ``explain``; it never reaches the client.
    """

    def __init__(
        self,
        code: str,
        description: str,
        *,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, JsonValue] | None = None,
        stage: str = "",
        remedy: str = "",
    ) -> None:
        super().__init__(f"{code}: {description}")
        kind = ERROR_KINDS[code]
        self.code: Final = code
        self.description: Final = description
        self.status: Final = kind.status if status is None else status
        self.headers: Final[Mapping[str, str]] = headers or {}
        self.members: Final[Mapping[str, JsonValue]] = members or {}
        self.stage = stage
        self.remedy = remedy or kind.remedy

    def detached(self) -> Self:
        """This refusal without the frames that it came through.

        They hold the request, and one of them holds the refusal: a circle that only the garbage collector would open. For who
        keeps a refusal in a variable instead of raising it on.
        """
        self.__traceback__ = self.__context__ = self.__cause__ = None
        return self

    def with_status(self, status: int) -> ZetaError:
        """The same refusal with the status that this place of the contract asks for."""
        return ZetaError(
            self.code,
            self.description,
            status=status,
            headers=self.headers,
            members=self.members,
            stage=self.stage,
            remedy=self.remedy,
        )

    def with_code(self, code: str, status: int | None = None) -> ZetaError:
        """The same words under another code, for slots that share a verifier but not an error name."""
        return ZetaError(
            code, self.description, status=status, headers=self.headers, members=self.members, stage=self.stage
        )


def unavailable(what: str, *, retry_after: int = 5, stage: str = "") -> ZetaError:
    """503 for a dependency without which nothing may pass (fail closed); ``retry_after`` in whole seconds."""
    return ZetaError("temporarily_unavailable", what, headers={"Retry-After": str(max(1, retry_after))}, stage=stage)


class ConfigurationError(GuardError):
    """A mistake in the configuration: where it is, what stands there, what may stand there, what to do."""

    def __init__(self, path: str, seen: str, expected: str, remedy: str = "") -> None:
        super().__init__(f"{path}: {seen}; expected {expected}" + (f". {remedy}" if remedy else ""))
        self.path: Final = path
        self.seen: Final = seen
        self.expected: Final = expected
        self.remedy = remedy


class ConfigurationErrors(GuardError):
    """All mistakes of one configuration at once, so that nobody has to find them one start at a time."""

    def __init__(self, errors: list[ConfigurationError]) -> None:
        super().__init__("\n".join(str(error) for error in errors))
        self.errors: Final = tuple(errors)
