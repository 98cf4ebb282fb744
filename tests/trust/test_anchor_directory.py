"""Trust anchors from a folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from zeta_guard.errors import ConfigurationError
from zeta_guard.simulators.pki import PROVIDER, DemoPki
from zeta_guard.trust.anchor_directory import MAX_FILES, load_certificates, load_directory
from zeta_guard.trust.anchor_source import DirectorySource

PEM, DER = serialization.Encoding.PEM, serialization.Encoding.DER


def test_cas_and_responders_are_read(pki: DemoPki, tmp_path: Path) -> None:
    anchors = load_directory(pki.write_trust_directory(tmp_path))
    assert anchors.authority_count == 1
    assert anchors.responders[PROVIDER] == (pki.ocsp_service.certificate,)
    assert anchors.usable_until is None


def test_der_and_several_certificates_in_one_pem_file_are_read(pki: DemoPki, tmp_path: Path) -> None:
    (tmp_path / "a.der").write_bytes(pki.smcb_ca.certificate.public_bytes(DER))
    (tmp_path / "b.PEM").write_bytes(
        pki.root.certificate.public_bytes(PEM) + pki.component_ca.certificate.public_bytes(PEM)
    )
    (tmp_path / "readme.txt").write_text("not a certificate")
    assert load_directory(tmp_path).authority_count == 3


def test_an_empty_folder_holds_no_anchor(tmp_path: Path) -> None:
    assert load_directory(tmp_path).authority_count == 0


def test_a_missing_folder_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        load_directory(tmp_path / "absent")


@pytest.mark.parametrize(
    "content", [b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", b"\x30\x03abc"]
)
def test_a_file_that_is_no_certificate_is_named(pki: DemoPki, tmp_path: Path, content: bytes) -> None:
    pki.write_trust_directory(tmp_path)
    (tmp_path / "broken.pem").write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"broken\.pem"):
        load_directory(tmp_path)


def test_a_leaf_among_the_anchors_is_a_mistake(pki: DemoPki, tmp_path: Path) -> None:
    (tmp_path / "leaf.pem").write_bytes(pki.issue_smcb("1-2-ARZT").certificate.public_bytes(PEM))
    with pytest.raises(ConfigurationError, match=r"leaf\.pem: not a CA certificate"):
        load_directory(tmp_path)


def test_number_of_files_is_capped(pki: DemoPki, tmp_path: Path) -> None:
    content = pki.smcb_ca.certificate.public_bytes(PEM)
    for number in range(MAX_FILES):
        (tmp_path / f"{number}.pem").write_bytes(content)
    assert load_directory(tmp_path).authority_count >= 1
    (tmp_path / "more.pem").write_bytes(content)
    with pytest.raises(ConfigurationError, match=f"at most {MAX_FILES}"):
        load_directory(tmp_path)


def test_size_of_a_file_is_capped(tmp_path: Path) -> None:
    path = tmp_path / "large.pem"
    path.write_bytes(b"x" * ((1 << 20) + 1))
    with pytest.raises(ConfigurationError, match="larger than"):
        load_certificates(path, "trust.directory")


async def test_a_changed_folder_is_read_again_and_an_unchanged_one_is_not(pki: DemoPki, tmp_path: Path) -> None:
    source = DirectorySource(pki.write_trust_directory(tmp_path))
    assert (await source.start(now=pki.now)).authority_count == 1
    assert await source.refresh(now=pki.now) is None
    (tmp_path / "more.pem").write_bytes(pki.root.certificate.public_bytes(PEM))
    changed = await source.refresh(now=pki.now)
    assert changed is not None
    assert changed.authority_count == 2
    assert await source.refresh(now=pki.now) is None


async def test_a_folder_that_broke_is_reported_once_and_again_when_it_changes(pki: DemoPki, tmp_path: Path) -> None:
    source = DirectorySource(pki.write_trust_directory(tmp_path))
    await source.start(now=pki.now)
    broken = tmp_path / "broken.pem"
    broken.write_bytes(b"-----BEGIN CERTIFICATE-----")
    with pytest.raises(ConfigurationError):
        await source.refresh(now=pki.now)
    assert await source.refresh(now=pki.now) is None
    broken.unlink()
    restored = await source.refresh(now=pki.now)
    assert restored is not None


async def test_a_rewritten_responder_is_noticed(pki: DemoPki, tmp_path: Path) -> None:
    source = DirectorySource(pki.write_trust_directory(tmp_path))
    await source.start(now=pki.now)
    path = tmp_path / "ocsp" / "ocsp-service.pem"
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert await source.refresh(now=pki.now) is not None
