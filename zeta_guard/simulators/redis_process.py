"""A real redis-server on a Unix socket, for tests and measurements: started, emptied, halted and ended at will."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from zeta_guard.errors import ConfigurationError

START_SECONDS = 10.0


class RedisProcess:
    """A server without persistence, without a TCP port unless ``options`` (words of its command line) give it one.

    ``settings`` is a configuration file of its own; a Sentinel needs one that it may write to.
    """

    def __init__(self, folder: Path, *options: str, settings: Path | None = None) -> None:
        self.socket_path = folder / "r.sock"
        self._folder = folder
        self._options = options
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def installed() -> bool:
        """There is a redis-server to start."""
        return shutil.which("redis-server") is not None

    @property
    def url(self) -> str:
        """For ``store.url``."""
        return f"unix://{self.socket_path}"

    def start(self) -> None:
        """Start and wait until it answers. Raises ConfigurationError when it does not."""
        binary = shutil.which("redis-server")
        if binary is None:
            raise ConfigurationError("PATH", "no redis-server", "redis-server 7.0 or newer", "apt install redis-server")
        words = [str(self._settings)] if self._settings is not None else ["--port", "0", "--save", ""]
        words += ["--unixsocket", str(self.socket_path), "--dir", str(self._folder)]
        words += ["--logfile", str(self._folder / "redis.log"), *self._options]
        self._process = subprocess.Popen([binary, *words])
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if time.monotonic() > deadline or self._process.poll() is not None:
                self.stop()
                raise ConfigurationError("redis-server", "does not start", "a server that answers", "See redis.log")
            time.sleep(0.01)

    def stop(self) -> None:
        """End it; what it remembered is gone."""
        if self._process is not None:
            # Nothing is to be saved, and a polite end would wait for replicas.
            self._process.kill()
            self._process.wait(START_SECONDS)
            self._process = None
        self.socket_path.unlink(missing_ok=True)

    def pause(self) -> None:
        """Let it hang: connections stay open, nothing is answered."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def ask(self, *words: str) -> str:
        """One command over a connection of its own; the raw reply."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(str(self.socket_path))
            connection.sendall((" ".join(f'"{word}"' for word in words) + "\r\n").encode())
            return connection.recv(1 << 20).decode("utf-8", "replace")

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            return self.ask("PING") != ""
        return False
