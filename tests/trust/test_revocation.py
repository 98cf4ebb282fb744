"""Revocation against a responder that really answers: three outcomes, three modes, one cache, nobody blocks anybody."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives import serialization

from zeta_guard.errors import ZetaError
from zeta_guard.simulators.card import Card
from zeta_guard.simulators.ocsp_responder import CardState
from zeta_guard.simulators.pki import FOREIGN_PROVIDER, PROVIDER
from zeta_guard.simulators.trust_list import Provider, demo_content, list_document, sign_list, trust_list
from zeta_guard.trust.revocation import QUESTIONS_PER_HOST, UNKNOWN_SECONDS
from zeta_guard.trust.service import TrustService

if TYPE_CHECKING:
    from tests.trust.conftest import TrustStand

MISBEHAVIOUR = [
    CardState.SILENT,
    CardState.GARBAGE,
    CardState.EMPTY,
    CardState.HUGE,
    CardState.HTTP_ERROR,
    CardState.REDIRECT,
    CardState.TRY_LATER,
    CardState.WRONG_SERIAL,
    CardState.EXPIRED,
    CardState.FUTURE,
    CardState.FOREIGN_SIGNER,
    CardState.BAD_SIGNATURE,
    CardState.WRONG_NONCE,
]


async def refusal(stand: TrustStand, service: TrustService, card: Card) -> ZetaError:
    with pytest.raises(ZetaError) as caught:
        await stand.check(service, card)
    return caught.value


async def assert_unavailable(stand: TrustStand, service: TrustService, card: Card) -> None:
    error = await refusal(stand, service, card)
    assert (error.code, error.status, error.stage) == ("temporarily_unavailable", 503, "ocsp_unavailable")
    assert error.headers["Retry-After"].isdigit()


# outcomes


@pytest.mark.parametrize("mode", ["require", "allow-cached"])
async def test_a_good_certificate_is_proven(stand: TrustStand, mode: str) -> None:
    service = await stand.service(mode=mode)
    card = stand.card()
    identity = await stand.check(service, card)
    assert identity.certificate.telematik_id == "1-2-ARZT-WIRTH01"
    assert identity.issuer == stand.pki.smcb_ca.certificate
    assert identity.ocsp_checked_at == stand.clock.now
    assert stand.sample(service, "zeta_guard_ocsp_outcomes_total", outcome="good", source="responder", reason="") == 1


@pytest.mark.parametrize("mode", ["require", "allow-cached"])
@pytest.mark.parametrize("state", [CardState.REVOKED, CardState.UNKNOWN, CardState.WRONG_CERT_HASH])
async def test_a_refused_certificate_is_an_invalid_grant(stand: TrustStand, mode: str, state: CardState) -> None:
    service = await stand.service(mode=mode)
    card = stand.card()
    stand.responder.set_state(card, state)
    error = await refusal(stand, service, card)
    assert (error.code, error.status) == ("invalid_grant", 400)
    assert error.stage == f"ocsp_{'cert_hash' if state is CardState.WRONG_CERT_HASH else state.value}"


@pytest.mark.parametrize("mode", ["require", "allow-cached"])
@pytest.mark.parametrize("state", MISBEHAVIOUR)
async def test_a_responder_that_misbehaves_is_unavailable_and_never_good(
    stand: TrustStand, mode: str, state: CardState
) -> None:
    service = await stand.service(mode=mode, timeout_ms=150)
    card = stand.card()
    stand.responder.set_state(card, state)
    await assert_unavailable(stand, service, card)
    assert stand.responder.followed == 0
    # Nothing of it stays: the next answer counts.
    stand.responder.set_state(card, CardState.GOOD)
    assert await stand.check(service, card)


async def test_a_dead_responder_is_unavailable(stand: TrustStand) -> None:
    service = await stand.service()
    card = stand.card()
    await stand.responder.close()
    await assert_unavailable(stand, service, card)


async def test_a_certificate_without_responder_is_unavailable(stand: TrustStand) -> None:
    service = await stand.service()
    await assert_unavailable(stand, service, stand.card(ocsp_url=""))


async def test_mode_ignore_asks_nobody(stand: TrustStand) -> None:
    service = await stand.service(mode="ignore", hosts=[])
    card = stand.card()
    stand.responder.set_state(card, CardState.REVOKED)
    assert (await stand.check(service, card)).ocsp_checked_at == 0
    assert stand.responder.asked == 0
    assert stand.sample(service, "zeta_guard_trust_unsafe_ratio", setting="ocsp_ignore") == 1


# addresses


async def test_a_host_that_nobody_listed_is_not_asked(stand: TrustStand) -> None:
    service = await stand.service(hosts=["ocsp.example"])
    await assert_unavailable(stand, service, stand.card())
    assert stand.responder.asked == 0


async def test_another_port_of_a_listed_host_and_port_is_not_asked(stand: TrustStand) -> None:
    service = await stand.service(hosts=["127.0.0.1:1"])
    await assert_unavailable(stand, service, stand.card())
    assert stand.responder.asked == 0


async def test_a_host_may_be_listed_without_port(stand: TrustStand) -> None:
    service = await stand.service(hosts=["127.0.0.1"])
    assert await stand.check(service, stand.card())


async def test_a_private_address_is_not_asked_unless_configured(stand: TrustStand) -> None:
    service = await stand.service(private_addresses=False)
    await assert_unavailable(stand, service, stand.card())
    assert stand.responder.asked == 0


async def test_a_foreign_certificate_makes_nobody_fetch_anything(stand: TrustStand) -> None:
    service = await stand.service()
    error = await refusal(stand, service, stand.card(issuer=stand.pki.foreign_ca))
    assert error.stage == "certificate_chain"
    assert stand.responder.asked == 0


# cache


async def test_an_answer_serves_until_its_next_update_in_every_process(stand: TrustStand) -> None:
    first, second = await stand.service(), await stand.service()
    card = stand.card()
    await stand.check(first, card)
    stand.clock.now += 3600 + 37
    await stand.check(first, card)
    assert (await stand.check(second, card)).ocsp_checked_at == stand.clock.now - 3637
    assert stand.responder.asked == 1
    stand.clock.now += 1
    await stand.check(first, card)
    assert stand.responder.asked == 2


async def test_an_answer_without_next_update_serves_for_the_longest_age(stand: TrustStand) -> None:
    stand.responder.valid_seconds = None
    service = await stand.service(max_age=100)
    card = stand.card()
    await stand.check(service, card)
    stand.clock.now += 137
    await stand.check(service, card)
    assert stand.responder.asked == 1
    stand.clock.now += 1
    await stand.check(service, card)
    assert stand.responder.asked == 2


async def test_the_longest_age_also_ends_an_answer_with_a_later_next_update(stand: TrustStand) -> None:
    stand.responder.valid_seconds = 100_000
    service = await stand.service(max_age=100)
    card = stand.card()
    await stand.check(service, card)
    stand.clock.now += 138
    await stand.check(service, card)
    assert stand.responder.asked == 2


async def test_a_refusal_is_cached_too(stand: TrustStand) -> None:
    service = await stand.service()
    card = stand.card()
    stand.responder.set_state(card, CardState.REVOKED)
    for _ in range(3):
        assert (await refusal(stand, service, card)).stage == "ocsp_revoked"
    assert stand.responder.asked == 1


async def test_an_unknown_certificate_is_asked_about_again_soon(stand: TrustStand) -> None:
    service = await stand.service()
    card = stand.card()
    stand.responder.set_state(card, CardState.UNKNOWN)
    await refusal(stand, service, card)
    stand.responder.set_state(card, CardState.GOOD)
    assert (await refusal(stand, service, card)).stage == "ocsp_unknown"
    stand.clock.now += UNKNOWN_SECONDS
    assert await stand.check(service, card)


async def test_garbage_in_the_shared_cache_is_passed_over_and_counted(stand: TrustStand) -> None:
    service = await stand.service()
    card = stand.card()
    identity = await stand.check(service, card)
    key = f"ocsp:good:{identity.certificate.fingerprint.hex()}"
    await stand.store.put_cached(key, b"garbage", ttl=1000, now=stand.clock.now)
    assert await stand.check(service, card)
    assert stand.responder.asked == 2
    assert stand.sample(service, "zeta_guard_ocsp_cached_unusable_total") == 1


async def test_a_cached_answer_of_another_certificate_is_not_taken(stand: TrustStand) -> None:
    service = await stand.service(timeout_ms=150)
    good, revoked = stand.card(), stand.card()
    stand.responder.set_state(revoked, CardState.REVOKED)
    mine = (await stand.check(service, good)).certificate
    await refusal(stand, service, revoked)
    raw = await stand.store.get_cached(f"ocsp:good:{mine.fingerprint.hex()}", now=stand.clock.now)
    assert raw is not None
    fingerprint = hashlib.sha256(revoked.der).hexdigest()
    await stand.store.put_cached(f"ocsp:good:{fingerprint}", raw, ttl=1000, now=stand.clock.now)
    assert (await refusal(stand, service, revoked)).stage == "ocsp_revoked"


# when nobody answers


async def test_the_last_good_answer_helps_over_an_outage_for_a_while(stand: TrustStand) -> None:
    service = await stand.service(mode="allow-cached", cached_age=7200, timeout_ms=150)
    card = stand.card()
    checked_at = (await stand.check(service, card)).ocsp_checked_at
    stand.responder.set_state(card, CardState.SILENT)
    stand.clock.now += 7200
    assert (await stand.check(service, card)).ocsp_checked_at == checked_at
    stand.clock.now += 38
    await assert_unavailable(stand, service, card)


async def test_mode_require_knows_no_last_good_answer(stand: TrustStand) -> None:
    service = await stand.service(mode="require", cached_age=7200, timeout_ms=150)
    card = stand.card()
    await stand.check(service, card)
    stand.responder.set_state(card, CardState.SILENT)
    stand.clock.now += 3600
    assert await stand.check(service, card)
    stand.clock.now += 38
    await assert_unavailable(stand, service, card)


async def test_a_known_revocation_survives_an_outage(stand: TrustStand) -> None:
    service = await stand.service(timeout_ms=150)
    card = stand.card()
    await stand.check(service, card)
    stand.clock.now += 3700
    stand.responder.set_state(card, CardState.REVOKED)
    await refusal(stand, service, card)
    stand.responder.set_state(card, CardState.SILENT)
    stand.clock.now += 3700
    assert (await refusal(stand, service, card)).stage == "ocsp_revoked"


async def test_an_unknown_certificate_during_an_outage_is_unavailable_and_not_good(stand: TrustStand) -> None:
    service = await stand.service(timeout_ms=150)
    card = stand.card()
    await stand.check(service, card)
    stand.clock.now += 3700
    stand.responder.set_state(card, CardState.UNKNOWN)
    await refusal(stand, service, card)
    stand.responder.set_state(card, CardState.SILENT)
    stand.clock.now += UNKNOWN_SECONDS
    await assert_unavailable(stand, service, card)


async def test_an_older_good_answer_never_replaces_a_later_refusal(stand: TrustStand) -> None:
    first, second = await stand.service(), await stand.service()
    card = stand.card()
    stand.responder.set_state(card, CardState.REVOKED)
    await refusal(stand, first, card)
    # Whoever sits on the wire replays what the responder said ten minutes before.
    stand.clock.now += 3640
    stand.responder.set_state(card, CardState.GOOD)
    stand.responder.valid_seconds = 86_400
    stand.responder.lag = 3640 + 600
    assert (await refusal(stand, first, card)).stage == "ocsp_revoked"
    assert (await refusal(stand, second, card)).stage == "ocsp_revoked"
    # A good answer from after the refusal ends it (certificateHold).
    stand.responder.lag = 0
    assert await stand.check(second, card)
    assert await stand.check(first, card)


# nobody blocks anybody


async def test_many_requests_for_one_certificate_are_one_question(stand: TrustStand) -> None:
    service = await stand.service()
    card = stand.card()
    stand.responder.set_state(card, CardState.SLOW)
    stand.responder.slow_seconds = 0.1
    identities = await asyncio.gather(*(stand.check(service, card) for _ in range(50)))
    assert len(identities) == 50
    assert stand.responder.asked == 1


async def test_silence_about_some_certificates_delays_no_other(stand: TrustStand) -> None:
    service = await stand.service(timeout_ms=5000)
    silent = [stand.card() for _ in range(QUESTIONS_PER_HOST - 1)]
    for card in silent:
        stand.responder.set_state(card, CardState.SILENT)
    waiting = [asyncio.create_task(stand.check(service, card)) for card in silent]
    await stand.responder.wait_for(len(silent))
    began = time.perf_counter()
    assert await stand.check(service, stand.card())
    assert time.perf_counter() - began < 1.0
    assert not any(task.done() for task in waiting)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_everybody_is_answered_within_the_time_limit_even_behind_a_silent_host(stand: TrustStand) -> None:
    service = await stand.service(timeout_ms=200)
    cards = [stand.card() for _ in range(QUESTIONS_PER_HOST * 3)]
    for card in cards:
        stand.responder.set_state(card, CardState.SILENT)
    began = time.perf_counter()
    outcomes = await asyncio.gather(*(stand.check(service, card) for card in cards), return_exceptions=True)
    assert time.perf_counter() - began < 2.0
    assert {type(outcome) for outcome in outcomes} == {ZetaError}
    assert stand.responder.asked < 2 * QUESTIONS_PER_HOST


async def test_the_loop_turns_while_a_responder_is_slow(stand: TrustStand) -> None:
    service = await stand.service()
    card = stand.card()
    stand.responder.set_state(card, CardState.SLOW)
    stand.responder.slow_seconds = 0.2
    check = asyncio.create_task(stand.check(service, card))
    longest = 0.0
    while not check.done():
        began = time.perf_counter()
        await asyncio.sleep(0)
        longest = max(longest, time.perf_counter() - began)
    assert longest < 0.15


async def test_a_caller_that_goes_away_does_not_take_the_answer_with_it(stand: TrustStand) -> None:
    service = await stand.service()
    card = stand.card()
    stand.responder.set_state(card, CardState.SLOW)
    stand.responder.slow_seconds = 0.1
    impatient = asyncio.create_task(stand.check(service, card))
    patient = asyncio.create_task(stand.check(service, card))
    await stand.responder.wait_for(1)
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    assert await patient
    assert stand.responder.asked == 1


async def test_closing_the_service_ends_questions_under_way(stand: TrustStand) -> None:
    service = await stand.service(timeout_ms=10_000)
    card = stand.card()
    stand.responder.set_state(card, CardState.SILENT)
    check = asyncio.create_task(stand.check(service, card))
    await stand.responder.wait_for(1)
    await service.close()
    with pytest.raises(ZetaError, match="cannot be checked now"):
        await check


# responders of the trust list


async def test_the_trust_list_names_responders_and_their_hosts(stand: TrustStand, tmp_path: Path) -> None:
    stand.responder.signer = "service"
    service = await stand.service(hosts=[], trust_tsl=tsl(stand, tmp_path, trust_list(stand.pki)))
    assert await stand.check(service, stand.card())


async def test_a_responder_of_another_provider_may_not_answer(stand: TrustStand, tmp_path: Path) -> None:
    stand.responder.signer = "service"
    content = demo_content(stand.pki)
    ca, responder = content.providers[0].services
    split = replace(content, providers=(Provider(PROVIDER, (ca,)), Provider(FOREIGN_PROVIDER, (responder,))))
    raw = sign_list(list_document(split), stand.pki.tsl_signer)
    service = await stand.service(hosts=[], trust_tsl=tsl(stand, tmp_path, raw))
    await assert_unavailable(stand, service, stand.card())
    assert stand.responder.asked == 1


async def test_a_responder_struck_off_the_list_loses_its_cached_answers_too(stand: TrustStand, tmp_path: Path) -> None:
    stand.responder.signer = "service"
    service = await stand.service(trust_tsl=tsl(stand, tmp_path, trust_list(stand.pki, sequence=1)))
    card = stand.card()
    await stand.check(service, card)
    content = demo_content(stand.pki, sequence=2)
    only_ca = replace(content, providers=(Provider(PROVIDER, content.providers[0].services[:1]),))
    tsl(stand, tmp_path, sign_list(list_document(only_ca), stand.pki.tsl_signer))
    await service.refresh()
    await assert_unavailable(stand, service, card)


def tsl(stand: TrustStand, folder: Path, raw: bytes) -> dict[str, object]:
    """Configuration of a trust list file."""
    (folder / "tsl.xml").write_bytes(raw)
    anchor = folder / "tsl-ca.pem"
    anchor.write_bytes(stand.pki.tsl_ca.certificate.public_bytes(serialization.Encoding.PEM))
    return {"file": folder / "tsl.xml", "anchors": [anchor]}


# traces


async def test_outcomes_are_logged_with_serial_number_and_provider_and_nothing_personal(
    stand: TrustStand, caplog: pytest.LogCaptureFixture
) -> None:
    service = await stand.service()
    card = stand.card(telematik_id="1-2-SEHR-PRIVAT", common_name="Praxis Sehr Privat")
    with caplog.at_level(logging.INFO, "zeta_guard.trust"):
        await stand.check(service, card)
    (record,) = [record for record in caplog.records if record.message == "ocsp_outcome"]
    fields = record.event_fields  # type: ignore[attr-defined]
    assert fields["serial"] == f"{card.certificate.serial_number:x}"
    assert fields["provider"] == PROVIDER
    assert fields["outcome"] == "good"
    assert "PRIVAT" not in str(fields).upper()
