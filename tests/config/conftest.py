"""A document that is valid, for tests that spoil one thing in it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zeta_guard.config.guard import GuardConfig
from zeta_guard.config.load import validate_document
from zeta_guard.errors import ConfigurationError, ConfigurationErrors

DOCUMENT: dict[str, Any] = {
    "public_url": "https://guard.example.de",
    "tls": {"certificate_file": "tls/guard.pem", "private_key_file": "tls/guard.key"},
    "secret_files": ["keys/secret"],
    "authorization_server": {"signing_keys": "keys/signing", "scopes": ["vsdservice"]},
    "trust": {"directory": "trust", "ocsp": {"hosts": ["ocsp.example.de"]}},
    "policy": {"token": {"engine": "embedded", "bundle": "package:demo"}},
    "gateway": {"routes": [{"prefix": "/vsd", "upstreams": [{"url": "http://10.0.0.1:8080"}]}]},
}

Load = Callable[..., GuardConfig]


@pytest.fixture
def document() -> dict[str, Any]:
    return copy.deepcopy(DOCUMENT)


@pytest.fixture
def refusals(tmp_path: Path) -> Callable[[dict[str, Any]], list[ConfigurationError]]:
    """All mistakes of a document."""

    def ask(document: dict[str, Any]) -> list[ConfigurationError]:
        with pytest.raises(ConfigurationErrors) as refused:
            validate_document(document, directory=tmp_path)
        return list(refused.value.errors)

    return ask


@pytest.fixture
def load(tmp_path: Path) -> Load:
    return lambda document: validate_document(document, directory=tmp_path)
