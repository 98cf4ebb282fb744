"""The decision log: masked, bounded, in OPA's format, and never in anybody's way."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from prometheus_client import CollectorRegistry

from zeta_guard.errors import ConfigurationError, ZetaError
from zeta_guard.policy.contract import Decision, Reason
from zeta_guard.policy.decision_log import Line, render
from zeta_guard.policy.masking import Masker
from zeta_guard.policy.probe import PROBES
from zeta_guard.policy.sealed_input import SealedInputError, open_input, seal_input
from zeta_guard.telemetry.logging import bind_request

Any3 = Callable[..., Any]
Key = ec.EllipticCurvePrivateKey
KeyFile = Callable[[Key, str], Path]
DEMO = {"engine": "embedded", "bundle": "package:demo"}


def pseudonym(name: str) -> str:
    return f"pseudonym-of-{len(name)}"


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_every_decision_is_a_line_in_opas_format(run_policy: Any3, practice: Any3, tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    bind_request("request-1")
    async with run_policy({"token": DEMO, "log": {"file": str(path)}}, pseudonym=pseudonym) as service:
        allowed = await service.token.decide("token", practice(), now=1_700_000_000.5)
        denied = await service.token.decide("token", practice(scopes=["x"]), now=1_700_000_001)
        await service.request.decide("request", PROBES["request"], now=1_700_000_002)
    bind_request("")
    first, second, third = lines_of(path)
    assert first["decision_id"] == allowed.decision_id
    assert first["path"] == "policies/zeta/authz/decision"
    assert first["result"] == {"allow": True, "ttl": {"access_token": 300, "refresh_token": 86400}}
    assert first["bundles"] == {"active": {"revision": "demo-1"}}
    assert first["timestamp"] == "2023-11-14T22:13:20.500Z"
    assert first["metrics"]["timer_rego_query_eval_ns"] > 0
    assert first["req_id"] == "request-1"
    assert second["decision_id"] == denied.decision_id
    assert [reason["code"] for reason in second["result"]["reasons"]] == ["scope_not_allowed"]
    assert (third["question"], third["path"]) == ("request", "policies/zeta/request/decision")
    assert path.stat().st_mode & 0o077 == 0


async def test_a_question_without_answer_is_a_line_too(run_policy: Any3, tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    section = {"token": {"engine": "embedded", "bundle": "package:template"}, "log": {"file": str(path)}}
    async with run_policy(section) as service:
        with pytest.raises(ZetaError):
            await service.request.decide("request", PROBES["request"], now=0)
    (line,) = lines_of(path)
    assert line["error"]["code"] == "no_answer"
    assert "result" not in line


def document_with_everything(practice: Any3) -> dict[str, Any]:
    document: dict[str, Any] = practice(previous_address="192.0.2.77")
    document["request"] = {
        "method": "GET",
        "path": ["Patient", "X110411675"],
        "query": {"name": ["Muster"]},
        "route": "/fhir",
        "ip_address": "192.0.2.10",
        "ip_prefixes": ["192.0.2.10/32"],
    }
    document["user"] = {"identifier": "1-2012345678", "commonName": "Praxis Muster", "organizationName": "Muster GbR"}
    document["token"] = {"sub": "1-2012345678", "jti": "jjj", "sid": "sss", "cnf": {"jkt": "kkk"}, "common_name": "Praxis Muster", "organization_name": "Muster GbR", "ip_address": "192.0.2.10"}  # fmt: skip
    document["popp"] = {"actorId": "1-2012345678", "patientId": "X110411675", "insurerId": "109500969"}
    return document


SECRETS = (
    "1-2012345678", "Muster", "X110411675", "109500969", "jjj", "sss", "kkk", "192.0.2.10", "192.0.2.77", "192.0.2.0/24",
)  # fmt: skip


def test_no_person_no_address_and_no_token_is_written(practice: Any3) -> None:
    line = Line("token", "p", 0.0, document_with_everything(practice), None)
    for masker in (Masker(pseudonym, include_address=False), Masker(None, include_address=False)):
        text = json.dumps(render(line, masker, None))
        assert not [secret for secret in SECRETS if secret in text]


def test_what_is_masked_is_said(practice: Any3) -> None:
    document = document_with_everything(practice)
    masked = Masker(pseudonym, include_address=False).mask(document)
    assert masked.document["user_info"] == {
        "identifier": "pseudonym-of-12",
        "professionOID": "1.2.276.0.76.4.50",
    }
    assert "/input/user_info/identifier" in masked.hashed
    assert {"/input/user_info/commonName", "/input/authorization_request/ip_address"} <= set(masked.erased)
    without = Masker(None, include_address=True).mask(document)
    assert "/input/user_info/identifier" in without.erased
    assert without.document["authorization_request"]["ip_address"] == "192.0.2.10"  # type: ignore[index, call-overload]


def test_masking_leaves_the_question_alone(practice: Any3) -> None:
    document = document_with_everything(practice)
    before = json.dumps(document)
    Masker(pseudonym, include_address=False).mask(document)
    assert json.dumps(document) == before


async def test_a_full_queue_drops_and_counts(
    run_policy: Any3, practice: Any3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "decisions.jsonl"
    registry = CollectorRegistry()
    async with run_policy({"token": DEMO, "log": {"file": str(path), "queue": 3}}, registry=registry) as service:
        decision = await service.token.decide("token", practice(), now=0)
        log = service._log
        for number in range(10):
            log.record(Line("token", "p", float(number), {}, decision))
    assert registry.get_sample_value("zeta_guard_policy_log_lines_total", {"outcome": "dropped"}) == 10 + 1 - len(lines_of(path))  # fmt: skip
    assert 3 <= len(lines_of(path)) <= 4


async def test_a_file_that_cannot_be_written_costs_lines_not_decisions(
    run_policy: Any3, practice: Any3, tmp_path: Path
) -> None:
    registry = CollectorRegistry()
    section = {"token": DEMO, "log": {"file": str(tmp_path / "missing" / "decisions.jsonl")}}
    async with run_policy(section, registry=registry) as service:
        assert (await service.token.decide("token", practice(), now=0)).allow
    assert registry.get_sample_value("zeta_guard_policy_log_lines_total", {"outcome": "dropped"}) == 1


async def test_a_rotated_file_is_let_go_of(run_policy: Any3, practice: Any3, tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    async with run_policy({"token": DEMO, "log": {"file": str(path)}}) as service:
        await service.token.decide("token", practice(), now=0)
        async with asyncio.timeout(10):
            while not path.exists() or not path.read_bytes().endswith(b"\n"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        path.rename(tmp_path / "old.jsonl")
        await service.token.decide("token", practice(), now=0)
    assert len(lines_of(path)) == len(lines_of(tmp_path / "old.jsonl")) == 1


async def test_standard_output_is_a_sink(run_policy: Any3, practice: Any3, capsys: pytest.CaptureFixture[str]) -> None:
    async with run_policy({"token": DEMO, "log": {"stdout": True}}) as service:
        await service.token.decide("token", practice(), now=0)
    assert json.loads(capsys.readouterr().out)["result"]["allow"] is True


async def test_a_collector_of_opa_gets_gzip_arrays_and_a_second_chance(run_policy: Any3, practice: Any3) -> None:
    bodies: list[list[dict[str, Any]]] = []
    failures = [503]

    async def collect(request: web.Request) -> web.Response:
        if failures:
            return web.Response(status=failures.pop())
        assert request.headers["Content-Encoding"] == "gzip"
        raw = await request.read()
        bodies.append(json.loads(gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw))
        return web.Response(status=204)

    app = web.Application()
    app.router.add_post("/collector/logs", collect)
    async with TestServer(app) as server:
        section = {"token": DEMO, "log": {"url": str(server.make_url("/collector"))}}
        async with run_policy(section) as service:
            await service.token.decide("token", practice(), now=0)
            async with asyncio.timeout(10):
                while not bodies:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
    assert [line["question"] for body in bodies for line in body] == ["token"]


async def test_lines_that_come_together_are_written_together(run_policy: Any3, practice: Any3) -> None:
    bodies: list[int] = []

    async def collect(request: web.Request) -> web.Response:
        raw = await request.read()
        bodies.append(len(json.loads(gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw)))
        return web.Response(status=204)

    app = web.Application()
    app.router.add_post("/logs", collect)
    async with TestServer(app) as server:
        section = {"token": DEMO, "log": {"url": str(server.make_url("/"))}}
        async with run_policy(section) as service:
            for _ in range(5):
                await service.token.decide("token", practice(), now=0)
                await asyncio.sleep(0)
    assert bodies == [5]


@pytest.mark.parametrize(("slice_seconds", "turns"), [(0.0, 99), (60.0, 0)])
async def test_a_long_queue_is_written_in_slices_between_the_answers(
    run_policy: Any3, practice: Any3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slice_seconds: float, turns: int
) -> None:
    monkeypatch.setattr("zeta_guard.policy.decision_log._SLICE", slice_seconds)
    seen = 0

    async def turn() -> None:
        nonlocal seen
        while True:
            await asyncio.sleep(0)
            seen += 1

    async with run_policy({"token": DEMO, "log": {"file": str(tmp_path / "decisions.jsonl")}}) as service:
        decision = await service.token.decide("token", practice(), now=0)
        task = asyncio.create_task(turn())
        lines = await service._log._render([Line("token", "p", 0.0, practice(), decision)] * 100)
        task.cancel()
    assert len(lines) == 100
    assert turns <= seen <= turns + 1


async def test_a_sealed_line_opens_with_the_private_key_only(
    run_policy: Any3, practice: Any3, tmp_path: Path, signing_key: Key, public_key_file: KeyFile
) -> None:
    path = tmp_path / "decisions.jsonl"
    log = {"file": str(path), "sealing_key_file": str(public_key_file(signing_key, "log"))}
    async with run_policy({"token": DEMO, "log": log}) as service:
        await service.token.decide("token", practice(), now=0)
    (line,) = lines_of(path)
    assert "identifier" not in line["input"]["user_info"]
    assert open_input(line["sealed_input"], signing_key) == practice()
    with pytest.raises(SealedInputError, match="does not open"):
        open_input(line["sealed_input"], ec.generate_private_key(ec.SECP256R1()))


def test_a_changed_seal_does_not_open(signing_key: Key) -> None:
    sealed = seal_input({"a": 1}, signing_key.public_key())
    parts = sealed.split(".")
    for index in (0, 2, 3, 4):
        changed = list(parts)
        changed[index] = ("B" if changed[index][0] != "B" else "C") + changed[index][1:]
        with pytest.raises(SealedInputError):
            open_input(".".join(changed), signing_key)
    for text in ("", "a.b.c.d.e", ".".join(parts[:4]), sealed.replace(".", "", 1)):
        with pytest.raises(SealedInputError):
            open_input(text, signing_key)


def test_a_key_agreement_is_that_of_rfc_7518_appendix_c() -> None:
    """The derived key of the RFC is for A128GCM; what is checked here is that the parts are laid out as there."""
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash

    from zeta_guard.jose.encoding import b64url_decode, b64url_encode

    def private(x: str, y: str, d: str) -> Key:
        numbers = [int.from_bytes(b64url_decode(text), "big") for text in (x, y, d)]
        public = ec.EllipticCurvePublicNumbers(numbers[0], numbers[1], ec.SECP256R1())
        return ec.EllipticCurvePrivateNumbers(numbers[2], public).private_key()

    alice = private("gI0GAILBdu7T53akrFmMyGcsF3n5dO7MmwNBHKW5SV0", "SLW_xSffzlPWrHEVI30DHM_4egVwt3NQqeUD7nMFpps", "0_NxaRPUMQoAJt50Gz8YiTr8gRTwyEaCumd-MToTmIo")  # fmt: skip
    bob = private("weNJy2HscCSM6AEDTDg04biOvhFhyyWvOHQfeF_PxMQ", "e8lnCO-AlStT-NJVX-crhB7QRYhiix03illJOVAOyck", "VEmDZpDXXK8p8N0Cndsxs924q6nS1RXFASRl6BfUqdw")  # fmt: skip
    name = b"A128GCM"
    parties = (5).to_bytes(4, "big") + b"Alice" + (3).to_bytes(4, "big") + b"Bob"
    information = len(name).to_bytes(4, "big") + name + parties + (128).to_bytes(4, "big")
    shared = alice.exchange(ec.ECDH(), bob.public_key())
    assert b64url_encode(ConcatKDFHash(SHA256(), 16, information).derive(shared)) == "VqqN6vgjbSBcIijNcacQGg"


async def test_a_wrong_sealing_key_is_a_configuration_error(run_policy: Any3, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.pem"
    large = ec.generate_private_key(ec.SECP384R1()).public_key()
    wrong.write_bytes(large.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    for path in (wrong, tmp_path / "missing.pem"):
        with pytest.raises(ConfigurationError) as refused:
            async with run_policy({"token": DEMO, "log": {"sealing_key_file": str(path)}}):
                pass
        assert refused.value.path == "policy.log.sealing_key_file"


def test_reasons_of_every_form_are_written() -> None:
    decision = Decision(False, "d", "r", reasons=(Reason("only text"), Reason("m", "c", "A_1")))
    line = render(Line("token", "p", 0.0, {}, decision), Masker(None, include_address=False), None)
    assert line["result"] == {
        "allow": False,
        "reasons": [{"message": "only text"}, {"code": "c", "message": "m", "spec": "A_1"}],
    }
