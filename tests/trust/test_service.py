"""The trust service as the authorization server sees it: start, chain, readiness, reload, demo certificates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import serialization
from prometheus_client import CollectorRegistry

from zeta_guard.errors import ConfigurationError, ZetaError
from zeta_guard.simulators.card import Card
from zeta_guard.simulators.pki import DAY, DemoPki, LeafProfile
from zeta_guard.simulators.trust_list import REVOKED, Provider, demo_content, list_document, sign_list, trust_list
from zeta_guard.telemetry.security_events import SecurityEvents
from zeta_guard.trust.contract import SmcbCertificate, Trust
from zeta_guard.trust.demo_marker import bears_demo_marker
from zeta_guard.trust.service import TrustService

if TYPE_CHECKING:
    from tests.trust.conftest import TrustStand

LeafOf = Callable[[Card], SmcbCertificate]
PEM = serialization.Encoding.PEM


def tsl(stand: TrustStand, folder: Path, **changes: Any) -> dict[str, Any]:
    """A published trust list and the configuration that reads it."""
    (folder / "tsl.xml").write_bytes(trust_list(stand.pki, sequence=5))
    (folder / "tsl-ca.pem").write_bytes(stand.pki.tsl_ca.certificate.public_bytes(PEM))
    return {"file": folder / "tsl.xml", "anchors": [folder / "tsl-ca.pem"]} | changes


def refusal(service: TrustService, leaf: SmcbCertificate, now: float) -> ZetaError:
    with pytest.raises(ZetaError) as caught:
        service.chain(leaf, now=now)
    return caught.value


async def test_the_service_keeps_the_contract(stand: TrustStand) -> None:
    service: Trust = await stand.service()
    assert await service.readiness() is None


async def test_a_chained_leaf_names_its_issuer(stand: TrustStand, leaf_of: LeafOf) -> None:
    service = await stand.service()
    leaf = leaf_of(stand.card())
    for _ in range(2):
        chained = service.chain(leaf, now=stand.clock.now)
        assert (chained.certificate, chained.issuer) == (leaf, stand.pki.smcb_ca.certificate)


@pytest.mark.parametrize(
    ("case", "stage", "words"),
    [
        ("foreign", "certificate_chain", "issuer is not a trust anchor"),
        ("expired", "certificate_chain", "has expired"),
        ("early", "certificate_chain", "not valid yet"),
        ("policy", "certificate_policy", "lacks the policy"),
    ],
)
async def test_faults_of_the_chain_are_an_invalid_grant(
    stand: TrustStand, leaf_of: LeafOf, case: str, stage: str, words: str
) -> None:
    service = await stand.service()
    pki = stand.pki
    cards = {
        "foreign": lambda: stand.card(issuer=pki.foreign_ca),
        "expired": lambda: stand.card(not_after=pki.now - 1),
        "early": lambda: stand.card(not_before=pki.now + 1),
        "policy": lambda: stand.card(profile=LeafProfile(policies=("1.2.276.0.76.4.163",))),
    }
    error = refusal(service, leaf_of(cards[case]()), stand.clock.now)
    assert (error.code, error.status, error.stage) == ("invalid_grant", 400, stage)
    assert words in error.description
    assert "WIRTH" not in error.description


async def test_a_leaf_that_chained_before_is_still_held_to_its_dates(stand: TrustStand, leaf_of: LeafOf) -> None:
    service = await stand.service()
    leaf = leaf_of(stand.card(not_after=stand.clock.now + 10))
    service.chain(leaf, now=stand.clock.now + 10)
    assert "has expired" in refusal(service, leaf, stand.clock.now + 11).description


async def test_other_policies_can_be_configured(stand: TrustStand, leaf_of: LeafOf) -> None:
    service = await stand.service(trust_certificate_policies=["1.2.3", "1.2.4"])
    assert refusal(service, leaf_of(stand.card()), stand.clock.now).stage == "certificate_policy"
    service.chain(leaf_of(stand.card(profile=LeafProfile(policies=("1.2.4",)))), now=stand.clock.now)


async def test_before_the_start_nobody_passes(stand: TrustStand, leaf_of: LeafOf) -> None:
    service = await stand.service()
    unstarted = TrustService(service._config, stand.store, stand.outbound, stand.clock, CollectorRegistry())
    assert refusal(unstarted, leaf_of(stand.card()), stand.clock.now).status == 503
    assert await unstarted.readiness() == "trust anchors are not loaded"


# demo certificates


async def test_demo_anchors_are_refused_at_start_unless_named_unsafe(stand: TrustStand, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="demo PKI") as caught:
        await stand.service(demo=False)
    assert caught.value.path == "trust.directory"
    with pytest.raises(ConfigurationError, match="demo PKI"):
        await stand.service(demo=False, trust_tsl=tsl(stand, tmp_path))
    service = await stand.service()
    assert stand.sample(service, "zeta_guard_trust_unsafe_ratio", setting="unsafe_demo_trust") == 1


async def test_a_demo_leaf_is_refused_even_under_a_real_anchor(stand: TrustStand, leaf_of: LeafOf) -> None:
    real = DemoPki(now=stand.clock.now, marked=False)
    assert not bears_demo_marker(real.smcb_ca.certificate)
    (stand.directory / "smcb-ca.pem").write_bytes(real.smcb_ca.certificate.public_bytes(PEM))
    (stand.directory / "ocsp" / "ocsp-service.pem").unlink()
    service = await stand.service(demo=False)
    assert service.chain(leaf_of(real.issue_smcb("1-2-REAL")), now=stand.clock.now)
    marked = stand.pki.issue_smcb("1-2-DEMO", issuer=real.smcb_ca)
    assert bears_demo_marker(marked.certificate)
    error = refusal(service, leaf_of(marked), stand.clock.now)
    assert (error.code, error.stage) == ("invalid_grant", "demo_certificate")


async def test_a_demo_responder_beside_real_anchors_is_refused(stand: TrustStand) -> None:
    real = DemoPki(now=stand.clock.now, marked=False)
    (stand.directory / "smcb-ca.pem").write_bytes(real.smcb_ca.certificate.public_bytes(PEM))
    with pytest.raises(ConfigurationError, match="demo PKI"):
        await stand.service(demo=False)


async def test_demo_anchors_that_appear_later_are_not_taken(stand: TrustStand, leaf_of: LeafOf) -> None:
    real = DemoPki(now=stand.clock.now, marked=False)
    demo = (stand.directory / "smcb-ca.pem").read_bytes()
    (stand.directory / "smcb-ca.pem").write_bytes(real.smcb_ca.certificate.public_bytes(PEM))
    (stand.directory / "ocsp" / "ocsp-service.pem").unlink()
    service = await stand.service(demo=False)
    (stand.directory / "demo.pem").write_bytes(demo)
    await service.refresh()
    assert stand.sample(service, "zeta_guard_trust_refreshes_total", result="failed") == 1
    assert service.chain(leaf_of(real.issue_smcb("1-2-REAL")), now=stand.clock.now)


# start and reload


async def test_a_folder_without_responder_hosts_is_a_mistake_unless_nobody_is_asked(stand: TrustStand) -> None:
    with pytest.raises(ConfigurationError) as caught:
        await stand.service(hosts=[])
    assert caught.value.path == "trust.ocsp.hosts"
    assert await stand.service(hosts=[], mode="ignore")


async def test_with_an_empty_folder_nobody_passes_until_it_is_filled(
    stand: TrustStand, leaf_of: LeafOf, tmp_path: Path
) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    service = await stand.service(trust_directory=folder)
    leaf = leaf_of(stand.card())
    refused = refusal(service, leaf, stand.clock.now)
    assert (refused.status, refused.code) == (503, "temporarily_unavailable")
    assert "nobody can log in" in (await service.readiness() or "")
    anchor = folder / "smcb-ca.pem"
    anchor.write_bytes(stand.pki.smcb_ca.certificate.public_bytes(PEM))
    await service.refresh()
    service.chain(leaf, now=stand.clock.now)
    assert await service.readiness() is None
    anchor.unlink()
    await service.refresh()
    service.chain(leaf, now=stand.clock.now)


async def test_changed_anchors_are_taken_and_chained_leaves_judged_anew(stand: TrustStand, leaf_of: LeafOf) -> None:
    service = await stand.service()
    leaf = leaf_of(stand.card())
    service.chain(leaf, now=stand.clock.now)
    chained = service.chain(leaf, now=stand.clock.now)
    other = stand.pki.authority("ANOTHER", curve="brainpoolP256r1")
    (stand.directory / "smcb-ca.pem").write_bytes(other.certificate.public_bytes(PEM))
    await service.refresh()
    assert stand.sample(service, "zeta_guard_trust_refreshes_total", result="changed") == 1
    assert refusal(service, leaf, stand.clock.now).stage == "certificate_chain"
    with pytest.raises(ZetaError, match="not a trust anchor"):
        await service.check_revocation(chained, now=stand.clock.now)
    await service.refresh()
    assert stand.sample(service, "zeta_guard_trust_refreshes_total", result="unchanged") == 1


async def test_a_broken_folder_keeps_the_old_anchors(stand: TrustStand, leaf_of: LeafOf) -> None:
    service = await stand.service()
    (stand.directory / "broken.pem").write_bytes(b"-----BEGIN")
    await service.refresh()
    assert stand.sample(service, "zeta_guard_trust_refreshes_total", result="failed") == 1
    assert service.chain(leaf_of(stand.card()), now=stand.clock.now)


# trust list


async def test_after_next_update_and_grace_logins_are_unavailable(
    stand: TrustStand, tmp_path: Path, leaf_of: LeafOf
) -> None:
    service = await stand.service(trust_tsl=tsl(stand, tmp_path, grace=1000))
    leaf = leaf_of(stand.card(not_after=stand.clock.now + 100 * DAY))
    end = stand.pki.now + 30 * DAY + 1000
    chained = service.chain(leaf, now=end)
    error = refusal(service, leaf, end + 1)
    assert (error.code, error.status) == ("temporarily_unavailable", 503)
    assert "Retry-After" in error.headers
    with pytest.raises(ZetaError, match="outdated"):
        await service.check_revocation(chained, now=end + 1)
    stand.clock.now = end
    assert await service.readiness() is None
    stand.clock.now = end + 1
    line = await service.readiness()
    assert line is not None
    assert line.startswith("trust list is outdated since 20")


async def test_a_guard_starts_with_an_outdated_list_and_says_so(stand: TrustStand, tmp_path: Path) -> None:
    stand.clock.now = stand.pki.now + 60 * DAY
    service = await stand.service(trust_tsl=tsl(stand, tmp_path))
    assert "outdated" in (await service.readiness() or "")


async def test_age_and_number_of_the_list_are_metrics_from_the_start(stand: TrustStand, tmp_path: Path) -> None:
    service = await stand.service(trust_tsl=tsl(stand, tmp_path))
    assert stand.sample(service, "zeta_guard_trust_list_sequence_revision") == 5
    assert stand.sample(service, "zeta_guard_trust_list_next_update_timestamp_seconds") == stand.pki.now + 30 * DAY
    assert stand.sample(service, "zeta_guard_trust_anchors", kind="ca") == 1
    assert stand.sample(service, "zeta_guard_trust_anchors", kind="ocsp") == 1


async def test_an_older_list_is_an_alarm_and_changes_nothing(
    stand: TrustStand, tmp_path: Path, leaf_of: LeafOf
) -> None:
    registry = CollectorRegistry()
    service = await stand.service(events=SecurityEvents(registry), trust_tsl=tsl(stand, tmp_path))
    (tmp_path / "tsl.xml").write_bytes(trust_list(stand.pki, sequence=4))
    await service.refresh()
    assert stand.sample(service, "zeta_guard_trust_list_alarms_total", reason="sequence_lower") == 1
    assert registry.get_sample_value("zeta_guard_security_events_total", {"event": "trust_list_alarm"}) == 1
    assert stand.sample(service, "zeta_guard_trust_list_sequence_revision") == 5
    assert service.chain(leaf_of(stand.card()), now=stand.clock.now)


async def test_a_ca_revoked_in_a_newer_list_keeps_its_older_leaves_only(
    stand: TrustStand, tmp_path: Path, leaf_of: LeafOf
) -> None:
    service = await stand.service(trust_tsl=tsl(stand, tmp_path))
    older = leaf_of(stand.card(not_before=stand.pki.now - 9000))
    newer = leaf_of(stand.card(not_before=stand.pki.now - 3000))
    content = demo_content(stand.pki, sequence=6)
    ca = replace(content.providers[0].services[0], status=REVOKED, since=stand.pki.now - 6000)
    revoked = replace(content, providers=(Provider("P", (ca,)),))
    (tmp_path / "tsl.xml").write_bytes(sign_list(list_document(revoked), stand.pki.tsl_signer))
    await service.refresh()
    assert service.chain(older, now=stand.clock.now)
    assert "revoked before" in refusal(service, newer, stand.clock.now).description
