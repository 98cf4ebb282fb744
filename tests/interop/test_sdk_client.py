"""The judge of the wire: a client that nobody here wrote."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.interop, pytest.mark.timeout(600)]

RunClient = Callable[..., Any]


def test_it_discovers_registers_reads_insured_data_twice_refreshes_and_opens_the_popp_socket(
    run_client: RunClient,
) -> None:
    run = run_client("--path", "{vsdm}", "--repeat", "2", "--refresh", "--websocket", "{popp}")
    assert run.code == 0, run.output
    for step in ("discover", "register", "token", "get", "reuse", "refresh", "websocket"):
        assert run.ok(step), run.output


def test_it_reads_a_route_that_needs_no_popp_token(run_client: RunClient) -> None:
    run = run_client("--path", "{open}", popp=False)
    assert run.code == 0, run.output


@pytest.mark.parametrize("who", ["revoked", "not_allowed", "foreign"])
def test_an_identity_that_must_not_pass_gets_no_token(run_client: RunClient, who: str) -> None:
    run = run_client("--path", "{vsdm}", who=who)
    assert run.code == 1, run.output
    assert run.ok("register"), run.output
    assert not run.ok("token"), run.output


def test_the_popp_token_of_another_institution_is_refused(run_client: RunClient) -> None:
    run = run_client("--path", "{vsdm}", "--expect", "403", "--allow-resend", who="other_institution")
    assert run.ok("token"), run.output
    assert run.ok("get"), run.output
