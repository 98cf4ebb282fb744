"""``trust``: which SM(C)-B certificates are believed, and how their revocation is asked."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from zeta_guard.config.base import FilePath, Milliseconds, Seconds, Section


class TrustListSource(Section):
    """The TI trust-service status list (ETSI TS 119 612)."""

    file: FilePath | None = Field(None, description="TSL as a file, read again when it changes.")
    url: str | None = Field(None, description="TSL as https or http URL.", pattern=r"^https?://")
    anchors: tuple[FilePath, ...] = Field(
        min_length=1, description="PEM certificates that may sign the list (or issue its signer)."
    )
    state_file: FilePath | None = Field(None, description="Keeps the last good list and the highest sequence number.")
    refresh: Seconds = Field(86_400, description="How often the source is read.")
    grace: Seconds = Field(259_200, description="How long after NextUpdate the list is still used.")

    @model_validator(mode="after")
    def _one_source(self) -> TrustListSource:
        if (self.file is None) == (self.url is None):
            raise ValueError("exactly one of 'file' and 'url' must be set")
        return self


class Ocsp(Section):
    """Revocation (RFC 6960)."""

    mode: Literal["require", "allow-cached", "ignore"] = Field(
        "allow-cached",
        description="When no responder answers: require → 503; allow-cached → the last good answer; ignore → UNSAFE, laboratories only.",
    )
    hosts: tuple[str, ...] = Field(
        (), description="Responder hosts (host or host:port) that may be asked beside those of the TSL."
    )
    private_addresses: bool = Field(False, description="Responders on private or loopback addresses may be asked.")
    max_age: Seconds = Field(86_400, description="Longest use of one answer, also when its nextUpdate is later.")
    cached_age: Seconds = Field(86_400, description="allow-cached: oldest last good answer.")
    timeout_ms: Milliseconds = Field(2000, description="Time for one question.")
    max_bytes: int = Field(65_536, ge=1024, description="Largest answer.")
    skew_ms: Milliseconds = Field(37_500, description="Tolerated clock difference to the responder.")


class Trust(Section):
    """Trust anchors (a trust list or a folder) and OCSP."""

    tsl: TrustListSource | None = Field(None, description="Trust list; either this or 'directory'.")
    directory: FilePath | None = Field(
        None, description="Folder of PEM/DER CA certificates; OCSP signers in its sub-folder 'ocsp'."
    )
    certificate_policies: tuple[str, ...] = Field(
        ("1.2.276.0.76.4.77",), description="One of these policies must stand in the leaf (SM(C)-B AUT)."
    )
    ocsp: Ocsp = Field(Ocsp())
    unsafe_demo_trust: bool = Field(False, description="UNSAFE: accept certificates of the demo PKI.")

    @model_validator(mode="after")
    def _one_anchor(self) -> Trust:
        if (self.tsl is None) == (self.directory is None):
            raise ValueError("exactly one of 'tsl' and 'directory' must be set")
        return self
