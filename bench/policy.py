"""How long a decision takes: the embedded engine and an OPA server, the shipped bundles, up to 100 000 blocked networks.

Asked is what the authorization server asks, through the same service, so that hand-off, metrics and decision log are inside.
The engine's process runs on one core, the OPA server on the other.

A decision takes a tenth of a millisecond, a neighbour on the same core takes several at a time: where the kernel took the core
away in the midst of a decision, the time in which no thread of this process ran is not counted. Nothing is left out: waiting
for a thread, a lock or the collector counts, and the remarks say what the clock on the wall showed for all.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ipaddress
import os
import random
import resource
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
from prometheus_client import CollectorRegistry
from pydantic import TypeAdapter

from bench.environment import (
    GUARD_CORE,
    LOAD_CORE,
    Child,
    free_port,
    guard_process,
    scratch,
    tool,
    wait_until_ready,
    write_guard,
)
from bench.frame import Measure, MissingTool, Report, median_of_rounds
from zeta_guard.authorization_server.grant_type import TOKEN_EXCHANGE
from zeta_guard.authorization_server.issue import ACR, AMR
from zeta_guard.config.outbound import Outbound as OutboundConfig
from zeta_guard.config.policy import Policy
from zeta_guard.errors import JsonValue
from zeta_guard.http.outbound import Outbound
from zeta_guard.policy.bundle import Bundle, read_archive, write_archive
from zeta_guard.policy.document import Client, Institution, token_document
from zeta_guard.policy.service import PolicyService
from zeta_guard.policy.source import PACKAGED

BUNDLES: Final = {"demo": "vsdservice", "vsdm": "vsdservice", "popp": "popp"}
SIZES: Final = (0, 1_000, 100_000)
_ROUNDS: Final = 5
_EMBEDDED_ROUNDS: Final = 15
_WARM_UP: Final = 10
_DRAIN_SECONDS: Final = 0.15
"""Longer than the decision log gathers lines."""
_POLICY: TypeAdapter[Policy] = TypeAdapter(Policy)


@dataclass(frozen=True, slots=True)
class Taken:
    """One decision, in seconds: on the wall, and the same without what other processes took of it."""

    wall: float
    own: float


@dataclass(frozen=True, slots=True)
class Times:
    """Milliseconds, ``cpu`` microseconds of the process per decision with all that follows it; ``disturbed`` from 0 to 1."""

    p50: float
    p99: float
    wall_p99: float
    disturbed: float
    cpu: float
    load_seconds: float = 0.0

    @classmethod
    def of(cls, rounds: list[list[Taken]], cpu: list[float], load_seconds: float = 0.0) -> Times:
        """Quantiles of each round, and of those the median."""
        own = [sorted(taken.own for taken in each) for each in rounds]
        wall = [sorted(taken.wall for taken in each) for each in rounds]
        everything = [taken for each in rounds for taken in each]
        return cls(
            p50=median_of_rounds([times[len(times) // 2] for times in own]) * 1000,
            p99=median_of_rounds([times[len(times) * 99 // 100] for times in own]) * 1000,
            wall_p99=median_of_rounds([times[len(times) * 99 // 100] for times in wall]) * 1000,
            disturbed=sum(taken.own < taken.wall for taken in everything) / len(everything),
            cpu=median_of_rounds(cpu) * 1_000_000,
            load_seconds=load_seconds,
        )

    def words(self) -> str:
        """For a remark."""
        return f"p50 {self.p50:.2f} ms, p99 {self.p99:.2f} ms"

    def embedded_words(self) -> str:
        """The same, with the processor and the neighbours."""
        wall = f"; on the wall p99 {self.wall_p99:.2f} ms, {self.disturbed:.1%} disturbed" if self.disturbed else ""
        return f"{self.words()}, {self.cpu:.0f} µs of CPU{wall}"


def _shipped(name: str) -> Bundle:
    return read_archive((PACKAGED / f"{name}.tar.gz").read_bytes())


def blocked_networks(count: int) -> dict[str, str]:
    """So many canonical networks, IPv4 and IPv6; the asking address lies in none of them."""
    found: dict[str, str] = {}
    draw = random.Random(7)
    while len(found) < count:
        if len(found) % 4:
            length = draw.choice((16, 20, 24, 28, 32))
            network = ipaddress.ip_network(
                (draw.randrange(0x0B000000, 0x7F000000) >> (32 - length) << (32 - length), length)
            )
            found[str(network)] = "bench"
        else:
            number = (0x2A00 << 112 | draw.getrandbits(48) << 64) >> 64 << 64
            found[str(ipaddress.IPv6Network((number, 64)))] = "bench"
    return found


def write_bundle(name: str, networks: Mapping[str, str], target: Path) -> Path:
    """The shipped bundle with a longer list of blocked networks."""
    files = dict(_shipped(name).files)
    documents = orjson.loads(files["data.json"])
    documents["addresses"]["blocked"] = dict(networks)
    files["data.json"] = orjson.dumps(documents)
    files.pop(".signatures.json", None)
    target.write_bytes(write_archive(files))
    return target


def write_sources(bundle: Bundle, networks: Mapping[str, str], folder: Path) -> Path:
    """The same bundle without its module: what an OPA server is given."""
    for name, content in bundle.files.items():
        if name.endswith(".rego"):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    documents = orjson.loads(bundle.files["data.json"])
    documents["addresses"]["blocked"] = dict(networks)
    (folder / "data.json").write_bytes(orjson.dumps(documents))
    manifest = orjson.loads(bundle.files[".manifest"])
    manifest.pop("wasm", None)
    (folder / ".manifest").write_bytes(orjson.dumps(manifest))
    return folder


def question(scope: str) -> dict[str, JsonValue]:
    """What the authorization server asks for a practice that may have a token."""
    return token_document(
        grant_type=TOKEN_EXCHANGE,
        scopes=(scope,),
        audience=("https://guard.example.de/",),
        resource=None,
        client_address=ipaddress.ip_address("192.0.2.44"),
        previous_address=None,
        acr=ACR,
        amr=AMR,
        client=Client(
            "client", "registered", "linux", "software", "ZETA-Test-Client", "1.0.0", os="Linux", os_version="6.1"
        ),
        institution=Institution("1-2012345678", "1.2.276.0.76.4.50", "Praxis", "Praxis"),
    )


@contextlib.asynccontextmanager
async def policy_service(document: Mapping[str, Any]) -> AsyncIterator[tuple[PolicyService, float]]:
    """A started service of a configuration ``policy``, and the seconds that starting took."""
    outbound = Outbound(OutboundConfig())
    service = PolicyService(_POLICY.validate_python(document), outbound, time.time, CollectorRegistry())
    began = time.perf_counter()
    await service.start()
    seconds = time.perf_counter() - began
    try:
        yield service, seconds
    finally:
        await service.close()
        await outbound.close()


def _anew(asked: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    # Of another client each time: what was decided before is remembered, and is not what is measured here.
    client = asked["client_registration_data"]
    assert isinstance(client, dict)
    return {**asked, "client_registration_data": {**client, "client_id": uuid.uuid4().hex}}


async def _taken(service: PolicyService, asked: Mapping[str, JsonValue]) -> Taken:
    asked = _anew(asked)
    switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    cpu, began = time.process_time(), time.perf_counter()
    await service.token.decide("token", asked, now=time.time())
    wall, own = time.perf_counter() - began, time.process_time() - cpu
    taken_away = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw > switches
    return Taken(wall, min(wall, own) if taken_away else wall)


async def _round(service: PolicyService, asked: Mapping[str, JsonValue], count: int) -> tuple[list[Taken], float]:
    """Times of ``count`` decisions, and the CPU seconds of one with all that shadow and log did afterwards."""
    cpu = time.process_time()
    for _ in range(_WARM_UP):
        await service.token.decide("token", _anew(asked), now=time.time())
    taken = []
    for _ in range(count):
        taken.append(await _taken(service, asked))
        # A guard has something to wait for now, and what comes behind the answer has its turn.
        await asyncio.sleep(0)
    await asyncio.sleep(_DRAIN_SECONDS)
    return taken, (time.process_time() - cpu) / (count + _WARM_UP)


async def _decisions(
    asked_of: Mapping[str, tuple[Mapping[str, Any], str]], rounds: int, count: int
) -> dict[str, Times]:
    """Name → times, for names → configuration and scope. All are started, then asked in turn, ``rounds`` times."""
    async with contextlib.AsyncExitStack() as stack:
        services, load_seconds = {}, {}
        for name, (document, scope) in asked_of.items():
            services[name], load_seconds[name] = await stack.enter_async_context(policy_service(document))
            for _ in range(50):
                if not (await services[name].token.decide("token", question(scope), now=time.time())).allow:
                    raise RuntimeError("the policy denies what it is measured with")
        # As in a guard: what is there after the start is never looked at again by the collector.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 50, 100)
        taken: dict[str, list[list[Taken]]] = {name: [] for name in asked_of}
        cpu: dict[str, list[float]] = {name: [] for name in asked_of}
        for _ in range(rounds):
            for name, (_, scope) in asked_of.items():
                times, seconds = await _round(services[name], question(scope), count // rounds)
                taken[name].append(times)
                cpu[name].append(seconds)
        gc.unfreeze()
    return {name: Times.of(taken[name], cpu[name], load_seconds[name]) for name in asked_of}


def _embedded(bundle: str | Path) -> dict[str, Any]:
    return {"engine": "embedded", "bundle": str(bundle), "unsafe_unsigned": isinstance(bundle, Path)}


def _find_opa() -> str:
    gopath = Path.home() / "go" / "bin" / "opa"
    with contextlib.suppress(MissingTool):
        return tool("opa", "opa")
    if gopath.exists():
        return str(gopath)
    raise MissingTool(
        "'opa' 1.0 or later is needed and not here; get it from https://www.openpolicyagent.org/docs#1-download-opa or with"
        " 'go install github.com/open-policy-agent/opa@latest', and put it on the PATH"
    )


def run(quick: bool) -> Report:
    """Both engines, interleaved by size of the list."""
    opa = _find_opa()
    count = 500 if quick else 5000
    os.sched_setaffinity(0, {GUARD_CORE})
    report = Report("policy")
    with scratch() as directory:
        lists = {size: blocked_networks(size) for size in SIZES}
        demo = _embedded("package:demo")
        shadow, log = {"shadow": demo}, {"log": {"file": str(directory / "decisions.jsonl")}}
        embedded = asyncio.run(
            _decisions(
                {
                    **{
                        str(size): (
                            {"token": _embedded(write_bundle("demo", lists[size], directory / f"{size}.tar.gz"))},
                            "vsdservice",
                        )
                        for size in SIZES
                    },
                    **{name: ({"token": _embedded(f"package:{name}")}, scope) for name, scope in BUNDLES.items()},
                    "shadow": ({"token": demo, **shadow}, "vsdservice"),
                    "log": ({"token": demo, **log}, "vsdservice"),
                    "both": ({"token": demo, **shadow, **log}, "vsdservice"),
                },
                _EMBEDDED_ROUNDS if not quick else _ROUNDS,
                count,
            )
        )
        server = {size: _opa_times(opa, directory, size, lists[size], count) for size in SIZES}
        resident = {size: _resident(directory, size) for size in (0, 100_000)}
    _fill(report, embedded, server, resident)
    return report


def _opa_times(opa: str, directory: Path, size: int, networks: Mapping[str, str], count: int) -> Times:
    folder = directory / f"sources-{size}"
    folder.mkdir()
    write_sources(_shipped("demo"), networks, folder)
    port = free_port()
    child = Child(
        [
            opa,
            "run",
            "--server",
            "--addr",
            f"127.0.0.1:{port}",
            "--log-level",
            "error",
            "--disable-telemetry",
            "--bundle",
            str(folder),
        ],
        core=LOAD_CORE,
        log=directory / "opa.log",
    )
    try:
        wait_until_ready(child, f"http://127.0.0.1:{port}/health?bundles", seconds=60)
        config = {"token": {"engine": "opa", "url": f"http://127.0.0.1:{port}", "deadline_ms": 5000}}
        return asyncio.run(_decisions({"opa": (config, "vsdservice")}, _ROUNDS, count))["opa"]
    finally:
        child.stop()


def _resident(directory: Path, size: int) -> float:
    home = directory / f"guard-{size}"
    home.mkdir()
    policy = {"token": _embedded(directory / f"{size}.tar.gz")}
    setup = write_guard(home, changes={"policy": policy})
    child = guard_process(setup, home, core=LOAD_CORE)
    try:
        wait_until_ready(child, f"http://127.0.0.1:{setup.ops_port}/readyz", seconds=60)
        return child.resident_mebibytes()
    finally:
        child.stop()


def _fill(report: Report, embedded: dict[str, Times], server: dict[int, Times], resident: dict[int, float]) -> None:
    measures = report.measures
    plain, long = embedded["0"], embedded["100000"]

    def milliseconds(value: float, reference: str, goal: float | None = None) -> Measure:
        return Measure(value, "ms", reference, goal=goal, higher_is_better=False)

    def ratio(what: str) -> Measure:
        words = (
            f"CPU of all the process does, over {embedded['demo'].cpu:.0f} µs without; p99 {embedded[what].p99:.2f} ms"
        )
        return Measure(embedded[what].cpu / embedded["demo"].cpu, "ratio", words, higher_is_better=False)

    asked = "the token question, shipped demo bundle, no blocked network"
    measures["embedded_ms_p50"] = milliseconds(plain.p50, asked)
    measures["embedded_ms_p99"] = milliseconds(plain.p99, asked, 1.0)
    measures["embedded_100k_ms_p99"] = milliseconds(
        long.p99, f"with 100 000 blocked networks; none: {plain.p99:.2f} ms", 1.0
    )
    measures["embedded_cpu_us"] = Measure(
        plain.cpu, "µs", f"CPU per decision; 100 000 networks: {long.cpu:.0f} µs", higher_is_better=False
    )
    measures["opa_ms_p99"] = milliseconds(
        server[0].wall_p99, f"opa run --server on the other core, no blocked network; p50 {server[0].p50:.2f} ms"
    )
    measures["shadow_vs_without"] = ratio("shadow")
    measures["log_vs_without"] = ratio("log")
    measures["shadow_and_log_vs_without"] = ratio("both")
    measures["load_seconds_100k"] = Measure(
        long.load_seconds,
        "s",
        f"read, check, compile and try; without networks {plain.load_seconds:.2f} s",
        higher_is_better=False,
    )
    measures["resident_mebibytes_100k"] = Measure(
        resident[100_000], "MiB", f"a whole guard; without networks {resident[0]:.0f} MiB", higher_is_better=False
    )
    for size in SIZES:
        report.remarks.append(
            f"{size:,} blocked networks: embedded {embedded[str(size)].embedded_words()};"
            f" opa server p50 {server[size].p50:.2f} ms, p99 {server[size].wall_p99:.2f} ms"
        )
    for name in BUNDLES:
        report.remarks.append(f"embedded, package:{name}: {embedded[name].embedded_words()}")
    report.remarks.append("shadow: package:demo beside itself; log: a file; both work behind the answer")
    report.remarks.append(
        "disturbed: the kernel gave the core to another process in the midst of a decision; that time is not the engine's"
    )
    report.remarks.append(
        "configuration: default; bundles with longer lists are unsigned (unsafe_unsigned), the opa server has a deadline of 5 s"
    )
