"""Where a decision was made and written down, for whoever must explain it at night. Names of files only, never their content."""

from __future__ import annotations

from zeta_guard.config.policy import EmbeddedEngine, Policy
from zeta_guard.errors import JsonValue
from zeta_guard.runtime.admin_config import without_userinfo


def decided_by(policy: Policy, *, door: str) -> dict[str, JsonValue]:
    """The engine that a room asks in the configuration in force, and the decision log.

    ``bundle`` and ``state_file`` are None for an OPA server, ``url`` for the embedded engine; ``decision_log`` is None where no
    file is written, ``sealed`` tells whether its lines carry sealed inputs.
    """
    engine = policy.request if door == "gateway" and policy.request is not None else policy.token
    log = policy.log.file
    found: dict[str, JsonValue] = {"engine": engine.engine, "bundle": None, "state_file": None, "url": None}
    if isinstance(engine, EmbeddedEngine):
        found["bundle"] = without_userinfo(engine.bundle)
        found["state_file"] = str(engine.state_file) if engine.state_file is not None else None
    else:
        found["url"] = without_userinfo(engine.url)
    found["decision_log"] = str(log) if log is not None else None
    found["sealed"] = policy.log.sealing_key_file is not None
    return found
