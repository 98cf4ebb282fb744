"""Who plays: the stage, the practice's client, and whoever else comes along."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Final

from zeta_guard.cli.demo_story.stage import Stage
from zeta_guard.cli.demo_story.story import Outcome, Storyteller
from zeta_guard.client.session import Hooks, ZetaClient
from zeta_guard.client.state import ClientState
from zeta_guard.client.token_request import Tokens
from zeta_guard.client.wire import Answer

READ: Final = "/vsdservice/v1/vsdmbundle?profileVersion=1.0"
FHIR: Final = ("Accept", "application/fhir+json")


class Cast:
    """State of the story. Clients live until the end; each is a new registration."""

    def __init__(self, stage: Stage, storyteller: Storyteller) -> None:
        self.stage: Final = stage
        self.storyteller: Final = storyteller
        self._clients: dict[str, ZetaClient] = {}
        self._exit = AsyncExitStack()
        self.popp_token = ""
        self.entity_tag = ""
        self.brief: Tokens | None = None
        """Tokens that live a few seconds, with the client that got them."""

    async def close(self) -> None:
        """Close all clients."""
        await self._exit.aclose()

    async def client(self, name: str = "good", institution: str | None = None) -> ZetaClient:
        """The client of that name; made at its first mention, with the card of ``institution`` (default: its name)."""
        if name not in self._clients:
            # Installed clients keep the metadata for ever; only the first one of the story discovers.
            known = self._clients["good"].state.metadata if "good" in self._clients else None
            client = ZetaClient(
                self.stage.around.public_url,
                self.stage.card(institution or name),
                ca_file=self.stage.ca_file,
                hooks=Hooks(on_exchange=self.storyteller.exchange),
                state=ClientState(metadata=known),
            )
            self._clients[name] = await self._exit.enter_async_context(client)
        return self._clients[name]


def refused(answer: Answer, status: int, error: str) -> Outcome:
    """The outcome of something that must be refused with this status and code."""
    seen = f"{answer.status} {answer.error}".strip()
    if answer.error_description:
        seen += f": {answer.error_description}"
    return Outcome(seen, (answer.status, answer.error) == (status, error))
