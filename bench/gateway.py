"""What a request costs at the gateway, beside nginx ``proxy_pass`` and a bare ES256 verification of the same run.

CPU time of the guard process per right answer, median of interleaved rounds; the backend answers 412 when the headers that
the guard must set are missing, so a wrong answer can never count. Redis' own CPU is not the guard's.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import secrets
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from bench.bare import es256_verify_microseconds
from bench.environment import (
    GUARD_CORE,
    LOAD_CORE,
    Child,
    GuardSetup,
    free_port,
    guard_process,
    nginx_process,
    redis_process,
    scratch,
    wait_until_ready,
    write_guard,
)
from bench.frame import Measure, Report, median_of_rounds
from bench.load import Outcome, closed_loop, open_loop
from bench.popp import popp_service
from zeta_guard.errors import JsonValue
from zeta_guard.jose.jwk import public_jwk
from zeta_guard.jose.jws import sign_es256
from zeta_guard.simulators.popp_service import PoppService
from zeta_guard.simulators.popp_token import CareContext

_CLIENTS = 64
POPP_ISSUER = "https://popp.bench.example"
# One address sends everything; the limits stay on, and cost what they cost.
RATE_LIMITS = {"routes": {"per_minute": 60_000_000, "burst": 1_000_000}}


@dataclass(slots=True)
class Caller:
    """One client with its DPoP key and access token."""

    key: ec.EllipticCurvePrivateKey
    jwk: dict[str, str]
    token: str
    ath: str
    telematik_id: str
    profession_oid: str


def make_callers(setup: GuardSetup, count: int = _CLIENTS) -> list[Caller]:
    """Clients whose tokens are signed with the guard's own key, as the authorization server would."""
    callers = []
    now = int(time.time())
    kid = public_jwk(setup.signing_key.public_key())["kid"]
    for index in range(count):
        key = ec.generate_private_key(ec.SECP256R1())
        jwk = public_jwk(key.public_key())
        claims: dict[str, JsonValue] = {
            "iss": setup.public_url,
            "sub": f"1-20{index:08d}",
            "aud": [f"{setup.public_url}/"],
            "scope": "vsdservice",
            "client_id": f"client-{index}",
            "iat": now,
            "exp": now + 800,
            "jti": secrets.token_urlsafe(16),
            "sid": secrets.token_urlsafe(16),
            "ver": 1,
            "cnf": {"jkt": jwk["kid"]},
            "acr": "gematik-ehealth-loa-high",
            "ip_address": "127.0.0.1",
            "profession_oid": "1.2.276.0.76.4.50",
            "common_name": f"Praxis {index}",
            "organization_name": "Praxis am Deich",
            "product_id": "bench",
            "product_version": "1.0.0",
            "platform": "linux",
        }
        token = sign_es256({"typ": "at+jwt", "kid": kid}, claims, setup.signing_key)
        ath = base64.urlsafe_b64encode(hashlib.sha256(token.encode()).digest()).rstrip(b"=").decode()
        callers.append(Caller(key, jwk, token, ath, str(claims["sub"]), str(claims["profession_oid"])))
    return callers


def proven_request(setup: GuardSetup, caller: Caller, path: str, extra: str = "", method: str = "GET") -> bytes:
    """One request with a fresh proof."""
    claims: dict[str, JsonValue] = {
        "jti": secrets.token_urlsafe(16),
        "htm": method,
        "htu": setup.public_url + path,
        "iat": int(time.time()),
        "ath": caller.ath,
    }
    proof = sign_es256({"typ": "dpop+jwt", "jwk": {**caller.jwk}}, claims, caller.key)
    return (
        f"{method} {path} HTTP/1.1\r\nHost: {setup.public_url.removeprefix('http://')}\r\n"
        f"Authorization: dpop {caller.token}\r\ndpop: {proof}\r\n"
        f"Accept: application/json\r\nUser-Agent: bench\r\n{extra}\r\n"
    ).encode()


def plain_requests(host: str, path: str, count: int) -> list[bytes]:
    """The same head sizes without any proof."""
    padding = "x" * 1100
    request = (
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: application/json\r\nUser-Agent: bench\r\nX-Padding: {padding}\r\n\r\n"
    ).encode()
    return [request] * count


@dataclass(slots=True)
class Variant:
    """One thing that is measured in every round."""

    name: str
    child: Child
    port: int
    make: Callable[[int], list[bytes]]
    count: int
    cpu_us: list[float] = field(default_factory=list)
    per_second: list[float] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)

    def play(self) -> None:
        """One round."""
        requests = self.make(self.count)
        before = self.child.cpu_seconds()
        outcome = asyncio.run(closed_loop(self.port, requests))
        spent = self.child.cpu_seconds() - before
        if outcome.wrong or outcome.right != len(requests):
            raise RuntimeError(f"{self.name}: wrong answers {outcome.wrong}\n{self.child.log_tail()}")
        self.cpu_us.append(spent / outcome.right * 1e6)
        self.per_second.append(outcome.right / outcome.seconds)
        self.outcomes.append(outcome)

    @property
    def cpu(self) -> float:
        """Median CPU microseconds per right answer."""
        return median_of_rounds(self.cpu_us)


def _routes(backend: int, popp: PoppService) -> dict[str, Any]:
    upstreams = [{"url": f"http://127.0.0.1:{backend}"}]
    scopes = ["vsdservice"]
    return {
        "popp_issuers": [
            {
                "issuer": POPP_ISSUER,
                "base_url": popp.url,
                "entity_key_thumbprint": popp.issuer.entity_key_thumbprint,
                "jwks_hosts": ["127.0.0.1"],
            }
        ],
        "routes": [
            {"prefix": "/open", "upstreams": upstreams, "public": True},
            {"prefix": "/service", "upstreams": upstreams, "scopes": scopes},
            {"prefix": "/service/popp", "upstreams": upstreams, "scopes": scopes, "popp": {"max_age": "quarter"}},
            {"prefix": "/service/policy", "upstreams": upstreams, "scopes": scopes, "request_policy": True},
        ],
    }


def _proven(setup: GuardSetup, path: str) -> Callable[[int], list[bytes]]:
    callers = make_callers(setup)

    def make(count: int) -> list[bytes]:
        return [proven_request(setup, callers[index % len(callers)], path) for index in range(count)]

    return make


def _with_popp(setup: GuardSetup, popp: PoppService, path: str) -> Callable[[int], list[bytes]]:
    """As :func:`_proven`, with a PoPP token: every client reads the data of sixteen insured persons, again and again."""
    callers = make_callers(setup)
    tokens = [
        [
            popp.issuer.mint(CareContext(f"X{person:09d}", "109500969", caller.telematik_id, caller.profession_oid))
            for person in range(16)
        ]
        for caller in callers
    ]

    def make(count: int) -> list[bytes]:
        found = []
        for index in range(count):
            client, person = index % len(callers), index // len(callers) % 16
            found.append(proven_request(setup, callers[client], path, f"PoPP: {tokens[client][person]}\r\n"))
        return found

    return make


def _proven_anew(setup: GuardSetup, path: str) -> Callable[[int], list[bytes]]:
    """As :func:`_proven`, each request with a target that never came before."""
    callers = make_callers(setup)

    def make(count: int) -> list[bytes]:
        return [
            proven_request(setup, callers[index % len(callers)], f"{path}/{secrets.token_hex(8)}")
            for index in range(count)
        ]

    return make


def run(quick: bool) -> Report:
    """Interleaved rounds of nginx, forwarding without checks, and the full check: memory, Redis, PoPP, request policy."""
    rounds = 2 if quick else 5
    count = 3000 if quick else 12_000
    with scratch() as directory, ExitStack() as stack:
        return _measure(directory, stack, rounds, count, quick)


def _measure(directory: Path, stack: ExitStack, rounds: int, count: int, quick: bool) -> Report:
    os.sched_setaffinity(0, {LOAD_CORE})
    backend, reference = free_port(), free_port()
    large = directory / "www"
    large.mkdir()
    (large / "large").write_bytes(b"x" * 65_536)
    nginx_backend = nginx_process(
        directory,
        "backend",
        f"""server {{ listen 127.0.0.1:{backend} backlog=1024; root {large};
          location /service {{ if ($http_zeta_user_info = "") {{ return 412; }} if ($http_authorization != "") {{ return 412; }}
            default_type application/json; return 200 '{{"resourceType":"Bundle","entry":[1,2,3]}}'; }}
          location /open/large {{ alias {large}/large; }}
          location /open {{ default_type application/json; return 200 '{{"resourceType":"Bundle","entry":[1,2,3]}}'; }} }}""",
        core=LOAD_CORE,
    )
    stack.callback(nginx_backend.stop)
    nginx_reference = nginx_process(
        directory,
        "reference",
        f"""upstream backend {{ server 127.0.0.1:{backend}; keepalive 64; }}
          server {{ listen 127.0.0.1:{reference} backlog=1024;
            location / {{ proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection ""; }} }}""",
        core=GUARD_CORE,
    )
    stack.callback(nginx_reference.stop)

    memory_home, redis_home = directory / "memory", directory / "redis"
    memory_home.mkdir()
    redis_home.mkdir()
    popp = stack.enter_context(popp_service(POPP_ISSUER))
    memory = write_guard(memory_home, gateway=_routes(backend, popp), changes={"rate_limits": RATE_LIMITS})
    memory_guard = guard_process(memory, memory_home)
    stack.callback(memory_guard.stop)
    redis, url = redis_process(redis_home)
    stack.callback(redis.stop)
    shared = write_guard(
        redis_home,
        gateway=_routes(backend, popp),
        changes={"store": {"kind": "redis", "url": url}, "rate_limits": RATE_LIMITS},
    )
    redis_guard = guard_process(shared, redis_home)
    stack.callback(redis_guard.stop)
    for child, setup in ((memory_guard, memory), (redis_guard, shared)):
        wait_until_ready(child, f"http://127.0.0.1:{setup.ops_port}/readyz")
    # Proofs dated in the second of the start belong to the epoch before it and are refused, as they should be.
    time.sleep(1.1)

    host = memory.public_url.removeprefix("http://")
    variants = [
        Variant("nginx", nginx_reference, reference, lambda n: plain_requests("x", "/open", n), count * 2),
        Variant("forward", memory_guard, memory.port, lambda n: plain_requests(host, "/open", n), count),
        Variant("full_memory", memory_guard, memory.port, _proven(memory, "/service/bundle"), count),
        Variant("full_redis", redis_guard, shared.port, _proven(shared, "/service/bundle"), count),
        Variant("new_targets_redis", redis_guard, shared.port, _proven_anew(shared, "/service/bundle"), count),
        Variant("popp_redis", redis_guard, shared.port, _with_popp(shared, popp, "/service/popp/bundle"), count),
        Variant("policy_redis", redis_guard, shared.port, _proven(shared, "/service/policy/bundle"), count),
        Variant("nginx_large", nginx_reference, reference, lambda n: plain_requests("x", "/open/large", n), count),
        Variant("large", memory_guard, memory.port, lambda n: plain_requests(host, "/open/large", n), count // 2),
    ]
    es256: list[float] = []
    for _ in range(rounds):
        es256.append(es256_verify_microseconds(GUARD_CORE))
        for variant in variants:
            variant.play()
    by_name = {variant.name: variant for variant in variants}

    fixed = 300 * (4 if quick else 20)
    guarded = asyncio.run(open_loop(shared.port, _proven(shared, "/service/bundle")(fixed), rate=300))
    bare = asyncio.run(open_loop(backend, plain_requests("x", "/open", fixed), rate=300))
    if guarded.wrong or bare.wrong:
        raise RuntimeError(f"fixed rate: wrong answers {guarded.wrong or bare.wrong}")
    return _report(by_name, median_of_rounds(es256), guarded, bare, redis_guard)


def _report(by_name: dict[str, Variant], es256: float, guarded: Outcome, bare: Outcome, guard: Child) -> Report:
    report = Report("gateway")
    nginx = by_name["nginx"].cpu
    ideal = es256 + nginx
    measures = report.measures
    full_redis, full_memory = by_name["full_redis"].cpu, by_name["full_memory"].cpu
    bare_words = f"bare ES256 verification, {es256:.1f} µs"
    measures["full_check_redis_vs_es256"] = Measure(es256 / full_redis, "ratio", bare_words, goal=0.5, floor=0.35)
    measures["full_check_memory_vs_es256"] = Measure(es256 / full_memory, "ratio", bare_words, goal=0.5, floor=0.35)
    measures["full_check_redis_vs_ideal"] = Measure(
        ideal / full_redis, "ratio", f"ES256 + nginx proxy_pass, {ideal:.1f} µs", goal=0.75, floor=0.6
    )
    measures["full_check_redis_new_targets_vs_es256"] = Measure(
        es256 / by_name["new_targets_redis"].cpu, "ratio", f"{bare_words}; no request like another"
    )
    for name, words in (("popp", "with a PoPP token"), ("policy", "with the request policy, embedded")):
        measures[f"full_check_redis_{name}_vs_es256"] = Measure(
            es256 / by_name[f"{name}_redis"].cpu, "ratio", f"{bare_words}; {words}"
        )
    measures["forward_vs_nginx"] = Measure(nginx / by_name["forward"].cpu, "ratio", f"nginx proxy_pass, {nginx:.1f} µs")
    measures["large_body_vs_nginx"] = Measure(
        by_name["nginx_large"].cpu / by_name["large"].cpu,
        "ratio",
        f"nginx proxy_pass of 64 KiB, {by_name['nginx_large'].cpu:.1f} µs",
        floor=0.5,
    )
    for name, share, floor in (("p50", 0.5, 1.0), ("p99", 0.99, 5.0)):
        measures[f"added_latency_ms_{name}"] = Measure(
            (guarded.quantile(share) - bare.quantile(share)) * 1000,
            "ms",
            f"the backend itself at 300 requests a second, {bare.quantile(share) * 1000:.2f} ms",
            floor=floor,
            higher_is_better=False,
        )
    measures["cpu_us_per_request"] = Measure(
        full_redis,
        "µs",
        "full check, Redis claim, default configuration with raised rate limits",
        higher_is_better=False,
    )
    for variant in by_name.values():
        report.remarks.append(
            f"{variant.name}: {variant.cpu:.1f} µs CPU per answer (rounds {', '.join(f'{us:.0f}' for us in variant.cpu_us)}),"
            f" {median_of_rounds(variant.per_second):.0f} answers/s as the load came"
        )
    report.remarks.append(f"guard with Redis: {guard.resident_mebibytes():.0f} MiB resident")
    report.remarks.append(
        f"full check: {_CLIENTS} clients, each of which asks the same thing again and again with fresh proofs; new targets: each"
        " request with a path of its own; PoPP: sixteen insured persons per client, their tokens verified once in a while"
    )
    report.remarks.append(
        "reference performed: ECDSA P-256/SHA-256 verify of 300 bytes; nginx proxy_pass with keep-alive"
    )
    return report
