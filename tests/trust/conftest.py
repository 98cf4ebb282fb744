"""A PKI around a fixed moment, and a trust service with a real responder behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from prometheus_client import CollectorRegistry

from zeta_guard.config.outbound import Outbound as OutboundConfig
from zeta_guard.config.store import MemoryStore as MemoryStoreConfig
from zeta_guard.config.trust import Trust
from zeta_guard.http.outbound import Outbound
from zeta_guard.jose.slot import Slot
from zeta_guard.simulators.card import Card
from zeta_guard.simulators.ocsp_responder import OcspResponder
from zeta_guard.simulators.pki import DemoPki
from zeta_guard.store.memory import MemoryStore
from zeta_guard.trust.certificate import parse_smcb_certificate
from zeta_guard.trust.contract import SmcbCertificate, SmcbIdentity
from zeta_guard.trust.service import TrustService

SLOT = Slot("subject token", "invalid_grant")
START = 1_800_000_000.0


@dataclass
class Clock:
    """A clock that tests set."""

    now: float = START

    def __call__(self) -> float:
        return self.now


@dataclass
class TrustStand:
    """What a revocation test needs: PKI, responder, store, and trust services that share them."""

    pki: DemoPki
    clock: Clock
    responder: OcspResponder
    store: MemoryStore
    outbound: Outbound
    directory: Path
    exit: AsyncExitStack
    registries: dict[TrustService, CollectorRegistry] = field(default_factory=dict)

    async def service(self, *, demo: bool = True, events: Any = None, **changes: Any) -> TrustService:
        """A started service; ``changes`` go into ``trust.ocsp``, with ``trust_`` in front into ``trust``."""
        trust = {name.removeprefix("trust_"): value for name, value in changes.items() if name.startswith("trust_")}
        ocsp = {name: value for name, value in changes.items() if not name.startswith("trust_")}
        document: dict[str, Any] = {
            "ocsp": {"private_addresses": True, "hosts": [self.responder.authority], "timeout_ms": 2000} | ocsp,
            "unsafe_demo_trust": demo,
        } | trust
        if "tsl" not in document:
            document.setdefault("directory", self.directory)
        registry = CollectorRegistry()
        service = TrustService(
            Trust.model_validate(document), self.store, self.outbound, self.clock, registry, events=events
        )
        self.registries[service] = registry
        self.exit.push_async_callback(service.close)
        await service.start()
        return service

    def card(self, telematik_id: str = "1-2-ARZT-WIRTH01", **changes: Any) -> Card:
        """A fresh card of the demo PKI."""
        return self.pki.issue_smcb(telematik_id, **changes)

    async def check(self, service: TrustService, card: Card) -> SmcbIdentity:
        """Form, chain and revocation at the clock's moment."""
        leaf = parse_smcb_certificate(card.der, SLOT)
        chained = service.chain(leaf, now=self.clock.now)
        return await service.check_revocation(chained, now=self.clock.now)

    def sample(self, service: TrustService, name: str, **labels: str) -> float:
        """A metric's value, 0 when it was never set."""
        return self.registries[service].get_sample_value(name, labels) or 0.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def pki() -> DemoPki:
    """Shared: tests issue from it and never change it."""
    return DemoPki(now=START)


@pytest.fixture
def leaf_of() -> Callable[[Card], SmcbCertificate]:
    """The parsed leaf of a card."""
    return lambda card: parse_smcb_certificate(card.der, SLOT)


@pytest.fixture
def pem_file(tmp_path: Path) -> Callable[..., Path]:
    """Write certificates into one PEM file."""

    def write(name: str, *certificates: x509.Certificate) -> Path:
        path = tmp_path / name
        path.write_bytes(b"".join(c.public_bytes(serialization.Encoding.PEM) for c in certificates))
        return path

    return write


@pytest.fixture
async def stand(clock: Clock, tmp_path: Path) -> AsyncIterator[TrustStand]:
    async with AsyncExitStack() as exit_stack:
        own = DemoPki(now=START)
        responder = await exit_stack.enter_async_context(OcspResponder(own, clock=clock))
        outbound = Outbound(OutboundConfig())
        exit_stack.push_async_callback(outbound.close)
        yield TrustStand(
            pki=own,
            clock=clock,
            responder=responder,
            store=MemoryStore(MemoryStoreConfig(), clock=clock),
            outbound=outbound,
            directory=own.write_trust_directory(tmp_path / "anchors"),
            exit=exit_stack,
        )
