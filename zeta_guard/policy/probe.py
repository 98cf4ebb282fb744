"""Questions that a bundle is tried with before it may decide: complete in form, about nobody."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Final

from zeta_guard.errors import JsonValue
from zeta_guard.http.address import ip_prefixes
from zeta_guard.policy.contract import Question
from zeta_guard.policy.document import Client, Institution, token_document

_ADDRESS: Final = ip_address("192.0.2.1")

_TOKEN: Final = token_document(
    grant_type="urn:ietf:params:oauth:grant-type:token-exchange",
    scopes=("probe",),
    audience=("https://probe.invalid/",),
    resource=None,
    client_address=_ADDRESS,
    previous_address=None,
    acr="gematik-ehealth-loa-high",
    amr=(),
    client=Client("probe", "registered", "linux", "software", "probe", "0"),
    institution=Institution("probe", "1.2.276.0.76.4.50", "probe"),
)

_REQUEST: Final[dict[str, JsonValue]] = {
    "request": {
        "method": "GET",
        "path": ["probe"],
        "query": {},
        "route": "/probe",
        "ip_address": str(_ADDRESS),
        "ip_prefixes": list[JsonValue](ip_prefixes(_ADDRESS)),
        "websocket": False,
    },
    "token": {
        "iss": "https://probe.invalid",
        "sub": "probe",
        "aud": "https://probe.invalid/",
        "scope": "probe",
        "client_id": "probe",
        "iat": 0,
        "exp": 1,
        "jti": "probe",
        "sid": "probe",
        "acr": "gematik-ehealth-loa-high",
    },
    "client": {"client_id": "probe", "product_id": "probe", "product_version": "0", "platform": "linux"},
    "user": {"identifier": "probe", "professionOID": "1.2.276.0.76.4.50", "commonName": "probe"},
    "time": 0,
}

PROBES: Final[Mapping[Question, Mapping[str, JsonValue]]] = {"token": _TOKEN, "request": _REQUEST}
