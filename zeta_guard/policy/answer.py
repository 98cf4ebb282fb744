"""From what an engine returned to a :class:`Decision`: strictly, and anything else is no answer (``policy-contract`` section 3)."""

from __future__ import annotations

from typing import Final

from zeta_guard.errors import GuardError, JsonValue
from zeta_guard.policy.contract import Decision, Reason

MAX_REASONS: Final = 64
MAX_TEXT: Final = 1024
MAX_CACHE_SECONDS: Final = 60
_MAX_TTL: Final = 366 * 86_400


class MalformedAnswerError(GuardError):
    """The policy answered something that is no decision. The text says which member, never its value."""


def read_decision(
    value: JsonValue, *, decision_id: str, revision: str, milliseconds: float, may_cache: bool = True
) -> Decision:
    """Validate the value of a decision rule. Unknown members are ignored. Raises :class:`MalformedAnswerError`.

    Without ``may_cache`` (the policy reads the time) ``cache_seconds`` is 0 whatever the policy says.
    """
    if not isinstance(value, dict):
        raise MalformedAnswerError("decision is no object")
    allow = value.get("allow")
    if not isinstance(allow, bool):
        raise MalformedAnswerError("'allow' is no boolean")
    access, refresh = _lifetimes(value.get("ttl"))
    return Decision(
        allow=allow,
        decision_id=decision_id,
        revision=revision,
        reasons=_reasons(value.get("reasons")),
        access_token_ttl=access if allow else None,
        refresh_token_ttl=refresh if allow else None,
        audience=_audience(value.get("aud")) if allow else (),
        cache_seconds=_cache_seconds(value.get("cache_seconds")) if may_cache else 0,
        milliseconds=milliseconds,
    )


def _lifetimes(value: JsonValue) -> tuple[int | None, int | None]:
    if value is None:
        return None, None
    if not isinstance(value, dict):
        raise MalformedAnswerError("'ttl' is no object")
    return _lifetime(value, "access_token"), _lifetime(value, "refresh_token")


def _lifetime(ttl: dict[str, JsonValue], name: str) -> int | None:
    seconds = ttl.get(name)
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int) or not 1 <= seconds <= _MAX_TTL:
        raise MalformedAnswerError(f"'ttl.{name}' is no whole number of seconds from 1")
    return seconds


def _audience(value: JsonValue) -> tuple[str, ...]:
    if value is None:
        return ()
    members = value if isinstance(value, list) else [value]
    if not members or not all(isinstance(member, str) and member for member in members):
        raise MalformedAnswerError("'aud' is neither a text nor a list of texts")
    return tuple(str(member) for member in members)


def _cache_seconds(value: JsonValue) -> int:
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise MalformedAnswerError("'cache_seconds' is no whole number from 0")
    return min(value, MAX_CACHE_SECONDS)


def _reasons(value: JsonValue) -> tuple[Reason, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        return (_text_reason(value),)
    if isinstance(value, dict):
        # The published form is a map from text to true; a text that maps to false is no reason.
        if not all(isinstance(flag, bool) for flag in value.values()):
            raise MalformedAnswerError("'reasons' maps a text to something other than true or false")
        found = [_text_reason(text) for text, flag in value.items() if flag]
    elif isinstance(value, list):
        found = [_text_reason(member) if isinstance(member, str) else _object_reason(member) for member in value]
    else:
        raise MalformedAnswerError("'reasons' is neither a map nor a list")
    if len(found) > MAX_REASONS:
        raise MalformedAnswerError(f"'reasons' has more than {MAX_REASONS} members")
    return tuple(sorted(found, key=lambda reason: (reason.code, reason.message)))


def _text_reason(text: str) -> Reason:
    if not text or len(text) > MAX_TEXT:
        raise MalformedAnswerError("'reasons' holds an empty or overlong text")
    return Reason(text)


def _object_reason(value: JsonValue) -> Reason:
    if not isinstance(value, dict):
        raise MalformedAnswerError("'reasons' holds something other than texts and objects")
    members = [value.get(name, "") for name in ("message", "code", "spec")]
    if not all(isinstance(member, str) and len(member) <= MAX_TEXT for member in members):
        raise MalformedAnswerError("a reason's code, message or spec is no text, or too long")
    message, code, spec = (str(member) for member in members)
    if not (message or code):
        raise MalformedAnswerError("a reason has neither code nor message")
    return Reason(message or code, code, spec)
