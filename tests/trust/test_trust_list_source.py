"""The trust list over time: refresh, the last good one, numbers that only rise."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.serialization import Encoding
from prometheus_client import CollectorRegistry

from zeta_guard.config.outbound import Outbound as OutboundConfig
from zeta_guard.config.trust import TrustListSource as TrustListConfig
from zeta_guard.errors import ConfigurationError, GuardError
from zeta_guard.http.outbound import Outbound, OutboundError
from zeta_guard.simulators.pki import DAY, DemoPki
from zeta_guard.simulators.trust_list import demo_content, list_document, sign_list, trust_list
from zeta_guard.trust.anchors import TrustAnchors
from zeta_guard.trust.metrics import TrustMetrics
from zeta_guard.trust.trust_list_signature import TrustListError
from zeta_guard.trust.trust_list_source import FILE_PAUSE, RETRY_PAUSE, TrustListSource

SMCB_AUT = ["1.2.276.0.76.4.77"]


@dataclass
class Download:
    """Serves a list over HTTP, with an entity tag, or fails."""

    body: bytes = b""
    status: int = 200
    etag: str = '"1"'
    asked: list[str | None] = field(default_factory=list)
    url: str = ""

    async def handle(self, request: web.Request) -> web.Response:
        presented = request.headers.get("If-None-Match")
        self.asked.append(presented)
        if self.status == 200 and presented == self.etag:
            return web.Response(status=304)
        return web.Response(status=self.status, body=self.body, headers={"ETag": self.etag})


@dataclass
class Workshop:
    """Makes sources that share a folder."""

    pki: DemoPki
    folder: Path
    outbound: Outbound
    alarms: list[str] = field(default_factory=list)
    metrics: TrustMetrics = field(default_factory=lambda: TrustMetrics(CollectorRegistry()))

    @property
    def file(self) -> Path:
        return self.folder / "tsl.xml"

    @property
    def state(self) -> Path:
        return self.folder / "state.xml"

    def publish(self, sequence: int, *, next_update: float | None = None) -> bytes:
        raw = trust_list(self.pki, sequence=sequence, next_update=next_update)
        self.file.write_bytes(raw)
        return raw

    def source(self, admit: Callable[[TrustAnchors], None] = lambda anchors: None, **changes: Any) -> TrustListSource:
        anchor = self.folder / "tsl-ca.der"
        anchor.write_bytes(self.pki.tsl_ca.certificate.public_bytes(Encoding.DER))
        document: dict[str, Any] = {"anchors": [anchor]} | changes
        if "url" not in document:
            document.setdefault("file", self.file)
        return TrustListSource(
            TrustListConfig.model_validate(document),
            SMCB_AUT,
            self.outbound,
            self.metrics,
            admit=admit,
            alarm=self.alarms.append,
        )


@pytest.fixture
async def workshop(pki: DemoPki, tmp_path: Path) -> AsyncIterator[Workshop]:
    outbound = Outbound(OutboundConfig())
    yield Workshop(pki, tmp_path, outbound)
    await outbound.close()


@pytest.fixture
async def download() -> AsyncIterator[Download]:
    served = Download()
    application = web.Application()
    application.router.add_get("/tsl.xml", served.handle)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    served.url = f"http://127.0.0.1:{runner.addresses[0][1]}/tsl.xml"
    yield served
    await runner.cleanup()


def sequence(source: TrustListSource) -> int:
    assert source.current is not None
    return source.current.sequence


async def test_the_list_is_read_from_a_file_and_again_when_it_changes(workshop: Workshop, pki: DemoPki) -> None:
    workshop.publish(1)
    source = workshop.source()
    assert (await source.start(now=pki.now)).authority_count == 1
    assert await source.refresh(now=pki.now) is None
    workshop.publish(2)
    assert await source.refresh(now=pki.now) is not None
    assert sequence(source) == 2


async def test_the_same_bytes_written_again_change_nothing(workshop: Workshop, pki: DemoPki) -> None:
    raw = workshop.publish(1)
    source = workshop.source()
    await source.start(now=pki.now)
    workshop.file.unlink()
    workshop.file.write_bytes(raw)
    assert await source.refresh(now=pki.now) is None
    assert workshop.alarms == []


async def test_a_lower_number_is_refused_and_alarms(workshop: Workshop, pki: DemoPki) -> None:
    workshop.publish(5)
    source = workshop.source()
    await source.start(now=pki.now)
    workshop.publish(4)
    with pytest.raises(TrustListError, match="sequence number 4, 5 was seen before"):
        await source.refresh(now=pki.now)
    assert sequence(source) == 5
    assert workshop.alarms == ["sequence_lower"]


async def test_the_same_number_with_other_content_is_refused_and_alarms(workshop: Workshop, pki: DemoPki) -> None:
    workshop.publish(5)
    source = workshop.source()
    await source.start(now=pki.now)
    workshop.publish(5, next_update=pki.now + 99 * DAY)
    with pytest.raises(TrustListError, match="other content"):
        await source.refresh(now=pki.now)
    assert source.current is not None
    assert source.current.next_update == pki.now + 30 * DAY
    assert workshop.alarms == ["sequence_same_other_content"]


async def test_a_forged_list_is_refused_alarms_and_the_old_one_stays(workshop: Workshop, pki: DemoPki) -> None:
    workshop.publish(1)
    source = workshop.source()
    await source.start(now=pki.now)
    forged = sign_list(list_document(demo_content(pki, sequence=2)), pki.foreign_ca)
    workshop.file.write_bytes(forged)
    with pytest.raises(TrustListError):
        await source.refresh(now=pki.now)
    assert sequence(source) == 1
    assert workshop.alarms == ["signer"]


async def test_garbage_in_the_file_is_refused_without_alarm(workshop: Workshop, pki: DemoPki) -> None:
    workshop.publish(1)
    source = workshop.source()
    await source.start(now=pki.now)
    workshop.file.write_bytes(b"<html>")
    with pytest.raises(TrustListError, match="well-formed"):
        await source.refresh(now=pki.now)
    assert workshop.alarms == []


# state file


async def test_the_highest_number_survives_a_restart(workshop: Workshop, pki: DemoPki) -> None:
    workshop.publish(5)
    await workshop.source(state_file=workshop.state).start(now=pki.now)
    workshop.publish(4)
    restarted = workshop.source(state_file=workshop.state)
    await restarted.start(now=pki.now)
    assert sequence(restarted) == 5
    assert workshop.alarms == ["sequence_lower"]


async def test_without_a_state_file_nothing_is_remembered(workshop: Workshop, pki: DemoPki) -> None:
    workshop.publish(5)
    await workshop.source().start(now=pki.now)
    workshop.publish(4)
    restarted = workshop.source()
    await restarted.start(now=pki.now)
    assert sequence(restarted) == 4


async def test_the_last_good_list_starts_a_guard_whose_source_is_away(workshop: Workshop, pki: DemoPki) -> None:
    raw = workshop.publish(5)
    await workshop.source(state_file=workshop.state).start(now=pki.now)
    assert workshop.state.read_bytes() == raw
    workshop.file.unlink()
    restarted = workshop.source(state_file=workshop.state)
    await restarted.start(now=pki.now)
    assert sequence(restarted) == 5


async def test_a_newer_list_replaces_the_kept_one(workshop: Workshop, pki: DemoPki) -> None:
    workshop.publish(5)
    await workshop.source(state_file=workshop.state).start(now=pki.now)
    raw = workshop.publish(6)
    restarted = workshop.source(state_file=workshop.state)
    await restarted.start(now=pki.now)
    assert sequence(restarted) == 6
    assert workshop.state.read_bytes() == raw


@pytest.mark.parametrize("content", [b"", b"garbage", b"<a/>"])
async def test_a_broken_state_file_is_passed_over(workshop: Workshop, pki: DemoPki, content: bytes) -> None:
    workshop.publish(3)
    workshop.state.write_bytes(content)
    source = workshop.source(state_file=workshop.state)
    await source.start(now=pki.now)
    assert sequence(source) == 3


async def test_a_state_file_that_cannot_be_read_is_a_mistake_and_not_passed_over(
    workshop: Workshop, pki: DemoPki
) -> None:
    workshop.publish(3)
    workshop.state.mkdir()
    with pytest.raises(ConfigurationError) as caught:
        await workshop.source(state_file=workshop.state).start(now=pki.now)
    assert caught.value.path == "trust.tsl.state_file"


async def test_a_forged_state_file_is_not_believed(workshop: Workshop, pki: DemoPki) -> None:
    workshop.publish(3)
    workshop.state.write_bytes(sign_list(list_document(demo_content(pki, sequence=9)), pki.foreign_ca))
    source = workshop.source(state_file=workshop.state)
    await source.start(now=pki.now)
    assert sequence(source) == 3


async def test_a_state_file_that_cannot_be_written_costs_nothing_but_the_memory(
    workshop: Workshop, pki: DemoPki, tmp_path: Path
) -> None:
    workshop.publish(3)
    source = workshop.source(state_file=tmp_path / "absent" / "state.xml")
    assert (await source.start(now=pki.now)).authority_count == 1


# start


async def test_nothing_usable_at_start_is_a_mistake_in_the_configuration(workshop: Workshop, pki: DemoPki) -> None:
    with pytest.raises(ConfigurationError) as caught:
        await workshop.source().start(now=pki.now)
    assert caught.value.path == "trust.tsl"


async def test_pinned_signers_must_be_readable(workshop: Workshop, pki: DemoPki, tmp_path: Path) -> None:
    workshop.publish(1)
    with pytest.raises(ConfigurationError) as caught:
        await workshop.source(anchors=[tmp_path / "absent.pem"]).start(now=pki.now)
    assert caught.value.path == "trust.tsl.anchors"


async def test_what_is_not_admitted_is_not_taken(workshop: Workshop, pki: DemoPki) -> None:
    def refuse(anchors: TrustAnchors) -> None:
        raise GuardError("not these")

    workshop.publish(1)
    source = workshop.source(admit=refuse, state_file=workshop.state)
    with pytest.raises(ConfigurationError, match="not these"):
        await source.start(now=pki.now)
    assert source.current is None
    assert not workshop.state.exists()


# download


async def test_the_list_is_fetched_with_its_entity_tag(workshop: Workshop, pki: DemoPki, download: Download) -> None:
    download.body = trust_list(pki, sequence=1)
    source = workshop.source(url=download.url)
    await source.start(now=pki.now)
    assert await source.refresh(now=pki.now) is None
    assert download.asked == [None, '"1"']
    download.body, download.etag = trust_list(pki, sequence=2), '"2"'
    assert await source.refresh(now=pki.now) is not None
    assert sequence(source) == 2


async def test_not_modified_at_start_is_no_list(workshop: Workshop, pki: DemoPki, download: Download) -> None:
    download.status = 304
    with pytest.raises(ConfigurationError, match="no trust list"):
        await workshop.source(url=download.url).start(now=pki.now)


async def test_a_refused_download_is_asked_for_in_full_again(
    workshop: Workshop, pki: DemoPki, download: Download
) -> None:
    download.body = trust_list(pki, sequence=2)
    source = workshop.source(url=download.url)
    await source.start(now=pki.now)
    download.body, download.etag = trust_list(pki, sequence=1), '"old"'
    with pytest.raises(TrustListError):
        await source.refresh(now=pki.now)
    with pytest.raises(TrustListError):
        await source.refresh(now=pki.now)
    assert download.asked[-1] is None


@pytest.mark.parametrize("status", [404, 500, 302])
async def test_a_failing_download_keeps_the_old_list_and_is_tried_again_soon(
    workshop: Workshop, pki: DemoPki, download: Download, status: int
) -> None:
    download.body = trust_list(pki, sequence=1)
    source = workshop.source(url=download.url, refresh=86_400)
    await source.start(now=pki.now)
    assert source.pause == 86_400
    download.status = status
    with pytest.raises(OutboundError):
        await source.refresh(now=pki.now)
    assert sequence(source) == 1
    assert source.pause == RETRY_PAUSE
    download.status = 200
    await source.refresh(now=pki.now)
    assert source.pause == 86_400


async def test_a_file_is_looked_at_every_few_seconds(workshop: Workshop) -> None:
    assert workshop.source(refresh=86_400).pause == FILE_PAUSE
