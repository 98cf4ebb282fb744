"""``outbound``: how the guard reaches out for documents (TSL, OCSP, key sets, bundles)."""

from __future__ import annotations

from pydantic import Field

from zeta_guard.config.base import FilePath, Milliseconds, Section


class Outbound(Section):
    """Everything that is fetched, except forwarded requests."""

    proxy: str | None = Field(None, description="HTTP proxy for outgoing requests.", pattern=r"^http://")
    ca_file: FilePath | None = Field(None, description="Trust anchors in place of the system's.")
    timeout_ms: Milliseconds = Field(5000, description="Time for one request unless a section says otherwise.")
