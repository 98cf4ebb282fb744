"""The claim of a gateway is packed by hand; Redis must see what the library would have sent."""

from __future__ import annotations

import hiredis
import pytest

from zeta_guard.config.store import RedisStore as RedisStoreConfig
from zeta_guard.store.contract import Claim
from zeta_guard.store.redis_replay import RedisReplayStore
from zeta_guard.store.redis_scripts import CLAIM


@pytest.mark.parametrize("subjects", [(), ("session:a",), ("session:a", "client:b", "product:ä", "institution:c")])
def test_the_packed_claim_is_the_command_word_by_word(subjects: tuple[str, ...]) -> None:
    store = RedisReplayStore(RedisStoreConfig(kind="redis", url="redis://127.0.0.1:1/0"), clock=lambda: 1_800_000_000.0)
    store._epoch_value = b"identity|1800000000.000000|server"
    for second in (1_800_000_001, 1_800_000_002):
        claim = Claim(bytes(range(32)), 1_800_000_000.0, 136)
        packed = store._claim_call((claim,), subjects, "01OWNER", b"\r\n" * 16, second + 0.5)

        reader = hiredis.Reader()
        reader.feed(packed)
        words = reader.gets()
        assert words == [
            b"EVALSHA",
            CLAIM.sha.encode(),
            b"2",
            store._epoch_key,
            store._claim_prefix + claim.key,
            store._epoch_value,
            b"%d" % second,
            b"01OWNER",
            b"\r\n" * 16,
            b"136",
            store._blocks_key,
            store._returned_key,
            *(subject.encode() for subject in subjects),
        ]
        assert reader.gets() is False
