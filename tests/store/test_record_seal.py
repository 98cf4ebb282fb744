"""Sealed records: what one version writes, it and the next one read; nothing else is believed."""

from __future__ import annotations

import base64
import hmac

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeta_guard.store.contract import Client, ClientState, Session
from zeta_guard.store.record_seal import RecordSeal, client_content, read_session, session_content
from zeta_guard.store.session_record import SessionRecord

NEW, OLD = b"n" * 32, b"o" * 32
SESSION = Session("s", "c", "inst", "jkt", "j1", 1_800_000_000, 1_800_003_600, b"\n\x00\xff sealed", "product")
RECORD = SessionRecord(SESSION, "j0", 1_800_000_100.25, b"\n answer")


def test_a_session_comes_back_as_it_was_under_either_key() -> None:
    for key in (NEW, OLD):
        opened = RecordSeal((NEW, OLD)).open(b"s", RecordSeal((key,)).seal(b"s", *session_content(RECORD)))
        assert opened is not None
        assert read_session(*opened) == RECORD


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_sealed_part_and_answer_are_told_apart_whatever_they_hold(sealed: bytes, answer: bytes) -> None:
    record = SessionRecord(Session("s", "c", "i", "k", "j", 1, 2, sealed), "p", 1.0, answer)
    opened = RecordSeal((NEW,)).open(b"s", RecordSeal((NEW,)).seal(b"s", *session_content(record)))
    assert opened is not None
    assert read_session(*opened) == record


def test_a_session_of_the_version_before_is_read() -> None:
    session = SESSION._asdict()
    content = {
        "session": {**session, "sealed": base64.b64encode(SESSION.sealed).decode()},
        "previous_jti": RECORD.previous_jti,
        "rotated_at": RECORD.rotated_at,
        "sealed_answer": base64.b64encode(RECORD.sealed_answer).decode(),
    }
    body = b"\x01" + orjson.dumps(content)
    mac = hmac.digest(NEW, (1).to_bytes(4, "big") + b"s" + body, "sha256")
    opened = RecordSeal((NEW,)).open(b"s", body[:1] + mac + body[1:])
    assert opened is not None
    assert read_session(*opened) == RECORD


@pytest.mark.parametrize("tail", [None, b"", b"tail"])
def test_a_record_is_believed_only_as_it_is_and_under_its_own_name(tail: bytes | None) -> None:
    seal = RecordSeal((NEW,))
    sealed = seal.seal(b"s", {"a": 1}, tail)
    assert seal.open(b"s", sealed) == ({"a": 1}, tail)
    assert seal.open(b"t", sealed) is None
    assert RecordSeal((OLD,)).open(b"s", sealed) is None
    for place in range(len(sealed)):
        changed = sealed[:place] + bytes((sealed[place] ^ 3,)) + sealed[place + 1 :]
        assert seal.open(b"s", changed) is None, place
    for length in range(len(sealed)):
        assert seal.open(b"s", sealed[:length]) is None, length


def test_a_record_of_a_later_version_is_not_guessed_at() -> None:
    version, body = b"\x09", b'{"a":1}\ntail'
    mac = hmac.digest(NEW, (1).to_bytes(4, "big") + b"s" + version + body, "sha256")
    assert RecordSeal((NEW,)).open(b"s", version + mac + body) is None


CLIENT = Client("c", "t", {"kty": "EC"}, "Praxis", 1_800_000_000, ClientState.VALID, "inst", "linux")


def test_a_client_is_the_same_each_time_but_for_its_last_use() -> None:
    seal = RecordSeal((NEW, OLD))
    for key in (NEW, OLD):
        sealed = RecordSeal((key,)).seal(b"client:c", client_content(CLIENT))
        for used in (5, 5, 6):
            assert seal.open_client(b"client:c", sealed, used) == CLIENT._replace(last_used_at=used)


def test_a_client_that_was_opened_before_opens_under_no_other_name_and_not_with_one_bit_changed() -> None:
    seal = RecordSeal((NEW,))
    sealed = seal.seal(b"client:c", client_content(CLIENT))
    assert seal.open_client(b"client:c", sealed, 5) is not None
    assert seal.open_client(b"client:d", sealed, 5) is None
    assert RecordSeal((OLD,)).open_client(b"client:c", sealed, 5) is None
    for place in (0, 1, 32, 33, len(sealed) - 1):
        changed = sealed[:place] + bytes((sealed[place] ^ 3,)) + sealed[place + 1 :]
        assert seal.open_client(b"client:c", changed, 5) is None
    assert seal.open_client(b"client:c", sealed, 5) is not None


def test_opened_clients_are_bounded_in_number_and_size() -> None:
    seal = RecordSeal((NEW,))
    for number in range(5000):
        assert seal.open_client(b"c", seal.seal(b"c", client_content(CLIENT._replace(registered_at=number))), 5)
    assert len(seal._clients) <= 4096
    large = seal.seal(b"c", client_content(CLIENT._replace(client_name="x" * 2000)))
    assert seal.open_client(b"c", large, 5) == seal.open_client(b"c", large, 5) is not None
    assert seal._clients.get(large) is None
