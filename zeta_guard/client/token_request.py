"""The forms of the token endpoint and what comes back (RFC 8693, RFC 6749, RFC 7523)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote_plus

from zeta_guard.client.errors import MetadataError
from zeta_guard.client.wire import Answer

TOKEN_EXCHANGE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"  # noqa: S105 (a name, no secret)
JWT_BEARER: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_JWT_TYPE: Final = "urn:ietf:params:oauth:token-type:jwt"
_REFRESH_TYPE: Final = "urn:ietf:params:oauth:token-type:refresh_token"

Form = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a token request brought. ``expires_at`` is in the client's own time, Unix seconds."""

    access_token: str
    expires_at: float
    expires_in: int
    refresh_token: str | None
    refresh_expires_in: int | None
    scope: str

    def usable(self, now: float, margin: float = 10) -> bool:
        """More than ``margin`` seconds left; the SDK takes 10."""
        return self.expires_at - now > margin


def exchange_form(
    *, client_id: str, subject_token: str, client_assertion: str, scopes: Sequence[str], audience: str
) -> Form:
    """Token exchange, fields in the SDK's order."""
    return [
        ("grant_type", TOKEN_EXCHANGE),
        ("client_id", client_id),
        ("subject_token", subject_token),
        ("subject_token_type", _JWT_TYPE),
        ("requested_token_type", _REFRESH_TYPE),
        ("client_assertion_type", JWT_BEARER),
        ("client_assertion", client_assertion),
        ("scope", " ".join(scopes)),
        ("audience", audience),
    ]


def refresh_form(
    *, client_id: str, refresh_token: str, client_assertion: str, scopes: Sequence[str], audience: str
) -> Form:
    """Refresh, fields in the SDK's order."""
    return [
        ("grant_type", "refresh_token"),
        ("client_id", client_id),
        ("requested_token_type", _REFRESH_TYPE),
        ("client_assertion_type", JWT_BEARER),
        ("client_assertion", client_assertion),
        ("scope", " ".join(scopes)),
        ("audience", audience),
        ("refresh_token", refresh_token),
    ]


def client_credentials_form(*, product_id: str, client_assertion: str, scopes: Sequence[str], audience: str) -> Form:
    """Client credentials with an assertion by the SM(C)-B (RFC 7523 §2.2)."""
    return [
        ("grant_type", "client_credentials"),
        ("client_id", product_id),
        ("client_assertion_type", JWT_BEARER),
        ("client_assertion", client_assertion),
        ("scope", " ".join(scopes)),
        ("audience", audience),
    ]


def encoded(form: Form) -> bytes:
    """``application/x-www-form-urlencoded``."""
    return "&".join(f"{quote_plus(name)}={quote_plus(value)}" for name, value in form).encode()


def read_tokens(answer: Answer, now: float) -> Tokens:
    """The tokens of a 200. Raises MetadataError where the SDK throws (null, float, nested values)."""
    body = answer.json()
    for name, value in body.items():
        if value is None or isinstance(value, (dict, list)):
            raise MetadataError(f"token endpoint: '{name}' is null or nested", "The SDK throws on such an answer.")
    access_token, refresh_token = body.get("access_token"), body.get("refresh_token")
    if not isinstance(access_token, str) or not access_token:
        raise MetadataError("token endpoint: no access_token in the answer")
    expires_in = _whole(body.get("expires_in", 0), "expires_in")
    refresh_expires_in = body.get("refresh_expires_in")
    return Tokens(
        access_token=access_token,
        expires_at=now + expires_in,
        expires_in=expires_in,
        refresh_token=refresh_token if isinstance(refresh_token, str) else None,
        refresh_expires_in=None if refresh_expires_in is None else _whole(refresh_expires_in, "refresh_expires_in"),
        scope=str(body.get("scope", "")),
    )


def _whole(value: object, name: str) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise MetadataError(f"token endpoint: '{name}' is no integer", "The SDK throws on such an answer.")
    return value
