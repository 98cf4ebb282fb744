"""A real guard process, and everything around it that a test may break: Redis, OPA, OCSP responder, backend, configuration."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from zeta_guard.client.session import ZetaClient
from zeta_guard.policy.bundle import read_archive
from zeta_guard.policy.source import PACKAGED
from zeta_guard.simulators.card import Card
from zeta_guard.simulators.ocsp_responder import OcspResponder
from zeta_guard.simulators.pki import DemoPki
from zeta_guard.simulators.redis_process import RedisProcess

REQUIRED = os.environ.get("ZETA_GUARD_REQUIRE", "").split()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.slow)
            if "chaos" not in REQUIRED:
                item.add_marker(pytest.mark.skip(reason="part of .ci/chaos"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def eventually(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """The first truth of ``condition`` (which may be awaited), asked every 20 ms; fails after ``seconds``."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        await asyncio.sleep(0.02)


class Backend:
    """A service on a fixed port that can be stopped and started again; counts what it gets."""

    def __init__(self) -> None:
        self.port = free_port()
        self.hits = 0
        self.hold = 0.0
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        application = web.Application()
        application.router.add_route("*", "/{rest:.*}", self._answer)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.hits += 1
        await asyncio.sleep(self.hold)
        return web.json_response({"path": request.path})


class OpaProcess:
    """``opa run --server`` with the shipped demo bundle's sources."""

    def __init__(self, program: str, folder: Path) -> None:
        self.port = free_port()
        self._program = program
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        bundle = read_archive((PACKAGED / "demo.tar.gz").read_bytes())
        for name, content in bundle.files.items():
            if name.endswith(".rego") or name == "data.json":
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        manifest = json.loads(bundle.files[".manifest"])
        del manifest["wasm"]
        (folder / ".manifest").write_text(json.dumps(manifest))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        command = [self._program, "run", "--server", "--addr", f"127.0.0.1:{self.port}", "--disable-telemetry"]
        self._process = subprocess.Popen(  # noqa: ASYNC220 - begun at once, waited for without blocking
            [*command, "--log-level", "error", "--bundle", str(self._folder)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        await eventually(self._answers, 20, "OPA answers")

    async def _answers(self) -> bool:
        with contextlib.suppress(aiohttp.ClientError):
            async with aiohttp.ClientSession() as session, session.get(f"{self.url}/health?bundles") as answer:
                return answer.status == 200
        return False

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None


class World:
    """The guard process and what a test does to it."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self.folder = folder
        self.stack = stack
        self.port, self.ops_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.config_file = folder / "guard.yaml"
        self.pki = DemoPki()
        self.ocsp = OcspResponder(self.pki)
        self.backend = Backend()
        self.process: subprocess.Popen[bytes] | None = None

    async def prepare(self, *, ocsp: dict[str, Any] | None = None, **sections: Any) -> None:
        await self.stack.enter_async_context(self.ocsp)
        await self.backend.start()
        self.stack.push_async_callback(self.backend.stop)
        (self.folder / "secret").write_bytes(secrets.token_bytes(32))
        (self.folder / "secret").chmod(0o600)
        keys = self.folder / "signing-keys"
        keys.mkdir()
        key = keys / f"{time.strftime('%Y-%m-%dT%H%M%SZ', time.gmtime(time.time() - 3600))}.pem"
        key.write_bytes(
            ec.generate_private_key(ec.SECP256R1()).private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        key.chmod(0o600)
        self.pki.write_trust_directory(self.folder / "trust")
        upstreams = [{"url": f"http://127.0.0.1:{self.backend.port}"}]
        self.document: dict[str, Any] = {
            "public_url": self.url,
            "listen": {"host": "127.0.0.1", "port": self.port},
            "ops": {"host": "127.0.0.1", "port": self.ops_port, "drain_seconds": 5},
            "secret_files": ["secret"],
            "store": {"kind": "memory"},
            "authorization_server": {"signing_keys": "signing-keys", "scopes": ["vsdservice"]},
            "trust": {
                "directory": "trust",
                "unsafe_demo_trust": True,
                "ocsp": {
                    "hosts": [self.ocsp.authority],
                    "private_addresses": True,
                    "timeout_ms": 300,
                    **(ocsp or {}),
                },
            },
            "policy": {"token": {"engine": "embedded", "bundle": "package:demo"}},
            "gateway": {"routes": [{"prefix": "/service", "upstreams": upstreams, "scopes": ["vsdservice"]}]},
            **sections,
        }
        self.write()

    def write(self) -> None:
        self.config_file.write_text(yaml.safe_dump(self.document))

    async def start(self) -> None:
        with (self.folder / "guard.log").open("ab") as log:
            self.process = subprocess.Popen(  # noqa: ASYNC220 - begun at once, waited for without blocking
                [sys.executable, "-m", "zeta_guard", "serve", "--config", str(self.config_file)],
                stdout=log,
                stderr=log,
            )
        self.stack.callback(self.kill)
        await eventually(self.is_ready, 20, "the guard is ready")

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    @property
    def log(self) -> str:
        return (self.folder / "guard.log").read_text(errors="replace")

    async def readyz(self) -> tuple[int, dict[str, Any]]:
        url = f"http://127.0.0.1:{self.ops_port}/readyz"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return answer.status, await answer.json()

    async def is_ready(self) -> bool:
        with contextlib.suppress(aiohttp.ClientError):
            return (await self.readyz())[0] == 200
        return False

    def card(self, telematik_id: str = "1-2012345678") -> Card:
        return self.pki.issue_smcb(telematik_id)

    async def client(self, card: Card | None = None) -> ZetaClient:
        return await self.stack.enter_async_context(ZetaClient(self.url, card or self.card(), timeout=10))


MakeWorld = Callable[..., Any]


@pytest.fixture
async def make_world(tmp_path: Path) -> AsyncIterator[MakeWorld]:
    async with AsyncExitStack() as stack:

        async def make(**sections: Any) -> World:
            world = World(tmp_path, stack)
            await world.prepare(**sections)
            await world.start()
            return world

        yield make


@pytest.fixture
def redis(tmp_path_factory: pytest.TempPathFactory) -> Any:
    if not RedisProcess.installed():
        if "redis" in REQUIRED:
            pytest.fail("redis-server is required and not installed")
        pytest.skip("redis-server is not installed")
    server = RedisProcess(tmp_path_factory.mktemp("redis"), "--maxmemory-policy", "noeviction")
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def opa(tmp_path_factory: pytest.TempPathFactory) -> Any:
    import shutil

    program = shutil.which("opa")
    if program is None:
        if "opa" in REQUIRED:
            pytest.fail("opa is required and not installed")
        pytest.skip("opa is not installed")
    server = OpaProcess(program, tmp_path_factory.mktemp("opa"))
    await server.start()
    yield server
    server.stop()
