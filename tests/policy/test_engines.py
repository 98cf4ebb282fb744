"""One suite, both engines: the embedded one, and a real OPA server with the same bundle."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from zeta_guard.errors import ConfigurationError, ZetaError
from zeta_guard.policy.breaker import FAILURES
from zeta_guard.policy.build import build
from zeta_guard.policy.bundle import Bundle
from zeta_guard.policy.contract import Decision
from zeta_guard.policy.document import Client, Institution
from zeta_guard.policy.probe import PROBES
from zeta_guard.policy.service import PolicyService

Any3 = Callable[..., Any]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def opa_server(opa: str, bundle: Path, port: int) -> Iterator[str]:
    """``opa run --server`` with ``bundle``; ends with the block."""
    command = [opa, "run", "--server", "--addr", f"127.0.0.1:{port}", "--log-level", "error", "--bundle", str(bundle)]
    with subprocess.Popen([*command, "--disable-telemetry"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:  # fmt: skip
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(10)


async def reachable(url: str) -> None:
    async with aiohttp.ClientSession() as session, asyncio.timeout(20):
        while True:
            try:
                async with session.get(f"{url}/health?bundles") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.05)


def sources_of(bundle: Bundle, folder: Path) -> Path:
    """The built bundle without its module: what an OPA server is given."""
    for name, content in bundle.files.items():
        if name.endswith(".rego") or name == "data.json":
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    manifest = json.loads(bundle.files[".manifest"])
    del manifest["wasm"]
    (folder / ".manifest").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(params=["embedded", pytest.param("opa", marks=pytest.mark.opa)])
async def service(
    request: pytest.FixtureRequest, run_policy: Any3, demo: Bundle, tmp_path: Path
) -> AsyncIterator[PolicyService]:
    if request.param == "embedded":
        async with run_policy({"token": {"engine": "embedded", "bundle": "package:demo"}}) as running:
            yield running
        return
    folder = sources_of(demo, tmp_path / "sources")
    with opa_server(request.getfixturevalue("opa"), folder, _free_port()) as url:
        await reachable(url)
        # A busy machine must not turn this into a test of speed.
        async with run_policy({"token": {"engine": "opa", "url": url, "deadline_ms": 5000}}) as running:
            yield running


def codes(decision: Decision) -> set[str]:
    return {reason.code for reason in decision.reasons}


async def test_a_practice_gets_a_token(service: PolicyService, practice: Any3) -> None:
    decision = await service.token.decide("token", practice(), now=0)
    assert decision.allow
    assert (decision.access_token_ttl, decision.refresh_token_ttl) == (300, 86400)
    assert decision.revision == "demo-1"
    assert len(decision.decision_id) == 36
    assert decision.milliseconds > 0


INSTITUTION = Institution("1-2", "1.2.276.0.76.4.58", "X")
OTHER = Client("c", "registered", "linux", "software", "other", "1")
DENIED: list[tuple[dict[str, Any], set[str]]] = [
    ({"institution": INSTITUTION}, {"profession_not_allowed"}),
    ({"client": OTHER}, {"product_not_allowed"}),
    (
        {"client": Client("c", "registered", "linux", "software", "demo_client", "9")},
        {"product_version_not_allowed"},
    ),
    ({"scopes": []}, {"scope_missing"}),
    ({"scopes": ["vsdservice", "admin"]}, {"scope_not_allowed"}),
    ({"audience": []}, {"audience_missing"}),
    ({"client_address": None}, {"address_unknown"}),
    ({"audience": [], "resource": "nonsense"}, {"resource_not_allowed"}),
    ({"institution": INSTITUTION, "client": OTHER}, {"profession_not_allowed", "product_not_allowed"}),
]


@pytest.mark.parametrize(("changes", "expected"), DENIED)
async def test_a_denial_names_its_reasons(
    service: PolicyService, practice: Any3, changes: dict[str, Any], expected: set[str]
) -> None:
    decision = await service.token.decide("token", practice(**changes), now=0)
    assert not decision.allow
    assert codes(decision) == expected
    assert all(reason.message and reason.spec for reason in decision.reasons)


async def test_a_resource_decides_the_audience(service: PolicyService, practice: Any3) -> None:
    question = practice(audience=[], resource="https://guard.example:8443/vsdservice/v1/vsdmbundle")
    decision = await service.token.decide("token", question, now=0)
    assert decision.audience == ("https://guard.example:8443/",)


async def test_ipv6_is_an_address_too(service: PolicyService, practice: Any3) -> None:
    question = practice(client_address=ip_address("2001:db8::1"))
    assert (await service.token.decide("token", question, now=0)).allow


async def test_the_request_question_is_answered(service: PolicyService) -> None:
    question = dict(PROBES["request"])
    assert (await service.request.decide("request", question, now=0)).allow
    question["request"] = {**PROBES["request"]["request"], "method": "TRACE"}  # type: ignore[dict-item]
    assert codes(await service.request.decide("request", question, now=0)) == {"method_not_allowed"}


async def test_an_empty_question_is_denied(service: PolicyService) -> None:
    documents: list[dict[str, Any]] = [
        {},
        {"authorization_request": None},
        {"authorization_request": {"scopes": "popp"}},
    ]
    for document in documents:
        decision = await service.token.decide("token", document, now=0)
        assert not decision.allow
        assert {"address_unknown", "profession_not_allowed"} <= codes(decision)


async def test_both_are_ready(service: PolicyService) -> None:
    assert await service.readiness() is None


@pytest.mark.opa
async def test_a_published_bundle_decides_alike_unmodified_on_a_server_and_built_in_this_process(
    run_policy: Any3, practice: Any3, published: Path, tmp_path: Path, opa: str
) -> None:
    archive = tmp_path / "built.tar.gz"
    archive.write_bytes(build(published).archive)
    embedded = {"engine": "embedded", "bundle": str(archive), "unsafe_unsigned": True}
    free, other = ip_address("203.0.113.9"), Institution("1-2", "1.2.276.0.76.4.54", "X")
    changes: list[dict[str, Any]] = [
        {"scopes": scopes, "client_address": address, "institution": institution, "grant_type": grant_type}
        for scopes in (["vsdservice"], ["vsdservice", "popp"], [])
        for address in (free, ip_address("192.0.2.10"), ip_address("198.51.100.255"), ip_address("2001:db8::1"), None)
        for institution in (Institution("1-1", "1.2.276.0.76.4.50", "X"), other)
        for grant_type in ("refresh_token", "client_credentials")
    ]
    outcomes: list[list[tuple[Any, ...]]] = []
    with opa_server(opa, published, _free_port()) as url:
        await reachable(url)
        for section in (embedded, {"engine": "opa", "url": url, "deadline_ms": 5000}):
            async with run_policy({"token": section}) as running:
                decisions = [await running.token.decide("token", practice(**each), now=0) for each in changes]
            outcomes.append(
                [(each.allow, each.reasons, each.access_token_ttl, each.refresh_token_ttl) for each in decisions]
            )
    assert outcomes[0] == outcomes[1]
    assert {allow for allow, *_ in outcomes[0]} == {True, False}


@pytest.mark.opa
async def test_without_a_bundle_the_server_has_no_answer(run_policy: Any3, practice: Any3, tmp_path: Path, opa: str) -> None:  # fmt: skip
    """OPA answers 200 with an empty object: that is a no."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "x.rego").write_text("package other\n")
    with opa_server(opa, tmp_path / "empty", _free_port()) as url:
        await reachable(url)
        async with run_policy({"token": {"engine": "opa", "url": url, "deadline_ms": 5000}}) as service:
            with pytest.raises(ZetaError) as refused:
                await service.token.decide("token", practice(), now=0)
            assert refused.value.status == 503


class Server:
    """A stand-in for what OPA would do on a bad day."""

    def __init__(self) -> None:
        self.asked = 0
        self.headers: list[str] = []
        self.answer: Callable[[web.Request], Any] = lambda _: web.json_response({"result": {"allow": True}})

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/health":
            return web.Response()
        self.asked += 1
        self.headers.append(request.headers.get("Authorization", ""))
        found = self.answer(request)
        response: web.StreamResponse = await found if asyncio.iscoroutine(found) else found
        return response


@pytest.fixture
async def server() -> AsyncIterator[tuple[Server, str]]:
    handler = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler.handle)
    async with TestServer(app) as running:
        yield handler, str(running.make_url("")).rstrip("/")


async def hang(_: web.Request) -> web.Response:
    await asyncio.sleep(30)
    return web.Response()


@pytest.mark.parametrize(
    "answer",
    [
        lambda _: web.json_response({}),
        lambda _: web.json_response({"result": True}),
        lambda _: web.json_response({"result": {"allow": "true"}}),
        lambda _: web.json_response([]),
        lambda _: web.Response(text="{", content_type="application/json"),
        lambda _: web.Response(text='{"result": {"allow": true}}', content_type="text/plain"),
        lambda _: web.json_response({"result": {"allow": True}}, status=500),
        lambda _: web.json_response({"code": "undefined_document"}, status=404),
        lambda _: web.Response(status=302, headers={"Location": "/v1/data/allow"}),
        hang,
    ],
)
async def test_every_bad_answer_of_a_server_is_503(
    run_policy: Any3, practice: Any3, server: tuple[Server, str], answer: Any
) -> None:
    handler, url = server
    handler.answer = answer
    async with run_policy({"token": {"engine": "opa", "url": url, "deadline_ms": 200}}) as service:
        with pytest.raises(ZetaError) as refused:
            await service.token.decide("token", practice(), now=0)
        assert (refused.value.status, refused.value.stage) == (503, "policy")
        assert handler.asked == 1


async def test_a_server_that_is_away_is_503_and_no_error_at_start(run_policy: Any3, practice: Any3) -> None:
    section = {"engine": "opa", "url": f"http://127.0.0.1:{_free_port()}"}
    async with run_policy({"token": section}) as service:
        assert "away" in (await service.readiness() or "")
        with pytest.raises(ZetaError):
            await service.token.decide("token", practice(), now=0)


async def test_after_five_failures_the_server_is_left_alone(
    run_policy: Any3, practice: Any3, server: tuple[Server, str]
) -> None:
    handler, url = server
    handler.answer = lambda _: web.Response(status=500)
    async with run_policy({"token": {"engine": "opa", "url": url}}) as service:
        for _ in range(FAILURES + 5):
            with pytest.raises(ZetaError) as refused:
                await service.token.decide("token", practice(), now=0)
        assert handler.asked == FAILURES
        assert refused.value.headers["Retry-After"] == "1"
        assert "does not answer" in (await service.readiness() or "")


async def test_the_bearer_token_is_sent_and_revisions_are_read(
    run_policy: Any3, practice: Any3, server: tuple[Server, str], tmp_path: Path
) -> None:
    handler, url = server
    (tmp_path / "token").write_text("opaque\n")
    provenance = {"bundles": {"authz": {"revision": "r7"}}}
    handler.answer = lambda _: web.json_response(
        {"result": {"allow": True, "cache_seconds": 3}, "provenance": provenance, "decision_id": "d-1"}
    )
    section = {"engine": "opa", "url": url, "token_file": str(tmp_path / "token")}
    async with run_policy({"token": section}) as service:
        decision = await service.token.decide("token", practice(), now=0)
        assert (decision.revision, decision.decision_id, decision.cache_seconds) == ("r7", "d-1", 3)
        assert handler.headers == ["Bearer opaque"]
        provenance["bundles"] = {"b": {"revision": "2"}, "a": {"revision": "1"}}
        assert (await service.token.decide("token", practice(), now=0)).revision == "a=1,b=2"
        provenance["bundles"] = {}
        assert (await service.token.decide("token", practice(), now=0)).cache_seconds == 0


@pytest.mark.parametrize(
    ("section", "path"),
    [
        ({"url": "http://user:pw@host"}, "policy.token.url"),
        ({"url": "http://host", "decision": "authz"}, "policy.token.decision"),
        ({"url": "http://host", "token_file": "/nonexistent"}, "policy.token.token_file"),
        ({"url": "https://host", "ca_file": "/nonexistent"}, "policy.token.ca_file"),
    ],
)
async def test_a_wrong_section_is_a_configuration_error(run_policy: Any3, section: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        async with run_policy({"token": {"engine": "opa", **section}}):
            pass
    assert refused.value.path == path


async def test_only_the_configured_trust_anchors_count(run_policy: Any3, practice: Any3, tmp_path: Path) -> None:
    from zeta_guard.simulators.pki import DemoPki

    pki = DemoPki()
    certificate, key = pki.issue_tls(["127.0.0.1"])
    files = {"tls.pem": certificate, "tls.key": key, "ca.pem": pki.ca_pem(), "other.pem": DemoPki().ca_pem()}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "tls.pem", tmp_path / "tls.key")
    handler = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler.handle)
    server = TestServer(app, scheme="https")
    await server.start_server(ssl=context)
    section = {"engine": "opa", "url": str(server.make_url("")).rstrip("/"), "deadline_ms": 5000}
    try:
        async with run_policy({"token": {**section, "ca_file": str(tmp_path / "ca.pem")}}) as service:
            assert (await service.token.decide("token", practice(), now=0)).allow
        for wrong in ({"ca_file": str(tmp_path / "other.pem")}, {}):
            async with run_policy({"token": {**section, **wrong}}) as service:
                with pytest.raises(ZetaError):
                    await service.token.decide("token", practice(), now=0)
    finally:
        await server.close()
    assert handler.asked == 1
