"""What the tests of the policy room share: bundles, services, a real ``opa``."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from prometheus_client import CollectorRegistry

from zeta_guard.config.outbound import Outbound as OutboundConfig
from zeta_guard.config.policy import Policy
from zeta_guard.errors import JsonValue
from zeta_guard.http.outbound import Outbound
from zeta_guard.policy.bundle import Bundle, read_archive, read_bundle, write_archive
from zeta_guard.policy.document import Client, Institution, token_document
from zeta_guard.policy.service import PolicyService
from zeta_guard.policy.source import PACKAGED

NOW = 1_700_000_000.0


def _opa() -> str | None:
    return shutil.which(os.environ.get("ZETA_GUARD_OPA", "opa")) or shutil.which(
        str(Path.home() / "go" / "bin" / "opa")
    )


@pytest.fixture(autouse=True)
def _opa_where_marked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.get_closest_marker("opa") is None:
        return
    found = _opa()
    if found is None:
        if "opa" in os.environ.get("ZETA_GUARD_REQUIRE", ""):
            pytest.fail("opa is required and not there")
        pytest.skip("needs the opa program")
    monkeypatch.setenv("ZETA_GUARD_OPA", found)


@pytest.fixture
def opa() -> str:
    """Path of the program, for tests marked ``opa``."""
    found = _opa()
    assert found is not None
    return found


@pytest.fixture(scope="session")
def demo() -> Bundle:
    """The demo bundle of the package."""
    return read_archive((PACKAGED / "demo.tar.gz").read_bytes())


def _manifest(bundle: Bundle) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(bundle.files[".manifest"])
    return document


Variant = Callable[..., Bundle]


@pytest.fixture
def variant(demo: Bundle) -> Variant:
    """The demo bundle with other data, revision or order: the compiled rules stay."""

    def make(
        data: Callable[[dict[str, Any]], object] | None = None, *, revision: str = "variant", order: int | None = 1
    ) -> Bundle:
        manifest = _manifest(demo)
        manifest["revision"] = revision
        manifest["metadata"]["zeta_guard"]["order"] = order
        if order is None:
            del manifest["metadata"]["zeta_guard"]["order"]
        document: dict[str, Any] = json.loads(demo.files["data.json"])
        if data is not None:
            data(document)
        files = {**demo.files, ".manifest": json.dumps(manifest).encode(), "data.json": json.dumps(document).encode()}
        return read_bundle(files)

    return make


@pytest.fixture
def signing_key() -> ec.EllipticCurvePrivateKey:
    """A publisher's key."""
    return ec.generate_private_key(ec.SECP256R1())


KeyFile = Callable[[ec.EllipticCurvePrivateKey, str], Path]


@pytest.fixture
def public_key_file(tmp_path: Path) -> KeyFile:
    """Writes the public half as PEM."""

    def write(key: ec.EllipticCurvePrivateKey, name: str) -> Path:
        path = tmp_path / f"{name}.pub.pem"
        path.write_bytes(
            key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
        return path

    return write


@pytest.fixture
def pack() -> Callable[..., bytes]:
    """Packs a bundle, with further files."""

    def archive(bundle: Bundle, extra: Mapping[str, bytes] | None = None) -> bytes:
        return write_archive({**bundle.files, **(extra or {})})

    return archive


RunPolicy = Callable[..., AbstractAsyncContextManager[PolicyService]]


@pytest.fixture
def run_policy() -> RunPolicy:
    """Starts a policy service from a configuration section and closes it."""

    @asynccontextmanager
    async def run(
        policy: Mapping[str, Any],
        *,
        registry: CollectorRegistry | None = None,
        clock: Callable[[], float] = lambda: NOW,
        pseudonym: Callable[[str], str] | None = None,
    ) -> AsyncIterator[PolicyService]:
        outbound = Outbound(OutboundConfig())
        service = PolicyService(
            Policy.model_validate(policy),
            outbound=outbound,
            clock=clock,
            registry=registry or CollectorRegistry(),
            pseudonym=pseudonym,
        )
        try:
            await service.start()
            yield service
        finally:
            await service.close()
            await outbound.close()

    return run


Ask = Callable[..., dict[str, JsonValue]]


@pytest.fixture
def practice() -> Ask:
    """Makes a question that the demo bundle answers with yes; changes are arguments of ``token_document``."""

    def ask(**changes: Any) -> dict[str, JsonValue]:
        arguments: dict[str, Any] = {
            "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
            "scopes": ["popp", "vsdservice"],
            "audience": ["https://guard.example/"],
            "resource": None,
            "client_address": ip_address("192.0.2.10"),
            "previous_address": None,
            "acr": "gematik-ehealth-loa-high",
            "amr": [],
            "client": Client("client-1", "registered", "linux", "software", "demo_client", "0.1.0"),
            "institution": Institution("1-2012345678", "1.2.276.0.76.4.50", "Praxis Muster", "Praxis Muster GbR"),
        }
        return token_document(**{**arguments, **changes})

    return ask


PUBLISHED = """package policies.zeta.authz

import future.keywords.if
import future.keywords.in

default decision := {"allow": false}

decision := {"allow": true, "ttl": {"access_token": data.token.access_token_ttl, "refresh_token": data.token.refresh_token_ttl}} if {
	count(reasons) == 0
} else := {"allow": false, "reasons": reasons}

reasons["User profession is not allowed"] if {
	not input.user_info.professionOID in data.professions.allowed_professions
}

reasons["HTTP method is not allowed"] if {
	not input.authorization_request.http_method in {"GET", "POST"}
}

reasons["One or more requested scopes are not allowed"] if {
	requested := {s | some s in input.authorization_request.scopes}
	count(requested - {"vsdservice"}) > 0
}

reasons["Requests from this address are not allowed"] if {
	some range in data.ip_blocklist.blocked_ips
	net.cidr_contains(range, input.authorization_request.ip_address)
}
"""


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A folder of sources as the published policies are written: older Rego, lists that are walked, reasons as a map."""
    folder = tmp_path / "published"
    folder.mkdir()
    data = {
        "token": {"access_token_ttl": 300, "refresh_token_ttl": 86400},
        "professions": {"allowed_professions": ["1.2.276.0.76.4.50"]},
        "ip_blocklist": {"blocked_ips": ["198.51.100.0/24", "192.0.2.0/28"]},
    }
    manifest = {"revision": "1.0", "roots": ["policies/zeta", *data]}
    (folder / ".manifest").write_text(json.dumps(manifest))
    (folder / "data.json").write_text(json.dumps(data))
    (folder / "policies.rego").write_text(PUBLISHED)
    return folder
