"""A trust list (TSL, ETSI TS 119 612) as the TI publishes it: signed bytes in, :class:`TrustList` out. Pure, blocking.

Reading a real list takes about a tenth of a second: callers do it in a thread.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cryptography import x509

from zeta_guard.trust.anchors import CaService, ServiceStatus, StatusPeriod, TrustAnchors, ca_service, make_anchors
from zeta_guard.trust.certificate import PARSER_ERRORS, CertificateFormError
from zeta_guard.trust.ocsp import url_authority
from zeta_guard.trust.trust_list_signature import TSL, TrustListError, verified_list

if TYPE_CHECKING:
    from lxml.etree import _Element

_CA: Final = "http://uri.etsi.org/TrstSvc/Svctype/CA/PKC"
_OCSP: Final = "http://uri.etsi.org/TrstSvc/Svctype/Certstatus/OCSP"
_STATUS: Final = {
    "http://uri.etsi.org/TrstSvc/Svcstatus/inaccord": ServiceStatus.IN_ACCORD,
    "http://uri.etsi.org/TrstSvc/Svcstatus/revoked": ServiceStatus.REVOKED,
}
_MAX_SERVICES: Final = 20_000


@dataclass(frozen=True, slots=True)
class TrustList:
    """What a guard needs of a verified list. ``digest`` is the SHA-256 of the signed document as it was read.

    ``issued_at`` and ``next_update`` in Unix seconds; ``skipped`` counts issuing CAs that cannot be used (RSA, unreadable).
    """

    sequence: int
    issued_at: float
    next_update: float
    digest: bytes
    authorities: tuple[CaService, ...]
    responders: tuple[tuple[str, x509.Certificate], ...]
    responder_hosts: frozenset[str]
    skipped: int

    def anchors(self, grace: float) -> TrustAnchors:
        """The anchors of this list; usable until NextUpdate plus ``grace`` seconds."""
        return make_anchors(
            self.authorities,
            self.responders,
            responder_hosts=self.responder_hosts,
            usable_until=self.next_update + grace,
        )


def read_trust_list(
    raw: bytes, signers: Sequence[x509.Certificate], *, identifiers: Sequence[str], now: float
) -> TrustList:
    """Verify and read a list. ``signers`` are the pinned anchors, ``identifiers`` the OIDs of wanted CA services.

    Taken are CA services that carry one of the identifiers, with their status history, and OCSP services *in accord*.
    Raises TrustListError; a list past its NextUpdate is read nevertheless.
    """
    root = verified_list(raw, signers, now=now)
    try:
        return _read(root, hashlib.sha256(raw).digest(), frozenset(identifiers))
    except TrustListError:
        raise
    except PARSER_ERRORS as error:
        raise TrustListError("malformed", "the trust list cannot be read") from error


def _read(root: _Element, digest: bytes, identifiers: frozenset[str]) -> TrustList:
    scheme = _child(root, "SchemeInformation")
    sequence = _text(scheme, "TSLSequenceNumber")
    if not sequence.isascii() or not sequence.isdigit() or len(sequence) > 15:
        raise TrustListError("malformed", "the sequence number of the trust list is not a number")
    authorities: list[CaService] = []
    responders: list[tuple[str, x509.Certificate]] = []
    hosts: set[str] = set()
    skipped = 0
    for provider, service in _services(root):
        kind = _text(service, "ServiceInformation/ServiceTypeIdentifier")
        if kind == _OCSP and _periods(service)[0].status is ServiceStatus.IN_ACCORD:
            responders.extend((provider, certificate) for certificate in _certificates(service) if certificate)
        if kind != _CA or identifiers.isdisjoint(_identifiers(service)):
            continue
        periods = _periods(service)
        for certificate in _certificates(service):
            try:
                if certificate is None:
                    raise CertificateFormError("certificate cannot be read")
                authorities.append(ca_service(certificate, provider, periods))
            except CertificateFormError:
                skipped += 1
        hosts.update(_supply_points(service))
    if not authorities:
        raise TrustListError("empty", "the trust list names no usable CA for SM(C)-B certificates")
    return TrustList(
        sequence=int(sequence),
        issued_at=_moment(_text(scheme, "ListIssueDateTime")),
        next_update=_moment(_text(scheme, "NextUpdate/dateTime")),
        digest=digest,
        authorities=tuple(authorities),
        responders=tuple(responders),
        responder_hosts=frozenset(hosts),
        skipped=skipped,
    )


def _services(root: _Element) -> Iterator[tuple[str, _Element]]:
    count = 0
    for provider in root.iterfind(f"{TSL}TrustServiceProviderList/{TSL}TrustServiceProvider"):
        name = _text(provider, "TSPInformation/TSPName/Name")
        for service in provider.iterfind(f"{TSL}TSPServices/{TSL}TSPService"):
            count += 1
            if count > _MAX_SERVICES:
                raise TrustListError("too_large", f"the trust list has more than {_MAX_SERVICES} services")
            yield name, service


def _certificates(service: _Element) -> Iterator[x509.Certificate | None]:
    path = f"{TSL}ServiceInformation/{TSL}ServiceDigitalIdentity/{TSL}DigitalId/{TSL}X509Certificate"
    for element in service.iterfind(path):
        try:
            yield x509.load_der_x509_certificate(base64.b64decode("".join((element.text or "").split()), validate=True))
        except PARSER_ERRORS:
            yield None


def _periods(service: _Element) -> tuple[StatusPeriod, ...]:
    current = _period(_child(service, "ServiceInformation"))
    history = [_period(instance) for instance in service.iterfind(f"{TSL}ServiceHistory/{TSL}ServiceHistoryInstance")]
    return (current, *sorted(history, key=lambda period: period.since, reverse=True))


def _period(element: _Element) -> StatusPeriod:
    status = _STATUS.get(_text(element, "ServiceStatus"), ServiceStatus.OTHER)
    return StatusPeriod(status, _moment(_text(element, "StatusStartingTime")))


def _identifiers(service: _Element) -> frozenset[str]:
    path = f"{TSL}ServiceInformation/{TSL}ServiceInformationExtensions/{TSL}Extension/{TSL}ExtensionOID"
    return frozenset((element.text or "").strip() for element in service.iterfind(path))


def _supply_points(service: _Element) -> Iterator[str]:
    path = f"{TSL}ServiceInformation/{TSL}ServiceSupplyPoints/{TSL}ServiceSupplyPoint"
    for element in service.iterfind(path):
        authority = url_authority((element.text or "").strip())
        if authority is not None:
            yield authority[1]


def _child(element: _Element, path: str) -> _Element:
    found = element.find("/".join(f"{TSL}{name}" for name in path.split("/")))
    if found is None:
        raise TrustListError("malformed", f"the trust list lacks {path}")
    return found


def _text(element: _Element, path: str) -> str:
    text = (_child(element, path).text or "").strip()
    if not text:
        raise TrustListError("malformed", f"the trust list has an empty {path}")
    return text


def _moment(text: str) -> float:
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise TrustListError("malformed", "the trust list has a date that cannot be read") from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()
