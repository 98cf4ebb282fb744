"""What ``zeta-guard init`` could not know: placeholders that still stand, each with the command that replaces it."""

from __future__ import annotations

import ipaddress
import time
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from cryptography import x509

from zeta_guard.config.rules import Notice, is_local

if TYPE_CHECKING:
    from pathlib import Path

    from zeta_guard.config.guard import GuardConfig

NO_THUMBPRINT: Final = "A" * 43
"""Stands for the thumbprint of a PoPP service's entity key until somebody fills it in; no key has it."""

SOON_SECONDS: Final = 14 * 86_400


def to_do(config: GuardConfig) -> list[Notice]:
    """In the order in which they are best done."""
    return [
        *_public_url(config),
        *_certificate(config),
        *_anchors(config),
        *_responders(config),
        *_popp(config),
        *_upstreams(config),
    ]


def lacks_anchors(config: GuardConfig) -> bool:
    """``trust.directory`` is there and holds nothing."""
    from zeta_guard.trust.anchor_directory import SUFFIXES

    directory = config.trust.directory
    if directory is None or not directory.is_dir():
        return False
    return not any(file.suffix.lower() in SUFFIXES for file in directory.iterdir())


def is_placeholder(host: str) -> bool:
    """The host is reserved for examples (RFC 2606, RFC 6761) and nobody's."""
    name = host.lower().rstrip(".")
    reserved = (".example", ".invalid", ".test", ".example.com", ".example.org", ".example.net", ".example.de")
    return f".{name}".endswith(reserved)


def _public_url(config: GuardConfig) -> list[Notice]:
    host = urlsplit(config.public_url).hostname or ""
    if not is_local(host) and not is_placeholder(host):
        return []
    what = "is this machine: no other one reaches it" if is_local(host) else "is an example"
    return [
        Notice(
            "public_url",
            f"{config.public_url} {what}",
            "Write the URL that clients use. Installed clients keep it for ever, so choose it before the first one comes.",
        )
    ]


def _certificate(config: GuardConfig) -> list[Notice]:
    if config.tls is None:
        return []
    certificate = _read(config.tls.certificate_file)
    if certificate is None:
        return []
    found: list[Notice] = []
    path = "tls.certificate_file"
    host = urlsplit(config.public_url).hostname or ""
    if certificate.issuer == certificate.subject:
        words = (
            f"'openssl req -new -key {config.tls.private_key_file} -subj /CN={host} -addext subjectAltName=DNS:{host}'"
        )
        found.append(
            Notice(
                path,
                "self-signed: clients will not trust it",
                f"Have your CA sign the request that {words} makes, and write its answer to {config.tls.certificate_file}.",
            )
        )
    elif not _names(certificate, host):
        found.append(Notice(path, f"not made for {host}", "Use a certificate with the host of public_url."))
    left = certificate.not_valid_after_utc.timestamp() - time.time()
    if left < SOON_SECONDS:
        when = f"{certificate.not_valid_after_utc:%Y-%m-%d}"
        found.append(Notice(path, f"{'expired' if left < 0 else 'expires'} on {when}", "Renew it."))
    return found


def _anchors(config: GuardConfig) -> list[Notice]:
    if not lacks_anchors(config):
        return []
    return [
        Notice(
            "trust.directory",
            f"{config.trust.directory} is empty: no institution can be proved",
            f"Copy the certificates of the SM(C)-B CAs: cp *.pem {config.trust.directory}/ (those of OCSP signers to its "
            "sub-folder 'ocsp'), or use the trust list: trust.tsl.",
        )
    ]


def _responders(config: GuardConfig) -> list[Notice]:
    return [
        Notice(
            f"trust.ocsp.hosts[{index}]",
            f"{host} is an example",
            "Write the host of the CA's OCSP responder: openssl x509 -noout -ocsp_uri -in CARD.pem",
        )
        for index, host in enumerate(config.trust.ocsp.hosts)
        if is_placeholder(urlsplit(f"//{host}").hostname or "")
    ]


def _popp(config: GuardConfig) -> list[Notice]:
    return [
        Notice(
            f"gateway.popp_issuers[{index}]",
            f"{issuer.issuer} is an example",
            "Write the issuer of your PoPP service and the RFC 7638 thumbprint of its entity key.",
        )
        for index, issuer in enumerate(config.gateway.popp_issuers)
        if issuer.entity_key_thumbprint == NO_THUMBPRINT or is_placeholder(urlsplit(issuer.issuer).hostname or "")
    ]


def _upstreams(config: GuardConfig) -> list[Notice]:
    return [
        Notice(
            f"gateway.routes[{index}].upstreams[{number}].url",
            f"{upstream.url} is an example",
            "Write where your service listens, e.g. http://10.0.0.5:8080.",
        )
        for index, route in enumerate(config.gateway.routes)
        for number, upstream in enumerate(route.upstreams)
        if is_placeholder(urlsplit(upstream.url).hostname or "")
    ]


def _read(file: Path) -> x509.Certificate | None:
    try:
        return x509.load_pem_x509_certificates(file.read_bytes())[0]
    except (OSError, ValueError, IndexError):
        return None


def _names(certificate: x509.Certificate, host: str) -> bool:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return False
    try:
        return ipaddress.ip_address(host) in names.get_values_for_type(x509.IPAddress)
    except ValueError:
        pass
    _, _, parent = host.partition(".")
    return any(name.lower() in (host, f"*.{parent}") for name in names.get_values_for_type(x509.DNSName))
