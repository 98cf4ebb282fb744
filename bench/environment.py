"""What the measurements run against: a guard process, Redis, nginx, each on loopback and pinned to a core."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bench.frame import MissingTool
from zeta_guard.simulators.pki import DemoPki

_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
GUARD_CORE = 0
LOAD_CORE = 1 if (os.cpu_count() or 1) > 1 else 0


def free_port() -> int:
    """A TCP port that is free on loopback right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="zeta-guard-bench-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def tool(name: str, package: str) -> str:
    """Path of a program; :class:`MissingTool` says how to install it."""
    for candidate in (shutil.which(name), f"/usr/sbin/{name}"):
        if candidate and Path(candidate).exists():
            return candidate
    raise MissingTool(f"'{name}' is needed and not here; on Debian: apt-get install {package}")


@dataclass(frozen=True, slots=True)
class GuardSetup:
    """A written configuration and what a measurement needs to play the client."""

    config_file: Path
    public_url: str
    port: int
    ops_port: int
    signing_key: ec.EllipticCurvePrivateKey
    pki: DemoPki


def write_guard(
    directory: Path, *, gateway: Mapping[str, Any] | None = None, changes: Mapping[str, Any] | None = None
) -> GuardSetup:
    """Write keys, trust and ``guard.yaml`` (plain HTTP on loopback, default limits) into ``directory``."""
    port, ops_port = free_port(), free_port()
    public_url = f"http://127.0.0.1:{port}"
    pki = DemoPki()
    (directory / "secret").write_bytes(secrets.token_bytes(32))
    (directory / "secret").chmod(0o600)
    keys = directory / "signing-keys"
    keys.mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    stamp = time.strftime("%Y-%m-%dT%H%M%SZ", time.gmtime(time.time() - 3600))
    key_file = keys / f"{stamp}.pem"
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    key_file.chmod(0o600)
    trust = directory / "trust"
    trust.mkdir()
    (trust / "smcb-ca.pem").write_bytes(pki.smcb_ca.certificate.public_bytes(serialization.Encoding.PEM))
    (trust / "root.pem").write_bytes(pki.root.certificate.public_bytes(serialization.Encoding.PEM))
    document: dict[str, Any] = {
        "public_url": public_url,
        "listen": {"host": "127.0.0.1", "port": port},
        "ops": {"host": "127.0.0.1", "port": ops_port, "drain_seconds": 1},
        "secret_files": ["secret"],
        "authorization_server": {"signing_keys": "signing-keys", "scopes": ["vsdservice", "popp"]},
        "trust": {
            "directory": "trust",
            "unsafe_demo_trust": True,
            "ocsp": {"hosts": ["127.0.0.1"], "private_addresses": True},
        },
        "policy": {"token": {"engine": "embedded", "bundle": "package:demo"}},
        "gateway": dict(gateway or {}),
        "telemetry": {"log_format": "json"},
    }
    document.update(changes or {})
    config_file = directory / "guard.yaml"
    config_file.write_text(yaml.safe_dump(document, sort_keys=False))
    return GuardSetup(config_file, public_url, port, ops_port, key, pki)


class Child:
    """A server process that this measurement started and that it alone stops."""

    def __init__(
        self, command: list[str], *, core: int | None, log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self._log = log
        with log.open("ab") as sink:
            self._process = subprocess.Popen(
                command, stdout=sink, stderr=sink, env={**os.environ, **(environment or {})}
            )
        if core is not None:
            with contextlib.suppress(OSError):
                os.sched_setaffinity(self._process.pid, {core})

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def pids(self) -> list[int]:
        """The process and its children (nginx workers)."""
        found = [self._process.pid]
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
            found += [int(child) for child in children]
        return found

    def cpu_seconds(self) -> float:
        """User and system time of the process and its children so far."""
        total = 0.0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                total += (int(fields[11]) + int(fields[12])) / _CLOCK_TICKS
        return total

    def resident_mebibytes(self) -> float:
        """Resident memory."""
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        return float("nan")

    def log_tail(self) -> str:
        """The last lines it wrote, for a message when it does not start."""
        with contextlib.suppress(OSError):
            return "\n".join(self._log.read_text(errors="replace").splitlines()[-12:])
        return ""

    @property
    def running(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def stop(self) -> None:
        """SIGTERM, then SIGKILL after ten seconds."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def guard_process(setup: GuardSetup, directory: Path, *, core: int | None = GUARD_CORE) -> Child:
    """Start ``zeta-guard serve`` with the interpreter of this measurement."""
    return Child(
        [sys.executable, "-m", "zeta_guard", "serve", "--config", str(setup.config_file)],
        core=core,
        log=directory / "guard.log",
    )


def wait_until_ready(child: Child, url: str, *, seconds: float = 20.0) -> float:
    """Seconds until ``url`` answers 200, asked every five milliseconds."""
    started = time.perf_counter()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.perf_counter() - started < seconds:
        if not child.running:
            break
        with contextlib.suppress(urllib.error.URLError, OSError), opener.open(url, timeout=1) as answer:
            if answer.status == 200:
                return time.perf_counter() - started
        time.sleep(0.005)
    raise RuntimeError(f"{url} did not become ready:\n{child.log_tail()}")


def redis_process(directory: Path, *, core: int | None = LOAD_CORE) -> tuple[Child, str]:
    """A Redis of our own on a Unix socket; returns it with its URL for ``store.url``."""
    path = directory / "redis.sock"
    child = Child(
        [
            tool("redis-server", "redis-server"),
            *("--port", "0", "--unixsocket", str(path), "--save", "", "--appendonly", "no"),
            *("--maxmemory-policy", "noeviction", "--dir", str(directory)),
        ],
        core=core,
        log=directory / "redis.log",
    )
    deadline = time.monotonic() + 10
    while not path.exists():
        if time.monotonic() > deadline or not child.running:
            raise RuntimeError(f"redis-server did not start:\n{child.log_tail()}")
        time.sleep(0.01)
    return child, f"unix://{path}"


def nginx_process(directory: Path, name: str, servers: str, *, core: int | None) -> Child:
    """An nginx with one worker, its configuration and logs below ``directory``."""
    home = directory / name
    home.mkdir()
    # As root nginx would change to a user that cannot read the scratch folder.
    user = "user root;" if os.geteuid() == 0 else ""
    configuration = f"""
{user} daemon off; worker_processes 1; pid {home}/pid; error_log {home}/error.log;
events {{ worker_connections 2048; }}
http {{
  access_log off; keepalive_requests 100000000; keepalive_timeout 600s; sendfile on;
  client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/f; uwsgi_temp_path {home}/u; scgi_temp_path {home}/s;
  {servers}
}}
"""
    (home / "nginx.conf").write_text(configuration)
    return Child(
        [tool("nginx", "nginx-light"), "-p", str(home), "-c", str(home / "nginx.conf")],
        core=core,
        log=directory / f"{name}.log",
    )
