"""FHIR R4 as VSDM 2.0 uses it: the bundle of insured data, the operation outcome, JSON and XML (profiles of gematik vsdm2)."""

from __future__ import annotations

import hashlib
import json
import uuid
from typing import Final
from xml.etree import ElementTree

from zeta_guard.errors import JsonValue
from zeta_guard.simulators.insured import Insured

Resource = dict[str, JsonValue]

PROFILES: Final = "https://gematik.de/fhir/vsdm2/StructureDefinition"
ERROR_CODES: Final = "https://gematik.de/fhir/vsdm2/CodeSystem/VSDMErrorcodeCS"
KVNR_SYSTEM: Final = "http://fhir.de/sid/gkv/kvid-10"
IK_SYSTEM: Final = "http://fhir.de/sid/arge-ik/iknr"
_FHIR: Final = "http://hl7.org/fhir"
_XHTML: Final = "http://www.w3.org/1999/xhtml"


def insured_bundle(insured: Insured, *, changed_at: str, created_at: str) -> Resource:
    """VSDMBundle 1.0.0 with patient, coverage and payor. ``changed_at`` (instant) is what the ETag depends on."""
    patient, coverage, payor = (_entry_id(insured, kind) for kind in ("patient", "coverage", "payor"))
    return {
        "resourceType": "Bundle",
        "id": _entry_id(insured, "bundle" + changed_at),
        "meta": {"lastUpdated": changed_at, "profile": [f"{PROFILES}/VSDMBundle|1.0.0"]},
        "type": "collection",
        "timestamp": created_at,
        "entry": [
            {"fullUrl": f"urn:uuid:{patient}", "resource": _patient(insured, patient)},
            {"fullUrl": f"urn:uuid:{coverage}", "resource": _coverage(insured, coverage, patient, payor)},
            {"fullUrl": f"urn:uuid:{payor}", "resource": _payor(insured, payor)},
        ],
    }


def entity_tag(bundle: Resource) -> str:
    """Strong ETag: 64 hexadecimal digits in quotes, of everything but the time of creation."""
    stable = {name: value for name, value in bundle.items() if name != "timestamp"}
    return f'"{hashlib.sha256(json.dumps(stable, sort_keys=True).encode()).hexdigest()}"'


def operation_outcome(
    code: str, text: str, *, severity: str = "error", kind: str = "value", expression: str | None = None
) -> Resource:
    """VSDMOperationOutcome with one issue."""
    issue: dict[str, JsonValue] = {
        "severity": severity,
        "code": kind,
        "details": {"coding": [{"system": ERROR_CODES, "code": code, "display": text}], "text": text},
        "diagnostics": text,
    }
    if expression is not None:
        issue["expression"] = [expression]
    return {
        "resourceType": "OperationOutcome",
        "meta": {"profile": [f"{PROFILES}/VSDMOperationOutcome|1.0.0"]},
        "text": {"status": "generated", "div": f'<div xmlns="{_XHTML}">{code}: {text}</div>'},
        "issue": [issue],
    }


def to_json(resource: Resource) -> bytes:
    """``application/fhir+json``."""
    return json.dumps(resource, ensure_ascii=False, separators=(",", ":")).encode()


def to_xml(resource: Resource) -> bytes:
    """``application/fhir+xml``: primitives as attribute ``value``, lists as repeated elements."""
    root = ElementTree.Element(str(resource["resourceType"]), {"xmlns": _FHIR})
    _fill(root, resource)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))


def _fill(element: ElementTree.Element, members: Resource) -> None:
    for name, value in members.items():
        if name == "resourceType":
            continue
        if name == "url" and element.tag == "extension":
            element.set("url", str(value))
            continue
        for item in value if isinstance(value, list) else [value]:
            _add(element, name, item)


def _add(parent: ElementTree.Element, name: str, value: JsonValue) -> None:
    if name == "div":
        narrative = ElementTree.SubElement(parent, "div", {"xmlns": _XHTML})
        narrative.text = ElementTree.fromstring(str(value)).text
        return
    child = ElementTree.SubElement(parent, name)
    if not isinstance(value, dict):
        child.set("value", str(value).lower() if isinstance(value, bool) else str(value))
        return
    if "resourceType" in value:
        child = ElementTree.SubElement(child, str(value["resourceType"]))
    _fill(child, value)


def _entry_id(insured: Insured, kind: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"urn:demo:{kind}:{insured.kvnr}"))


def _patient(insured: Insured, identifier: str) -> Resource:
    line = f"{insured.street} {insured.house_number}"
    name: dict[str, JsonValue] = {"use": "official", "family": insured.family, "given": list(insured.given)}
    if insured.name_prefix:
        name["prefix"] = [insured.name_prefix]
    return {
        "resourceType": "Patient",
        "id": identifier,
        "meta": {"profile": [f"{PROFILES}/VSDMPatient|1.0.0"]},
        "identifier": [
            {
                "type": {"coding": [{"system": "http://fhir.de/CodeSystem/identifier-type-de-basis", "code": "KVZ10"}]},
                "system": KVNR_SYSTEM,
                "value": insured.kvnr,
            }
        ],
        "name": [name],
        "gender": insured.gender,
        "birthDate": insured.birth_date,
        "address": [
            {
                "type": "both",
                "line": [line],
                "city": insured.city,
                "postalCode": insured.postal_code,
                "country": "D",
            }
        ],
    }


def _coverage(insured: Insured, identifier: str, patient: str, payor: str) -> Resource:
    return {
        "resourceType": "Coverage",
        "id": identifier,
        "meta": {"profile": [f"{PROFILES}/VSDMCoverageGKV|1.0.0"]},
        "extension": [
            _coding_extension("wop", "https://fhir.kbv.de/CodeSystem/KBV_CS_SFHIR_ITA_WOP", insured.wop),
            _coding_extension(
                "versichertenart",
                "https://fhir.kbv.de/CodeSystem/KBV_CS_SFHIR_KBV_VERSICHERTENSTATUS",
                insured.insured_type,
            ),
            {
                "url": "http://fhir.de/StructureDefinition/gkv/zuzahlungsstatus",
                "extension": [{"url": "status", "valueBoolean": False}],
            },
        ],
        "status": "active",
        "type": {"coding": [{"system": "http://fhir.de/CodeSystem/versicherungsart-de-basis", "code": "GKV"}]},
        "beneficiary": {"reference": f"urn:uuid:{patient}"},
        "period": {"start": insured.cover_from},
        "payor": [{"reference": f"urn:uuid:{payor}", "display": insured.insurer_name}],
    }


def _payor(insured: Insured, identifier: str) -> Resource:
    return {
        "resourceType": "Organization",
        "id": identifier,
        "meta": {"profile": [f"{PROFILES}/VSDMPayorOrganization|1.0.0"]},
        "identifier": [{"system": IK_SYSTEM, "value": insured.insurer_id}],
        "name": insured.insurer_name,
    }


def _coding_extension(name: str, system: str, code: str) -> Resource:
    return {
        "url": f"http://fhir.de/StructureDefinition/gkv/{name}",
        "valueCoding": {"system": system, "code": code},
    }
