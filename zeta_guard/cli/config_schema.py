"""The JSON Schema of the configuration: the reference, what editors complete from, and what the chart validates with."""

from __future__ import annotations

from typing import Any, Final

from zeta_guard.config.guard import GuardConfig

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def configuration_schema() -> dict[str, Any]:
    """The schema of a configuration *file*: names as they stand there, every description included."""
    schema = GuardConfig.model_json_schema(by_alias=True, mode="validation")
    return {"$schema": DIALECT, **schema, "title": "ZETA Guard configuration"}
