"""Inputs of policies: complete, and nothing invented."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from zeta_guard.errors import JsonValue, ZetaError
from zeta_guard.policy.document import Client, DpopKey, Institution, request_document
from zeta_guard.tokens.access_token import AccessToken

Ask = Callable[..., dict[str, Any]]


def test_contract_1_names_audiences_also_by_their_older_name(practice: Ask) -> None:
    document = practice(audience=["https://a/", "https://b/"])
    request = document["authorization_request"]
    assert document["version"] == "1.0"
    assert request["audience"] == request["aud"] == ["https://a/", "https://b/"]
    assert "resource" not in request


def test_contract_2_names_the_resource(practice: Ask) -> None:
    document = practice(audience=[], resource="https://guard.example/service")
    request = document["authorization_request"]
    assert document["version"] == "1.1"
    assert request["resource"] == "https://guard.example/service"
    assert "audience" not in request
    assert "aud" not in request


def test_the_method_is_there_because_published_policies_deny_without_it(practice: Ask) -> None:
    assert practice()["authorization_request"]["http_method"] == "POST"


def test_every_network_of_the_address_is_named(practice: Ask) -> None:
    request = practice()["authorization_request"]
    assert request["ip_address"] == "192.0.2.10"
    assert len(request["ip_prefixes"]) == 33
    assert {"192.0.2.10/32", "192.0.2.0/24", "0.0.0.0/0"} <= set(request["ip_prefixes"])
    six = practice(client_address=ip_address("2001:db8::1"))["authorization_request"]
    assert len(six["ip_prefixes"]) == 129


def test_an_unknown_address_is_absent_never_empty(practice: Ask) -> None:
    request = practice(client_address=None)["authorization_request"]
    assert not {"ip_address", "ip_prefixes", "previous_ip_address"} & request.keys()


def test_the_address_of_the_exchange_is_named_at_a_refresh(practice: Ask) -> None:
    request = practice(previous_address="192.0.2.9")["authorization_request"]
    assert request["previous_ip_address"] == "192.0.2.9"


def test_the_product_stands_in_both_places(practice: Ask) -> None:
    document = practice()
    assert document["client_registration_data"]["product_id"] == "demo_client"
    assert document["client_assertion"]["posture"] == {"product_id": "demo_client", "product_version": "0.1.0"}


def test_client_data_say_what_is_known_and_nothing_else(practice: Ask) -> None:
    known = Client(
        "c", "registered", "linux", "software", "p", "1", 10, 20, os="Fedora", os_version="39", architecture="x86_64"
    )
    section = practice(client=known)["client_registration_data"]
    assert section["registration_timestamp"] == 10
    assert section["attestation_timestamp"] == 20
    assert section["device_info"] == {"os": "Fedora", "os_version": "39", "arch": "x86_64"}
    assert section["attestation_result"] == {"software": {"arch": "x86_64", "binding_verified": True}}
    bare = practice(client=Client("c", "product", "linux", "software", "p", "1"))["client_registration_data"]
    assert bare["client_class"] == "product"
    assert not {"registration_timestamp", "attestation_timestamp"} & bare.keys()
    assert bare["device_info"] == {}


def test_the_age_of_a_dpop_key_is_told_where_it_is_kept(practice: Ask) -> None:
    client = Client("c", "product", "linux", "software", "p", "1", dpop_key=DpopKey(10, 70, 90))
    section = practice(client=client)["client_registration_data"]
    assert section["dpop_key"] == {"first_seen": 10, "last_seen": 70, "age": 90}
    assert "dpop_key" not in practice()["client_registration_data"]


def test_an_institution_without_organisation_has_none(practice: Ask) -> None:
    institution = Institution("1-2", "1.2.276.0.76.4.50", "Praxis")
    assert practice(institution=institution)["user_info"] == {
        "identifier": "1-2",
        "professionOID": "1.2.276.0.76.4.50",
        "commonName": "Praxis",
    }


TOKEN = AccessToken(
    issuer="https://guard.example",
    telematik_id="1-2",
    audience=("https://guard.example/",),
    scopes=frozenset({"popp"}),
    client_id="c",
    issued_at=0,
    expires_at=300,
    jti="j",
    session_id="s",
    jkt="k",
    acr="gematik-ehealth-loa-high",
    ip_address="192.0.2.10",
    profession_oid="1.2.276.0.76.4.50",
    common_name="Praxis",
    organization_name=None,
    product_id="p",
    product_version="1",
    platform="linux",
    claims={"sub": "1-2", "scope": "popp"},
)


def request(**changes: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "method": "GET",
        "path": ["service", "a b"],
        "query": "a=1&a=2&b=",
        "route": "/service",
        "client_address": ip_address("192.0.2.10"),
        "websocket": False,
        "token": TOKEN,
        "popp": None,
        "now": 12.9,
    }
    return request_document(**{**arguments, **changes})


def test_a_request_names_what_was_verified() -> None:
    document = request()
    assert document["request"]["path"] == ["service", "a b"]
    assert document["token"] == {"sub": "1-2", "scope": "popp"}
    assert document["user"] == {"identifier": "1-2", "professionOID": "1.2.276.0.76.4.50", "commonName": "Praxis"}
    assert document["client"]["product_id"] == "p"
    assert document["time"] == 12
    assert "popp" not in document


def test_a_repeated_parameter_shows_all_its_values() -> None:
    assert request()["request"]["query"] == {"a": ["1", "2"], "b": [""]}


def test_popp_claims_are_there_when_they_were_verified() -> None:
    assert request(popp={"actorId": "1-2"})["popp"] == {"actorId": "1-2"}


def test_a_request_without_address_names_none() -> None:
    assert not {"ip_address", "ip_prefixes"} & request(client_address=None)["request"].keys()


def test_a_query_of_thousands_of_parameters_is_refused() -> None:
    with pytest.raises(ZetaError) as refused:
        request(query="&".join(f"a{number}=1" for number in range(1001)))
    assert refused.value.code == "invalid_request"


PAGE = Path(__file__).parents[2] / "policies" / "input.md"


def named_members(heading: str) -> set[str]:
    """Members in the first column of the page's table below a heading."""
    section = PAGE.read_text().split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return {member for row in rows for member in re.findall(r"`([^`]+)`", row)}


def members(value: JsonValue, path: str = "") -> set[str]:
    if isinstance(value, dict) and value and path not in ("token", "popp", "request.query"):
        return {name for key, inner in value.items() for name in members(inner, f"{path}.{key}".removeprefix("."))}
    return {path}


def test_the_page_for_policy_authors_names_exactly_the_members_of_the_token_question(practice: Ask) -> None:
    client = Client("c", "product", "linux", "software", "p", "1", 1, 2, "Linux", "6", "x86_64", True, DpopKey(1, 2, 3))
    organisation = Institution("1-2", "1.2.276.0.76.4.50", "X", "Y")
    full = practice(resource="https://x/", previous_address="192.0.2.1", client=client, institution=organisation)
    assert members(full) == named_members("The token question")


def test_the_page_for_policy_authors_names_exactly_the_members_of_the_request_question() -> None:
    document = request(popp={"actorId": "x"}, token=replace(TOKEN, organization_name="Y"))
    assert members(document) == named_members("The request question")
