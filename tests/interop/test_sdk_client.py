"""The judge of the wire: a client that nobody here wrote."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zeta_guard.simulators.redis_process import RedisProcess

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


def test_it_refreshes_when_its_token_has_really_expired(run_client: RunClient, own_guard: Callable[..., Any]) -> None:
    guard = own_guard("expiry")
    run = run_client("--path", "{vsdm}", "--refresh-wait", url=guard.public_url)
    assert run.code == 0, run.output
    assert run.ok("refresh"), run.output


def restart_while_it_waits(guard: Any) -> threading.Thread:
    """Restart the guard as soon as the client has its first token, while it waits for the token's end."""

    def work() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and '"route":"/vsdservice' not in guard.log():
            time.sleep(0.2)
        guard.stop()
        guard.start()

    thread = threading.Thread(target=work)
    thread.start()
    return thread


@pytest.mark.redis
def test_its_session_survives_a_restart_of_the_guard_with_a_shared_store(
    run_client: RunClient, own_guard: Callable[..., Any], tmp_path: Path
) -> None:
    if not RedisProcess.installed():
        pytest.skip("redis-server is not installed")
    redis = RedisProcess(tmp_path)
    redis.start()
    try:
        guard = own_guard("shared", store={"kind": "redis", "url": redis.url})
        restart = restart_while_it_waits(guard)
        run = run_client("--path", "{vsdm}", "--refresh-wait", url=guard.public_url)
        restart.join(60)
        assert run.code == 0, run.output
        assert run.ok("refresh"), run.output
    finally:
        redis.stop()


def test_it_registers_again_by_itself_when_a_restart_lost_its_registration(
    run_client: RunClient, own_guard: Callable[..., Any]
) -> None:
    guard = own_guard("forgetful")
    restart = restart_while_it_waits(guard)
    run = run_client("--path", "{vsdm}", "--refresh-wait", url=guard.public_url)
    restart.join(60)
    # The harness calls a refresh that became a full login red; what counts is that the SDK got through by itself.
    assert run.ok("token"), run.output
    assert run.ok("get"), run.output
    guard.stop()  # what waits to be logged is written
    statuses = [line for line in guard.log().splitlines() if '"status":' in line]
    lost = next(
        index for index, line in enumerate(statuses) if '"error":"invalid_client"' in line and '"status":401' in line
    )
    afterwards = "".join(statuses[lost:])
    assert '"status":201' in afterwards, afterwards
    assert '"route":"/vsdservice/v1/vsdmbundle"' in afterwards
    assert any('"status":200' in line and "vsdmbundle" in line for line in statuses[lost:]), afterwards
