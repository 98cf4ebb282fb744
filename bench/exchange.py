"""What a token costs: token exchange and refresh over HTTP, beside the bare signatures of the same requests.

A real guard process on a core of its own, real signatures, cards on P-256 and brainpoolP256r1, a real OCSP responder whose
answers are cached when the timing begins, and both stores. Everything a client signs is made before it is timed. CPU time of
the guard process per right answer, median of interleaved rounds.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench.bare import brainpool_verify_microseconds, es256_sign_microseconds, es256_verify_microseconds
from bench.environment import (
    GUARD_CORE,
    LOAD_CORE,
    Child,
    GuardSetup,
    free_port,
    guard_process,
    redis_process,
    scratch,
    wait_until_ready,
    write_guard,
)
from bench.frame import Measure, Report, median_of_rounds
from bench.load import closed_loop
from bench.nonce_cost import NonceCost, measure_nonces
from bench.practice import Curve, Practice, exchanges, institutions, refreshes, register
from zeta_guard.simulators.ocsp_responder import OcspResponder

CURVES: Final[tuple[Curve, ...]] = ("brainpoolP256r1", "secp256r1")
_RATE: Final = {"per_minute": 10_000_000, "burst": 1_000_000}
# All load comes from one address and from few institutions; the limits stay on, so that their cost is in the figures.
RATE_LIMITS: Final[dict[str, Any]] = dict.fromkeys(
    ("metadata", "nonce", "register", "token", "routes", "token_per_client", "token_per_institution"), _RATE
)


def exchange_guard(
    directory: Path, *, store: dict[str, Any], changes: dict[str, Any] | None = None
) -> tuple[GuardSetup, int]:
    """A written guard whose only OCSP responder is on the returned port, with limits that one address cannot reach."""
    ocsp_port = free_port()
    setup = write_guard(
        directory,
        changes={
            "store": store,
            "trust": {
                "directory": "trust",
                "unsafe_demo_trust": True,
                "ocsp": {"hosts": [f"127.0.0.1:{ocsp_port}"], "private_addresses": True},
            },
            "rate_limits": RATE_LIMITS,
            **(changes or {}),
        },
    )
    return setup, ocsp_port


@dataclass(slots=True)
class Variant:
    """One guard with the cards of one curve."""

    name: str
    child: Child
    practices: list[Practice]
    exchange_us: list[float] = field(default_factory=list)
    refresh_us: list[float] = field(default_factory=list)
    nonce_us: list[float] = field(default_factory=list)
    per_second: list[float] = field(default_factory=list)

    @property
    def setup(self) -> GuardSetup:
        """The guard."""
        return self.practices[0].setup

    async def play(self, count: int, *, timed: bool = True) -> None:
        """``count`` exchanges, then a refresh of each of their sessions."""
        before = self.child.cpu_seconds()
        requests = await exchanges(self.practices, count)
        fetching = (self.child.cpu_seconds() - before) / count * 1e6
        spent, answers, seconds = await self._send(requests, "exchange")
        again = await refreshes(self.practices, answers)
        spent_again, _, _ = await self._send(again, "refresh")
        if timed:
            self.exchange_us.append(spent)
            self.refresh_us.append(spent_again)
            self.nonce_us.append(fetching)
            self.per_second.append(count / seconds)

    async def _send(self, requests: list[bytes], what: str) -> tuple[float, list[bytes], float]:
        before = self.child.cpu_seconds()
        outcome = await closed_loop(self.setup.port, requests, connections=16, keep=True)
        spent = self.child.cpu_seconds() - before
        if outcome.right != len(requests) or not all(b'"access_token"' in body for body in outcome.bodies.values()):
            raise RuntimeError(
                f"{self.name}, {what}: wrong answers {outcome.wrong} {outcome.last_wrong!r}\n{self.child.log_tail()}"
            )
        bodies = [outcome.bodies[place] for place in range(len(requests))]
        return spent / outcome.right * 1e6, bodies, outcome.seconds


@dataclass(slots=True)
class Bare:
    """Medians of the bare operations, in microseconds."""

    verify: list[float] = field(default_factory=list)
    brainpool: list[float] = field(default_factory=list)
    sign: list[float] = field(default_factory=list)

    def measure(self) -> None:
        """One round, on the guard's core."""
        self.verify.append(es256_verify_microseconds(GUARD_CORE))
        self.brainpool.append(brainpool_verify_microseconds(GUARD_CORE))
        self.sign.append(es256_sign_microseconds(GUARD_CORE))

    @property
    def es256(self) -> float:
        """One verification on P-256."""
        return median_of_rounds(self.verify)

    def exchange(self, curve: Curve) -> float:
        """Client assertion and proof verified, the card's signature verified, two tokens signed."""
        card = self.es256 if curve == "secp256r1" else median_of_rounds(self.brainpool)
        return 2 * self.es256 + card + 2 * median_of_rounds(self.sign)

    def refresh(self) -> float:
        """Client assertion, proof and refresh token verified, two tokens signed."""
        return 3 * self.es256 + 2 * median_of_rounds(self.sign)


def run(quick: bool) -> Report:
    """Interleaved rounds of both stores and both curves."""
    os.sched_setaffinity(0, {LOAD_CORE})
    with scratch() as directory, ExitStack() as stack:
        redis, url = redis_process(directory)
        stack.callback(redis.stop)
        variants, bare = asyncio.run(_measure(directory, url, quick))
        # Started afresh for the second half, so that what the first one left cannot be what is measured.
        redis.stop()
        (directory / "nonces").mkdir()
        second, second_url = redis_process(directory / "nonces")
        stack.callback(second.stop)
        cost = measure_nonces(second, second_url, many=50_000 if quick else 1_000_000)
    return _report(variants, bare, cost)


async def _measure(directory: Path, redis_url: str, quick: bool) -> tuple[dict[str, Variant], Bare]:
    rounds, count, clients = (2, 128, 16) if quick else (5, 512, 64)
    variants: dict[str, Variant] = {}
    async with AsyncExitStack() as stack:
        for name, store in (("memory", {"kind": "memory"}), ("redis", {"kind": "redis", "url": redis_url})):
            home = directory / name
            home.mkdir()
            setup, ocsp_port = exchange_guard(home, store=store)
            child = guard_process(setup, home)
            stack.callback(child.stop)
            await stack.enter_async_context(OcspResponder(setup.pki, port=ocsp_port))
            for curve in CURVES:
                practices = institutions(setup, curve, clients, first=1000 * CURVES.index(curve))
                variants[f"{name} {curve}"] = Variant(f"{name} {curve}", child, practices)
            await asyncio.to_thread(wait_until_ready, child, f"http://127.0.0.1:{setup.ops_port}/readyz")
        # What is dated in the second of the start belongs to the epoch before it and is refused, as it should be.
        await asyncio.sleep(1.1)
        for variant in variants.values():
            await register(variant.practices)
            # The first exchanges ask OCSP, verify chains, bind clients, and fill the caches that a day fills.
            await variant.play(2 * clients, timed=False)
        bare = Bare()
        for _ in range(rounds):
            await asyncio.to_thread(bare.measure)
            for variant in variants.values():
                await variant.play(count)
    return variants, bare


def _report(variants: dict[str, Variant], bare: Bare, cost: NonceCost) -> Report:
    report = Report("exchange")
    headline = variants["redis brainpoolP256r1"]
    exchange, refresh = median_of_rounds(headline.exchange_us), median_of_rounds(headline.refresh_us)
    limit, limit_again = bare.exchange("brainpoolP256r1"), bare.refresh()
    words = f"bare signatures of one exchange with a brainpool card, {limit:.0f} µs; Redis store"
    words_again = f"bare signatures of one refresh, {limit_again:.0f} µs; Redis store"
    measures = report.measures
    measures["exchange_vs_bare_crypto"] = Measure(limit / exchange, "ratio", words, goal=0.5)
    measures["refresh_vs_bare_crypto"] = Measure(limit_again / refresh, "ratio", words_again, goal=0.4)
    single = f"one bare ES256 verification, {bare.es256:.1f} µs"
    for name, value, goal in (("exchange", exchange, 40), ("refresh", refresh, 10)):
        measures[f"{name}_in_es256"] = Measure(value / bare.es256, "times", single, goal=goal, higher_is_better=False)
    measures["nonce_cost_at_1m_vs_0"] = Measure(
        cost.ratio,
        "ratio",
        f"issue, check and spend one nonce with none spent before, {cost.empty_us:.1f} µs ({cost.store})",
        goal=1.25,
        higher_is_better=False,
    )
    measures["exchanges_per_core_second"] = Measure(1e6 / exchange, "1/s", "one core, brainpool card, Redis store")
    report.remarks += [
        f"bare on the guard's core: ES256 verify {bare.es256:.1f} µs, brainpoolP256r1 verify"
        f" {median_of_rounds(bare.brainpool):.1f} µs, ES256 sign {median_of_rounds(bare.sign):.1f} µs",
        "reference of an exchange: 2 ES256 verify (client assertion, DPoP proof), 1 verify by the card's key (subject token),"
        " 2 ES256 sign (access and refresh token)",
        "reference of a refresh: 3 ES256 verify (client assertion, DPoP proof, refresh token), 2 ES256 sign",
        "of these the guard makes one less where it signed the refresh token itself, as here: it knows the token by its hash;"
        f" against 2 verify and 2 sign it is at {(limit_again - bare.es256) / refresh:.2f}",
        "not in the reference: AES of the nonce, AES-GCM of the session, SHA-256, HMAC; chain and OCSP answer were verified"
        " at the first exchange of each card and are found by hash",
        "counted: CPU time of the guard process, all its threads, from the complete request to its answer; the client, Redis"
        " and the OCSP responder run beside it on another core",
        f"not counted: the request for the nonce, which comes before and costs"
        f" {median_of_rounds(headline.nonce_us):.0f} µs more",
        "configuration: default, but rate limits raised (they stay on): one address sends everything",
    ]
    for name, variant in variants.items():
        curve: Curve = "secp256r1" if name.endswith("secp256r1") else "brainpoolP256r1"
        exchange, refresh = median_of_rounds(variant.exchange_us), median_of_rounds(variant.refresh_us)
        report.remarks.append(
            f"{name}: exchange {exchange:.0f} µs CPU ({bare.exchange(curve) / exchange:.2f} of the bare signatures),"
            f" refresh {refresh:.0f} µs ({bare.refresh() / refresh:.2f});"
            f" {median_of_rounds(variant.per_second):.0f} exchanges/s as the load came"
            f" (rounds {', '.join(f'{us:.0f}/{again:.0f}' for us, again in zip(variant.exchange_us, variant.refresh_us, strict=True))})"
        )
    report.remarks += cost.remarks
    return report
