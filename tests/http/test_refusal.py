from __future__ import annotations

import json
import re

import pytest
from aiohttp import web

from zeta_guard.errors import ERROR_KINDS, ZetaError, unavailable
from zeta_guard.http.error_page import error_page
from zeta_guard.http.refusal import API_VERSION, error_body, error_headers, error_response, raw_refusal

URL = "https://guard.example.de"


def test_body_has_the_four_members_and_those_of_the_error() -> None:
    error = ZetaError(
        "access_denied",
        "profession not allowed",
        members={
            "reasons": {"profession not allowed": True},
            "decision_id": "d1",
            "error": "spoofed",
            "request_id": "x",
        },
    )
    assert json.loads(error_body(error, public_url=URL, request_id="01J")) == {
        "error": "access_denied",
        "error_description": "profession not allowed",
        "error_uri": "https://guard.example.de/errors/access_denied",
        "request_id": "01J",
        "reasons": {"profession not allowed": True},
        "decision_id": "d1",
    }


@pytest.mark.parametrize("code", sorted(ERROR_KINDS))
def test_every_401_has_a_challenge_with_a_fixed_text(code: str) -> None:
    headers = error_headers(ZetaError(code, 'what "the" client\r\nSet-Cookie: sent', status=401))
    assert re.fullmatch(
        rf'DPoP error="{code}", error_description="[\x20\x21\x23-\x5b\x5d-\x7e]+", algs="ES256"',
        headers["WWW-Authenticate"],
    )
    assert "client" not in headers["WWW-Authenticate"] or "client\r\n" not in headers["WWW-Authenticate"]
    assert "Set-Cookie" not in headers["WWW-Authenticate"]


@pytest.mark.parametrize("code", sorted(ERROR_KINDS))
def test_other_statuses_have_no_challenge(code: str) -> None:
    assert "WWW-Authenticate" not in error_headers(ZetaError(code, "x", status=403))


def test_every_refusal_names_the_api_version_and_is_not_stored() -> None:
    headers = error_headers(ZetaError("invalid_request", "x"))
    assert headers["ZETA-API-Version"] == API_VERSION == "1.0.0"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Content-Type"] == "application/json"


def test_step_up_names_its_origin() -> None:
    assert error_headers(ZetaError("insufficient_user_authentication", "x"))["zeta-error-origin"] == "pep"
    assert "zeta-error-origin" not in error_headers(ZetaError("invalid_token", "x"))


def test_retry_after_is_always_there_where_it_belongs() -> None:
    assert error_headers(unavailable("x", retry_after=7))["Retry-After"] == "7"
    assert error_headers(ZetaError("temporarily_unavailable", "x"))["Retry-After"] == "5"
    assert error_headers(ZetaError("rate_limit_exceeded", "x"))["Retry-After"] == "1"
    assert "Retry-After" not in error_headers(ZetaError("invalid_request", "x"))


def test_headers_of_the_error_are_kept() -> None:
    assert error_headers(ZetaError("method_not_allowed", "x", headers={"Allow": "GET"}))["Allow"] == "GET"


def test_response_carries_body_and_headers() -> None:
    response = error_response(ZetaError("invalid_token", "x"), public_url=URL, request_id="r")
    assert response.status == 401
    assert isinstance(response.body, bytes)
    assert json.loads(response.body)["error"] == "invalid_token"
    assert response.keep_alive is None


def test_response_to_head_keeps_the_length_only() -> None:
    response = error_response(ZetaError("invalid_token", "x"), public_url=URL, request_id="r", head=True)
    assert response.body is None
    assert int(response.headers["Content-Length"]) > 50


def test_refusal_that_closes_the_connection_says_so() -> None:
    error = ZetaError("invalid_request", "x", headers={"Connection": "close"})
    assert error_response(error, public_url=URL, request_id="r").keep_alive is False


def test_raw_refusal_is_a_complete_answer() -> None:
    raw = raw_refusal(ZetaError("invalid_request", "bad line", status=431), public_url=URL, request_id="r", now=0)
    head, _, body = raw.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "HTTP/1.1 431 Request Header Fields Too Large"
    assert "Date: Thu, 01 Jan 1970 00:00:00 GMT" in lines
    assert "Connection: close" in lines
    assert f"Content-Length: {len(body)}" in lines
    assert "ZETA-API-Version: 1.0.0" in lines
    assert json.loads(body)["error_description"] == "bad line"


@pytest.mark.parametrize("code", sorted(ERROR_KINDS))
def test_every_code_has_a_page_for_people_without_scripts(code: str) -> None:
    page = error_page(code, accept="text/html,*/*")
    assert page.content_type == "text/html"
    assert page.text is not None
    assert code in page.text
    assert "<script" not in page.text
    assert page.headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'sha256-")
    plain = error_page(code)
    assert plain.content_type == "text/plain"
    assert plain.text is not None
    assert ERROR_KINDS[code].remedy in plain.text


def test_page_of_an_unknown_code_is_not_found_and_repeats_nothing() -> None:
    with pytest.raises(ZetaError) as caught:
        error_page("<script>alert(1)</script>", accept="text/html")
    assert caught.value.status == 404
    assert "script" not in caught.value.description
    assert isinstance(error_response(caught.value, public_url=URL, request_id="r"), web.Response)
