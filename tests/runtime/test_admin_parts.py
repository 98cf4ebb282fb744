"""The parts of administration: socket, memory of refusals, what of the configuration is shown, what is asked."""

from __future__ import annotations

import os
import socket
import stat
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from multidict import MultiDict
from pydantic import BaseModel

from zeta_guard.config.guard import GuardConfig
from zeta_guard.config.listen import Ops
from zeta_guard.errors import ConfigurationError, ZetaError
from zeta_guard.runtime.admin_config import HIDDEN, KEYS_HIDDEN, PRINTED, effective_config, without_userinfo
from zeta_guard.runtime.admin_door import BearerDoor
from zeta_guard.runtime.admin_question import Question
from zeta_guard.runtime.admin_refusals import RecentRefusals
from zeta_guard.runtime.admin_socket import AdminSocket, peer_user

# the socket


def test_a_socket_that_nobody_answers_at_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    made = AdminSocket(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    made.socket.close()
    made.remove()
    assert not path.exists()


def test_a_socket_that_somebody_answers_at_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as alive:
        alive.bind(str(path))
        alive.listen()
        before = path.stat().st_ino
        with pytest.raises(ConfigurationError, match="another process listens"):
            AdminSocket(path)
        assert path.stat().st_ino == before


def test_a_file_is_never_replaced_by_the_socket(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    path.write_text("precious")
    with pytest.raises(ConfigurationError, match="is no socket"):
        AdminSocket(path)
    assert path.read_text() == "precious"


def test_the_mask_of_the_process_is_as_before(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        AdminSocket(tmp_path / "admin.sock").socket.close()
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)


@pytest.mark.parametrize(("name", "words"), [("no/such/folder.sock", "cannot be made"), ("x" * 120, "shorter path")])
def test_a_path_that_cannot_be_bound_is_explained(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        AdminSocket(tmp_path / name)


def test_another_guards_socket_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    first = AdminSocket(path)
    first.socket.close()
    second = AdminSocket(path)
    # Where the file system gave the name's number again, nobody could tell the two apart.
    os.utime(path)
    if first._identity != second._identity:
        first.remove()
        assert path.exists()
    second.socket.close()


def test_the_user_at_the_other_end_is_known() -> None:
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        assert peer_user(one) == os.geteuid()
    assert peer_user(object()) is None


# refusals


def _note(refusals: RecentRefusals, number: int, **members: Any) -> None:
    error = ZetaError("access_denied", f"refusal {number}", members=members, stage="policy")
    refusals.note(error, request_id=f"id-{number}", door="gateway", route="/r", now=float(number))


def test_the_newest_refusals_stay_and_older_ones_are_forgotten() -> None:
    refusals = RecentRefusals(3)
    for number in range(5):
        _note(refusals, number)
    assert len(refusals) == 3
    assert refusals.find("id-1") is None
    found = refusals.find("id-2")
    assert found is not None
    assert found.time == 2.0
    assert [refusal.request_id for refusal in refusals.latest(2)] == ["id-4", "id-3"]
    assert len(refusals.latest(10)) == 3


def test_what_is_shown_of_a_refusal_is_masked_and_bounded() -> None:
    refusals = RecentRefusals()
    error = ZetaError(
        "access_denied",
        "institution 1-2012345678 and X123456789 " + "x" * 2000,
        members={"decision_id": "d-1", "reasons": {"no": ["for 1-2012345678"]}},
    )
    refusals.note(error, request_id="id", door="gateway", route="", now=1.0)
    found = refusals.find("id")
    assert found is not None
    shown = found.document()
    assert "2012345678" not in str(shown)
    assert "X123456789" not in str(shown)
    assert len(str(shown["description"])) <= 1000
    assert shown["decision_id"] == "d-1"
    assert shown["stage"] == "unnamed"
    assert shown["route"] is None


# the configuration


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from _models(inner)


def _texts(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        inner = list(_models(field.annotation))
        for one in inner:
            yield from _texts(one)
        if not inner and "str" in str(field.annotation).replace("pathlib", ""):
            yield name


def test_of_every_text_of_the_configuration_somebody_decided_whether_it_is_shown() -> None:
    hidden = {"username", "verification_keys", "clients_of"}
    assert set(_texts(GuardConfig)) <= PRINTED | hidden
    assert {"clients_of"} == KEYS_HIDDEN


def _config(**changes: Any) -> GuardConfig:
    document: dict[str, Any] = {
        "public_url": "https://guard.example.de",
        "secret_files": ["/etc/secret"],
        "authorization_server": {"signing_keys": "/etc/keys", "scopes": ["s"]},
        "trust": {"directory": "/etc/trust"},
        "policy": {"token": {"engine": "embedded", "bundle": "package:demo"}},
        "gateway": {},
    }
    for name, value in changes.items():
        document[name] = {**document.get(name, {}), **value}
    return GuardConfig.model_validate(document)


def test_no_secret_and_no_institution_stands_in_the_shown_configuration() -> None:
    config = _config(
        store={"kind": "redis", "url": "redis://user:pa/ss@w@redis:6379/0?token=t0p", "username": "hidden-user"},
        outbound={"proxy": "http://user:s3cret@proxy:3128"},
        policy={"token": {"engine": "embedded", "bundle": "https://u:s3cret@bundles/x.tar.gz?sig=s3cret#s3cret"}},
        authorization_server={"signing_keys": "/etc/keys", "scopes": ["s"], "clients_of": {"1-2012345678": 9}},
    )
    shown = effective_config(config)
    text = str(shown)
    for secret in ("pa/ss", "ss@w", "t0p", "hidden-user", "s3cret", "2012345678"):
        assert secret not in text
    store, outbound, server = shown["store"], shown["outbound"], shown["authorization_server"]
    assert isinstance(store, dict)
    assert isinstance(outbound, dict)
    assert isinstance(server, dict)
    assert store["url"] == "redis://redis:6379/0?…"
    assert store["username"] == HIDDEN
    assert outbound["proxy"] == "http://proxy:3128"
    assert server["scopes"] == ["s"]
    assert server["clients_of"] == f"1 entries, {HIDDEN}"
    assert shown["secret_files"] == ["/etc/secret"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("package:demo", "package:demo"),
        ("https://host/path", "https://host/path"),
        ("https://user@host", "https://host"),
        ("https://host/p?q#f", "https://host/p?…"),
        ("https://host/p#f", "https://host/p#…"),
    ],
)
def test_urls_lose_what_may_be_secret(url: str, shown: str) -> None:
    assert without_userinfo(url) == shown


# the bearer token


@pytest.mark.parametrize("token", [b"", b"short", b"x" * 31, b"x" * 20 + b"\n" + b"y" * 20, b"\xff" * 40, b"x" * 5000])
def test_a_weak_or_broken_bearer_token_is_refused_at_start(tmp_path: Path, token: bytes) -> None:
    file = tmp_path / "bearer"
    file.write_bytes(token)
    with pytest.raises(ConfigurationError, match="bearer_token_file"):
        BearerDoor(Ops(), file)


def test_a_bearer_token_of_enough_characters_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "bearer"
    file.write_bytes(b"x" * 32 + b"\n")
    BearerDoor(Ops(), file)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        BearerDoor(Ops(), tmp_path / "missing")


# questions


def test_numbers_and_texts_of_a_query_are_told_apart() -> None:
    question = Question.of_query(MultiDict([("limit", "5"), ("institution", "12345678901"), ("client_id", "77")]))
    assert question.integer("limit", 1, 10, default=1) == 5
    assert question.text("institution") == "12345678901"
    assert question.text("client_id") == "77"
    question.end()


def test_leading_zeros_of_an_identifier_stay() -> None:
    assert Question.of_query(MultiDict([("client_id", "007")])).text("client_id") == "007"


@pytest.mark.parametrize("value", [True, None, 1.5, "5", 0, 11])
def test_only_whole_numbers_within_bounds_are_taken(value: Any) -> None:
    with pytest.raises(ZetaError):
        Question({"limit": value}).integer("limit", 1, 10, default=1)


def test_what_nobody_asked_for_is_a_mistake() -> None:
    with pytest.raises(ZetaError, match="'instituton'"):
        Question({"instituton": "x"}).end()
