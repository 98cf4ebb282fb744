"""A served demo, and the real client that ``ZETA_SDK_CLIENT`` names."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml


@dataclass(frozen=True, slots=True)
class Run:
    """What the client said: its exit code, its steps by name, and everything for the message of a failed assertion."""

    code: int
    steps: dict[str, dict[str, Any]]
    output: str

    def ok(self, name: str) -> bool:
        """Whether that step was green."""
        return bool(self.steps.get(name, {}).get("ok"))


class ServedDemo:
    """``zeta-guard demo --serve`` as its own process."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._log = directory / "demo.log"
        with self._log.open("ab") as sink:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "zeta_guard", "demo", "--serve", "--dir", str(directory / "demo")],
                stdout=sink,
                stderr=sink,
            )
        self.target: dict[str, Any] = self._wait()

    def _wait(self) -> dict[str, Any]:
        target = self.directory / "demo" / "target.json"
        deadline = time.monotonic() + 40
        while time.monotonic() < deadline and self._process.poll() is None:
            if target.exists():
                document = json.loads(target.read_text())
                assert isinstance(document, dict)
                return document
            time.sleep(0.05)
        raise AssertionError(f"the demo did not serve:\n{self._log.read_text()[-4000:]}")

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(20)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedDemo]:
    served = ServedDemo(tmp_path_factory.mktemp("served"))
    yield served
    served.stop()


@pytest.fixture(scope="session")
def sdk_client() -> str:
    command = os.environ.get("ZETA_SDK_CLIENT", "")
    if not command:
        if "interop" in os.environ.get("ZETA_GUARD_REQUIRE", ""):
            pytest.fail("ZETA_SDK_CLIENT is not set although interop tests are required")
        pytest.skip("ZETA_SDK_CLIENT names no client")
    return command


@pytest.fixture
def run_client(sdk_client: str, demo: ServedDemo) -> Callable[..., Run]:
    """Run the client once against the served demo, as the identity ``who``."""

    def run(*options: str, who: str = "good", popp: bool = True, url: str | None = None) -> Run:
        target = demo.target
        identity = target["smcb"][who]
        command = [
            *(sdk_client, "--url", url or target["public_url"], "--ca", target["ca_file"]),
            *("--p12", identity["p12"], "--alias", identity["alias"], "--password", identity["password"]),
            *("--scope", "all", "--json", "--header", 'If-None-Match: "0"'),
        ]
        if popp:
            command += ["--popp-token", target["popp"]["token"]]
        command += [option.format(**target["routes"]) for option in options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
        assert done.returncode != 3, f"the client could not be built: {done.stderr}"
        steps: dict[str, dict[str, Any]] = {}
        for line in done.stdout.splitlines():
            if line.startswith("{"):
                document = json.loads(line)
                if "step" in document:
                    steps[document["step"]] = document
        return Run(done.returncode, steps, done.stdout + done.stderr)

    return run


class OwnGuard:
    """A guard process of its own beside the demo's simulators, which can be restarted."""

    def __init__(self, demo: ServedDemo, name: str, changes: dict[str, Any]) -> None:
        source = Path(demo.target["config_file"])
        self.directory = source.parent
        document = yaml.safe_load(source.read_text())
        self.port, ops_port = free_port(), free_port()
        self.public_url = f"https://127.0.0.1:{self.port}"
        document["public_url"] = self.public_url
        document["listen"]["port"] = self.port
        document["ops"] = {"host": "127.0.0.1", "port": ops_port, "drain_seconds": 1}
        document["authorization_server"]["lifetimes"] = {"access_token": 20, "access_token_cap": 20}
        document.update(changes)
        self._file = self.directory / f"{name}.yaml"
        self._file.write_text(yaml.safe_dump(document))
        self._ready = f"http://127.0.0.1:{ops_port}/readyz"
        self._log = demo.directory / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as sink:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "zeta_guard", "serve", "--config", str(self._file)], stdout=sink, stderr=sink
            )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError), opener.open(self._ready, timeout=1):
                return
            time.sleep(0.05)
        raise AssertionError(f"the guard did not start:\n{self._log.read_text()[-4000:]}")

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(20)

    def log(self) -> str:
        return self._log.read_text()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def own_guard(demo: ServedDemo) -> Iterator[Callable[..., OwnGuard]]:
    """Start a guard of one's own; ``changes`` replace top sections of the demo's configuration."""
    running: list[OwnGuard] = []

    def start(name: str, **changes: Any) -> OwnGuard:
        guard = OwnGuard(demo, name, changes)
        running.append(guard)
        guard.start()
        return guard

    yield start
    for guard in running:
        guard.stop()
