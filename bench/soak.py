"""Ten minutes of everything at once: logins, refreshes, requests, WebSockets, revocations and garbage.

Looks for what only time shows: memory that grows once everything has reached its bound, file descriptors that stay open,
answers that nobody expected. What is bounded by time reaches its bound early, because lifetimes are short; what is bounded by
number is filled before the load begins (refusals) or in its first half (4096 texts of tokens). From the second half on nothing
may grow any more. Everything else is the default configuration with raised rate limits.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import re
import statistics
import time
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from aiohttp import WSMsgType, web

from bench.environment import GUARD_CORE, LOAD_CORE, Child, GuardSetup, guard_process, scratch, wait_until_ready
from bench.exchange import exchange_guard
from bench.frame import Measure, Report
from bench.load import closed_loop
from zeta_guard.client.errors import ClientError
from zeta_guard.client.session import ZetaClient
from zeta_guard.runtime.admin_refusals import MOST_REFUSALS
from zeta_guard.simulators.card import Card
from zeta_guard.simulators.ocsp_responder import OcspResponder

SECONDS: Final = 600.0
QUICK_SECONDS: Final = 20.0
_LONG: Final = 300.0
# Sessions, nonces, proofs and remembered tokens have come and gone twice before the slope is taken from the second half.
_LIFETIMES: Final = {
    "nonce": 60,
    "access_token": 60,
    "access_token_cap": 60,
    "refresh_token": 120,
    "refresh_token_cap": 120,
}
_PRACTICES: Final = 12
_SOCKETS: Final = 4
_VANDALS: Final = 4
_PAUSE: Final = 0.05
# Seconds between two steps of one practice, kept as a schedule: what is remembered for a time follows the rate, so a rate that
# follows the neighbours of this machine would look like growth.
_STEP: Final = 0.12
# MiB an hour, some 50 bytes for each of the steps. With nothing growing any more, the allocator still takes a MiB when a peak is
# higher than all before; one in the middle of the second half looks like 18.
_GROWTH_FLOOR: Final = 30
# 95 MiB after the start, and what this load lets the guard remember (docs/operators.md).
_RESIDENT_FLOOR: Final = 150


@dataclass(slots=True)
class Tally:
    """What happened: answers by what was done and how it ended, and what should not have happened."""

    done: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)

    def expect(self, what: str, seen: object, wanted: object) -> None:
        """Count one answer."""
        self.done[what] += 1
        if seen != wanted:
            self.wrong[f"{what}: {seen} instead of {wanted}"] += 1

    async def attempt(self, what: str, work: Callable[[], Awaitable[object]]) -> bool:
        """Count one step of a well-behaved client; a refusal of it is wrong."""
        self.done[what] += 1
        try:
            await work()
        except (ClientError, OSError, TimeoutError) as error:
            self.wrong[f"{what}: {type(error).__name__} {str(error)[:160]}"] += 1
            return False
        return True


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the guard, and how many steps were done until then."""

    seconds: float
    mebibytes: float
    files: int
    steps: int


def run(quick: bool) -> Report:
    """The whole run; ``--quick`` is long enough to see that everything works, not to see a leak."""
    seconds = float(os.environ.get("SOAK_SECONDS", QUICK_SECONDS if quick else SECONDS))
    os.sched_setaffinity(0, {LOAD_CORE})
    with scratch() as directory:
        return asyncio.run(_soak(directory, seconds))


async def _soak(directory: Path, seconds: float) -> Report:
    async with AsyncExitStack() as stack:
        backend = await _backend(stack)
        upstreams = [{"url": f"http://127.0.0.1:{backend}"}]
        routes = [
            {"prefix": "/service", "upstreams": upstreams, "scopes": ["vsdservice"], "methods": ["GET", "POST"]},
            {"prefix": "/socket", "upstreams": upstreams, "websocket": {"enabled": True}},
            {"prefix": "/open", "upstreams": upstreams, "public": True},
        ]
        server = {"signing_keys": "signing-keys", "scopes": ["vsdservice", "popp"], "lifetimes": _LIFETIMES}
        setup, ocsp_port = exchange_guard(
            directory, store={"kind": "memory"}, changes={"gateway": {"routes": routes}, "authorization_server": server}
        )
        child = guard_process(setup, directory, core=GUARD_CORE)
        stack.callback(child.stop)
        await stack.enter_async_context(OcspResponder(setup.pki, port=ocsp_port))
        await asyncio.to_thread(wait_until_ready, child, f"http://127.0.0.1:{setup.ops_port}/readyz")
        await asyncio.sleep(1.1)
        tally, samples = Tally(), []
        idle = _files(child)
        await _fill_refusals(setup)
        async with asyncio.TaskGroup() as group:
            end = time.monotonic() + seconds
            for number in range(_PRACTICES):
                group.create_task(_practice(setup, _card(setup, number), tally, end))
            for number in range(_SOCKETS):
                group.create_task(_talker(setup, _card(setup, 100 + number), tally, end))
            for number in range(_VANDALS):
                group.create_task(_vandal(setup, random.Random(number), tally, end))
            samples = await _watch(child, tally, end)
        left = await _files_at_rest(child, idle, 100 if seconds >= _LONG else 3)
        metrics = await asyncio.to_thread(_metrics, setup)
        alive = child.running
    return _report(seconds, tally, samples, idle, left, metrics, alive)


async def _backend(stack: AsyncExitStack) -> int:
    async def answer(request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    await socket.send_str(message.data)
            return socket
        return web.json_response({"bytes": len(await request.read())})

    application = web.Application(client_max_size=1 << 22)
    application.router.add_route("*", "/{rest:.*}", answer)
    runner = web.AppRunner(application, shutdown_timeout=0.2)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return int(runner.addresses[0][1])


def _card(setup: GuardSetup, number: int) -> Card:
    return setup.pki.issue_smcb(f"1-20{number:08d}")


async def _fill_refusals(setup: GuardSetup) -> None:
    """As many refusals as the guard remembers, so that this ring does not look like a leak while it fills."""
    host = setup.public_url.removeprefix("http://")
    request = f"GET /nowhere HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    outcome = await closed_loop(setup.port, [request] * MOST_REFUSALS, connections=4, want=404)
    if outcome.right != MOST_REFUSALS:
        raise RuntimeError(f"answers {outcome.wrong} instead of 404")


class _Pace:
    """Steps on a schedule; who is a little late catches up."""

    def __init__(self) -> None:
        self._next = time.monotonic()

    async def step(self) -> None:
        """Wait until the next step is due."""
        self._next = max(self._next + _STEP, time.monotonic() - 5 * _STEP)
        await asyncio.sleep(max(0.0, self._next - time.monotonic()))


async def _practice(setup: GuardSetup, card: Card, tally: Tally, end: float) -> None:
    draw = random.Random(card.telematik_id)
    pace = _Pace()
    async with ZetaClient(setup.public_url, card, scopes=["vsdservice"], timeout=10) as client:
        while time.monotonic() < end:
            await pace.step()
            if not await tally.attempt("login", client.login):
                await asyncio.sleep(1)
                continue
            for _ in range(draw.randrange(2, 8)):
                for _ in range(draw.randrange(1, 10)):
                    await pace.step()
                    await _one_request(client, draw, tally)
                await pace.step()
                await tally.attempt("refresh", client.refresh)
            if draw.random() < 0.3:
                await tally.attempt("revoke", client.revoke)


async def _one_request(client: ZetaClient, draw: random.Random, tally: Tally) -> None:
    what, method, path, body, wanted = "request", "GET", "/service/bundle", b"", 200
    match draw.randrange(5):
        case 0:
            what, method, path, body = "upload", "POST", "/service/upload", b"x" * draw.randrange(1, 300_000)
        case 1:
            what, path, wanted = "no route", "/nowhere", 404
    try:
        tally.expect(what, (await client.send(method, path, body=body or None)).status, wanted)
    except ClientError as error:
        tally.wrong[f"{what}: {error}"] += 1


async def _talker(setup: GuardSetup, card: Card, tally: Tally, end: float) -> None:
    draw = random.Random(card.telematik_id)
    async with ZetaClient(setup.public_url, card, scopes=["vsdservice"], timeout=10) as client:
        while time.monotonic() < end:
            try:
                socket = await client.websocket("/socket/echo")
                for number in range(draw.randrange(1, 20)):
                    await socket.send_str(f"{number} {'y' * draw.randrange(4000)}")
                    message = await socket.receive(timeout=5)
                    tally.expect("message", message.type, WSMsgType.TEXT)
                    await asyncio.sleep(_PAUSE)
                if draw.random() < 0.5:
                    await socket.close()
                elif socket._response.connection is not None and socket._response.connection.transport is not None:
                    # Cables are pulled, too.
                    socket._response.connection.transport.abort()
                tally.done["socket"] += 1
            except (ClientError, OSError, TimeoutError) as error:
                tally.wrong[f"socket: {type(error).__name__} {str(error)[:160]}"] += 1
                await asyncio.sleep(1)


_GARBAGE: Final[tuple[bytes, ...]] = (
    b"GET / HTTP/1.1\r\n\r\n",
    b"POST /token HTTP/1.1\r\nHost: %(host)s\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /token HTTP/1.1\r\nHost: %(host)s\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 21\r\n\r\ngrant_type=garbage&a=b",
    b"GET /service/bundle HTTP/1.1\r\nHost: %(host)s\r\nAuthorization: DPoP a.b.c\r\nDPoP: a.b.c\r\n\r\n",
    b"GET /service/%%2e%%2e/bundle HTTP/1.1\r\nHost: %(host)s\r\n\r\n",
    b"GET /open HTTP/1.1\r\nHost: other.example\r\n\r\n",
    b'POST /register HTTP/1.1\r\nHost: %(host)s\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n{"jwks":[[[[',
    b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: %(host)s\r\n\r\n",
    b"GET /open HTTP/1.1\r\nHost: %(host)s\r\n" + b"X: " + b"b" * 40_000 + b"\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
)


async def _vandal(setup: GuardSetup, draw: random.Random, tally: Tally, end: float) -> None:
    host = setup.public_url.removeprefix("http://").encode()
    while time.monotonic() < end:
        raw = (
            draw.choice(_GARBAGE) % {b"host": host} if draw.random() < 0.8 else draw.randbytes(draw.randrange(1, 4000))
        )
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection("127.0.0.1", setup.port)
            writer.write(raw[: draw.randrange(1, len(raw) + 1)] if draw.random() < 0.3 else raw)
            async with asyncio.timeout(0.5):
                head = await reader.read(4096)
            status = head[9:12]
            tally.done["garbage"] += 1
            if head and not (status.startswith(b"4") or status in (b"501", b"505")):
                tally.wrong[f"garbage: {status.decode('ascii', 'replace')}"] += 1
            writer.close()
        await asyncio.sleep(_PAUSE)


def _files(child: Child) -> int:
    return len(os.listdir(f"/proc/{child.pid}/fd"))


async def _files_at_rest(child: Child, idle: int, seconds: float) -> int:
    """Open files once they are as few as before, or after ``seconds``: connections to backends are kept for a minute and more."""
    end = time.monotonic() + seconds
    while _files(child) > idle and time.monotonic() < end:  # noqa: ASYNC110 - another process has no event for us
        await asyncio.sleep(1)
    return _files(child)


async def _watch(child: Child, tally: Tally, end: float) -> list[Sample]:
    samples = []
    began = time.monotonic()
    while time.monotonic() < end:
        steps = tally.done.total()
        samples.append(Sample(time.monotonic() - began, child.resident_mebibytes(), _files(child), steps))
        await asyncio.sleep(1)
    return samples


def _metrics(setup: GuardSetup) -> dict[str, float]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    text = opener.open(f"http://127.0.0.1:{setup.ops_port}/metrics", timeout=10).read().decode()
    found: dict[str, float] = {}
    for name, value in re.findall(r"^(zeta_guard_\w+)(?:\{[^}]*\})? (\S+)$", text, re.MULTILINE):
        found[name] = found.get(name, 0.0) + float(value)
    return found


def _slope(samples: list[Sample]) -> float:
    """MiB an hour over the second half."""
    late = samples[len(samples) // 2 :]
    if len(late) < 2:
        return 0.0
    line = statistics.linear_regression([each.seconds for each in late], [each.mebibytes for each in late])
    return line.slope * 3600


def _rates(samples: list[Sample]) -> list[float]:
    return [
        (after.steps - before.steps) / (after.seconds - before.seconds) for before, after in itertools.pairwise(samples)
    ]


def _report(
    seconds: float, tally: Tally, samples: list[Sample], idle: int, left: int, metrics: dict[str, float], alive: bool
) -> Report:
    report = Report("soak")
    long_enough = seconds >= _LONG

    def least(value: float, unit: str, reference: str, floor: float | None) -> Measure:
        return Measure(value, unit, reference, floor=floor, higher_is_better=False)

    wrong = sum(tally.wrong.values())
    unexpected = metrics.get("zeta_guard_unexpected_errors_total", 0.0)
    report.measures.update(
        {
            "wrong_answers": least(wrong, "answers", f"of {sum(tally.done.values())} steps", 0),
            "unexpected_errors": least(unexpected, "errors", "answered with 500, by the guard's own metric", 0),
            "died": least(0 if alive else 1, "processes", "the guard still runs", 0),
            "resident_growth_mebibytes_per_hour": least(
                _slope(samples),
                "MiB/h",
                "slope over the second half" + ("" if long_enough else "; too short a run to mean anything"),
                _GROWTH_FLOOR if long_enough else None,
            ),
            "open_files_left": least(
                left - idle, "files", f"{left} after, {idle} before the load", 4 if long_enough else None
            ),
            "most_open_files": least(
                max((each.files for each in samples), default=0), "files", "during the load", None
            ),
            "most_resident_mebibytes": least(
                max((each.mebibytes for each in samples), default=0.0),
                "MiB",
                f"{samples[0].mebibytes:.0f} when the load began" if samples else "",
                _RESIDENT_FLOOR,
            ),
        }
    )
    report.remarks.append(
        f"{seconds:.0f} s: " + ", ".join(f"{count} × {what}" for what, count in tally.done.most_common())
    )
    looks = samples[:: max(1, len(samples) // 10)]
    report.remarks.append(
        "resident MiB over time: " + ", ".join(f"{each.mebibytes:.0f} at {each.seconds:.0f} s" for each in looks)
    )
    report.remarks.append("steps a second between these looks: " + ", ".join(f"{rate:.0f}" for rate in _rates(looks)))
    report.remarks += [f"WRONG {count} × {what}" for what, count in tally.wrong.most_common(20)]
    report.remarks.append(
        f"configuration: memory store, default but lifetimes {_LIFETIMES} (steady state early) and rate limits raised"
    )
    return report
