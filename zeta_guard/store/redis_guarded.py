"""Commands under conditions: read, decide in Python, write only if nothing has changed meanwhile."""

from __future__ import annotations

from typing import Final

from zeta_guard.store.redis_connection import Argument, ConnectionLost
from zeta_guard.store.redis_link import RedisLink, no_answer, script_call
from zeta_guard.store.redis_scripts import GUARDED

ATTEMPTS: Final = 20
"""How often a decision is made anew because somebody else was faster. Every round has a winner, so callers that compete for
one record need few; what they find afterwards mostly needs no write."""


class GuardedCommands:
    """One atomic step: every condition holds and all commands run, or nothing happens."""

    __slots__ = ("_commands", "_conditions", "_count")

    def __init__(self) -> None:
        self._conditions: list[Argument] = []
        self._count = 0
        self._commands: list[Argument] = []

    def when_string(self, key: bytes, seen: bytes) -> None:
        """The string is what was seen (empty: absent)."""
        self._count += 1
        self._conditions += ("s", key, seen)

    def when_field(self, key: bytes, field: str, seen: bytes) -> None:
        """The hash's field is what was seen (empty: absent)."""
        self._count += 1
        self._conditions += ("h", key, field, seen)

    def when_fewer(self, key: bytes, above: float | str, most: int) -> None:
        """The sorted set has fewer than ``most`` members with a score higher than ``above``."""
        self._count += 1
        self._conditions += ("n", key, above, most)

    def do(self, *words: Argument) -> None:
        """A command. ``KEEP key milliseconds``: the key lives at least so long."""
        self._commands += (len(words), *words)

    async def run(self, link: RedisLink) -> int:
        """1: done; 0: something changed; -n: the n-th condition found its set full. Raises ZetaError 503."""
        try:
            command = script_call(GUARDED, (), self._count, *self._conditions, *self._commands)
            reply = await link.evaluate(GUARDED, command)
        except ConnectionLost:
            raise no_answer() from None
        return reply if isinstance(reply, int) else 0
