"""How a client session ends when it cannot go on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from zeta_guard.errors import ERROR_KINDS, GuardError

if TYPE_CHECKING:
    from zeta_guard.client.wire import Answer


class ClientError(GuardError):
    """Base of what a client can meet. ``remedy`` says what a person does next."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy


class Unreachable(ClientError):
    """No answer: name, port, TLS or time."""


class IdentityError(ClientError):
    """The SM(C)-B identity cannot be used: file, password, alias or admission extension."""


class MetadataError(ClientError):
    """A metadata document does not say what the ZETA SDK demands of it."""


class Refused(ClientError):
    """The guard answered, and the answer ends this step. ``answer`` is the whole answer."""

    def __init__(self, step: str, answer: Answer) -> None:
        kind = ERROR_KINDS.get(answer.error)
        words = f"{step}: {answer.status} {answer.error}".rstrip()
        super().__init__(
            f"{words}: {answer.error_description}" if answer.error_description else words, kind.remedy if kind else ""
        )
        self.step: Final = step
        self.answer: Final = answer
