"""Which institution asks: chain, revocation, binding (``wire-contract`` sections 4.1 step 6 and 5, ``security`` section 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from zeta_guard.authorization_server.charges import Charges
from zeta_guard.authorization_server.client_statement import ClientStatement
from zeta_guard.authorization_server.dependencies import Dependencies
from zeta_guard.authorization_server.refusal_event import certificate_event
from zeta_guard.errors import ZetaError
from zeta_guard.store.binding import decide_binding
from zeta_guard.store.contract import BindStatus, Client, block_subject
from zeta_guard.trust.contract import SmcbCertificate, SmcbIdentity


class Institution(NamedTuple):
    """The institution of a certificate under its names in the store. ``pseudonym`` is the one that records carry.

    ``pseudonyms``: under all secrets, so that a block made before a change of secrets still counts.
    """

    pseudonym: str
    pseudonyms: tuple[str, ...]

    def subjects(self) -> tuple[str, ...]:
        """What a block against the institution is called."""
        return tuple(block_subject("institution", pseudonym) for pseudonym in self.pseudonyms)


def institution_of(deps: Dependencies, certificate: SmcbCertificate, client: Client | None) -> Institution:
    """The institution's names. Raises ZetaError ``invalid_grant`` when ``client`` is bound to another one."""
    pseudonyms = deps.pseudonymizer.pseudonyms(certificate.telematik_id)
    bound = client.institution if client is not None else None
    if bound is None:
        return Institution(pseudonyms[0], pseudonyms)
    if bound not in pseudonyms:
        raise foreign_binding(deps, client.client_id if client is not None else "")
    return Institution(bound, pseudonyms)


def foreign_binding(deps: Dependencies, client_id: str) -> ZetaError:
    """The refusal of a client that belongs to somebody else."""
    deps.events.emit("binding_refused", client_id=client_id)
    return ZetaError(
        "invalid_grant", "the client is bound to another institution; register a client of your own", stage="binding"
    )


async def prove_institution(
    deps: Dependencies,
    certificate: SmcbCertificate,
    institution: Institution,
    charges: Charges,
    *,
    cached: Mapping[str, bytes] | None = None,
    now: float,
) -> SmcbIdentity:
    """Chain to a trust anchor, then revocation. Raises ZetaError ``invalid_grant``, 429, or 503 when nobody can say.

    ``cached``: what the store holds of the certificate's answers (``answer_keys``), None when nobody has looked.
    """
    try:
        chained = deps.trust.chain(certificate, now=now)
    except ZetaError as error:
        _report(deps, institution, error)
        raise
    charges.owe(f"institution:{institution.pseudonym}", deps.config.rate_limits.token_per_institution)
    try:
        identity = deps.trust.known_state(chained, cached, now=now) if cached is not None else None
    except ZetaError as error:
        _report(deps, institution, error)
        raise
    if identity is not None:
        return identity
    # A responder may have to be asked: not for whoever has spent their share.
    await charges.pay()
    try:
        return await deps.trust.check_revocation(chained, now=now)
    except ZetaError as error:
        _report(deps, institution, error)
        raise


def _report(deps: Dependencies, institution: Institution, error: ZetaError) -> None:
    name = certificate_event(error)
    if name is not None:
        deps.events.emit(name, institution=institution.pseudonym, reason=error.description)


def is_bound(client: Client, institution: Institution, statement: ClientStatement) -> bool:
    """Whether the client is bound to this institution and platform already."""
    status = decide_binding(client, institution=institution.pseudonym, platform=statement.platform)
    return status is BindStatus.ALREADY


async def bind(
    deps: Dependencies,
    client: Client,
    institution: Institution,
    certificate: SmcbCertificate,
    statement: ClientStatement,
    *,
    now: float,
) -> None:
    """Bind the client, or confirm its binding; compare-and-set, called last.

    Raises ZetaError: ``invalid_grant`` (bound to another institution), 401 ``invalid_client`` (vanished meanwhile), 429 (too
    many new clients this hour).
    """
    server = deps.config.authorization_server
    outcome = await deps.store.bind_client(
        client.client_id,
        institution=institution.pseudonym,
        platform=statement.platform,
        ttl=server.lifetimes.idle_client,
        most=server.clients_of.get(certificate.telematik_id, server.clients_per_institution),
        new_per_hour=server.new_bindings_per_hour,
        now=now,
    )
    if outcome.status is BindStatus.FOREIGN:
        raise foreign_binding(deps, client.client_id)
    if outcome.status is BindStatus.GONE:
        raise ZetaError(
            "invalid_client", "the registration has vanished meanwhile; register again", status=401, stage="binding"
        )
    if outcome.status is BindStatus.TOO_MANY:
        raise ZetaError(
            "rate_limit_exceeded",
            f"the institution has {server.new_bindings_per_hour} new clients this hour already",
            headers={"Retry-After": "600"},
            stage="binding",
        )
    if outcome.status is BindStatus.BOUND:
        deps.audit.record("client_bound", client_id=client.client_id, institution=institution.pseudonym)
    for evicted in outcome.evicted:
        deps.metrics.evictions.inc()
        deps.events.emit("client_evicted", client_id=evicted, institution=institution.pseudonym)
        deps.audit.record("client_evicted", client_id=evicted, institution=institution.pseudonym)
