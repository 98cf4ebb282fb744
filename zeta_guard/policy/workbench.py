"""A bundle in the hands of a policy author: from sources, from an archive or from the package, ready to answer at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson

from zeta_guard.config.policy import EmbeddedEngine
from zeta_guard.errors import ConfigurationError, JsonValue
from zeta_guard.policy.activation import ActivePolicy, Gatekeeper
from zeta_guard.policy.answer import MalformedAnswerError
from zeta_guard.policy.build import ENTRYPOINTS, build
from zeta_guard.policy.bundle import MODULE, Bundle, BundleError, read_archive, read_folder
from zeta_guard.policy.contract import Decision, Question
from zeta_guard.policy.evaluator import Evaluator
from zeta_guard.policy.kept_bundle import KeptBundle
from zeta_guard.policy.source import PACKAGED
from zeta_guard.policy.wasm import SandboxError, WasmPolicy

DECISIONS: Mapping[Question, str] = {"token": ENTRYPOINTS[0], "request": ENTRYPOINTS[1]}
_DEADLINE_MS = 5_000
_MEBIBYTES = 1024


@dataclass(frozen=True, slots=True)
class Workbench:
    """One bundle, compiled. ``sources`` is its folder when it came from sources."""

    bundle: Bundle
    evaluator: Evaluator
    sources: Path | None

    def decide(self, question: Question, document: Mapping[str, JsonValue]) -> Decision:
        """The decision. Raises BundleError when there is none."""
        try:
            return self.evaluator.decide(question, orjson.dumps(document))
        except (SandboxError, MalformedAnswerError) as error:
            raise BundleError(f"no decision: {error}") from error


def open_bundle(name: str) -> Workbench:
    """``package:NAME``, a ``.tar.gz``, a folder with a built bundle or with sources (compiled now, with ``opa``), or the
    ``state_file`` of a guard, which holds its last good bundle.

    Signatures are not looked at: nothing here decides about anybody. Raises BundleError and ConfigurationError.
    """
    bundle, sources = _bundle(name)
    config = EmbeddedEngine(bundle=name, deadline_ms=_DEADLINE_MS, memory_mebibytes=_MEBIBYTES, unsafe_unsigned=True)
    active = Gatekeeper(config, {}, packaged=True).admit(bundle, _token_entrypoint)
    return Workbench(bundle, _evaluator(active), sources)


def _bundle(name: str) -> tuple[Bundle, Path | None]:
    if name.startswith("package:"):
        path = PACKAGED / f"{name.removeprefix('package:')}.tar.gz"
    else:
        path = Path(name)
    if path.is_dir():
        if (path / MODULE).is_file():
            return read_folder(path), None
        return build(path).bundle, path
    try:
        raw = path.read_bytes()
        return _kept(path) if raw.startswith(b"{") else read_archive(raw), None
    except OSError as error:
        raise ConfigurationError(
            "BUNDLE", f"{name} ({error.strerror})", "package:NAME, a .tar.gz file, or a folder of sources"
        ) from None


def _kept(path: Path) -> Bundle:
    kept = KeptBundle(path, "BUNDLE").load()
    if kept is None or kept.fetched is None:
        raise BundleError(f"{path} keeps no bundle")
    return kept.fetched.bundle


def _token_entrypoint(policy: WasmPolicy) -> None:
    if not set(DECISIONS.values()) & set(policy.entrypoints):
        raise BundleError(f"bundle has neither entry point {' nor '.join(DECISIONS.values())}")


def _evaluator(active: ActivePolicy) -> Evaluator:
    try:
        return Evaluator(active, DECISIONS, deadline=_DEADLINE_MS / 1000)
    except SandboxError as error:
        raise BundleError(str(error)) from error
