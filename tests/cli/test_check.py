"""``zeta-guard check``: mistakes, what is left to fill in, and what can be reached."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509

from zeta_guard.authorization_server.key_folder import rotate
from zeta_guard.cli.checking.finding import Findings
from zeta_guard.cli.checking.to_do import is_placeholder
from zeta_guard.cli.main import main
from zeta_guard.errors import ConfigurationError
from zeta_guard.runtime.tls_offer import tls_offer
from zeta_guard.simulators.pki import DemoPki
from zeta_guard.simulators.redis_process import RedisProcess

Document = dict[str, Any]
Check = Callable[..., tuple[int, Document]]


@pytest.fixture(scope="module")
def pki() -> DemoPki:
    return DemoPki()


@pytest.fixture
def document(tmp_path: Path, pki: DemoPki, capsys: pytest.CaptureFixture[str]) -> Document:
    """What 'init' writes, with everything filled in."""
    assert main(["init", str(tmp_path)]) == 0
    capsys.readouterr()
    pki.write_trust_directory(tmp_path / "trust")
    certificate, key = pki.issue_tls(["guard.praxis.de"])
    (tmp_path / "tls/guard.pem").write_bytes(certificate)
    (tmp_path / "tls/guard.key").write_bytes(key)
    written: Document = yaml.safe_load((tmp_path / "guard.yaml").read_text())
    written["public_url"] = "https://guard.praxis.de"
    written["trust"] |= {"unsafe_demo_trust": True, "ocsp": {"hosts": ["127.0.0.1:1"]}}
    written["gateway"]["routes"][0]["upstreams"] = [{"url": "http://127.0.0.1:1"}]
    return written


@pytest.fixture
def check(tmp_path: Path, document: Document, capsys: pytest.CaptureFixture[str]) -> Check:
    def run(*options: str) -> tuple[int, Document]:
        (tmp_path / "guard.yaml").write_text(yaml.safe_dump(document))
        status = main(["check", str(tmp_path / "guard.yaml"), "--json", *options])
        said: Document = json.loads(capsys.readouterr().out)
        return status, said

    return run


@pytest.fixture
def listening() -> Iterator[str]:
    """host:port of something that accepts connections."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def mistakes(said: Document) -> list[str]:
    return [mistake["path"] for mistake in said["mistakes"]]


def test_complete_configuration_is_as_it_should_be(check: Check) -> None:
    status, said = check("--strict")
    assert (status, said["ok"], said["mistakes"], said["to_do"]) == (0, True, [], [])
    # "tls": whether OpenSSL's own defaults hold is a matter of the machine.
    assert {notice["path"] for notice in said["notices"]} - {"tls"} == {"trust.unsafe_demo_trust"}


def test_what_openssl_agrees_to_beyond_the_specification_is_noticed(check: Check) -> None:
    _, said = check()
    noticed = [notice for notice in said["notices"] if notice["path"] == "tls"]
    excess = tls_offer().excess
    assert bool(noticed) == bool(excess)
    for notice in noticed:
        assert all(name in notice["text"] for name in excess)
        assert "OPENSSL_CONF" in notice["remedy"]


def test_schema_mistakes_are_named_with_status_2(check: Check, document: Document) -> None:
    document["listen"]["port"] = "x"
    document["gateway"]["rutes"] = []
    status, said = check()
    assert (status, said["ok"]) == (2, False)
    assert mistakes(said) == ["listen.port", "gateway.rutes"]
    assert said["mistakes"][1]["remedy"] == "Did you mean 'routes'?"


@pytest.mark.parametrize(
    ("route", "path"),
    [
        ({"prefix": "/token"}, "gateway.routes[1].prefix"),
        ({"prefix": "/api"}, "gateway.routes[1].prefix"),
        ({"prefix": "/a/../b"}, "gateway.routes[1].prefix"),
        ({"popp": {}}, "gateway.routes[1].popp"),
        ({"scopes": ["unknown"]}, "gateway.routes[1].scopes"),
        ({"acr": "high"}, "gateway.routes[1].acr"),
        ({"public": True, "scopes": ["popp"]}, "gateway.routes[1].scopes"),
        ({"upstreams": [{"url": "https://h", "ca_file": "absent"}]}, "gateway.routes[1].upstreams[0].ca_file"),
        ({"upstreams": [{"url": "https://h", "ca_file": "keys/secret"}]}, "gateway.routes[1].upstreams[0].ca_file"),
    ],
)
def test_mistakes_in_routes_are_named(check: Check, document: Document, route: Document, path: str) -> None:
    document["gateway"]["routes"].append(
        {"prefix": "/other", "upstreams": document["gateway"]["routes"][0]["upstreams"]} | route
    )
    status, said = check()
    assert (status, mistakes(said)) == (2, [path])


def test_missing_and_wrong_files_are_named_all_at_once(check: Check, tmp_path: Path) -> None:
    (tmp_path / "keys/secret").write_text("short")
    (tmp_path / "tls/guard.key").unlink()
    (signing,) = (tmp_path / "keys/signing").iterdir()
    signing.rename(signing.with_name("key.pem"))
    status, said = check()
    assert status == 2
    assert set(mistakes(said)) == {
        "tls.private_key_file",
        "secret_files[0]",
        "authorization_server.signing_keys/key.pem",
    }


@pytest.mark.parametrize(
    ("section", "value", "path"),
    [
        ("trusted_proxies", ["10.0.0.0/99"], "gateway.trusted_proxies[0]"),
        ("client_address", "forwarded", "gateway.trusted_proxies"),
    ],
)
def test_mistakes_about_proxies_are_named(
    check: Check, document: Document, section: str, value: object, path: str
) -> None:
    document["gateway"][section] = value
    status, said = check()
    assert (status, mistakes(said)) == (2, [path])


def test_unknown_bundle_is_named(check: Check, document: Document) -> None:
    document["policy"]["token"]["bundle"] = "package:absent"
    status, said = check()
    assert status == 2
    assert mistakes(said) == ["policy.token.bundle"]


def test_demo_certificates_are_refused_where_they_are_not_allowed(check: Check, document: Document) -> None:
    del document["trust"]["unsafe_demo_trust"]
    status, said = check()
    assert (status, mistakes(said)) == (2, ["trust.directory"])


def test_redis_address_and_password_are_looked_at_without_a_connection(check: Check, document: Document) -> None:
    document["store"] = {"kind": "redis", "url": "redis://host:99999", "password_file": "absent"}
    status, said = check()
    assert (status, set(mistakes(said))) == (2, {"store.url", "store.password_file"})


def test_check_writes_nothing(check: Check, document: Document, tmp_path: Path) -> None:
    document["policy"]["token"]["state_file"] = "state"
    document["policy"]["log"] = {"file": "decisions.log"}
    document["audit"] = {"directory": "audit"}
    before = set(tmp_path.rglob("*")) | {tmp_path / "guard.yaml"}
    assert check()[0] == 0
    assert set(tmp_path.rglob("*")) == before


def test_open_secret_is_noticed(check: Check, tmp_path: Path) -> None:
    os.chmod(tmp_path / "keys/secret", 0o644)
    status, said = check()
    assert status == 0
    assert {"path": "secret_files[0]", "text": "secret is open to every user here"}.items() <= said["notices"][
        -1
    ].items()


# what is left to fill in


def test_fresh_configuration_is_told_what_is_left_with_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["init", str(tmp_path), "--for", "vsdm"])
    capsys.readouterr()
    assert main(["check", str(tmp_path / "guard.yaml"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    left = {note["path"]: note["remedy"] for note in said["to_do"]}
    assert list(left) == [
        "public_url",
        "tls.certificate_file",
        "trust.directory",
        "trust.ocsp.hosts[0]",
        "gateway.popp_issuers[0]",
        "gateway.routes[0].upstreams[0].url",
    ]
    assert "openssl req -new" in left["tls.certificate_file"]
    assert f"cp *.pem {tmp_path}/trust/" in left["trust.directory"]


def test_what_is_left_counts_only_when_asked(check: Check, document: Document) -> None:
    document["gateway"]["routes"][0]["upstreams"] = [{"url": "http://service.example"}]
    assert check()[0] == 0
    status, said = check("--strict")
    assert (status, said["ok"]) == (1, False)


def test_certificate_for_another_host_is_left_to_do(check: Check, document: Document) -> None:
    document["public_url"] = "https://other.praxis.de"
    _, said = check()
    assert [(note["path"], note["text"]) for note in said["to_do"]] == [
        ("tls.certificate_file", "not made for other.praxis.de")
    ]


def test_certificate_that_ends_soon_is_left_to_do(
    check: Check, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    certificate = x509.load_pem_x509_certificates((tmp_path / "tls/guard.pem").read_bytes())[0]
    end = certificate.not_valid_after_utc.timestamp()
    monkeypatch.setattr("zeta_guard.cli.checking.to_do.time.time", lambda: end - 86_400)
    _, said = check()
    assert any(note["text"].startswith("expires on ") for note in said["to_do"])


@pytest.mark.parametrize(
    ("host", "placeholder"),
    [
        ("service.example", True),
        ("guard.example.de", True),
        ("example.de", True),
        ("x.invalid", True),
        ("praxis.de", False),
        ("myexample.de", False),
        ("10.0.0.1", False),
        ("", False),
    ],
)
def test_example_hosts_are_placeholders(host: str, placeholder: bool) -> None:
    assert is_placeholder(host) is placeholder


# connections


def test_what_cannot_be_reached_is_status_1(check: Check) -> None:
    status, said = check("--connect")
    assert status == 1
    assert {one["name"]: one["ok"] for one in said["connections"]} == {
        "trust.ocsp 127.0.0.1:1": False,
        "/api → http://127.0.0.1:1": False,
    }
    assert all(one["detail"] for one in said["connections"])


def test_what_can_be_reached_is_status_0(check: Check, document: Document, listening: str) -> None:
    document["trust"]["ocsp"]["hosts"] = [listening]
    document["gateway"]["routes"][0]["upstreams"] = [{"url": f"http://{listening}"}]
    document["telemetry"] = {"traces": {"otlp_url": f"http://{listening}/v1/traces"}}
    status, said = check("--connect")
    assert status == 0
    assert len(said["connections"]) == 3


def test_nothing_is_connected_while_there_are_mistakes(check: Check, document: Document) -> None:
    document["gateway"]["routes"][0]["acr"] = "x"
    status, said = check("--connect")
    assert (status, said["connections"]) == (2, [])


@pytest.mark.redis
def test_redis_is_tried(
    check: Check, document: Document, listening: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if not RedisProcess.installed():
        if "redis" in os.environ.get("ZETA_GUARD_REQUIRE", ""):
            pytest.fail("redis-server is required and not installed")
        pytest.skip("redis-server is not installed")
    document["trust"]["ocsp"]["hosts"] = [listening]
    document["gateway"]["routes"][0]["upstreams"] = [{"url": f"http://{listening}"}]
    server = RedisProcess(tmp_path_factory.mktemp("redis"))
    document["store"] = {"kind": "redis", "url": server.url}
    assert check("--connect")[0] == 1
    server.start()
    try:
        assert check("--connect")[0] == 0
        server.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        status, said = check("--connect")
    finally:
        server.stop()
    assert status == 1
    assert "noeviction" in said["connections"][0]["detail"]


def test_people_get_words(tmp_path: Path, document: Document, capsys: pytest.CaptureFixture[str]) -> None:
    document["listen"]["port"] = 70000
    (tmp_path / "guard.yaml").write_text(yaml.safe_dump(document))
    assert main(["check", str(tmp_path / "guard.yaml")]) == 2
    said = capsys.readouterr().out
    assert said.startswith("listen.port: 70000\n  expected: less than or equal to 65535")
    assert said.endswith("guard.yaml: 1 mistake\n")


def test_of_several_mistakes_for_one_path_the_first_is_kept() -> None:
    findings = Findings()
    findings.add([ConfigurationError("a", "first", "x"), ConfigurationError("a", "second", "x")])
    findings.add([ConfigurationError("a", "third", "x"), ConfigurationError("b", "other", "x")])
    assert [(error.path, error.seen) for error in findings.mistakes] == [("a", "first"), ("b", "other")]


def test_schema_is_printed_and_names_every_top_key(capsys: pytest.CaptureFixture[str], document: Document) -> None:
    assert main(["config", "schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert set(document) <= set(schema["properties"])
    assert schema["additionalProperties"] is False
    assert "register" in schema["$defs"]["RateLimits"]["properties"]


def test_a_pkcs12_signing_key_that_does_not_open_is_named(check: Check, document: Document, tmp_path: Path) -> None:
    rotate(tmp_path / "pkcs12", 1_800_000_000.0, password=b"correct horse")
    password = tmp_path / "signing-password"
    password.write_text("correct horse\n")
    password.chmod(0o604)
    document["authorization_server"]["signing_keys"] = "pkcs12"
    assert mistakes(check()[1]) == ["authorization_server.signing_key_password_file"]
    document["authorization_server"]["signing_key_password_file"] = "signing-password"
    _, said = check()
    assert mistakes(said) == []
    assert "authorization_server.signing_key_password_file" in [notice["path"] for notice in said["notices"]]
    password.write_text("wrong horse\n")
    assert mistakes(check()[1]) == ["authorization_server.signing_keys/2027-01-15T080000Z.p12"]
