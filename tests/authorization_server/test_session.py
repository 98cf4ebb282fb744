"""What a session remembers, sealed: for this session alone, and never guessed at."""

from __future__ import annotations

import base64

import orjson
import pytest

from zeta_guard.authorization_server.audience import Target
from zeta_guard.authorization_server.client_statement import ClientStatement
from zeta_guard.authorization_server.session import SessionContent, SessionSealer
from zeta_guard.errors import ZetaError
from zeta_guard.jose.sealing import Sealer, Secrets
from zeta_guard.store.contract import Session

OLD, NEW = bytes(range(32)), bytes(range(32, 64))
CONTENT = SessionContent(
    leaf=b"\x30\x00",
    statement=ClientStatement("linux", "software", "p", "1", "Fedora", "39", "x86_64", 1_800_000_000, True),
    scopes=("popp", "vsdservice"),
    target=Target(2, (), "https://guard.example/popp"),
    granted_audience=("https://a/", "https://b/"),
    client_address="192.0.2.1",
    registered_at=None,
)
EMPTY = Session("s1", "c1", "i", "jkt", "j", 1_800_000_000, 1_800_003_600, b"")


def sealed(content: SessionContent, *secrets: bytes) -> Session:
    sealer = SessionSealer(Secrets(secrets or (NEW,)))
    return EMPTY._replace(sealed=sealer.seal(content, session_id="s1", client_id="c1", jkt="jkt"))


def refusal(session: Session) -> ZetaError:
    with pytest.raises(ZetaError) as caught:
        SessionSealer(Secrets((NEW, OLD))).open(session)
    return caught.value


@pytest.mark.parametrize("target", [CONTENT.target, Target(1, ("https://a/",))])
@pytest.mark.parametrize("registered_at", [None, 1_700_000_000])
def test_what_was_sealed_is_opened_as_it_was_under_either_secret(target: Target, registered_at: int | None) -> None:
    content = CONTENT._replace(target=target, registered_at=registered_at)
    for secret in (NEW, OLD):
        assert SessionSealer(Secrets((NEW, OLD))).open(sealed(content, secret)) == content


@pytest.mark.parametrize("change", [{"session_id": "s2"}, {"client_id": "c2"}, {"jkt": "other"}])
def test_a_content_opens_for_its_own_session_client_and_key_only(change: dict[str, str]) -> None:
    error = refusal(sealed(CONTENT)._replace(**change))  # type: ignore[arg-type]
    assert (error.code, error.status) == ("invalid_grant", 400)


def test_a_content_under_a_secret_that_is_gone_wants_a_new_exchange() -> None:
    error = refusal(sealed(CONTENT, bytes(range(64, 96))))
    assert (error.code, error.status) == ("invalid_grant", 400)
    assert "complete token exchange" in error.description


def test_what_a_newer_version_wrote_is_neither_guessed_at_nor_ended() -> None:
    place = orjson.dumps(["session", "s1", "c1", "jkt"])
    (key,) = Secrets((NEW,)).derive("session")
    inside = orjson.loads(Sealer((key,)).open(sealed(CONTENT).sealed, place).partition(b"\n")[0])
    newer = Sealer((key,)).seal(orjson.dumps({**inside, "version": inside["version"] + 1}), place)
    error = refusal(EMPTY._replace(sealed=newer))
    assert (error.code, error.status) == ("temporarily_unavailable", 503)


def test_what_the_version_before_wrote_is_read() -> None:
    place = orjson.dumps(["session", "s1", "c1", "jkt"])
    (key,) = Secrets((NEW,)).derive("session")
    inside = orjson.loads(Sealer((key,)).open(sealed(CONTENT).sealed, place).partition(b"\n")[0])
    older = {**inside, "version": 1, "leaf": base64.b64encode(CONTENT.leaf).decode()}
    assert (
        SessionSealer(Secrets((NEW,))).open(EMPTY._replace(sealed=Sealer((key,)).seal(orjson.dumps(older), place)))
        == CONTENT
    )


@pytest.mark.parametrize("change", [{"session_id": "s2"}, {"client_id": "c2"}, {"jkt": "other"}])
def test_what_was_opened_before_opens_again_for_its_own_session_client_and_key_only(change: dict[str, str]) -> None:
    sealer = SessionSealer(Secrets((NEW,)))
    own = sealed(CONTENT)
    assert sealer.open(own) == sealer.open(own) == CONTENT
    with pytest.raises(ZetaError) as caught:
        sealer.open(own._replace(**change))  # type: ignore[arg-type]
    assert caught.value.code == "invalid_grant"
    assert sealer.open(own) == CONTENT


def test_one_bit_is_another_content_though_the_right_one_was_opened_before() -> None:
    sealer = SessionSealer(Secrets((NEW,)))
    own = sealed(CONTENT)
    sealer.open(own)
    for place in (0, 5, len(own.sealed) - 1):
        changed = bytearray(own.sealed)
        changed[place] ^= 1
        with pytest.raises(ZetaError):
            sealer.open(own._replace(sealed=bytes(changed)))


def test_opened_contents_are_bounded() -> None:
    sealer = SessionSealer(Secrets((NEW,)))
    for number in range(5000):
        sealer.seal(CONTENT, session_id=str(number), client_id="c1", jkt="jkt")
    assert len(sealer._opened) <= 2048


@pytest.mark.parametrize("leaf", [b"\n", b"\n\n0\n", b'{"version":3}\n', bytes(range(256))])
def test_a_certificate_of_any_bytes_comes_back_as_it_was(leaf: bytes) -> None:
    content = CONTENT._replace(leaf=leaf)
    assert SessionSealer(Secrets((NEW,))).open(sealed(content)) == content
