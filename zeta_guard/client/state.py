"""What a client keeps between requests and, when asked to, between runs."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

from zeta_guard.client.discovery import GuardMetadata
from zeta_guard.client.errors import ClientError
from zeta_guard.client.keys import SoftwareKey
from zeta_guard.client.token_request import Tokens

_VERSION = 1


@dataclass(slots=True)
class ClientState:
    """Keys, metadata, registration and tokens of one client at one guard."""

    instance_key: SoftwareKey = field(default_factory=SoftwareKey.generate)
    dpop_key: SoftwareKey = field(default_factory=SoftwareKey.generate)
    metadata: GuardMetadata | None = None
    client_id: str | None = None
    tokens: Tokens | None = None

    def save(self, path: Path) -> None:
        """Write it, mode 0600, in one step. It holds private keys and tokens. Raises ClientError."""
        document = {
            "version": _VERSION,
            "instance_key": self.instance_key.to_pem().decode(),
            "dpop_key": self.dpop_key.to_pem().decode(),
            "metadata": asdict(self.metadata) if self.metadata else None,
            "client_id": self.client_id,
            "tokens": asdict(self.tokens) if self.tokens else None,
        }
        try:
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            with os.fdopen(handle, "w") as file:
                json.dump(document, file)
            Path(name).replace(path)
        except OSError as error:
            raise ClientError(f"{path} cannot be written: {error.strerror}", "Name a folder that exists.") from error

    @classmethod
    def load(cls, path: Path) -> ClientState:
        """Read what :meth:`save` wrote; a file that is not there is a new client. Raises ClientError."""
        try:
            document = json.loads(path.read_bytes())
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError) as error:
            raise ClientError(f"{path} is no client state", "Delete it; a new client will be registered.") from error
        try:
            metadata, tokens = document["metadata"], document["tokens"]
            if metadata is not None:
                metadata = GuardMetadata(**{**metadata, "scopes_supported": tuple(metadata["scopes_supported"])})
            return cls(
                instance_key=SoftwareKey.from_pem(document["instance_key"].encode()),
                dpop_key=SoftwareKey.from_pem(document["dpop_key"].encode()),
                metadata=metadata,
                client_id=document["client_id"],
                tokens=Tokens(**tokens) if tokens is not None else None,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ClientError(f"{path} is no client state", "Delete it; a new client will be registered.") from error
