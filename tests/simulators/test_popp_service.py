"""The PoPP service: card scenarios, refusals, tokens and published documents."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from zeta_guard.client.popp import PoppRefused, obtain_popp_token
from zeta_guard.errors import JsonValue
from zeta_guard.simulators.insured import DOERTHE, KRIEMHILD
from zeta_guard.simulators.pki import DemoPki
from zeta_guard.simulators.popp_card import SimulatedEgk, egk_authority, find, objects, tlv
from zeta_guard.simulators.popp_service import (
    FEDERATION,
    GENERATOR,
    SIGNED_JWKS,
    TOKEN_GENERATION,
    Actor,
    Conversation,
    PoppService,
)
from zeta_guard.simulators.popp_token import CareContext, PoppIssuer

PKI = DemoPki()
EGK_CA = egk_authority(PKI)
SIGNER = PKI.issue_popp_signer()
ISSUER = "https://popp.example"
USER = {"identifier": "1-2012345678", "professionOID": "1.2.276.0.76.4.50", "commonName": "Praxis Ä"}


def _header(members: dict[str, str], *, padded: bool = True, url_safe: bool = True) -> dict[str, str]:
    raw = json.dumps(members, ensure_ascii=False).encode()
    text = (base64.urlsafe_b64encode if url_safe else base64.b64encode)(raw).decode()
    return {"zeta-user-info": text if padded else text.rstrip("=")}


def _egk(**options: Any) -> SimulatedEgk:
    return SimulatedEgk(PKI, options.pop("insured", KRIEMHILD), issuer=options.pop("issuer", EGK_CA), **options)


@pytest.fixture
async def service() -> AsyncIterator[PoppService]:
    async with PoppService(SIGNER, [EGK_CA.certificate], issuer=ISSUER) as running:
        yield running


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def _token(
    service: PoppService,
    http: aiohttp.ClientSession,
    egk: SimulatedEgk,
    headers: dict[str, str] | None = None,
    **options: Any,
) -> str:
    async with http.ws_connect(service.url + TOKEN_GENERATION, headers=headers or _header(USER)) as socket:
        return await obtain_popp_token(socket, egk, patience=5, **options)


@pytest.mark.parametrize(
    ("connection", "proof_method"),
    [
        ("contact-standard", "ehc-practitioner-trustedchannel"),
        ("contactless-standard", "ehc-practitioner-cvc-authenticated"),
    ],
)
async def test_a_card_gives_a_token_for_the_institution_that_the_guard_named(
    service: PoppService, http: aiohttp.ClientSession, connection: Any, proof_method: str
) -> None:
    messages: list[tuple[str, JsonValue]] = []
    token = await _token(
        service,
        http,
        _egk(insured=DOERTHE),
        card_connection=connection,
        on_message=lambda way, message: messages.append((way, message.get("type"))),
    )
    # PyJWT is the other opinion about our own signatures.
    claims = jwt.decode(
        token, SIGNER.private_key.public_key(), algorithms=["ES256"], options={"verify_iat": False}, issuer=ISSUER
    )
    assert jwt.get_unverified_header(token) == {
        "alg": "ES256",
        "typ": "vnd.telematik.popp+jwt",
        "kid": service.issuer.kid,
    }
    assert {name: claims[name] for name in ("version", "proofMethod", "patientId", "insurerId", "actorId")} == {
        "version": "1.0.0",
        "proofMethod": proof_method,
        "patientId": DOERTHE.kvnr,
        "insurerId": DOERTHE.insurer_id,
        "actorId": "1-2012345678",
    }
    assert claims["actorProfessionOid"] == "1.2.276.0.76.4.50"
    assert claims["patientProofTime"] <= claims["iat"]
    assert not {"exp", "aud", "jti", "cnf"} & claims.keys()
    assert messages[0] == (">", "Start")
    assert messages[-1] == ("<", "Token")


async def test_scenarios_count_from_zero_and_the_last_one_has_no_time_span() -> None:
    conversation = _conversation()
    egk = _egk()
    message = conversation.receive(json.dumps(_start()))
    counters, spans = [], []
    while message["type"] == "StandardScenario":
        counters.append(message["sequenceCounter"])
        spans.append(message["timeSpan"])
        assert message["clientSessionId"] == "session-1"
        steps: Any = message["steps"]
        answers = [egk.transmit(bytes.fromhex(step["commandApdu"])).hex() for step in steps]
        message = conversation.receive(json.dumps({"type": "ScenarioResponse", "steps": answers}))
    assert message["type"] == "Token"
    assert conversation.done
    assert counters == [0, 1, 2, 3]
    assert spans == [5000, 5000, 5000, 0]


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("url_safe", [True, False])
async def test_the_guards_header_is_read_in_every_base64_spelling(
    service: PoppService, http: aiohttp.ClientSession, padded: bool, url_safe: bool
) -> None:
    assert await _token(service, http, _egk(), _header(USER, padded=padded, url_safe=url_safe))


async def test_without_the_guards_header_there_is_no_token_and_no_default_actor(
    service: PoppService, http: aiohttp.ClientSession
) -> None:
    with pytest.raises(PoppRefused, match="79206"):
        await _token(service, http, _egk(), {"X-Other": "1"})


@pytest.mark.parametrize(
    "value", ["", "%%%", "e30", base64.b64encode(b"[]").decode(), base64.b64encode(b"\xff").decode()]
)
async def test_a_malformed_header_is_refused(service: PoppService, http: aiohttp.ClientSession, value: str) -> None:
    with pytest.raises(PoppRefused, match="79401"):
        await _token(service, http, _egk(), {"zeta-user-info": value})


@pytest.mark.parametrize(
    ("status_words", "code"),
    [
        ({"00a4040c07": "6a82"}, "ErrorEgkHandling"),
        ({"00b086": "6a82"}, "ErrorEgkHandling"),
        ({"10860000": "6985"}, "ErrorEgkHandling"),
        ({"00b084": "6282"}, "ErrorEgkHandling"),
    ],
)
async def test_an_unexpected_status_word_ends_the_conversation(
    service: PoppService, http: aiohttp.ClientSession, status_words: dict[str, str], code: str
) -> None:
    with pytest.raises(PoppRefused) as refused:
        await _token(service, http, _egk(status_words=status_words))
    assert refused.value.code == code


async def test_an_old_card_a_foreign_card_and_an_expired_card_are_blocked(
    service: PoppService, http: aiohttp.ClientSession
) -> None:
    foreign = egk_authority(DemoPki())
    for egk in (_egk(version="030000"), _egk(issuer=foreign), _egk(not_after=PKI.now - 60)):
        with pytest.raises(PoppRefused, match="ErrorEgkBlocked"):
            await _token(service, http, egk)


def _conversation() -> Conversation:
    issuer = PoppIssuer(ISSUER, SIGNER)
    return Conversation(Actor("1-2", "1.2.276.0.76.4.50"), issuer, [EGK_CA.certificate], PKI.now)


def _start(**changes: JsonValue) -> dict[str, JsonValue]:
    return {
        "type": "Start",
        "version": "1.0.0",
        "cardConnectionType": "contact-standard",
        "clientSessionId": "session-1",
        **changes,
    }


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (_start(version="2.0.0"), "InvalidMessage"),
        (_start(clientSessionId=None), "InvalidMessage"),
        (_start(cardConnectionType="telepathy"), "InvalidMessage"),
        (_start(cardConnectionType="contact-connector"), "UnsupportedWorkflow"),
        ({"type": "ScenarioResponse", "steps": ["9000"]}, "InvalidMessage"),
        ({"type": "Other"}, "InvalidMessage"),
    ],
)
def test_a_wrong_first_message_is_refused(message: dict[str, JsonValue], code: str) -> None:
    conversation = _conversation()
    answer = conversation.receive(json.dumps(message))
    assert (answer["type"], answer["errorCode"]) == ("Error", code)
    assert conversation.done


def test_a_second_start_is_refused() -> None:
    conversation = _conversation()
    assert conversation.receive(json.dumps(_start()))["type"] == "StandardScenario"
    assert conversation.receive(json.dumps(_start()))["errorCode"] == "InvalidMessage"


def test_too_few_responses_are_an_internal_error_as_in_the_sample_service() -> None:
    conversation = _conversation()
    conversation.receive(json.dumps(_start()))
    assert conversation.receive('{"type":"ScenarioResponse","steps":["9000"]}')["errorCode"] == "79100"


@given(st.text() | st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_garbage_is_an_invalid_message_and_never_an_exception(text: str) -> None:
    assert _conversation().receive(text)["type"] == "Error"


@given(st.lists(st.binary(max_size=40).map(bytes.hex) | st.text(max_size=8), max_size=5))
def test_garbage_from_a_card_is_an_error_and_never_an_exception(steps: list[str]) -> None:
    conversation = _conversation()
    conversation.receive(json.dumps(_start()))
    assert conversation.receive(json.dumps({"type": "ScenarioResponse", "steps": steps}))["type"] in (
        "Error",
        "StandardScenario",
    )


@given(st.binary(max_size=64))
def test_tlv_is_read_or_refused(raw: bytes) -> None:
    try:
        list(objects(raw))
    except ValueError:
        return


def test_tlv_objects_are_found_by_their_path() -> None:
    raw = tlv(0x7F21, tlv(0x7F4E, tlv(0x42, b"car"), tlv(0x5F20, bytes(200))))
    assert find(raw, 0x7F21, 0x7F4E, 0x42) == b"car"
    assert find(raw, 0x7F21, 0x7F4E, 0x5F20) == bytes(200)
    with pytest.raises(ValueError, match="no object"):
        find(raw, 0x7F21, 0x42)


async def test_the_documents_lead_from_the_pinned_key_to_the_token_key(
    service: PoppService, http: aiohttp.ClientSession
) -> None:
    entity_key = service.issuer.entity_key.public_key()
    async with http.get(service.url + FEDERATION) as answer:
        assert answer.headers["Content-Type"] == "application/entity-statement+jwt; charset=utf-8"
        statement = jwt.decode(await answer.text(), entity_key, algorithms=["ES256"])
    assert statement["iss"] == statement["sub"] == ISSUER
    assert statement["exp"] - statement["iat"] == 86_400
    assert statement["jwks"]["keys"][0]["kid"] == service.issuer.entity_key_thumbprint
    async with http.get(statement["metadata"]["oauth_resource"]["signed_jwks_uri"]) as answer:
        assert answer.headers["Content-Type"] == "application/jwk-set+jwt; charset=utf-8"
        text = await answer.text()
    assert jwt.get_unverified_header(text)["typ"] == "jwk-set+jwt"
    keys = jwt.decode(text, entity_key, algorithms=["ES256"])["keys"]
    assert [key["kid"] for key in keys] == [service.issuer.kid]
    assert base64.b64decode(keys[0]["x5c"][0]) == SIGNER.der
    assert service.fetched == [FEDERATION, SIGNED_JWKS]


async def test_a_rotated_key_stays_published_and_documents_can_be_taken_away(
    service: PoppService, http: aiohttp.ClientSession
) -> None:
    old = service.issuer.kid
    service.issuer.rotate(PKI.issue_popp_signer())
    async with http.get(service.url + "/jwks.json") as answer:
        assert [key["kid"] for key in (await answer.json())["keys"]] == [service.issuer.kid, old]
    service.document_status = 500
    async with http.get(service.url + FEDERATION) as answer:
        assert answer.status == 500


@pytest.mark.parametrize("path", [FEDERATION, SIGNED_JWKS, "/jwks.json"])
async def test_a_document_that_has_not_changed_is_answered_304(
    service: PoppService, http: aiohttp.ClientSession, path: str
) -> None:
    async with http.get(service.url + path) as answer:
        tag = answer.headers["ETag"]
    async with http.get(service.url + path, headers={"If-None-Match": tag}) as answer:
        assert (answer.status, await answer.read()) == (304, b"")
    service.issuer.rotate(PKI.issue_popp_signer())
    async with http.get(service.url + path, headers={"If-None-Match": tag}) as answer:
        assert answer.status == 200
        assert answer.headers["ETag"] != tag


async def test_the_token_generator_of_the_test_environments_is_there(
    service: PoppService, http: aiohttp.ClientSession
) -> None:
    wanted = {
        "patientId": "X1",
        "insurerId": "109500969",
        "actorId": "1-9",
        "actorProfessionOid": "1.2.276.0.76.4.51",
        "iat": 7,
    }
    async with http.post(service.url + GENERATOR, json={"tokenParamsList": [wanted]}) as answer:
        token = (await answer.json())["tokenResults"][0]
    assert jwt.decode(token, options={"verify_signature": False})["iat"] == 7
    async with http.post(service.url + GENERATOR, json={"tokenParamsList": [{}]}) as answer:
        assert answer.status == 400


def test_tokens_can_be_forged_one_thing_at_a_time() -> None:
    issuer = PoppIssuer(ISSUER, SIGNER)
    context = CareContext("X110639491", "109500969", "1-2", "1.2.276.0.76.4.50")
    other = ec.generate_private_key(ec.SECP256R1())
    token = issuer.mint(context, header={"kid": "other"}, claims={"iat": "text"}, omit=["version"], key=other)
    claims = jwt.decode(token, options={"verify_signature": False})
    assert jwt.get_unverified_header(token)["kid"] == "other"
    assert claims["iat"] == "text"
    assert "version" not in claims


async def test_it_can_refuse_the_upgrade_with_the_proxy_as_cause(
    service: PoppService, http: aiohttp.ClientSession
) -> None:
    service.fault = "proxy"
    with pytest.raises(aiohttp.WSServerHandshakeError) as error:
        await http.ws_connect(service.url + "/ws", headers=_header(USER))
    assert error.value.status == 400
    assert error.value.headers is not None
    assert error.value.headers["zeta-cause"] == "Proxy"


async def test_it_can_hang_up_and_never_send_the_token(service: PoppService, http: aiohttp.ClientSession) -> None:
    service.fault = "abrupt_close"
    with pytest.raises(PoppRefused, match="socket closed"):
        await _token(service, http, _egk())
    service.fault = "no_token"
    with pytest.raises(PoppRefused, match="no answer"):
        async with http.ws_connect(service.url + TOKEN_GENERATION, headers=_header(USER)) as socket:
            await obtain_popp_token(socket, _egk(), patience=0.2)


async def test_a_binary_frame_is_an_invalid_message(service: PoppService, http: aiohttp.ClientSession) -> None:
    async with http.ws_connect(service.url + TOKEN_GENERATION, headers=_header(USER)) as socket:
        await socket.send_bytes(b"\0")
        assert (await socket.receive_json())["errorCode"] == "InvalidMessage"


async def test_closing_the_service_closes_open_sockets_with_going_away(http: aiohttp.ClientSession) -> None:
    service = PoppService(SIGNER, [EGK_CA.certificate])
    await service.start()
    assert service.issuer.issuer == service.url
    socket = await http.ws_connect(service.url + TOKEN_GENERATION, headers=_header(USER))
    closing = socket.receive()
    await service.close()
    assert (await closing).data == 1001
    await socket.close()
