from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeta_guard.jose.htu import normal_url, same_url, shown

EXPECTED = "https://guard.example.de/a/b"


@pytest.mark.parametrize(
    "htu",
    [
        "https://guard.example.de/a/b",
        "HTTPS://Guard.Example.DE/a/b",
        "https://guard.example.de:443/a/b",
        "https://guard.example.de:0443/a/b",
        "https://guard.example.de/a/b?x=1",
        "https://guard.example.de/a/b#part",
        "https://guard.example.de/a/b?x=1#part",
        "wss://guard.example.de/a/b",
        "wss://guard.example.de:443/a/b",
    ],
)
def test_other_spellings_of_the_same_url_match(htu: str) -> None:
    assert same_url(htu, EXPECTED)
    assert same_url(htu, "https://guard.example.de:443/a/b")


@pytest.mark.parametrize(
    "htu",
    [
        "",
        "/a/b",
        "guard.example.de/a/b",
        "http://guard.example.de/a/b",
        "ws://guard.example.de/a/b",
        "ftp://guard.example.de/a/b",
        "ftp://guard.example.de:21/a/b",
        "https://guard.example.de:8443/a/b",
        "https://guard.example.de:80/a/b",
        "https://guard.example.de.evil.example/a/b",
        "https://evil.example/https://guard.example.de/a/b",
        "https://user@guard.example.de/a/b",
        "https://guard.example.de@evil.example/a/b",
        "https://guard.example.de/a/B",
        "https://guard.example.de/a/b/",
        "https://guard.example.de/a/%62",
        "https://guard.example.de/a/./b",
        "https://guard.example.de//a/b",
        "https://guard.example.de/a",
        "https://guard.example.de",
        "https://guard.example.de/a/b ",
        " https://guard.example.de/a/b",
        "https://guard.example.de/a/b\n",
        "https:/guard.example.de/a/b",
        "https:\\\\guard.example.de/a/b",
        "https://guard.example.de:/a/b",
        "https://guard.example.de:99999999/a/b",
        "https://guard.exämple.de/a/b",
    ],
)
def test_another_url_does_not_match(htu: str) -> None:
    assert not same_url(htu, EXPECTED)


def test_an_empty_path_is_the_root() -> None:
    assert same_url("https://guard.example.de", "https://guard.example.de/")
    assert same_url("https://guard.example.de/", "https://guard.example.de?x")


def test_ports_and_ip_literals_are_compared() -> None:
    assert same_url("HTTP://LOCALHOST:8080/x", "http://localhost:8080/x")
    assert same_url("http://127.0.0.1:80/x", "http://127.0.0.1/x")
    assert same_url("https://[2001:DB8::1]:443/x", "https://[2001:db8::1]/x")
    assert not same_url("https://[2001:db8::2]/x", "https://[2001:db8::1]/x")
    assert not same_url("http://localhost:443/x", "http://localhost/x")


def test_nothing_matches_what_is_no_url() -> None:
    assert not same_url("https://guard.example.de/a", "nonsense")
    assert not same_url("other nonsense", "nonsense")
    assert normal_url("nonsense") is None


@given(st.text(max_size=80))
def test_garbage_matches_nothing(htu: str) -> None:
    assert not same_url(htu, EXPECTED)


def test_shown_urls_carry_neither_query_nor_user_nor_control_characters() -> None:
    assert shown("https://u:p@guard.example.de/a?secret=1#x") == "https://guard.example.de/a"
    assert shown("https://guard.example.de/a\n\x1b[31m") == "https://guard.example.de/a??[31m"
    assert len(shown("https://guard.example.de/" + "a" * 5000)) == 201
