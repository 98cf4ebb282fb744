"""The story for people: compact, coloured on a terminal only."""

from __future__ import annotations

import os
from typing import TextIO

from zeta_guard.cli.demo_story.stage import Stage
from zeta_guard.cli.demo_story.story import Step, Storyteller
from zeta_guard.cli.demo_story.target import POPP_TOKEN_FILE

_GREEN, _RED, _DIM, _BOLD, _PLAIN = "\x1b[32m", "\x1b[31m", "\x1b[2m", "\x1b[1m", "\x1b[0m"


class Printer:
    """Writes to ``out``; colours only when it is a terminal and ``NO_COLOR`` is not set."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._coloured = out.isatty() and "NO_COLOR" not in os.environ
        self._number = 0

    def head(self) -> None:
        """First lines."""
        self._line(
            self._in("ZETA Guard demo", _BOLD) + ": everything on loopback, real TLS, keys thrown away afterwards"
        )

    def step(self, step: Step) -> None:
        """One step with what went over the wire, what was seen and what it proves."""
        self._number += 1
        if not step.played:
            self._line(f"\n{self._in('--', _DIM)} {self._number:2} {step.title} {self._in(step.seen, _DIM)}")
            return
        mark = self._in("ok", _GREEN) if step.ok else self._in("NO", _RED)
        self._line(f"\n{mark} {self._number:2} {self._in(step.title, _BOLD)} {self._in(f'{step.ms:.0f} ms', _DIM)}")
        for line in step.wire:
            self._line("      " + self._in(line, _DIM))
        if not step.ok:
            self._line(f"      expected: {step.expected}")
        self._line(f"      {'seen' if step.ok else self._in('seen', _RED)}:     {step.seen}")
        self._line(f"      proves:   {step.proves}" if step.ok else f"      would prove: {step.proves}")

    def end(self, storyteller: Storyteller) -> None:
        """The verdict."""
        total = len(storyteller.steps)
        failed = [step.id for step in storyteller.steps if not step.ok]
        verdict = (
            self._in(f"All {total} steps ended as they should", _GREEN)
            if not failed
            else self._in(f"{len(failed)} of {total} steps did not end as they should: {', '.join(failed)}", _RED)
        )
        self._line(f"\n{verdict} ({storyteller.seconds:.1f} s)")

    def serving(self, stage: Stage) -> None:
        """Copy-and-paste lines for the running guard."""
        url, directory = stage.around.public_url, stage.directory.resolve()
        identity = f"--url {url} --ca {directory}/ca.pem --p12 {directory}/cards/good.p12 --password-file {directory}/cards/password"
        self._line(f"\n{self._in('The guard keeps running', _BOLD)} at {url}; Ctrl-C ends it. Try:\n")
        for text in (
            f"curl --cacert {directory}/ca.pem {url}/.well-known/oauth-protected-resource",
            f"curl --cacert {directory}/ca.pem {url}/whoami                # no token: 401 and why",
            f"zeta-guard client smoke {identity}",
            f"zeta-guard client call {identity} /whoami",
            f"zeta-guard client call {identity} --popp-token-file {directory}/{POPP_TOKEN_FILE} \\\n"
            "      --header 'If-None-Match: \"0\"' '/vsdservice/v1/vsdmbundle?profileVersion=1.0'",
            f"curl {stage.ops_url}/readyz",
            f"curl {stage.ops_url}/metrics",
        ):
            self._line(f"  {text}")
        self._line(f"\nFor other clients: {directory}/target.json; configuration: {directory}/guard.yaml")

    def _in(self, text: str, style: str) -> str:
        return f"{style}{text}{_PLAIN}" if self._coloured else text

    def _line(self, text: str) -> None:
        print(text, file=self._out, flush=True)
