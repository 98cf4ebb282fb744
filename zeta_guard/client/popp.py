"""How a primary system gets a PoPP token: it carries commands to the card and answers back (I_PoPP_Token_Generation)."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Final, Literal, Protocol

from aiohttp import ClientWebSocketResponse, WSMsgType

from zeta_guard.client.errors import ClientError
from zeta_guard.errors import JsonValue

CardConnection = Literal["contact-standard", "contactless-standard"]
_MOST_SCENARIOS: Final = 64


class CardReader(Protocol):
    """A card terminal with an eGK in it."""

    def transmit(self, command: bytes) -> bytes:
        """Response APDU: data and two status bytes."""


class PoppRefused(ClientError):
    """The PoPP service ended the conversation. ``code`` is its ``errorCode``, or what was wrong with its message."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"PoPP service: {code}" + (f" ({detail})" if detail else ""))
        self.code: Final = code


OnMessage = Callable[[str, dict[str, JsonValue]], None]
"""Called with ``">"`` (sent) or ``"<"`` (received) and the message."""


async def obtain_popp_token(
    socket: ClientWebSocketResponse,
    reader: CardReader,
    *,
    card_connection: CardConnection = "contact-standard",
    session_id: str | None = None,
    on_message: OnMessage | None = None,
    patience: float = 30,
) -> str:
    """Play the card scenarios on an open socket; the PoPP token. ``patience``: longest wait for one
    message, in seconds. Raises PoppRefused."""
    tell = on_message or (lambda direction, message: None)
    start: dict[str, JsonValue] = {
        "type": "Start",
        "version": "1.0.0",
        "cardConnectionType": card_connection,
        "clientSessionId": session_id or str(uuid.uuid4()),
    }
    await socket.send_str(json.dumps(start))
    tell(">", start)
    for _ in range(_MOST_SCENARIOS):
        message = await _receive(socket, patience)
        tell("<", message)
        kind = message.get("type")
        if kind == "Token":
            return str(message.get("token", ""))
        if kind == "Error":
            raise PoppRefused(str(message.get("errorCode", "")), str(message.get("errorDetail") or ""))
        if kind != "StandardScenario":
            raise PoppRefused("unexpected message", str(kind))
        answer: dict[str, JsonValue] = {"type": "ScenarioResponse", "steps": _play(message, reader)}
        await socket.send_str(json.dumps(answer))
        tell(">", answer)
    raise PoppRefused("too many scenarios")


def _play(scenario: dict[str, JsonValue], reader: CardReader) -> list[JsonValue]:
    answers: list[JsonValue] = []
    steps = scenario.get("steps")
    if not isinstance(steps, list):
        raise PoppRefused("malformed scenario")
    for step in steps:
        try:
            assert isinstance(step, dict)
            command, expected = bytes.fromhex(str(step["commandApdu"])), step["expectedStatusWords"]
            assert isinstance(expected, list)
        except (AssertionError, KeyError, ValueError):
            raise PoppRefused("malformed scenario") from None
        response = reader.transmit(command)
        answers.append(response.hex())
        if response[-2:].hex() not in {str(word).lower() for word in expected}:
            # What follows builds on this command: the service judges the unexpected status word itself.
            break
    return answers


async def _receive(socket: ClientWebSocketResponse, patience: float) -> dict[str, JsonValue]:
    try:
        frame = await socket.receive(timeout=patience)
    except TimeoutError:
        raise PoppRefused("no answer", f"within {patience:.0f} s") from None
    if frame.type is not WSMsgType.TEXT:
        raise PoppRefused("socket closed", f"code {socket.close_code}")
    try:
        message = json.loads(frame.data)
    except ValueError:
        raise PoppRefused("malformed message") from None
    if not isinstance(message, dict):
        raise PoppRefused("malformed message")
    return message
