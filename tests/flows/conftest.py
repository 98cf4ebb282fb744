"""A whole guard over real TLS with its surroundings, started in this process."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from zeta_guard.cli.demo_story.stage import Stage
from zeta_guard.client.session import ZetaClient
from zeta_guard.config.load import load_config
from zeta_guard.runtime.guard import Guard


class World:
    """The stage of the demo, seen by a test."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.config_file = stage.directory / "guard.yaml"

    @property
    def guard(self) -> Guard:
        assert self.stage.guard is not None
        return self.stage.guard

    @property
    def port(self) -> int:
        return self.stage.around.public_port

    def change(self, **sections: Any) -> None:
        """Rewrite top sections of the configuration file."""
        document = yaml.safe_load(self.config_file.read_text())
        document.update(sections)
        self.config_file.write_text(yaml.safe_dump(document))

    def section(self, name: str) -> Any:
        return yaml.safe_load(self.config_file.read_text())[name]

    async def reload(self) -> None:
        await self.guard.reload(load_config(self.config_file))

    def client(self, name: str = "good") -> ZetaClient:
        return ZetaClient(self.stage.around.public_url, self.stage.card(name), ca_file=self.stage.ca_file)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        context = ssl.create_default_context(cafile=str(self.stage.ca_file))
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=context, server_hostname="127.0.0.1")

    async def raw(self, request: bytes, seconds: float = 10.0) -> bytes:
        """Send bytes on a fresh connection; everything that comes back until the guard closes or the answer is whole."""
        reader, writer = await self.connect()
        try:
            writer.write(request)
            async with asyncio.timeout(seconds):
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
                )
                return head if request.startswith(b"HEAD ") else head + await reader.readexactly(length)
        finally:
            writer.close()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    directory = tmp_path / "guard"
    directory.mkdir(mode=0o700)
    async with Stage(directory) as stage:
        await stage.build_pki()
        await stage.start_services()
        await stage.start_guard()
        await stage.first_proof_possible()
        yield World(stage)
