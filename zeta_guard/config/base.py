"""What all configuration sections share: strict models and paths relative to the configuration file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo


class Section(BaseModel):
    """A part of the configuration: frozen, and an unknown key is an error, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def _relative_to_file(value: Path, info: ValidationInfo) -> Path:
    context: Any = info.context
    base = context.get("directory") if isinstance(context, dict) else None
    if base is None or value.is_absolute():
        return value
    return Path(base) / value


FilePath = Annotated[Path, AfterValidator(_relative_to_file)]
"""A path; relative ones count from the folder of the configuration file."""

Seconds = Annotated[int, Field(ge=1, le=366 * 86400)]
"""A duration in whole seconds. A field with limits of its own takes ``int``: of two equal limits only one would hold."""

Milliseconds = Annotated[int, Field(ge=1, le=600_000)]
"""A duration in milliseconds."""

Bytes = Annotated[int, Field(ge=1, le=1 << 40)]
"""A size in bytes."""
