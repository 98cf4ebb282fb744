"""``zeta-guard init`` and the configuration it writes."""

from __future__ import annotations

import json
import stat
import time
from pathlib import Path

import pytest
import yaml
from cryptography import x509

from zeta_guard.cli.main import main
from zeta_guard.config.load import load_config
from zeta_guard.config.rules import notices
from zeta_guard.jose.sealing import Secrets
from zeta_guard.runtime.guard import Guard
from zeta_guard.simulators.pki import DemoPki

PURPOSES = ["vsdm", "popp", "generic"]


def init(folder: Path, purpose: str = "generic") -> Path:
    assert main(["init", str(folder), "--for", purpose]) == 0
    return folder / "guard.yaml"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("purpose", PURPOSES)
def test_written_configuration_is_valid_and_nothing_in_it_is_unsafe(tmp_path: Path, purpose: str) -> None:
    config = load_config(init(tmp_path / "guard", purpose))
    assert notices(config) == []
    assert len(config.gateway.routes) == 1


@pytest.mark.parametrize("purpose", PURPOSES)
@pytest.mark.parametrize("anchors", [False, True])
async def test_guard_starts_with_it_and_trust_is_there_once_anchors_are(
    tmp_path: Path, purpose: str, anchors: bool
) -> None:
    file = init(tmp_path, purpose)
    document = yaml.safe_load(file.read_text())
    if anchors:
        DemoPki().write_trust_directory(tmp_path / "trust")
        document["trust"]["unsafe_demo_trust"] = True
    document["listen"] |= {"host": "127.0.0.1", "port": 0}
    document["ops"]["port"] = 0
    file.write_text(yaml.safe_dump(document))
    now = time.time()
    guard = Guard(load_config(file), clock=lambda: now)
    await guard.start()
    # The second in which the store's epoch began is over.
    now += 1
    try:
        readiness = await guard.readiness()
        assert readiness.ready
        assert (readiness.lines["trust"] is None) is anchors
    finally:
        await guard.stop(drain_seconds=0)


def test_secrets_are_fresh_and_for_their_owner_only(tmp_path: Path) -> None:
    init(tmp_path / "a")
    init(tmp_path / "b")
    (key,) = (tmp_path / "a/keys/signing").glob("*.pem")
    for private in (tmp_path / "a/keys/secret", tmp_path / "a/tls/guard.key", key):
        assert mode(private) == 0o600
    for folder in ("a/keys", "a/tls"):
        assert mode(tmp_path / folder) == 0o700
    first, second = (Secrets.load([tmp_path / name / "keys/secret"]) for name in "ab")
    assert first.derive("x") != second.derive("x")
    assert list((tmp_path / "a/trust").iterdir()) == []


def test_certificate_is_made_for_this_machine(tmp_path: Path) -> None:
    init(tmp_path)
    certificate = x509.load_pem_x509_certificate((tmp_path / "tls/guard.pem").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert certificate.issuer == certificate.subject


def test_existing_configuration_is_never_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = init(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert main(["init", str(tmp_path)]) == 2
    assert f"{file}: exists already" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_keys_that_are_there_are_kept(tmp_path: Path) -> None:
    file = init(tmp_path)
    file.unlink()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    init(tmp_path)
    assert {path: path.read_bytes() for path in before} == before
    assert len(list(tmp_path.rglob("*.pem"))) == 2


def test_folder_that_cannot_be_made_is_a_mistake_with_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["init", str(tmp_path / "file" / "guard")]) == 2
    assert "expected: a folder that this user may write" in capsys.readouterr().err


def test_json_names_what_was_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", str(tmp_path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["config_file"] == str(tmp_path / "guard.yaml")
    assert all(Path(path).exists() for path in said["written"])


def test_every_comment_that_is_a_setting_is_one(tmp_path: Path) -> None:
    """Whoever removes the '#' must not meet an unknown key."""
    text = init(tmp_path, "generic").read_text()
    optional = {
        "  # lifetimes: {access_token: 300, refresh_token: 43200}": "  lifetimes: {access_token: 300, refresh_token: 43200}",
        "  # resource: ": "  resource: ",
        "  # client_address: ": "  client_address: ",
        "  # trusted_proxies: ": "  trusted_proxies: ",
        "      # scopes: ": "      scopes: ",
        "      # acr: ": "      acr: ",
        "      # request_policy: ": "      request_policy: ",
        "      # max_body: ": "      max_body: ",
        '# telemetry:\n#   traces: {otlp_url: "http': 'telemetry:\n  traces: {otlp_url: "http',
        "# audit:\n#   directory: audit\n#   signing_key_file": "audit:\n  directory: audit\n  signing_key_file",
    }
    for comment, setting in optional.items():
        assert comment in text
        text = text.replace(comment, setting)
    (tmp_path / "guard.yaml").write_text(text)
    load_config(tmp_path / "guard.yaml")
