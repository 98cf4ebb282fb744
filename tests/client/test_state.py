"""A client that is kept between runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from zeta_guard.client.errors import ClientError
from zeta_guard.client.session import ZetaClient
from zeta_guard.client.state import ClientState
from zeta_guard.simulators.card import Card


async def test_a_kept_client_neither_registers_nor_logs_in_again(guard: Any, card: Card, tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    for _ in range(2):
        state = ClientState.load(path)
        async with ZetaClient(guard.url, card, state=state) as client:
            await client.request("GET", "/vsd")
        state.save(path)
    assert len(guard.paths("/register")) == 1
    assert len(guard.paths("/token")) == 1
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"metadata":null,"tokens":null,"instance_key":"x","dpop_key":"x"}'])
def test_a_file_that_is_no_state_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "state.json"
    path.write_text(text)
    with pytest.raises(ClientError, match="no client state"):
        ClientState.load(path)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ClientError, match="cannot be written"):
        ClientState().save(tmp_path / "nowhere" / "state.json")
