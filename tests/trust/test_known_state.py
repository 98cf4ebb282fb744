"""What the cache alone says about a card: as much as a question would, and nothing when it does not suffice."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from zeta_guard.errors import ZetaError
from zeta_guard.simulators.card import Card
from zeta_guard.simulators.ocsp_responder import CardState
from zeta_guard.trust.contract import SmcbCertificate, SmcbIdentity
from zeta_guard.trust.service import TrustService

if TYPE_CHECKING:
    from tests.trust.conftest import TrustStand

LeafOf = Callable[[Card], SmcbCertificate]


async def cached(stand: TrustStand, service: TrustService, leaf: SmcbCertificate) -> dict[str, bytes]:
    """What stands in the store's cache."""
    found = {
        key: await stand.store.get_cached(key, now=stand.clock.now) for key in service.answer_keys(leaf.fingerprint)
    }
    return {key: value for key, value in found.items() if value is not None}


async def known(stand: TrustStand, service: TrustService, leaf: SmcbCertificate) -> SmcbIdentity | None:
    """What stands in the store's cache, judged without a question."""
    now = stand.clock.now
    return service.known_state(service.chain(leaf, now=now), await cached(stand, service, leaf), now=now)


async def test_an_empty_cache_says_nothing(stand: TrustStand, leaf_of: LeafOf) -> None:
    assert await known(stand, await stand.service(), leaf_of(stand.card())) is None
    assert stand.responder.asked == 0


async def test_a_fresh_answer_suffices_in_every_process_and_a_stale_one_does_not(
    stand: TrustStand, leaf_of: LeafOf
) -> None:
    card = stand.card()
    asked = await stand.check(await stand.service(max_age=60), card)
    for service in [await stand.service(max_age=60) for _ in range(2)]:
        found = await known(stand, service, leaf_of(card))
        assert found is not None
        assert found.certificate == asked.certificate
    service, leaf, now = await stand.service(max_age=60), leaf_of(card), stand.clock.now
    answers = await cached(stand, service, leaf)
    assert answers
    # A minute, and 37.5 s between two clocks.
    assert service.known_state(service.chain(leaf, now=now + 97), answers, now=now + 97) is not None
    assert service.known_state(service.chain(leaf, now=now + 98), answers, now=now + 98) is None
    assert stand.responder.asked == 1


@pytest.mark.parametrize("state", [CardState.REVOKED, CardState.UNKNOWN])
async def test_a_refusal_in_the_cache_is_a_refusal(stand: TrustStand, leaf_of: LeafOf, state: CardState) -> None:
    card, service = stand.card(), await stand.service()
    stand.responder.set_state(card, state)
    with pytest.raises(ZetaError, match="certificate"):
        await stand.check(service, card)
    with pytest.raises(ZetaError) as caught:
        await known(stand, service, leaf_of(card))
    assert (caught.value.code, stand.responder.asked) == ("invalid_grant", 1)


async def test_answers_of_another_card_and_garbage_say_nothing(stand: TrustStand, leaf_of: LeafOf) -> None:
    service = await stand.service()
    card, other = leaf_of(stand.card()), stand.card("1-2-OTHER")
    await stand.check(service, other)
    now = stand.clock.now
    (good, *_) = keys = service.answer_keys(card.fingerprint)
    for value in [
        b"garbage",
        b"",
        await stand.store.get_cached(service.answer_keys(leaf_of(other).fingerprint)[0], now=now) or b"",
    ]:
        assert service.known_state(service.chain(card, now=now), dict.fromkeys(keys, value), now=now) is None
        assert service.known_state(service.chain(card, now=now), {good: value}, now=now) is None
