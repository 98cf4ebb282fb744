"""``target.json``: where everything is, for any other client (``surface`` section 2)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

from zeta_guard.cli.demo_story.configuration import CONFIG_FILE, OPEN_ROUTE, POPP_ROUTE, VSDM_ROUTE
from zeta_guard.cli.demo_story.stage import ALIAS, PASSWORD, Stage, write_private
from zeta_guard.errors import JsonValue

TARGET_FILE: Final = "target.json"
POPP_TOKEN_FILE: Final = "popp-token"  # noqa: S105 (a file name)


def target_document(stage: Stage) -> dict[str, JsonValue]:
    """What the file says; all paths are absolute."""
    directory = stage.directory.resolve()
    return {
        "public_url": stage.around.public_url,
        "ops_url": stage.ops_url,
        "ca_file": str(directory / "ca.pem"),
        "issuer": stage.config.issuer,
        "resource": stage.config.resource,
        "smcb": {
            institution.name: {
                "p12": str(directory / institution.file_name),
                "password": PASSWORD,
                "alias": ALIAS,
                "telematik_id": institution.card.telematik_id,
                "profession_oid": institution.card.profession_oid,
            }
            for institution in stage.institutions.values()
        },
        "popp": {
            "issuer": stage.popp.issuer.issuer,
            "key_file": str(directory / "popp-signing-key.pem"),
            "kid": stage.popp.issuer.kid,
            "token": stage.popp_token(),
        },
        "routes": {"vsdm": VSDM_ROUTE, "popp": POPP_ROUTE, "open": OPEN_ROUTE},
        "config_file": str(directory / CONFIG_FILE),
        "pid": os.getpid(),
    }


def write_target(stage: Stage) -> Path:
    """Write the file in one step, so that whoever waits for it reads it whole."""
    document = target_document(stage)
    popp = document["popp"]
    assert isinstance(popp, dict)
    write_private(stage.directory / POPP_TOKEN_FILE, str(popp["token"]).encode())
    path = stage.directory / TARGET_FILE
    draft = path.with_suffix(".draft")
    write_private(draft, json.dumps(document, indent=2).encode())
    draft.replace(path)
    return path
