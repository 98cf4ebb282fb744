"""``policy``: which engine decides, with which bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo

from zeta_guard.config.base import FilePath, Milliseconds, Seconds, Section


def _source(value: str, info: ValidationInfo) -> str:
    """Paths count from the folder of the configuration file, like every other path."""
    if value.startswith("package:") or "://" in value or Path(value).is_absolute():
        return value
    base = info.context.get("directory") if isinstance(info.context, dict) else None
    return value if base is None else str(Path(base) / value)


class EmbeddedEngine(Section):
    """The embedded engine: a bundle with ``policy.wasm``, evaluated in this process."""

    engine: Literal["embedded"] = "embedded"
    bundle: Annotated[str, AfterValidator(_source)] = Field(
        description="'package:demo|vsdm|popp|template', a folder, a .tar.gz file, an https URL or oci://registry/name:tag."
    )
    decision: str = Field("policies/zeta/authz/decision", description="Entry point of the decision.")
    deadline_ms: Milliseconds = Field(100, description="Longest evaluation; beyond it the answer is 503.")
    memory_mebibytes: int = Field(256, ge=8, le=4096, description="Memory limit of one evaluation.")
    verification_keys: dict[str, FilePath] = Field(
        default_factory=dict, description="Key id → PEM public key; all must have signed the bundle."
    )
    scope: str = Field("", description="Scope that the signatures must name, as in OPA's signing configuration.")
    digest: str | None = Field(
        None,
        pattern=r"^[0-9a-f]{64}$",
        description="Pins one bundle, for bundles without an order number; 'zeta-guard policy verify' prints it.",
    )
    unsafe_unsigned: bool = Field(False, description="UNSAFE: accept an unsigned bundle from outside the package.")
    poll: Seconds = Field(60, description="How often a URL or file is looked at.")
    max_age: Seconds | None = Field(None, description="Oldest bundle whose source could not be reached since.")
    max_age_action: Literal["keep", "deny"] = Field("keep", description="What happens beyond max_age.")
    ca_file: FilePath | None = Field(None, description="Trust anchors for https and oci sources.")
    credentials_file: FilePath | None = Field(None, description="One line user:password, for an oci source.")
    state_file: FilePath | None = Field(None, description="Keeps the last good bundle and the highest order number.")


class OpaServer(Section):
    """An OPA server, asked over its REST data API."""

    engine: Literal["opa"] = "opa"
    url: str = Field(description="Base URL of the OPA server.", pattern=r"^https?://")
    decision: str = Field("policies/zeta/authz/decision", description="Path below /v1/data.")
    deadline_ms: Milliseconds = Field(300, description="Longest wait; beyond it the answer is 503.")
    ca_file: FilePath | None = Field(None, description="Trust anchors for https.")
    token_file: FilePath | None = Field(None, description="Bearer token for OPA's API.")


Engine = Annotated[EmbeddedEngine | OpaServer, Field(discriminator="engine")]


class DecisionLog(Section):
    """Where decisions are written, masked."""

    file: FilePath | None = Field(None, description="JSON lines are appended here.")
    stdout: bool = Field(False, description="Write to standard output.")
    url: str | None = Field(None, description="OPA-compatible decision log collector.", pattern=r"^https?://")
    queue: int = Field(10_000, ge=1, description="Lines waiting; more are dropped and counted.")
    include_address: bool = Field(False, description="Write client addresses.")
    sealing_key_file: FilePath | None = Field(None, description="PEM public key; the whole input is sealed to it.")


class Policy(Section):
    """The token question (always asked), the request question (routes that name it), shadow and log."""

    token: Engine = Field(description="Decides who may have a token.")
    request: Engine | None = Field(None, description="Decides single requests; default: same source as 'token'.")
    shadow: Engine | None = Field(
        None, description="A candidate that answers beside the active policy; never reaches a client."
    )
    log: DecisionLog = Field(DecisionLog())
