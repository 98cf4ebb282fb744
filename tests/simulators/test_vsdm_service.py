"""The VSDM service: bundles, versions, negotiation and its table of errors."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any
from xml.etree import ElementTree

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeta_guard.simulators.fhir import ERROR_CODES, to_xml
from zeta_guard.simulators.injected_header import MalformedHeader, read_injected
from zeta_guard.simulators.insured import KRIEMHILD, PERSONAS
from zeta_guard.simulators.vsdm_service import BUNDLE, FHIR_JSON, FHIR_XML, VsdmService

FHIR = "{http://hl7.org/fhir}"
USER = {"identifier": "1-2", "professionOID": "1.2.276.0.76.4.50", "commonName": "Praxis"}


def _injected(members: dict[str, str]) -> str:
    return base64.urlsafe_b64encode(json.dumps(members).encode()).decode()


def _headers(
    patient: str = KRIEMHILD.kvnr, insurer: str = KRIEMHILD.insurer_id, **changes: str | None
) -> dict[str, str]:
    headers: dict[str, str | None] = {
        "zeta-popp-token-content": _injected({"patientId": patient, "insurerId": insurer}),
        "zeta-user-info": _injected(USER),
        "If-None-Match": '"0"',
        "Accept": FHIR_JSON,
    }
    headers.update({name.replace("_", "-"): value for name, value in changes.items()})
    return {name: value for name, value in headers.items() if value is not None}


@pytest.fixture
async def service() -> AsyncIterator[VsdmService]:
    async with VsdmService() as running:
        yield running


@pytest.fixture
async def http(service: VsdmService) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(service.url) as session:
        yield session


async def _get(
    http: aiohttp.ClientSession, headers: dict[str, str], query: str = "?profileVersion=1.0", method: str = "GET"
) -> tuple[int, Any, bytes]:
    async with http.request(method, BUNDLE + query, headers=headers, skip_auto_headers=["Accept"]) as answer:
        return answer.status, answer.headers, await answer.read()


async def test_a_known_person_gets_a_bundle_with_etag_and_proof(http: aiohttp.ClientSession) -> None:
    status, headers, body = await _get(http, _headers())
    bundle = json.loads(body)
    assert status == 200
    assert headers["Content-Type"] == "application/fhir+json; charset=utf-8"
    assert len(headers["ETag"]) == 66
    assert len(base64.urlsafe_b64decode(headers["VSDM-Pz"])) == 48
    assert bundle["meta"]["profile"] == ["https://gematik.de/fhir/vsdm2/StructureDefinition/VSDMBundle|1.0.0"]
    assert bundle["type"] == "collection"
    resources = [entry["resource"] for entry in bundle["entry"]]
    assert [resource["resourceType"] for resource in resources] == ["Patient", "Coverage", "Organization"]
    assert resources[0]["identifier"][0]["value"] == KRIEMHILD.kvnr
    assert resources[0]["name"][0]["family"] == "Brüser"
    assert resources[1]["beneficiary"]["reference"] == bundle["entry"][0]["fullUrl"]
    assert resources[2]["identifier"][0]["value"] == KRIEMHILD.insurer_id


async def test_every_persona_is_served_and_each_has_its_own_etag(http: aiohttp.ClientSession) -> None:
    tags = set()
    for person in PERSONAS:
        status, headers, _ = await _get(http, _headers(person.kvnr))
        assert status == 200
        tags.add(headers["ETag"])
    assert len(tags) == len(PERSONAS)


@pytest.mark.parametrize("spelling", ["{}", "W/{}", '"other", {}'])
async def test_the_known_version_is_answered_304_with_both_headers_and_no_body(
    http: aiohttp.ClientSession, spelling: str
) -> None:
    _, first, _ = await _get(http, _headers())
    status, headers, body = await _get(http, _headers(If_None_Match=spelling.format(first["ETag"])))
    assert (status, body) == (304, b"")
    assert headers["ETag"] == first["ETag"]
    assert headers["VSDM-Pz"]
    assert headers["VSDM-Pz"] != first["VSDM-Pz"]


async def test_changed_data_have_another_etag(service: VsdmService, http: aiohttp.ClientSession) -> None:
    _, before, _ = await _get(http, _headers())
    service.change(KRIEMHILD.kvnr)
    status, after, _ = await _get(http, _headers(If_None_Match=before["ETag"]))
    assert status == 200
    assert after["ETag"] != before["ETag"]


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (FHIR_JSON, FHIR_JSON),
        (FHIR_XML, FHIR_XML),
        (f"{FHIR_XML};q=0.1, {FHIR_JSON}", FHIR_JSON),
        (f"{FHIR_XML},application/json;q=0.5", FHIR_XML),
        ("application/json", FHIR_JSON),
        ("*/*", FHIR_JSON),
        (None, FHIR_JSON),
        (f"{FHIR_JSON};q=garbage, {FHIR_XML}", FHIR_XML),
    ],
)
async def test_the_form_follows_accept(http: aiohttp.ClientSession, accept: str | None, expected: str) -> None:
    status, headers, _ = await _get(http, _headers(Accept=accept))
    assert status == 200
    assert headers["Content-Type"].startswith(expected)


async def test_the_xml_form_says_the_same_as_the_json_form(http: aiohttp.ClientSession) -> None:
    _, _, body = await _get(http, _headers(Accept=FHIR_XML))
    root = ElementTree.fromstring(body)
    assert root.tag == f"{FHIR}Bundle"
    assert [child.tag for child in root][:3] == [f"{FHIR}id", f"{FHIR}meta", f"{FHIR}type"]
    patient = root.find(f"{FHIR}entry/{FHIR}resource/{FHIR}Patient")
    assert patient is not None
    family = patient.find(f"{FHIR}name/{FHIR}family")
    assert family is not None
    assert family.get("value") == "Brüser"
    status = root.find(f".//{FHIR}extension/{FHIR}extension[@url='status']/{FHIR}valueBoolean")
    assert status is not None
    assert status.get("value") == "false"


@pytest.mark.parametrize(
    ("headers", "query", "status", "code"),
    [
        (_headers(If_None_Match=None), "?profileVersion=1.0", 428, "VSDSERVICE_MISSING_PATIENT_RECORD_VERSION"),
        (_headers(), "", 400, "VSDSERVICE_MISSING_PROFILE_VERSION"),
        (_headers(), "?profileVersion=9.9", 400, "VSDSERVICE_INVALID_PROFILE_VERSION"),
        (_headers(), "?profileVersion=1", 400, "VSDSERVICE_INVALID_PROFILE_VERSION"),
        (_headers(), "?profileVersion=1.0&profileVersion=1.0", 400, "VSDSERVICE_INVALID_PROFILE_VERSION"),
        (_headers(insurer="12"), "?profileVersion=1.0", 400, "VSDSERVICE_INVALID_IK"),
        (_headers("x"), "?profileVersion=1.0", 400, "VSDSERVICE_INVALID_KVNR"),
        (_headers(insurer="101575519"), "?profileVersion=1.0", 400, "VSDSERVICE_UNKNOWN_IK"),
        (_headers("X900000011"), "?profileVersion=1.0", 404, "VSDSERVICE_UNKNOWN_KVNR"),
        (_headers(Accept="text/html"), "?profileVersion=1.0", 406, "SERVICE_UNSUPPORTED_MEDIATYPE"),
    ],
)
async def test_each_mistake_has_its_status_and_code(
    http: aiohttp.ClientSession, headers: dict[str, str], query: str, status: int, code: str
) -> None:
    seen, answered, body = await _get(http, headers, query)
    outcome = json.loads(body)
    assert (seen, outcome["resourceType"]) == (status, "OperationOutcome")
    coding = outcome["issue"][0]["details"]["coding"][0]
    assert (coding["system"], coding["code"]) == (ERROR_CODES, code)
    assert "zeta-cause" not in answered


async def test_another_method_is_refused(http: aiohttp.ClientSession) -> None:
    status, _, body = await _get(http, _headers(), method="POST")
    assert status == 405
    assert b"SERVICE_INVALID_HTTP_OPERATION" in body


async def test_an_outcome_comes_as_xml_to_who_asked_for_xml(http: aiohttp.ClientSession) -> None:
    _, _, body = await _get(http, _headers(Accept=FHIR_XML, If_None_Match=None))
    root = ElementTree.fromstring(body)
    assert root.tag == f"{FHIR}OperationOutcome"
    assert root.find("{http://hl7.org/fhir}text/{http://www.w3.org/1999/xhtml}div") is not None


@pytest.mark.parametrize("name", ["zeta-user-info", "zeta-popp-token-content"])
@pytest.mark.parametrize("value", [None, "garbage", base64.b64encode(b"{}").decode()])
async def test_what_only_the_proxy_can_have_done_is_marked_for_it(
    http: aiohttp.ClientSession, name: str, value: str | None
) -> None:
    sent = {other: text for other, text in _headers().items() if other != name}
    status, headers, body = await _get(http, sent if value is None else {**sent, name: value})
    assert status == 400
    assert headers["zeta-cause"] == "Proxy"
    assert b"OperationOutcome" not in body


async def test_a_default_version_serves_clients_of_the_published_openapi_file() -> None:
    async with VsdmService(default_profile_version="1.0") as service, aiohttp.ClientSession(service.url) as http:
        assert (await _get(http, _headers(), ""))[0] == 200
        assert (await _get(http, _headers(), "?profileVersion=2.0"))[0] == 400


async def test_whoami_tells_what_the_guard_said(service: VsdmService, http: aiohttp.ClientSession) -> None:
    async with http.post("/whoami?x=1", headers={"ZETA-User-Info": _injected(USER)}, data=b"abc") as answer:
        told = await answer.json()
    assert told["told_by_the_guard"] == {"ZETA-User-Info": USER}
    assert (told["method"], told["path"], told["body_bytes"]) == ("POST", "/whoami?x=1", 3)
    assert service.received[-1].header("zeta-user-info") == [_injected(USER)]


async def test_two_copies_of_a_header_are_shown_as_two(http: aiohttp.ClientSession) -> None:
    headers = [("ZETA-User-Info", _injected(USER)), ("ZETA-User-Info", _injected({"identifier": "lie"}))]
    async with http.get("/whoami", headers=headers) as answer:
        told = (await answer.json())["told_by_the_guard"]["ZETA-User-Info"]
    assert [entry["identifier"] for entry in told] == ["1-2", "lie"]


async def test_health_answers_and_a_fault_answers_everything(service: VsdmService, http: aiohttp.ClientSession) -> None:
    async with http.get("/health") as answer:
        assert answer.status == 200
    service.fault_status = 503
    async with http.get("/health") as answer:
        assert answer.status == 503


@given(st.text())
def test_an_injected_header_is_read_or_malformed(value: str) -> None:
    try:
        assert isinstance(read_injected(value), dict)
    except MalformedHeader:
        return


@given(st.dictionaries(st.text(min_size=1), st.text(min_size=1), min_size=1))
def test_what_a_guard_injects_is_what_a_backend_reads(members: dict[str, str]) -> None:
    raw = json.dumps(members).encode()
    assert read_injected(base64.urlsafe_b64encode(raw).decode(), *members) == members
    assert read_injected(base64.b64encode(raw).rstrip(b"=").decode()) == members


def test_xml_keeps_the_order_of_members_and_repeats_lists() -> None:
    xml = to_xml({"resourceType": "Patient", "id": "1", "name": [{"given": ["A", "B"]}], "active": True})
    root = ElementTree.fromstring(xml)
    assert [(child.tag.removeprefix(FHIR), child.get("value")) for child in root] == [
        ("id", "1"),
        ("name", None),
        ("active", "true"),
    ]
    assert [given.get("value") for given in root.findall(f"{FHIR}name/{FHIR}given")] == ["A", "B"]
