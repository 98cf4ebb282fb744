"""Everything the story needs, really running: PKI, OCSP responder, PoPP and VSDM services, the guard."""

from __future__ import annotations

import asyncio
import math
import os
import socket
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from zeta_guard.cli.demo_story.configuration import (
    Surroundings,
    guard_document,
    without_request_log,
    write_config,
)
from zeta_guard.errors import ConfigurationError, JsonValue
from zeta_guard.simulators.card import Card
from zeta_guard.simulators.insured import KRIEMHILD
from zeta_guard.simulators.ocsp_responder import CardState, OcspResponder
from zeta_guard.simulators.pki import DemoPki
from zeta_guard.simulators.popp_card import SimulatedEgk, egk_authority
from zeta_guard.simulators.popp_service import PoppService
from zeta_guard.simulators.popp_token import CareContext
from zeta_guard.simulators.vsdm_service import VsdmService

if TYPE_CHECKING:
    from zeta_guard.config.guard import GuardConfig
    from zeta_guard.runtime.guard import Guard

POPP_ISSUER: Final = "https://popp.demo.example"
PASSWORD: Final = "demo"  # noqa: S105 (of throw-away cards)
ALIAS: Final = "smcb"
NOT_ALLOWED_PROFESSION: Final = "1.2.276.0.76.4.58"
_MARK: Final = ".zeta-guard-demo"
_FILES: Final = (
    "ca.pem",
    "cards",
    "guard.yaml",
    "popp-signing-key.pem",
    "popp-token",
    "secret",
    "signing-keys",
    "tls",
    "trust",
)


@dataclass(frozen=True, slots=True)
class Institution:
    """An institution of the story: the name of its card's file, and its card."""

    name: str
    card: Card

    @property
    def file_name(self) -> str:
        """Below the demo's folder."""
        return f"cards/{self.name}.p12"


class Stage:
    """Starts and stops what the story needs; its files go into ``directory`` (which exists, mode 0700).

    Ports 0 are chosen. Use as an asynchronous context manager; the guard is started by :meth:`start_guard`.
    """

    def __init__(self, directory: Path, *, public_port: int = 0, ops_port: int = 0) -> None:
        self.directory: Final = directory
        self._ports = (public_port, ops_port)
        self._exit: AsyncExitStack = AsyncExitStack()
        self.institutions: dict[str, Institution] = {}
        self.guard: Guard | None = None
        self.config: GuardConfig
        self.around: Surroundings
        self.pki: DemoPki
        self.ocsp: OcspResponder
        self.popp: PoppService
        self.vsdm: VsdmService
        self.egk: SimulatedEgk

    async def __aenter__(self) -> Stage:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._exit.aclose()

    @property
    def ca_file(self) -> Path:
        """Trust anchor for the guard's TLS certificate."""
        return self.directory / "ca.pem"

    @property
    def ops_url(self) -> str:
        """Metrics and readiness."""
        return f"http://127.0.0.1:{self.around.ops_port}"

    def card(self, name: str) -> Card:
        """The card of an institution."""
        return self.institutions[name].card

    async def build_pki(self) -> None:
        """Make the authorities and start the OCSP responder, then issue every certificate with its address."""
        self.pki = DemoPki()
        self.ocsp = await self._exit.enter_async_context(OcspResponder(self.pki))
        issue = self.pki.issue_smcb
        self._add("good", issue("1-2012345678", common_name="Praxis Dr. Ada Beispiel NOT-VALID"))
        self._add("other_institution", issue("1-2087654321", common_name="Praxis Dr. Carl Nachbar NOT-VALID"))
        self._add("revoked", issue("1-2000000001", common_name="Praxis am Ende NOT-VALID"))
        self._add("silent", issue("1-2000000002", common_name="Praxis ohne Auskunft NOT-VALID"))
        self._add("not_allowed", issue("1-2000000003", NOT_ALLOWED_PROFESSION, "Betriebsstätte Demo NOT-VALID"))
        foreign = issue("1-2012345678", common_name="Praxis Dr. Fremd NOT-VALID", issuer=self.pki.foreign_ca)
        self._add("foreign", foreign)
        self.ocsp.set_state(self.card("revoked"), CardState.REVOKED)
        self.ocsp.set_state(self.card("silent"), CardState.SILENT)

    async def start_services(self) -> None:
        """Start the PoPP and VSDM services and put an insured person's card into the reader."""
        cards = egk_authority(self.pki)
        self.egk = SimulatedEgk(self.pki, KRIEMHILD, issuer=cards)
        signer = self.pki.issue_popp_signer()
        service = PoppService(signer, [cards.certificate], issuer=POPP_ISSUER)
        self.popp = await self._exit.enter_async_context(service)
        self.vsdm = await self._exit.enter_async_context(VsdmService(default_profile_version="1.0"))
        self._write("popp-signing-key.pem", signer.key_pem())

    async def start_guard(self) -> None:
        """Write keys and configuration and start the guard. Raises ConfigurationError."""
        from zeta_guard.runtime.guard import Guard

        public_port, ops_port = self._ports
        self.around = Surroundings(
            public_port=public_port or free_port(),
            ops_port=ops_port or free_port(),
            ocsp_authority=self.ocsp.authority,
            popp_issuer=POPP_ISSUER,
            popp_url=self.popp.url,
            popp_thumbprint=self.popp.issuer.entity_key_thumbprint,
            vsdm_url=self.vsdm.url,
        )
        self._write_keys()
        document = guard_document(self.around, self._write_trust())
        self.config = without_request_log(write_config(self.directory, document))
        guard = Guard(self.config)
        await guard.start()
        self._exit.push_async_callback(guard.stop)
        self.guard = guard

    async def first_proof_possible(self) -> None:
        """Wait, less than a second, until a proof can be younger than the guard.

        The guard refuses what is dated at or before the beginning of its memory, and iat counts whole seconds: a proof made in
        the second of its start is too old by construction. The story must not depend on where in a second it begins.
        """
        assert self.guard is not None
        started = self.guard.store.epoch.started_at
        await asyncio.sleep(max(0.0, math.floor(started) + 1 - time.time()))

    def popp_token(self, institution: str = "good") -> str:
        """A PoPP token for an institution, signed by the PoPP service's key."""
        card = self.card(institution)
        return self.popp.issuer.mint(
            CareContext(KRIEMHILD.kvnr, KRIEMHILD.insurer_id, card.telematik_id, card.profession_oid)
        )

    def _add(self, name: str, card: Card) -> None:
        institution = Institution(name, card)
        self.institutions[name] = institution
        self._write(institution.file_name, card.to_p12(PASSWORD, ALIAS))
        self._write("cards/password", PASSWORD.encode())

    def _write_trust(self) -> dict[str, JsonValue]:
        from zeta_guard.simulators.trust_list import trust_list

        self._write("trust/tsl.xml", trust_list(self.pki))
        anchor = self.pki.tsl_ca.certificate.public_bytes(serialization.Encoding.PEM)
        self._write("trust/tsl-anchor.pem", anchor)
        return {"tsl": {"file": "trust/tsl.xml", "anchors": ["trust/tsl-anchor.pem"]}}

    def _write_keys(self) -> None:
        certificate, key = self.pki.issue_tls(["127.0.0.1", "localhost"])
        self._write("tls/guard.pem", certificate)
        self._write("tls/guard.key", key)
        self._write("ca.pem", self.pki.ca_pem())
        self._write("secret", os.urandom(32))
        name = time.strftime("%Y-%m-%dT%H%M%SZ.pem", time.gmtime(time.time() - 60))
        folder = self.directory / "signing-keys"
        for old in folder.glob("*.pem"):
            old.unlink()
        pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self._write(f"signing-keys/{name}", pem)

    def _write(self, name: str, content: bytes) -> None:
        write_private(self.directory / name, content)


def write_private(path: Path, content: bytes) -> None:
    """Write a file that nobody else can read (0600)."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def free_port() -> int:
    """A port on loopback that nobody uses now: the public URL must be known before the guard listens."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def prepare_directory(directory: Path) -> None:
    """Make the demo's folder, mode 0700, or take an earlier demo's or an empty one.

    Raises ConfigurationError for a folder that others use, that holds files which the demo would replace, or that cannot be
    written: a demo started in the wrong place must not cost anybody a key.
    """
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        shared = directory.stat().st_mode & 0o1000 or directory.resolve() == Path.home()
        if shared or Path.cwd().is_relative_to(directory.resolve()):
            raise ConfigurationError("--dir", str(directory), "a folder of its own", "Name a new folder.")
        theirs = sorted(name for name in _FILES if (directory / name).exists())
        if theirs and not (directory / _MARK).exists():
            seen = f"{directory} holds {', '.join(theirs)}, and not from a demo"
            raise ConfigurationError("--dir", seen, "an empty folder or an earlier demo's", "Name a new folder.")
        directory.chmod(0o700)
        (directory / _MARK).touch(mode=0o600)
    except FileNotFoundError:
        raise ConfigurationError(
            "--dir", f"{directory.parent} does not exist", "a folder in an existing one", f"mkdir -p {directory.parent}"
        ) from None
    except OSError as error:
        raise ConfigurationError(
            "--dir", f"{directory}: {error.strerror}", "a folder that can be written", "Name another folder."
        ) from error
