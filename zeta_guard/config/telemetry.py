"""``telemetry`` and ``audit``: what is measured, logged and proven afterwards."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from zeta_guard.config.base import FilePath, Section


class Traces(Section):
    """OpenTelemetry traces over OTLP/HTTP."""

    otlp_url: str | None = Field(
        None, description="Collector, e.g. http://collector:4318/v1/traces; none: off.", pattern=r"^https?://"
    )
    sample: float = Field(0.1, ge=0.0, le=1.0, description="Share of traces that are kept.")
    ca_file: FilePath | None = Field(None)


class Telemetry(Section):
    """Logs, request log and traces."""

    log_level: Literal["debug", "info", "warning", "error"] = Field("info")
    log_format: Literal["json", "text"] = Field("json")
    request_log: bool = Field(True, description="One line per request.")
    traces: Traces = Field(Traces())
    service_name: str = Field("zeta-guard")
    propagate_trace: Literal["new", "continue"] = Field(
        "continue", description="Start a new trace or continue the client's."
    )


class Audit(Section):
    """The chained, signed record of what was decided and administered."""

    directory: FilePath | None = Field(None, description="Folder of the audit files; none: audit is off.")
    checkpoint_seconds: int = Field(60, ge=1, le=3600)
    signing_key_file: FilePath | None = Field(None, description="PKCS#8 P-256 key that signs the checkpoints.")
