"""How long a decision takes: the embedded engine and an OPA server, the shipped bundles, up to 100 000 blocked networks.

Asked is what the authorization server asks, through the same service, so that hand-off, metrics and decision log are inside.
The engine's process runs on one core, the OPA server on the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ipaddress
import os
import random
import time
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
_POLICY: TypeAdapter[Policy] = TypeAdapter(Policy)


@dataclass(frozen=True, slots=True)
class Times:
    """Milliseconds."""

    p50: float
    p99: float
    load_seconds: float = 0.0

    @classmethod
    def of(cls, rounds: list[list[float]], load_seconds: float = 0.0) -> Times:
        """Quantiles of measured seconds: the median of the rounds' own, so that one neighbour's moment is none of ours."""
        ordered = [sorted(seconds) for seconds in rounds]
        return cls(
            median_of_rounds([times[len(times) // 2] for times in ordered]) * 1000,
            median_of_rounds([times[len(times) * 99 // 100] for times in ordered]) * 1000,
            load_seconds,
        )

    def words(self) -> str:
        """For a remark."""
        return f"p50 {self.p50:.2f} ms, p99 {self.p99:.2f} ms"


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


async def _decisions(document: Mapping[str, Any], scope: str, count: int) -> Times:
    asked = question(scope)
    async with policy_service(document) as (service, load_seconds):
        for _ in range(50):
            if not (await service.token.decide("token", asked, now=time.time())).allow:
                raise RuntimeError("the policy denies what it is measured with")
        # As in a guard: what is there after the start is never looked at again by the collector.
        gc.collect()
        gc.freeze()
        rounds: list[list[float]] = []
        for _ in range(_ROUNDS):
            taken: list[float] = []
            for _ in range(count // _ROUNDS):
                began = time.perf_counter()
                await service.token.decide("token", asked, now=time.time())
                taken.append(time.perf_counter() - began)
            rounds.append(taken)
        gc.unfreeze()
    return Times.of(rounds, load_seconds)


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
        embedded = {
            size: asyncio.run(
                _decisions(
                    {"token": _embedded(write_bundle("demo", lists[size], directory / f"{size}.tar.gz"))},
                    "vsdservice",
                    count,
                )
            )
            for size in SIZES
        }
        for name, scope in BUNDLES.items():
            if name != "demo":
                times = asyncio.run(_decisions({"token": _embedded(f"package:{name}")}, scope, count))
                report.remarks.append(f"embedded, package:{name}: {times.words()}")
        server = {size: _opa_times(opa, directory, size, lists[size], count) for size in SIZES}
        for what, extra in (
            ("shadow", {"shadow": _embedded("package:demo")}),
            ("decision log to a file", {"log": {"file": str(directory / "decisions.jsonl")}}),
        ):
            times = asyncio.run(_decisions({"token": _embedded("package:demo"), **extra}, "vsdservice", count))
            report.remarks.append(
                f"embedded with {what}: {times.words()} (without: {embedded[0].words()}); both work behind the answer"
            )
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
        return asyncio.run(_decisions(config, "vsdservice", count))
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


def _fill(report: Report, embedded: dict[int, Times], server: dict[int, Times], resident: dict[int, float]) -> None:
    measures = report.measures
    plain, long = embedded[0], embedded[100_000]

    def milliseconds(value: float, reference: str, goal: float | None = None) -> Measure:
        return Measure(value, "ms", reference, goal=goal, higher_is_better=False)

    asked = "the token question, shipped demo bundle, no blocked network"
    measures["embedded_ms_p50"] = milliseconds(plain.p50, asked)
    measures["embedded_ms_p99"] = milliseconds(plain.p99, asked, 1.0)
    measures["embedded_100k_ms_p99"] = milliseconds(
        long.p99, f"with 100 000 blocked networks; none: {plain.p99:.2f} ms", 1.0
    )
    measures["opa_ms_p99"] = milliseconds(
        server[0].p99, f"opa run --server on the other core, no blocked network; p50 {server[0].p50:.2f} ms"
    )
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
            f"{size:,} blocked networks: embedded {embedded[size].words()}; opa server {server[size].words()}"
        )
    report.remarks.append(
        "configuration: default; bundles with longer lists are unsigned (unsafe_unsigned), the opa server has a deadline of 5 s"
    )
