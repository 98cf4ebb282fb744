"""``zeta-guard demo`` as a person starts it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from zeta_guard.cli.main import main
from zeta_guard.client.identity import load_pkcs12
from zeta_guard.client.session import ZetaClient
from zeta_guard.config.load import load_config
from zeta_guard.jose.jwk import thumbprint

DEMO = [sys.executable, "-m", "zeta_guard", "demo"]

REQUIRED = {
    "pki",
    "discover",
    "register",
    "token",
    "popp",
    "read",
    "unchanged",
    "precondition",
    "refresh",
    "replayed_proof",
    "stolen_token",
    "foreign_popp",
    "profession",
    "revoked",
    "expired_token",
    "spoofed_user_info",
    "manipulated_subject_token",
}


def _run(*options: str, temporary: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*DEMO, *options],
        capture_output=True,
        text=True,
        timeout=50,
        env={**os.environ, "TMPDIR": str(temporary)},
        check=False,
    )


def test_the_whole_story_is_green_within_ten_seconds_and_leaves_nothing_behind(tmp_path: Path) -> None:
    started = time.monotonic()
    done = _run("--json", temporary=tmp_path)
    taken = time.monotonic() - started
    story = json.loads(done.stdout)
    assert [step for step in story["steps"] if not step["ok"]] == []
    assert story["ok"] is True
    assert done.returncode == 0
    assert done.stderr == ""
    assert {step["id"] for step in story["steps"]} >= REQUIRED
    for step in story["steps"]:
        assert step.keys() >= {"id", "title", "expected", "seen", "ok", "ms"}
    assert story["seconds"] < 10
    assert taken < 20, "generous: the machine may be busy; bench measures"
    assert list(tmp_path.iterdir()) == []


def test_the_story_for_people_has_no_colours_in_a_pipe_and_no_credential(tmp_path: Path) -> None:
    done = _run(temporary=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "\x1b" not in done.stdout
    assert "POST /token → 200" in done.stdout
    assert "steps ended as they should" in done.stdout
    assert "eyJ" not in done.stdout


def test_a_folder_whose_parent_is_missing_is_named(tmp_path: Path) -> None:
    done = _run("--dir", str(tmp_path / "no" / "where"), temporary=tmp_path)
    assert done.returncode == 2
    assert "does not exist" in done.stderr
    assert "mkdir -p" in done.stderr


def test_a_file_in_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = _run("--dir", str(tmp_path / "file"), temporary=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("option", ["--port", "--ops-port"])
def test_a_port_in_use_is_named_and_ends_the_demo(tmp_path: Path, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = _run(option, str(taken.getsockname()[1]), temporary=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert str(taken) not in done.stderr
    assert "cannot be bound" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_of_the_story_cleans_up(tmp_path: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(
        DEMO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    assert process.stdout is not None
    while "ok  2" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert errors == "stopped before the end of the story\n"
    assert list(tmp_path.iterdir()) == []


class Served:
    """A served demo and its ``target.json``."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.process = subprocess.Popen(
            [*DEMO, "--serve", "--dir", str(directory)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        deadline = time.monotonic() + 40
        while not (directory / "target.json").exists():
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        self.target: dict[str, Any] = json.loads((directory / "target.json").read_text())


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    demo = Served(tmp_path_factory.mktemp("served") / "demo")
    yield demo
    demo.process.send_signal(signal.SIGTERM)
    output, _ = demo.process.communicate(timeout=20)
    assert demo.process.returncode == 0, output
    assert "The guard keeps running" in output
    assert (demo.directory / "target.json").exists()


def test_target_json_is_private_and_says_where_everything_is(served: Served) -> None:
    target = served.target
    assert served.directory.stat().st_mode & 0o777 == 0o700
    assert (served.directory / "target.json").stat().st_mode & 0o777 == 0o600
    assert target.keys() >= {
        "public_url",
        "ops_url",
        "ca_file",
        "issuer",
        "resource",
        "smcb",
        "popp",
        "routes",
        "config_file",
        "pid",
    }
    assert target["smcb"].keys() == {"good", "revoked", "silent", "not_allowed", "other_institution", "foreign"}
    assert target["routes"] == {
        "vsdm": "/vsdservice/v1/vsdmbundle",
        "popp": "/popp/practitioner/api/v1/token-generation-ehc",
        "open": "/whoami",
    }
    assert target["pid"] == served.process.pid
    for identity in target["smcb"].values():
        assert load_pkcs12(Path(identity["p12"]), identity["password"].encode(), identity["alias"])


def test_the_key_of_target_json_mints_popp_tokens(served: Served) -> None:
    popp = served.target["popp"]
    key = serialization.load_pem_private_key(Path(popp["key_file"]).read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert thumbprint(key.public_key()) == popp["kid"]


def test_the_configuration_it_leaves_can_be_loaded(served: Served) -> None:
    config = load_config(Path(served.target["config_file"]))
    assert config.public_url == served.target["public_url"]
    assert config.trust.unsafe_demo_trust


async def test_another_client_reads_insured_data_with_what_target_json_says(served: Served) -> None:
    target = served.target
    identity = target["smcb"]["good"]
    smcb = load_pkcs12(Path(identity["p12"]), identity["password"].encode(), identity["alias"])
    async with ZetaClient(target["public_url"], smcb, ca_file=Path(target["ca_file"])) as client:
        headers = [("PoPP", target["popp"]["token"]), ("If-None-Match", '"0"')]
        answer = await client.request("GET", target["routes"]["vsdm"], headers)
        assert answer.status == 200, answer.body
        assert answer.json()["resourceType"] == "Bundle"
        assert (await client.request("GET", target["routes"]["open"])).status == 200
        assert client.state.tokens is not None
        assert client.state.tokens.expires_in > 10
        metrics = await client.wire.send("GET", f"{target['ops_url']}/metrics")
        assert b"zeta_guard_" in metrics.body


@dataclass(frozen=True, slots=True)
class Done:
    """A command that was run in this process."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def client(served: Served, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run ``zeta-guard client`` against the served demo."""

    def run(*options: str, who: str = "good") -> Done:
        target = served.target
        identity = target["smcb"][who]
        password = Path(identity["p12"]).with_name("password")
        action, *rest = options
        status = main(
            [
                *("client", action, "--url", target["public_url"], "--ca", target["ca_file"]),
                *("--p12", identity["p12"], "--alias", identity["alias"], "--password-file", str(password)),
                *rest,
            ]
        )
        captured = capsys.readouterr()
        return Done(status, captured.out, captured.err)

    return run


def test_the_smoke_test_is_green(client: Callable[..., Done]) -> None:
    done = client("smoke", "--path", "/whoami", "--json")
    story = json.loads(done.stdout)
    assert done.returncode == 0, done.stdout
    assert [(step["id"], step["ok"]) for step in story["steps"]] == [
        ("discover", True),
        ("register", True),
        ("token", True),
        ("refresh", True),
        ("call", True),
    ]


def test_the_smoke_test_is_red_from_the_first_thing_that_fails(client: Callable[..., Done]) -> None:
    done = client("smoke", who="revoked")
    assert done.returncode == 1
    assert "RED token" in done.stdout
    assert "invalid_grant" in done.stdout
    assert "RED call" in done.stdout
    assert "not tried" in done.stdout


def test_client_token_prints_the_token_alone_and_keeps_its_state(client: Callable[..., Done], tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    first = client("token", "--state", str(state))
    second = client("token", "--state", str(state), "--json")
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert first.stdout.count(".") == 2
    assert json.loads(second.stdout)["access_token"] == first.stdout.strip()


def test_client_call_prints_the_body_and_sends_the_popp_token(served: Served, client: Callable[..., Done]) -> None:
    token_file = str(served.directory / "popp-token")
    path = "/vsdservice/v1/vsdmbundle?profileVersion=1.0"
    done = client("call", "--popp-token-file", token_file, "--header", 'If-None-Match: "0"', path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["resourceType"] == "Bundle"


def test_client_call_says_what_to_do_about_a_refusal(client: Callable[..., Done]) -> None:
    done = client("call", "--json", "/vsdservice/v1/vsdmbundle")
    assert done.returncode == 1
    assert json.loads(done.stdout)["status"] == 400
    done = client("call", "/nowhere")
    assert done.returncode == 1
    assert "404 resource_not_found" in done.stderr
    assert "Check the path" in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--header", "nonsense", "/x"], "expected 'Name: value'"),
        (["--alias", "other", "/x"], "holds the alias"),
        (["--popp-token-file", "/nowhere", "/x"], "No such file"),
    ],
)
def test_unusable_options_of_the_client_are_named(client: Callable[..., Done], options: list[str], words: str) -> None:
    done = client("call", *options)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
